"""What the seven apps of the conformance suite have in common; they differ only in their framework.

Each app module ends in `shared.install(...)`. With CONFORMANCE_INSTALL=nested the installed app is
installed once more, wrapped in a plain middleware, and that is installed too: still one record.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import re
import threading
import time
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import obskit

STREAM = (b"one,", b"two,", b"three")
FIRST_BYTE_S = 0.03
GAP_S = 0.01
DRIP = b"." * 16384
DRIP_TIMES = 150
AFTER_S = 0.15
TRUNCATED = b"1234"
TRUNCATED_DECLARES = "10"
ETAG = '"v1"'
# Some file that every Python has, of more than one 64 KiB block.
FILE = Path(typing.__file__)

stdlib_log = logging.getLogger("shop")
structured_log = obskit.get_logger("shop")


class Teapot(Exception):
    """Every app has a custom handler that turns it into a 418."""


def order(order_id: int) -> dict[str, Any] | None:
    return None if order_id == 999 else {"order_id": order_id}


def as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


# -- bodies ----------------------------------------------------------------------------------------


def stream() -> Iterator[bytes]:
    time.sleep(FIRST_BYTE_S)
    for part in STREAM:
        yield part
        time.sleep(GAP_S)


async def astream() -> AsyncIterator[bytes]:
    await asyncio.sleep(FIRST_BYTE_S)
    for part in STREAM:
        yield part
        await asyncio.sleep(GAP_S)


def stream_that_raises(parts: int) -> Iterator[bytes]:
    yield from STREAM[:parts]
    raise ValueError("the stream broke")


async def astream_that_raises(parts: int) -> AsyncIterator[bytes]:
    for part in STREAM[:parts]:
        yield part
        # Let the server write, so that the client has this part before the failure.
        await asyncio.sleep(GAP_S)
    raise ValueError("the stream broke")


def drip() -> Iterator[bytes]:
    for _ in range(DRIP_TIMES):
        yield DRIP
        time.sleep(GAP_S)


async def adrip() -> AsyncIterator[bytes]:
    for _ in range(DRIP_TIMES):
        yield DRIP
        await asyncio.sleep(GAP_S)


def events(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield b"data: %d\n\n" % number
        time.sleep(GAP_S)


async def aevents(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"data: %d\n\n" % number
        await asyncio.sleep(GAP_S)


# -- log lines; each names its request in its text, so that a line that lost its ids is still found ---


def note(where: str, request_id: str) -> None:
    stdlib_log.info("note.%s.stdlib %s", where, request_id)
    structured_log.info(f"note.{where}.structlog {request_id}")


def note_in_thread(request_id: str) -> None:
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(note, "thread", request_id))
    thread.start()
    thread.join()


async def note_in_task(request_id: str) -> None:
    async def task() -> None:
        await asyncio.sleep(0)
        note("task", request_id)

    await asyncio.create_task(task())


def note_everywhere(request_id: str) -> None:
    """For an app without an event loop of its own."""
    note("here", request_id)
    note_in_thread(request_id)
    asyncio.run(note_in_task(request_id))


async def anote_everywhere(request_id: str) -> None:
    note("here", request_id)
    note_in_thread(request_id)
    await note_in_task(request_id)


def slow(ms: int, request_id: str) -> bytes:
    note("before", request_id)
    time.sleep(ms / 1000)
    note("after", request_id)
    return b"slept"


async def aslow(ms: int, request_id: str) -> bytes:
    note("before", request_id)
    await asyncio.sleep(ms / 1000)
    note("after", request_id)
    return b"slept"


# -- what status does not show -----------------------------------------------------------------------

ANSWERS = {
    "error": {"error": "the warehouse did not answer", "items": []},
    "nested": {"orders": [{"id": 7, "error": "the card was refused"}], "errors": [], "error": None},
    "full": ["tea", "coffee"],
    "empty": [],
}
STEPS = ("charge", "order", "mail")
_failed_once: set[bytes] = set()


def checkout(body: bytes) -> tuple[int, int]:
    """The status to answer an order with, and the ms to take for it: as its own body asks for."""
    order = json.loads(body)
    if order.get("fails_once") and body not in _failed_once:
        _failed_once.add(body)
        return 503, 0
    return order.get("status", 201), order.get("takes_ms", 0)


def assume(stock: int) -> bytes:
    held = obskit.invariant(stock > 0, "stock_left", stock=stock)
    return b"held" if held else b"did not hold"


def work(steps: int) -> bytes:
    """A unit of work of which the first `steps` steps are done."""
    with obskit.unit_of_work("checkout", steps=STEPS) as unit:
        unit.done(*STEPS[:steps])
    return b"%d" % steps


# -- the routes of the two apps that have no router --------------------------------------------------

PLAIN_ROUTES: tuple[tuple[str, str, str], ...] = (
    ("hello", "GET HEAD", "/hello"),
    ("show_order", "GET", "/orders/{order_id:int}"),
    ("boom", "GET", "/boom"),
    ("teapot", "GET", "/teapot"),
    ("redirect", "GET", "/redirect"),
    ("empty", "GET", "/empty"),
    ("not_modified", "GET", "/not-modified"),
    ("stream", "GET", "/stream"),
    ("stream_raises", "GET", "/stream-raises/{parts:int}"),
    ("drip", "GET", "/drip"),
    ("sse", "GET", "/sse/{count:int}"),
    ("slow", "GET", "/slow/{ms:int}"),
    ("upload", "POST", "/upload"),
    ("ignore_body", "POST", "/ignore-body"),
    ("file", "GET", "/file"),
    ("after_slow", "GET", "/after-slow"),
    ("after_fails", "GET", "/after-fails"),
    ("thing", "GET", "/api/v1/things/{thing}"),
    ("article", "GET", "/articles/{year:year}/"),
    ("greet", "GET", "/greet/{name}"),
    ("gruss", "GET", "/grüße/{name}"),
    ("logs", "GET", "/logs"),
    ("threadpool", "GET", "/threadpool"),
    ("truncated", "GET", "/truncated"),
    ("checkout", "POST", "/checkout"),
    ("refund", "POST", "/refund"),
    ("answers", "GET HEAD", "/answers/{name}"),
    ("stock", "GET", "/stock/{name}"),
    ("assume", "GET", "/assume/{stock:int}"),
    ("work", "GET", "/unit-of-work/{steps:int}"),
    ("no_end", "GET", "/no-end"),
    ("no_response", "GET", "/no-response"),
    ("lifespan", "GET", "/lifespan"),
    ("ws", "websocket", "/ws/{room}"),
    ("ws_refused", "websocket", "/ws-refused"),
    ("ws_raises", "websocket", "/ws-raises"),
    ("ws_left", "websocket", "/ws-left"),
)
_PATTERNS = {"int": r"\d+", "year": r"[0-9]{4}", None: r"[^/]+"}


def _compile(route: str) -> tuple[re.Pattern[str], str]:
    pattern = re.sub(r"\{(\w+)(?::(\w+))?\}", lambda m: f"(?P<{m[1]}>{_PATTERNS[m[2]]})", route)
    return re.compile(pattern), re.sub(r":\w+\}", "}", route)


_COMPILED = [(name, methods.split(), *_compile(route)) for name, methods, route in PLAIN_ROUTES]


def match(method: str, path: str) -> tuple[str, dict[str, str]]:
    """Handler name and parameters; tells obskit the route, as an app with its own router would."""
    for name, methods, pattern, route in _COMPILED:
        if found := pattern.fullmatch(path):
            exchange = obskit.current()
            if exchange is not None:
                exchange.name_route(route)
            return (name if method in methods else "method_not_allowed"), found.groupdict()
    return "not_found", {}


# -- install -----------------------------------------------------------------------------------------


def wrap_asgi(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return outer


def wrap_wsgi(app: Callable[..., Any]) -> Callable[..., Any]:
    def outer(environ: Any, start_response: Any) -> Any:
        return app(environ, start_response)

    return outer


def install(app: Any, wrap: Callable[[Any], Any]) -> Any:
    installed = obskit.install(app)
    if os.environ.get("CONFORMANCE_INSTALL") != "nested":
        return installed
    again = obskit.install(installed)
    assert again is installed, "a second install() of the same app must return it unchanged"
    return obskit.install(wrap(again))
