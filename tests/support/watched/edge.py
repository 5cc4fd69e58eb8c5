"""A service with a route for each fault that the shops of integrations/, being well-behaved, do not have."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import obskit

# Few enough for a fault to use up.
DESCRIPTORS = 256
resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

LEAKED_EACH_SECOND = 2_000_000

held: list[int] = []
leaked: list[bytes] = []
tasks: list[asyncio.Task[None]] = []


class Breakable(SpanProcessor):
    """A span processor of the user's own, which may have a bug."""

    broken = False

    def on_end(self, span: ReadableSpan) -> None:
        if self.broken:
            raise RuntimeError("a bug in somebody's span processor")


provider = TracerProvider()
processor = Breakable()
provider.add_span_processor(processor)
trace.set_tracer_provider(provider)

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def start(send: Send, declared: int | None = None, content_type: str = "text/plain") -> None:
    headers = [(b"content-type", content_type.encode())]
    if declared is not None:
        headers.append((b"content-length", b"%d" % declared))
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def part(send: Send, body: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def ok(send: Send) -> None:
    await start(send, 2)
    await part(send, b"ok")


async def truncated(send: Send) -> None:
    await start(send, 100)
    await part(send, b"too short")


async def raised(send: Send) -> None:
    await start(send)
    await part(send, b"the first half", more=True)
    raise ValueError("the second half is missing")


async def nothing(send: Send) -> None:
    """Returns without an answer."""


async def cancelled(send: Send) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def after(send: Send) -> None:
    await ok(send)
    raise ConnectionRefusedError("no mail server")


async def invariant(send: Send) -> None:
    obskit.invariant(len(held) < 0, "stock_not_negative", stock=-1)
    await ok(send)


async def half(send: Send) -> None:
    with obskit.unit_of_work("checkout", steps=["charge", "order"]) as work:
        work.done("charge")
    await ok(send)


async def slowly(send: Send) -> None:
    """Long enough for a second click."""
    await asyncio.sleep(0.3)
    await ok(send)


async def hang(send: Send) -> None:
    """Longer than a request may, here, without progress."""
    await asyncio.sleep(3)
    await ok(send)


async def block(send: Send) -> None:
    """What a synchronous driver does in asynchronous code."""
    time.sleep(0.6)
    await ok(send)


async def boom(send: Send) -> None:
    raise LookupError("no such thing")


async def many(send: Send) -> None:
    await ok(send)


async def hold_descriptors(send: Send) -> None:
    while len(held) < DESCRIPTORS * 0.85:
        held.append(os.open(os.devnull, os.O_RDONLY))
    await ok(send)


async def release_descriptors(send: Send) -> None:
    while held:
        os.close(held.pop())
    await ok(send)


async def grow() -> None:
    while True:
        # Written to, or the kernel would not count it.
        leaked.append(b"x" * (LEAKED_EACH_SECOND // 4))
        await asyncio.sleep(0.25)


async def leak(send: Send) -> None:
    tasks.append(asyncio.create_task(grow()))
    await ok(send)


async def break_spans(send: Send) -> None:
    processor.broken = True
    await ok(send)


async def mend_spans(send: Send) -> None:
    processor.broken = False
    await ok(send)


ROUTES = {
    "/ok": ok,
    "/truncated": truncated,
    "/raised": raised,
    "/nothing": nothing,
    "/cancelled": cancelled,
    "/after": after,
    "/invariant": invariant,
    "/half": half,
    "/checkout": slowly,
    "/upload": ok,
    "/own": ok,
    "/hang": hang,
    "/block": block,
    "/boom": boom,
    "/descriptors/hold": hold_descriptors,
    "/descriptors/release": release_descriptors,
    "/leak": leak,
    "/spans/break": break_spans,
    "/spans/mend": mend_spans,
}


async def serve(scope: dict[str, Any], receive: Any, send: Send) -> None:
    if scope["type"] != "http":
        raise RuntimeError(f"no {scope['type']} here")
    # /many/<n> names a route after each path, which is what a real service must not do.
    path = scope["path"]
    exchange = obskit.current()
    if exchange is not None:
        exchange.name_route(path)
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
    if path in BODIES:
        await start(send, content_type="application/json")
        await part(send, BODIES[path][scope["query_string"]])
    else:
        await ROUTES.get(path, many)(send)


# By query: what is answered when all is well, and what else can be asked for.
BODIES = {
    # Two kilobytes of items, a few bytes of them, or none.
    "/page": {b"": json.dumps(["tea"] * 300).encode(), b"short": b'["tea"]', b"empty": b"[]"},
    "/pay": {b"": b'{"paid":true}', b"refused": b'{"error":"no more money"}'},
}


def stale_price(exchange: obskit.Exchange) -> dict[str, str] | None:
    return {"price": "of yesterday"} if exchange.url_path == "/own" else None


OWN = obskit.Detector(
    name="stale_price",
    help="A price was shown that is not valid any more.",
    why="An old price is a number like a new one.",
    judge=stale_price,
)
app = obskit.install(serve, service="edge", interface="asgi", detectors=[OWN])
