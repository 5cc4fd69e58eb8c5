"""The routes of the Django application."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import JsonResponse
from django.urls import path

from benchmarks.cost.bare import ITEM


def show(request: Any, item_id: int) -> JsonResponse:
    return JsonResponse({"id": item_id, **ITEM})


urlpatterns = [
    *(path(f"other{number}/<int:item_id>", show) for number in range(settings.BENCH_ROUTES)),
    path("items/<int:item_id>", show),
]
