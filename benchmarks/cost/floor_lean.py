"""The floor, tuned: the same three records with nothing in between, as a bound for what Python can do.

A span is an object with slots, a histogram a list, a line a format of bytes written 32 at a time, OTLP is put together
by hand. It continues no trace, knows no error, no event and no link, and its cells are wrong among threads.
"""

from __future__ import annotations

import sys
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from functools import cache, lru_cache
from http.client import HTTPConnection
from os import environ as variables
from random import getrandbits
from struct import Struct
from time import time_ns
from typing import Any
from urllib.parse import urlsplit

import orjson
from opentelemetry.context import _RUNTIME_CONTEXT, Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation import _SPAN_KEY
from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily

from benchmarks.cost.floor import BUCKETS, UNMATCHED, Closing

FLUSH_AT = 32
BATCH = 512
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
NO_STATE = SpanContext(1, 1, False).trace_state
_UPPER = [str(bound) for bound in BUCKETS] + ["+Inf"]
_TIMES = Struct("<BQBQ")
_SERVER_KIND = b"\x30\x02"


# -- OTLP bytes --------------------------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _attribute(key: str, value: str | int) -> bytes:
    if isinstance(value, str):
        return _field(9, _field(1, key.encode()) + _field(2, _field(1, value.encode())))
    return _field(9, _field(1, key.encode()) + _field(2, b"\x18" + _varint(value)))


_kept = lru_cache(4096)(_attribute)


