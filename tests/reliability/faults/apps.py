"""The kinds of application, each with the requests that are put to it while calls of ours fail."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.reliability.faults import talk
from tests.reliability.faults.talk import REQUEST, app_saw, ask_asgi, ask_wsgi, closed, made, raises
from tests.support.recording import websocket_scope

TEXT = [("Content-Type", "text/plain")]
Ask = Callable[[Any], tuple[talk.Answer, BaseException | None]]


@dataclass
class Kind:
    """An application, and the requests by name."""

    make: Callable[[], Any]
    asks: dict[str, Ask]
    interface: str = "wsgi"
    options: dict[str, Any] = field(default_factory=dict)
    framework: bool = False
    under_load: bool = False
    """Whether ordinary records are shown together, each time there is one."""


# ---- what an application does with obskit -----------------------------------------------------------


def works_with_obskit() -> None:
    """All that application code calls of ours, with what it gets for an answer kept."""
    import obskit

    obskit.bind(cart=7, card_token="t")
    app_saw.append(("held", obskit.invariant(1 + 1 == 2, "sums")))
    app_saw.append(("held", obskit.invariant(1 + 1 == 3, "wrong_sums", got=3)))
    log = obskit.get_logger("shop").bind(order=1)
    log.info("ordered %s", 7, lines=3)
    log.new(a=1).try_unbind("a").warning("odd", exc_info=None)
    with obskit.unit_of_work("checkout", ["charge", "order"]) as work:
        work.done("charge")
        work.undone()
        work.done("charge")
    obskit.current()


# ---- plain WSGI -------------------------------------------------------------------------------------


class Chunks:
    """A body with a close() of its own."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self._chunks = chunks
        self._error = error
        made.append("body")

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        if self._error is not None:
            raise raises(self._error)

    def close(self) -> None:
        closed.append("body")


def wsgi_app(environ: Any, start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    if path == "/list":
        start_response("200 OK", [*TEXT, ("Content-Length", "5")])
        return [b"a", b"list"]
    if path == "/chunks":
        start_response("200 OK", TEXT)
        return Chunks(b"some", b"", b"chunks")
    if path == "/write":
        write = start_response("201 Created", TEXT)
        write(b"written")
        write(b", then ")
        return Chunks(b"given")
    if path == "/file":
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 9000))
    if path == "/upload":
        body = environ["wsgi.input"]
        app_saw.append((body.read(3), body.readline(), body.readlines(), list(body), body.read()))
        start_response("200 OK", TEXT)
        return Chunks(b"thanks")
    if path == "/raises":
        raise raises(ValueError("before the headers"))
    if path == "/raises-late":
        start_response("200 OK", TEXT)
        return Chunks(b"half", error=ValueError("after the headers"))
    if path == "/again":
        start_response("200 OK", TEXT)
        try:
            raise raises(KeyError("turned into an answer"))
        except KeyError:
            start_response("500 Oops", TEXT, sys.exc_info())
        return [b"sorry"]
    if path == "/obskit":
        works_with_obskit()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b'{"error": "soft"}']
    start_response("404 Not Found", TEXT)
    return []


