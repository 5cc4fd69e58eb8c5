"""The URLs of the Django kinds: views that both handlers can run."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from tests.reliability.faults.apps import works_with_obskit
from tests.reliability.faults.talk import app_saw, raises


def order(request: Any, order_id: int) -> HttpResponse:
    works_with_obskit()
    return HttpResponse(f"order {order_id}")


def fails(request: Any) -> HttpResponse:
    raise raises(ValueError("view"))


def stream(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse([b"one", b"two"])


def session(request: Any) -> HttpResponse:
    app_saw.append(dict(request.session.items()))
    return HttpResponse("session")


urlpatterns = [
    path("orders/<int:order_id>", order),
    path("raises", fails),
    path("stream", stream),
    path("session", session),
]