class Sending:
    """Takes spans that have ended and sends them 512 at a time, from a thread of its own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = HTTPConnection(parts.hostname or "", parts.port, timeout=5)
        self.path = parts.path
        self.head = _field(1, _field(1, _field(1, b"service.name") + _field(2, _field(1, b"shop"))))
        self.scope = _field(1, _field(1, b"floor"))
        self.waiting: deque[Any] = deque()
        self.put = self.waiting.append
        self.sending = threading.Lock()
        self.hurry = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.hurry.wait(5)
            self.hurry.clear()
            self.force_flush()

    def force_flush(self) -> None:
        with self.sending:
            waiting = self.waiting
            while waiting:
                spans = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
                data = b"".join([_span(*span) for span in spans])
                body = _field(1, self.head + _field(2, self.scope + data))
                self.connection.request("POST", self.path, body, {"content-type": "application/x-protobuf"})
                answer = self.connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise OSError(f"the receiver answered {answer.status}")


def _span(
    trace_id: int,
    span_id: int,
    started: int,
    ended: int,
    name: str,
    fixed: tuple[Any, ...],
    own: tuple[Any, ...],
) -> bytes:
    data = b"".join(
        (
            b"\x0a\x10",
            trace_id.to_bytes(16, "big"),
            b"\x12\x08",
            span_id.to_bytes(8, "big"),
            _field(5, name.encode()),
            _SERVER_KIND,
            _TIMES.pack(0x39, started, 0x41, ended),
            *[_kept(key, value) for key, value in zip(_KEYS, fixed + own, strict=True)],
            b"\x85\x01\x01\x01\x00\x00",
        )
    )
    return b"\x12" + _varint(len(data)) + data


_KEYS = (
    "http.request.method",
    "url.path",
    "url.scheme",
    "network.protocol.version",
    "server.address",
    "server.port",
    "client.address",
    "user_agent.original",
    "http.route",
    "http.response.status_code",
)


# -- the three records ---------------------------------------------------------------------------------------


class Watching:
    def __init__(self, sending: Sending) -> None:
        self.sending = sending
        self.active = 0
        self.kinds: dict[tuple[str, str, int], tuple[str, list[Any], bytes]] = {}
        self.lines: list[bytes] = []
        self.write = sys.stdout.buffer.raw.write  # type: ignore[attr-defined]
        REGISTRY.register(self)  # type: ignore[arg-type]

    def collect(self) -> Any:
        family = HistogramMetricFamily(
            "http_server_request_duration_seconds", "To the end.", labels=["method", "route", "status"]
        )
        for key, (_, cells, _) in list(self.kinds.items()):
            so_far, rows = 0, []
            for upper, count in zip(_UPPER, cells, strict=False):
                so_far += count
                rows.append((upper, so_far))
            family.add_metric([str(label) for label in key], rows, cells[-1])
        yield family

    def describe(self) -> list[Any]:
        return []

    def kind(self, key: tuple[str, str, int]) -> tuple[str, list[Any], bytes]:
        method, route, status = key
        line = f'","level":"info","event":"request","method":"{method}","route":"{route}","status":{status},"path":'
        found = self.kinds[key] = (f"{method} {route}", [0] * len(_UPPER) + [0.0], line.encode())
        return found

    def end(
        self, ids: tuple[int, int, int], method: str, route: str, status: int, facts: tuple[Any, ...]
    ) -> None:
        trace_id, span_id, started = ids
        ended = time_ns()
        key = (method, route, status)
        name, cells, line = self.kinds.get(key) or self.kind(key)
        self.sending.put((trace_id, span_id, started, ended, name, facts, (route, status)))
        if len(self.sending.waiting) == BATCH:
            self.sending.hurry.set()
        self.active -= 1
        duration_s = (ended - started) * 1e-9
        cells[bisect_left(BUCKETS, duration_s)] += 1
        cells[-1] += duration_s
        lines = self.lines
        lines.append(
            b'{"timestamp":"%d%b%b,"client":%b,"duration_s":%.6f,"trace_id":"%032x","span_id":"%016x"}\n'
            % (ended, line, orjson.dumps(facts[1]), orjson.dumps(facts[6]), duration_s, trace_id, span_id)
        )
        if len(lines) >= FLUSH_AT:
            self.write_lines()

    def write_lines(self) -> None:
        data = b"".join(self.lines)
        self.lines.clear()
        self.write(data)


class Provider:
    """What the worker flushes."""

    def __init__(self) -> None:
        self.watching = Watching(Sending(variables["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]))

    def force_flush(self) -> None:
        self.watching.write_lines()
        self.watching.sending.force_flush()


provider = cache(Provider)


_variable = _RUNTIME_CONTEXT._current_context  # type: ignore[attr-defined]
_reset = _variable.reset


def _current(trace_id: int, span_id: int) -> Any:
    span = NonRecordingSpan(SpanContext(trace_id, span_id, False, SAMPLED, NO_STATE))
    return _variable.set(Context({_SPAN_KEY: span}))


def asgi_middleware(app: Any) -> Any:
    signals = provider().watching

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        ids = trace_id, span_id, _ = getrandbits(128), getrandbits(64), time_ns()
        method, status, agent = scope["method"], 500, b""
        signals.active += 1
        for name, value in scope["headers"]:
            if name == b"user-agent":
                agent = value
        server = scope["server"]
        facts = (
            method,
            scope["path"],
            scope["scheme"],
            scope["http_version"],
            server[0],
            server[1],
            scope["client"][0],
            agent.decode("latin-1"),
        )
        token = _current(trace_id, span_id)

        async def seen(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, seen)
        finally:
            _reset(token)
            route = scope.get("route")
            signals.end(ids, method, UNMATCHED if route is None else route.path, status, facts)

    return middleware


def _facts(environ: dict[str, Any]) -> tuple[Any, ...]:
    return (
        environ["REQUEST_METHOD"],
        environ["PATH_INFO"],
        environ["wsgi.url_scheme"],
        environ["SERVER_PROTOCOL"][5:],
        environ["SERVER_NAME"],
        int(environ["SERVER_PORT"]),
        environ["REMOTE_ADDR"],
        environ.get("HTTP_USER_AGENT", ""),
    )


def wsgi_middleware(app: Any, route_of: Callable[[], str | None]) -> Any:
    signals = provider().watching

    def middleware(environ: dict[str, Any], start_response: Any) -> Any:
        ids = trace_id, span_id, _ = getrandbits(128), getrandbits(64), time_ns()
        facts = _facts(environ)
        signals.active += 1
        status, route = 500, UNMATCHED

        def started(line: str, headers: Any, *error: Any) -> Any:
            nonlocal status, route
            status, route = int(line[:3]), route_of() or UNMATCHED
            return start_response(line, headers, *error)

        def end() -> None:
            signals.end(ids, facts[0], route, status, facts)

        token = _current(trace_id, span_id)
        try:
            body = app(environ, started)
        except BaseException:
            end()
            raise
        finally:
            _reset(token)
        return Closing(body, end)

    return middleware


def django_middleware(get_response: Any) -> Any:
    signals = provider().watching

    def middleware(request: Any) -> Any:
        ids = trace_id, span_id, _ = getrandbits(128), getrandbits(64), time_ns()
        facts = _facts(request.META)
        signals.active += 1
        status = 500
        token = _current(trace_id, span_id)
        try:
            response = get_response(request)
            status = response.status_code
            return response
        finally:
            _reset(token)
            match = request.resolver_match
            signals.end(ids, facts[0], UNMATCHED if match is None else match.route, status, facts)

    return middleware