WSGI_ASKS: dict[str, Ask] = {
    "list": lambda app: ask_wsgi(app, "/list", HTTP_TRACEPARENT="00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
    "chunks": lambda app: ask_wsgi(app, "/chunks"),
    "early": lambda app: ask_wsgi(app, "/chunks", take=1),
    "write": lambda app: ask_wsgi(app, "/write"),
    "file": lambda app: ask_wsgi(app, "/file"),
    "upload": lambda app: ask_wsgi(app, "/upload", method="POST", data=b"one\ntwo\nthree\n"),
    "raises": lambda app: ask_wsgi(app, "/raises", HTTP_X_REQUEST_ID="abc", HTTP_X_REQUEST_START="t=1"),
    "raises-late": lambda app: ask_wsgi(app, "/raises-late"),
    "again": lambda app: ask_wsgi(app, "/again"),
    "obskit": lambda app: ask_wsgi(app, "/obskit", method="POST", data=b"{}"),
    "none": lambda app: ask_wsgi(app, "/nowhere", method="HEAD"),
}


class Wsgi:
    """A plain WSGI application that is no function."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return wsgi_app(environ, start_response)


# ---- plain ASGI -------------------------------------------------------------------------------------

JSON = [(b"content-type", b"application/json")]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await _talk(receive, send)
        return
    path = scope["path"]
    if path == "/raises":
        raise raises(ValueError("before the headers"))
    if path == "/obskit":
        works_with_obskit()
    if path in ("/json", "/obskit", "/listen"):
        await receive()
    if path == "/listen":
        await asyncio.sleep(0.002)  # on some servers somebody listens meanwhile, in the application's place
    length = [(b"content-length", b"8")] if path == "/json" else []
    await send({"type": "http.response.start", "status": 200, "headers": [*JSON, *length]})
    if path == "/raises-late":
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise raises(ValueError("after the headers"))
    if path in ("/stream", "/listen"):
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if path == "/listen":
            app_saw.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    await send({"type": "http.response.body", "body": b'{"a": 1}'})


async def _talk(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


CONNECTION = (
    {"type": "websocket.connect"},
    {"type": "websocket.receive", "text": "hello"},
    {"type": "websocket.disconnect", "code": 1000},
)
LIFESPAN = ({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
TRACED = [(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"), (b"x-request-start", b"t=1")]

ASGI_ASKS: dict[str, Ask] = {
    "json": lambda app: ask_asgi(app, "/json", method="POST", headers=TRACED),
    "stream": lambda app: ask_asgi(app, "/stream", server=talk.Flagged),
    "queue": lambda app: ask_asgi(app, "/listen", server=talk.Queued, messages=(*REQUEST, GONE)),
    "listen": lambda app: ask_asgi(app, "/listen", server=talk.ASGIHTTPProtocol),
    "raises": lambda app: ask_asgi(app, "/raises"),
    "raises-late": lambda app: ask_asgi(app, "/raises-late"),
    "gone": lambda app: ask_asgi(app, "/stream", send_fails=OSError("gone")),
    "refused": lambda app: ask_asgi(app, "/stream", send_fails=RuntimeError("too short")),
    "obskit": lambda app: ask_asgi(app, "/obskit", method="POST"),
    "websocket": lambda app: ask_asgi(app, websocket_scope(), messages=CONNECTION),
    "lifespan": lambda app: ask_asgi(app, {"type": "lifespan"}, messages=LIFESPAN),
}
GONE = {"type": "http.disconnect"}


class Asgi:
    """A plain ASGI application that is no function."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asgi_app(scope, receive, send)


# ---- frameworks -------------------------------------------------------------------------------------


def flask_app() -> Any:
    import flask

    app = flask.Flask("shop")
    app.secret_key = "only for tests"

    @app.get("/orders/<int:order_id>")
    def order(order_id: int) -> str:
        works_with_obskit()
        return f"order {order_id}"

    @app.get("/raises")
    def fails() -> str:
        raise raises(ValueError("view"))

    @app.get("/stream")
    def stream() -> Any:
        return flask.Response(Chunks(b"one", b"two"))

    @app.get("/session")
    def session() -> str:
        app_saw.append(dict(flask.session))
        return "session"

    return app


FRAMEWORK_WSGI: dict[str, Ask] = {
    "order": lambda app: ask_wsgi(app, "/orders/7"),
    "raises": lambda app: ask_wsgi(app, "/raises"),
    "stream": lambda app: ask_wsgi(app, "/stream"),
    "session": lambda app: ask_wsgi(app, "/session", HTTP_COOKIE="session=forged.AAAA.BBBB"),
    "nowhere": lambda app: ask_wsgi(app, "/nowhere"),
    "wrong method": lambda app: ask_wsgi(app, "/orders/7", method="PUT"),
}
FRAMEWORK_ASGI: dict[str, Ask] = {
    "order": lambda app: ask_asgi(app, "/orders/7"),
    "raises": lambda app: ask_asgi(app, "/raises"),
    "stream": lambda app: ask_asgi(app, "/stream"),
    "session": lambda app: ask_asgi(app, "/session", headers=[(b"cookie", b"session=forged")]),
    "nowhere": lambda app: ask_asgi(app, "/nowhere"),
    "wrong method": lambda app: ask_asgi(app, "/orders/7", method="PUT"),
    "mounted": lambda app: ask_asgi(app, "/shop/items/3"),
    "lifespan": lambda app: ask_asgi(app, {"type": "lifespan"}, messages=LIFESPAN),
}


def _routes() -> list[Any]:
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Mount, Route

    async def order(request: Any) -> Any:
        works_with_obskit()
        return PlainTextResponse(f"order {request.path_params['order_id']}")

    async def fails(request: Any) -> Any:
        raise raises(ValueError("view"))

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async def stream(request: Any) -> Any:
        return StreamingResponse(parts())

    async def session(request: Any) -> Any:
        app_saw.append(dict(request.session))
        return PlainTextResponse("session")

    async def item(request: Any) -> Any:
        return PlainTextResponse("item")

    return [
        Route("/orders/{order_id:int}", order),
        Route("/raises", fails),
        Route("/stream", stream),
        Route("/session", session),
        Mount("/shop", routes=[Route("/items/{n}", item)]),
    ]


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware

    return Starlette(
        routes=_routes(), middleware=[Middleware(SessionMiddleware, secret_key="only for tests")]
    )


def fastapi_app() -> Any:
    import fastapi
    from starlette.middleware.sessions import SessionMiddleware

    app = fastapi.FastAPI(title="shop")
    app.add_middleware(SessionMiddleware, secret_key="only for tests")

    @app.get("/orders/{order_id}")
    async def order(order_id: int) -> str:
        works_with_obskit()
        return f"order {order_id}"

    app.router.routes.extend(_routes()[1:])
    return app


def _django() -> None:
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            SECRET_KEY="only for tests",
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF="tests.reliability.faults.django_urls",
            MIDDLEWARE=[
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.common.CommonMiddleware",
            ],
            SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
            LOGGING_CONFIG=None,
        )
        django.setup()


