"""The conformance app in Starlette."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import shared
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.convertors import Convertor, register_url_convertor
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


class YearConvertor(Convertor[str]):
    regex = "[0-9]{4}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("year", YearConvertor())


def request_id(request: Request) -> str:
    return request.headers.get("x-request-id", "")


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def show_order(request: Request) -> Response:
    found = shared.order(request.path_params["order_id"])
    return JSONResponse(found) if found else JSONResponse({"error": "no such order"}, 404)


async def boom(request: Request) -> Response:
    raise ValueError("boom")


async def teapot(request: Request) -> Response:
    raise shared.Teapot


async def handle_teapot(request: Request, problem: Exception) -> Response:
    return PlainTextResponse("short and stout", 418)


async def redirects(request: Request) -> Response:
    return RedirectResponse("/hello", 302)


async def items(request: Request) -> Response:
    return PlainTextResponse("items")


async def empty(request: Request) -> Response:
    return Response(status_code=204)


async def not_modified(request: Request) -> Response:
    return Response(status_code=304, headers={"ETag": shared.ETAG})


async def stream(request: Request) -> Response:
    return StreamingResponse(shared.astream(), media_type="text/plain")


async def stream_raises(request: Request) -> Response:
    parts = request.path_params["parts"]
    return StreamingResponse(shared.astream_that_raises(parts), media_type="text/plain")


async def drip(request: Request) -> Response:
    return StreamingResponse(shared.adrip(), media_type="text/plain")


async def sse(request: Request) -> Response:
    return StreamingResponse(shared.aevents(request.path_params["count"]), media_type="text/event-stream")


async def slow(request: Request) -> Response:
    return Response(await shared.aslow(request.path_params["ms"], request_id(request)))


async def upload(request: Request) -> Response:
    return JSONResponse({"bytes": len(await request.body())})


async def ignore_body(request: Request) -> Response:
    return PlainTextResponse("ignored", 202)


async def file(request: Request) -> Response:
    return FileResponse(shared.FILE, media_type="text/plain")


async def after_slow(request: Request) -> Response:
    return PlainTextResponse("done", background=BackgroundTask(asyncio.sleep, shared.AFTER_S))


async def fail() -> None:
    raise ValueError("after the response")


async def after_fails(request: Request) -> Response:
    return PlainTextResponse("done", background=BackgroundTask(fail))


async def thing(request: Request) -> Response:
    return JSONResponse(request.path_params)


async def article(request: Request) -> Response:
    return PlainTextResponse(request.path_params["year"])


class ClassView(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("by a class")


async def greet(request: Request) -> Response:
    return PlainTextResponse(f"hello {request.path_params['name']}")


async def logs(request: Request) -> Response:
    await shared.anote_everywhere(request_id(request))
    return PlainTextResponse("noted")


def threadpool(request: Request) -> Response:
    shared.note("pool", request_id(request))
    return PlainTextResponse("noted")


async def truncated(request: Request) -> Response:
    return Response(shared.TRUNCATED, headers={"Content-Length": shared.TRUNCATED_DECLARES})


async def checkout(request: Request) -> Response:
    status, takes_ms = shared.checkout(await request.body())
    await shared.aslow(takes_ms, request_id(request))
    return JSONResponse({"ok": True}, status)


async def answers(request: Request) -> Response:
    return JSONResponse(shared.ANSWERS[request.path_params["name"]])


async def assume(request: Request) -> Response:
    return PlainTextResponse(shared.assume(request.path_params["stock"]))


async def work(request: Request) -> Response:
    return PlainTextResponse(shared.work(request.path_params["steps"]))


async def lifespan_state(request: Request) -> Response:
    return PlainTextResponse(request.state.greeting)


async def ws(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


async def ws_refused(socket: WebSocket) -> None:
    await socket.close()


async def ws_raises(socket: WebSocket) -> None:
    await socket.accept()
    raise ValueError("the socket broke")


async def ws_left(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"greeting": "started"}


routes = [
    Route("/hello", hello),
    Route("/orders/{order_id:int}", show_order),
    Route("/boom", boom),
    Route("/teapot", teapot),
    Route("/redirect", redirects),
    Route("/items/", items),
    Route("/empty", empty),
    Route("/not-modified", not_modified),
    Route("/stream", stream),
    Route("/stream-raises/{parts:int}", stream_raises),
    Route("/drip", drip),
    Route("/sse/{count:int}", sse),
    Route("/slow/{ms:int}", slow),
    Route("/upload", upload, methods=["POST"]),
    Route("/ignore-body", ignore_body, methods=["POST"]),
    Route("/file", file),
    Route("/after-slow", after_slow),
    Route("/after-fails", after_fails),
    # The nearest to an included router: a mount in a mount, both without an app of their own.
    Mount("/api", routes=[Mount("/v1", routes=[Route("/things/{thing}", thing)])]),
    Mount("/sub", app=Starlette(routes=[Route("/things/{thing}", thing)])),
    Mount("/installed", app=shared.obskit.install(Starlette(routes=[Route("/things/{thing}", thing)]))),
    Route("/articles/{year:year}/", article),
    Route("/class-view", ClassView),
    Route("/greet/{name}", greet),
    Route("/grüße/{name}", greet),
    Route("/logs", logs),
    Route("/threadpool", threadpool),
    Route("/truncated", truncated),
    Route("/checkout", checkout, methods=["POST"]),
    Route("/refund", checkout, methods=["POST"]),
    Route("/answers/{name}", answers),
    Route("/stock/{name}", answers),
    Route("/assume/{stock:int}", assume),
    Route("/unit-of-work/{steps:int}", work),
    Route("/lifespan", lifespan_state),
    WebSocketRoute("/ws/{room}", ws),
    WebSocketRoute("/ws-refused", ws_refused),
    WebSocketRoute("/ws-raises", ws_raises),
    WebSocketRoute("/ws-left", ws_left),
]

app = Starlette(routes=routes, exception_handlers={shared.Teapot: handle_teapot}, lifespan=lifespan)
app = shared.install(app, shared.wrap_asgi)
