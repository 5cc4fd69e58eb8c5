"""The ASGI application of the long haul."""

# ruff: noqa: E402 -- what imports the functions of the clock by name is to get ours

from __future__ import annotations

from tests.reliability.longhaul import clock

clock.follow()

import asyncio
import logging
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import obskit
from tests.reliability.longhaul import INSTALL, PART, PARTS, SLOW_S

log = logging.getLogger("shop")


async def quick(request: Request) -> JSONResponse:
    items = [{"id": one, "name": "tea"} for one in range(10)]
    return JSONResponse({"number": request.path_params["number"], "items": items})


async def slow(request: Request) -> PlainTextResponse:
    await asyncio.sleep(SLOW_S)
    return PlainTextResponse("slow")


async def hang(request: Request) -> PlainTextResponse:
    await asyncio.sleep(request.path_params["ms"] / 1000)
    return PlainTextResponse("hung")


async def stream(request: Request) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(PARTS):
            yield PART

    return StreamingResponse(parts())


async def endless(request: Request) -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(2000):
            yield PART * 16
            await asyncio.sleep(0.002)

    return StreamingResponse(parts())


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def talk(request: Request) -> PlainTextResponse:
    for number in range(5):
        log.warning("stock is low", extra={"item": "tea", "left": number})
    return PlainTextResponse("said")


async def fail(request: Request) -> PlainTextResponse:
    raise RuntimeError("as it was asked to")


async def ws(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()


app = Starlette(
    routes=[
        Route("/quick/{number:int}", quick),
        Route("/slow", slow),
        Route("/hang/{ms:int}", hang),
        Route("/stream", stream),
        Route("/endless", endless),
        Route("/echo", echo, methods=["POST"]),
        Route("/talk", talk),
        Route("/fail", fail),
        WebSocketRoute("/ws", ws),
    ]
)
if os.environ.get(INSTALL):
    obskit.install(app, service=os.environ[INSTALL])