def django_wsgi() -> Any:
    _django()
    from django.core.handlers.wsgi import WSGIHandler

    return WSGIHandler()


def django_asgi() -> Any:
    _django()
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler()


DJANGO_SESSION = "sessionid=forged:AAAA:BBBB"
DJANGO_WSGI: dict[str, Ask] = {
    **FRAMEWORK_WSGI,
    "session": lambda app: ask_wsgi(app, "/session", HTTP_COOKIE=DJANGO_SESSION),
}
# Bare, Django refuses the lifespan: obskit answers it in its place, and there is nothing to compare.
DJANGO_ASGI: dict[str, Ask] = {
    **{name: ask for name, ask in FRAMEWORK_ASGI.items() if name not in ("mounted", "lifespan")},
    "session": lambda app: ask_asgi(app, "/session", headers=[(b"cookie", DJANGO_SESSION.encode())]),
}

KINDS: dict[str, Kind] = {
    "wsgi": Kind(Wsgi, WSGI_ASKS),
    "asgi": Kind(Asgi, ASGI_ASKS, "asgi"),
    "wsgi, ids echoed": Kind(Wsgi, WSGI_ASKS, options={"echo_request_id": True}),
    "asgi, ids echoed": Kind(Asgi, ASGI_ASKS, "asgi", options={"echo_request_id": True}),
    "wsgi, under load": Kind(Wsgi, WSGI_ASKS, under_load=True),
    "asgi, under load": Kind(Asgi, ASGI_ASKS, "asgi", under_load=True),
    "flask": Kind(flask_app, FRAMEWORK_WSGI, framework=True),
    "starlette": Kind(starlette_app, FRAMEWORK_ASGI, "asgi", framework=True),
    "fastapi": Kind(fastapi_app, FRAMEWORK_ASGI, "asgi", framework=True),
    "django wsgi": Kind(django_wsgi, DJANGO_WSGI, framework=True),
    "django asgi": Kind(django_asgi, DJANGO_ASGI, "asgi", framework=True),
}
