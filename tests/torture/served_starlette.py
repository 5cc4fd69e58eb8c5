"""The ASGI app of the torture run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import obskit
from tests.torture import ledger


def came_in(request: Request) -> str | None:
    request_id = request.headers.get("X-Request-ID")
    ledger.enter(request_id)
    return request_id


async def quick(request: Request) -> Response:
    return PlainTextResponse(f"{came_in(request)} quick")


async def slow(request: Request) -> Response:
    request_id = came_in(request)
    await asyncio.sleep(request.path_params["ms"] / 1000)
    return PlainTextResponse(f"{request_id} slow")


def slow_in_a_thread(request: Request) -> Response:
    request_id = came_in(request)
    time.sleep(request.path_params["ms"] / 1000)
    return PlainTextResponse(f"{request_id} slow")


async def stream(request: Request) -> Response:
    request_id = came_in(request)

    async def parts() -> AsyncIterator[bytes]:
        for number in range(ledger.PARTS):
            await asyncio.sleep(ledger.PART_PAUSE_S)
            yield ledger.part(request_id, number)

    return StreamingResponse(parts())


async def echo(request: Request) -> Response:
    came_in(request)
    return Response(await request.body())


async def fail(request: Request) -> Response:
    came_in(request)
    raise RuntimeError("as it was asked to")


async def die(request: Request) -> Response:
    came_in(request)
    ledger.die()
    return Response()


async def crash(request: Request) -> Response:
    came_in(request)
    ledger.crash()
    return Response()


async def hang(request: Request) -> Response:
    came_in(request)
    ledger.hang()
    return Response()


app = Starlette(
    routes=[
        Route("/quick", quick),
        Route("/slow/{ms:int}", slow),
        Route("/slow-in-a-thread/{ms:int}", slow_in_a_thread),
        Route("/stream", stream),
        Route("/echo", echo, methods=["POST"]),
        Route("/fail", fail),
        Route("/die", die),
        Route("/crash", crash),
        Route("/hang", hang),
    ]
)
obskit.install(app, service="torture", instrumentation=False)
