"""The seven kinds of application that obskit installs into, each with the one route `/orders/7`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tests.support.recording import body, call_asgi, http_scope, make_environ, start, talk_wsgi


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    await send(start())
    await send(body(b"ok"))


def flask_app() -> Any:
    import flask

    app = flask.Flask("shop")
    app.add_url_rule("/orders/<int:order_id>", view_func=lambda order_id: "ok", endpoint="order")
    return app


def fastapi_app() -> Any:
    import fastapi

    app = fastapi.FastAPI(title="shop")

    @app.get("/orders/{order_id}")
    async def order(order_id: int) -> str:
        return "ok"

    return app


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def order(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/orders/{order_id:int}", order)])


def django_handler(kind: type) -> Callable[[], Any]:
    def make() -> Any:
        from tests.support.django_site import configure

        configure()
        return kind()

    return make


def django_wsgi() -> Any:
    from django.core.handlers.wsgi import WSGIHandler

    return django_handler(WSGIHandler)()


def django_asgi() -> Any:
    from django.core.handlers.asgi import ASGIHandler

    return django_handler(ASGIHandler)()


KINDS: dict[str, tuple[Callable[[], Any], str, bool]] = {
    "flask": (flask_app, "wsgi", True),
    "fastapi": (fastapi_app, "asgi", True),
    "starlette": (starlette_app, "asgi", True),
    "django wsgi": (django_wsgi, "wsgi", False),
    "django asgi": (django_asgi, "asgi", False),
    "plain wsgi": (lambda: functools.partial(wsgi_app), "wsgi", False),
    "plain asgi": (lambda: functools.partial(asgi_app), "asgi", False),
}


def ask(app: Any, interface: str, path: str = "/orders/7") -> int:
    if interface == "wsgi":
        return int(talk_wsgi(app, make_environ(path)).status[:3])
    return call_asgi(app, http_scope(path), patient=True).status


def counted(app: Any, interface: str) -> float:
    """Requests in the duration histogram, as this app's own /metrics shows them."""
    if interface == "wsgi":
        page = talk_wsgi(app, make_environ("/metrics")).data
    else:
        page = call_asgi(app, http_scope("/metrics")).body
    name = "http_server_request_duration_seconds_count{"
    return sum(float(line.split()[-1]) for line in page.decode().splitlines() if line.startswith(name))
