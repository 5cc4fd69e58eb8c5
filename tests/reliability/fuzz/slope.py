"""Memory over a long row of requests: flat, and when they are over no record of one is left."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, sleep
from typing import Any, NamedTuple

import obskit
from obskit.exchange import Exchange
from tests.reliability.fuzz.bounds import rss
from tests.reliability.fuzz.world import Twin, talk_asgi, talk_wsgi
from tests.support.recording import http_scope, make_environ

_SAMPLES = 200
_QUIET_S = 5.0


class Slope(NamedTuple):
    """How memory grew over the last half: bytes of the process and objects of Python, per request."""

    kind: str
    requests: int
    rss_per_request: float
    blocks_per_request: float
    alive: int
    """Records that are still there when all is over."""


def _wsgi_app(environ: dict[str, Any], start_response: Any) -> Any:
    number = int(environ["PATH_INFO"][1:])
    obskit.bind(number=number, payload="x" * 100)
    obskit.invariant(number % 10, "not a tenth", number=number)
    if number % 7 == 0:
        raise ValueError(number)
    start_response("200 OK", [("Content-Type", "application/json")])
    return _stream() if number % 5 == 0 else [b'{"error": "sold out"}' if number % 11 == 0 else b"{}"]


def _stream() -> Iterator[bytes]:
    yield b"a"
    yield b"b"


async def _asgi_app(scope: Any, receive: Any, send: Any) -> None:
    number = int(scope["path"][1:])
    obskit.bind(number=number)
    await receive()
    if number % 7 == 0:
        raise ValueError(number)
    await send({"type": "http.response.start", "status": 200 + number % 5, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


def wsgi() -> tuple[Twin, Callable[[int], object]]:
    twin = Twin(_wsgi_app, interface="wsgi")

    def ask(number: int) -> None:
        environ = make_environ(
            f"/{number % 1_000}", "POST" if number % 3 else "GET", HTTP_COOKIE=f"s={number}"
        )
        talk_wsgi(twin.app, environ)

    return twin, ask


def asgi() -> tuple[Twin, Callable[[int], object]]:
    twin = Twin(_asgi_app, interface="asgi")
    return twin, lambda number: talk_asgi(
        twin.app, http_scope(f"/{number % 1_000}", headers=[(b"x-request-id", b"r")])
    )


KINDS = {"WSGI": wsgi, "ASGI": asgi}


def measure(kind: str, requests: int) -> Slope:
    """So many requests of one kind."""
    twin, ask = KINDS[kind]()
    samples = min(_SAMPLES, max(4, requests // 500))
    each = max(1, requests // samples)
    memory: list[float] = []
    blocks: list[float] = []
    for number in range(1, each * samples + 1):
        ask(number)
        twin.kept.lines.clear()
        if number % each == 0:
            gc.collect()
            memory.append(rss())
            blocks.append(sys.getallocatedblocks())
    # The watch looks once a second, and what it saw last it keeps until then.
    until = monotonic() + _QUIET_S
    while (alive := _alive(twin)) and monotonic() < until:
        sleep(0.05)
    half = samples // 2
    return Slope(kind, each * samples, _slope(memory[half:]) / each, _slope(blocks[half:]) / each, alive)


def _alive(twin: Twin) -> int:
    gc.collect()
    return sum(type(one) is Exchange and one.pipeline is twin.pipeline for one in gc.get_objects())


def _slope(values: Sequence[float]) -> float:
    """Growth per sample, by least squares: one step of the allocator is no trend."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    return sum((n - middle) * (v - mean) for n, v in enumerate(values)) / sum(
        (n - middle) ** 2 for n in range(len(values))
    )
