"""One application of each kind: told what to do by its path, `/scene/<name>/<rest>`, it reads all that it was sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import fastapi
import flask
import pydantic

from tests.reliability.secrets import scenes
from tests.reliability.secrets.canaries import Canaries


class Order(pydantic.BaseModel):
    quantity: int


class Stage:
    """What the handlers of all applications share."""

    def __init__(self, make: Canaries) -> None:
        self.make = make
        self.arrived: list[str] = []
        """All that the applications were sent, for the control: a canary that never arrived proves nothing."""

    def act(self, kind: str, name: str, *seen: Any) -> tuple[list[tuple[str, str]], bytes]:
        """Play one scene; the headers and the body of its answer, which hold canaries too."""
        self.arrived.extend(map(repr, seen))
        scenes.SCENES[name](self.make, kind)
        headers = [
            ("Set-Cookie", f"sid={self.make(f'{kind}: Set-Cookie')}; Path=/"),
            ("X-Debug-Token", self.make(f"{kind}: a response header")),
            ("Content-Type", "application/json"),
        ]
        answer = {"success": False, "error": self.make(f"{kind}: the body of a soft error")}
        body = json.dumps(
            answer if name == "quiet" else {"token": self.make(f"{kind}: a response body")}
        ).encode()
        self.arrived.extend((repr(headers), repr(body)))
        return headers, body


def plain_wsgi(stage: Stage, kind: str) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        data = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        _, _, name, *_ = environ["PATH_INFO"].split("/")
        headers, body = stage.act(kind, name, environ, data)
        start_response("200 OK", headers)
        return [body]

    return app


def plain_asgi(stage: Stage, kind: str) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"].endswith("shutdown"):
                    return
        if scope["type"] == "websocket":
            await receive()
            stage.arrived.append(repr(scope))
            await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
            stage.arrived.append(repr(await receive()))
            await send({"type": "websocket.send", "text": stage.make(f"{kind}: a WebSocket message sent")})
            stage.arrived.append(stage.make(f"{kind}: a WebSocket message sent"))
            await send({"type": "websocket.close", "reason": stage.make(f"{kind}: a WebSocket close reason")})
            stage.arrived.append(stage.make(f"{kind}: a WebSocket close reason"))
            return
        message = await receive()
        headers, body = stage.act(kind, scope["path"].split("/")[2], scope, message)
        encoded = [(name.encode().lower(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": 200, "headers": encoded})
        await send({"type": "http.response.body", "body": body})

    return app


def flask_app(stage: Stage, kind: str) -> Any:
    app = flask.Flask("shop")

    @app.route("/scene/<name>/<path:rest>", methods=["GET", "POST"])
    def play(name: str, rest: str) -> Any:
        request = flask.request
        seen = (request.environ, request.get_data(cache=True), request.form, request.cookies)
        headers, body = stage.act(kind, name, *seen)
        return flask.Response(body, headers=headers)

    return app


def fastapi_app(stage: Stage, kind: str) -> Any:
    app = fastapi.FastAPI(title="shop")

    @app.post("/order")
    async def order(order: Order) -> str:
        return "never"

    @app.api_route("/scene/{name}/{rest:path}", methods=["GET", "POST"])
    async def play(name: str, request: fastapi.Request) -> Any:
        headers, body = stage.act(kind, name, request.scope, await request.body(), request.cookies)
        return fastapi.Response(body, headers=dict(headers))

    return app


def starlette_app(stage: Stage, kind: str) -> Any:
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def play(request: Any) -> Response:
        seen = (request.scope, await request.body(), request.cookies)
        headers, body = stage.act(kind, request.path_params["name"], *seen)
        return Response(body, headers=dict(headers))

    return Starlette(routes=[Route("/scene/{name}/{rest:path}", play, methods=["GET", "POST"])])


def _django(stage: Stage, kind: str) -> None:
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    def play(request: Any, name: str, rest: str) -> HttpResponse:
        headers, body = stage.act(
            request.obskit_kind, name, request.META, request.body, request.POST, request.COOKIES
        )
        return HttpResponse(body, headers=dict(headers))

    class Urls:
        urlpatterns = [path("scene/<str:name>/<path:rest>", play)]

    def known(get_response: Any) -> Any:
        def middleware(request: Any) -> Any:
            request.obskit_kind = "django asgi" if hasattr(request, "scope") else "django wsgi"
            return get_response(request)

        return middleware

    import sys

    sys.modules["secrets_urls"] = Urls  # type: ignore[assignment]
    sys.modules["secrets_middleware"] = type(sys)("secrets_middleware")
    sys.modules["secrets_middleware"].known = known  # type: ignore[attr-defined]
    if not settings.configured:
        settings.configure(
            SECRET_KEY=stage.make("the SECRET_KEY of Django"),
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF="secrets_urls",
            MIDDLEWARE=["secrets_middleware.known"],
            LOGGING_CONFIG=None,
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.sqlite3",
                    "NAME": ":memory:",
                    "PASSWORD": stage.make("a database password in settings"),
                }
            },
        )
        django.setup()


def django_wsgi(stage: Stage, kind: str) -> Any:
    _django(stage, kind)
    from django.core.handlers.wsgi import WSGIHandler

    return WSGIHandler()


def django_asgi(stage: Stage, kind: str) -> Any:
    _django(stage, kind)
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler()


KINDS: dict[str, tuple[Callable[[Stage, str], Any], str]] = {
    "plain wsgi": (plain_wsgi, "wsgi"),
    "plain asgi": (plain_asgi, "asgi"),
    "flask": (flask_app, "wsgi"),
    "fastapi": (fastapi_app, "asgi"),
    "starlette": (starlette_app, "asgi"),
    "django wsgi": (django_wsgi, "wsgi"),
    "django asgi": (django_asgi, "asgi"),
}
