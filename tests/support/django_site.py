"""A Django site in one file: settings and the URLs that the tests of the adapter ask for."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import include, path, re_path
from django.views import View


def configure() -> None:
    """Set Django up once per process; `override_settings` changes what one test needs."""
    if not settings.configured:
        settings.configure(
            SECRET_KEY="only for tests",
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF=__name__,
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
            LOGGING_CONFIG=None,
        )
        django.setup()


def ok(request: Any, **_: Any) -> HttpResponse:
    return HttpResponse("ok")


def boom(request: Any) -> HttpResponse:
    raise ValueError("view")


async def async_ok(request: Any, **_: Any) -> HttpResponse:
    return HttpResponse("async ok")


async def async_boom(request: Any) -> HttpResponse:
    raise ValueError("async view")


class Item(View):
    def get(self, request: Any, pk: int) -> HttpResponse:
        return HttpResponse("item")


inner = [path("items/<int:pk>", Item.as_view()), path("slashed/<slug:name>/", ok)]

urlpatterns = [
    path("orders/<int:order_id>", ok),
    path("async/<int:order_id>", async_ok),
    path("boom", boom),
    path("async-boom", async_boom),
    path("metrics", ok),
    path("api/v1/", include((inner, "shop"))),
    re_path(r"^articles/(?P<year>[0-9]{4})/$", ok),
    path("", ok),
]
