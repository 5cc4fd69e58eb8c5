"""The conformance app in Django: one project, its WSGI handler as `wsgi`, its ASGI handler as `asgi`.

Views that would be asynchronous in an ASGI project are so here, and run under WSGI as well, as
Django does it; bodies are of the kind the handler at hand streams without warnings.
"""

from __future__ import annotations

import os
import time
from typing import Any

import django
import shared
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import include, path, re_path
from django.utils.deprecation import MiddlewareMixin
from django.views import View
from django.views.decorators.http import require_GET, require_http_methods, require_POST

Request = ASGIRequest | WSGIRequest

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", f"{__name__}.TeapotMiddleware"],
    USE_TZ=True,
)
django.setup()


class TeapotMiddleware(MiddlewareMixin):
    """Django's custom exception handler."""

    def process_exception(self, request: Request, problem: Exception) -> HttpResponse | None:
        return HttpResponse("short and stout", status=418) if isinstance(problem, shared.Teapot) else None


def request_id(request: Request) -> str:
    return request.headers.get("X-Request-ID", "")


def streaming(request: Request, name: str, *arguments: Any, content_type: str = "text/plain") -> HttpResponse:
    body = getattr(shared, f"a{name}" if isinstance(request, ASGIRequest) else name)
    return StreamingHttpResponse(body(*arguments), content_type=content_type)


@require_http_methods(["GET", "HEAD"])
def hello(request: Request) -> HttpResponse:
    return HttpResponse("hello")


def show_order(request: Request, order_id: int) -> HttpResponse:
    found = shared.order(order_id)
    return JsonResponse(found) if found else JsonResponse({"error": "no such order"}, status=404)


def boom(request: Request) -> HttpResponse:
    raise ValueError("boom")


def teapot(request: Request) -> HttpResponse:
    raise shared.Teapot


def redirects(request: Request) -> HttpResponse:
    return HttpResponseRedirect("/hello")


def items(request: Request) -> HttpResponse:
    return HttpResponse("items")


def empty(request: Request) -> HttpResponse:
    return HttpResponse(status=204)


def not_modified(request: Request) -> HttpResponse:
    return HttpResponse(status=304, headers={"ETag": shared.ETAG})


def stream(request: Request) -> HttpResponse:
    return streaming(request, "stream")


def stream_raises(request: Request, parts: int) -> HttpResponse:
    return streaming(request, "stream_that_raises", parts)


def drip(request: Request) -> HttpResponse:
    return streaming(request, "drip")


def sse(request: Request, count: int) -> HttpResponse:
    return streaming(request, "events", count, content_type="text/event-stream")


async def slow(request: Request, ms: int) -> HttpResponse:
    return HttpResponse(await shared.aslow(ms, request_id(request)))


@require_POST
def upload(request: Request) -> HttpResponse:
    return JsonResponse({"bytes": len(request.body)})


@require_POST
def ignore_body(request: Request) -> HttpResponse:
    return HttpResponse("ignored", status=202)


def file(request: Request) -> HttpResponse:
    return FileResponse(shared.FILE.open("rb"), content_type="text/plain")


class SlowToClose(HttpResponse):
    """close() is where Django runs what comes after a response (request_finished)."""

    def close(self) -> None:
        time.sleep(shared.AFTER_S)
        super().close()


class FailsToClose(HttpResponse):
    def close(self) -> None:
        super().close()
        raise ValueError("after the response")


def after_slow(request: Request) -> HttpResponse:
    return SlowToClose("done")


def after_fails(request: Request) -> HttpResponse:
    return FailsToClose("done")


def thing(request: Request, thing: str) -> HttpResponse:
    return JsonResponse({"thing": thing})


def article(request: Request, year: str) -> HttpResponse:
    return HttpResponse(year)


class ClassView(View):
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse("by a class")


def greet(request: Request, name: str) -> HttpResponse:
    return HttpResponse(f"hello {name}")


async def logs(request: Request) -> HttpResponse:
    await shared.anote_everywhere(request_id(request))
    return HttpResponse("noted")


@require_GET
def threadpool(request: Request) -> HttpResponse:
    shared.note("pool", request_id(request))
    return HttpResponse("noted")


def truncated(request: Request) -> HttpResponse:
    return HttpResponse(shared.TRUNCATED, headers={"Content-Length": shared.TRUNCATED_DECLARES})


@require_POST
async def checkout(request: Request) -> HttpResponse:
    status, takes_ms = shared.checkout(request.body)
    await shared.aslow(takes_ms, request_id(request))
    return JsonResponse({"ok": True}, status=status)


def answers(request: Request, name: str) -> HttpResponse:
    return JsonResponse(shared.ANSWERS[name], safe=False)


def assume(request: Request, stock: int) -> HttpResponse:
    return HttpResponse(shared.assume(stock))


def work(request: Request, steps: int) -> HttpResponse:
    return HttpResponse(shared.work(steps))


urlpatterns = [
    path("hello", hello),
    path("orders/<int:order_id>", show_order),
    path("boom", boom),
    path("teapot", teapot),
    path("redirect", redirects),
    path("items/", items),
    path("empty", empty),
    path("not-modified", not_modified),
    path("stream", stream),
    path("stream-raises/<int:parts>", stream_raises),
    path("drip", drip),
    path("sse/<int:count>", sse),
    path("slow/<int:ms>", slow),
    path("upload", upload),
    path("ignore-body", ignore_body),
    path("file", file),
    path("after-slow", after_slow),
    path("after-fails", after_fails),
    path("api/", include([path("v1/", include([path("things/<thing>", thing)]))])),
    re_path(r"^articles/(?P<year>[0-9]{4})/$", article),
    path("class-view", ClassView.as_view()),
    path("greet/<name>", greet),
    path("grüße/<name>", greet),
    path("logs", logs),
    path("threadpool", threadpool),
    path("truncated", truncated),
    path("checkout", checkout),
    path("refund", checkout),
    path("answers/<name>", answers),
    path("stock/<name>", answers),
    path("assume/<int:stock>", assume),
    path("unit-of-work/<int:steps>", work),
]


# A server process has one of them, as with the usual two modules wsgi.py and asgi.py.
if os.environ.get("CONFORMANCE_KIND") != "django-asgi":
    wsgi = shared.install(get_wsgi_application(), shared.wrap_wsgi)
if os.environ.get("CONFORMANCE_KIND") != "django-wsgi":
    asgi = shared.install(get_asgi_application(), shared.wrap_asgi)
