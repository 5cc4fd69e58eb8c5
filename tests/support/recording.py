"""One transcript in, one record out: a pipeline whose signals only take notes, and servers made of lists.

No socket, no thread: a door is given what a server would give it, and what comes out on both sides is kept.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import anyio

from obskit.asgi import AsgiDoor
from obskit.config import Config
from obskit.context import current
from obskit.exchange import Exchange, Finding
from obskit.findings import Detector, Judge
from obskit.pipeline import Pipeline
from obskit.watch.vantage import Vantage, vantage
from obskit.wsgi import WsgiDoor

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


class Broken(Exception):
    """What a stage of ours raises in these tests."""


class Notes:
    """What the fake signals of one pipeline saw."""

    def __init__(self) -> None:
        self.records: list[SimpleNamespace] = []
        self.calls: list[str] = []
        self.stages: list[str] = []
        self.told: list[str] = []
        self.lost: list[tuple[str, str]] = []
        self.counted: list[Any] = []
        self.lines: list[tuple[Any, ...]] = []
        self.broken: set[str] = set()
        self.placed = False
        # Of records that are shown together: whether any may wait, what does not rest, and what was written.
        self.may_wait = False
        self.restless: set[str] = set()
        self.written: list[str] = []
        self.inherited: list[tuple[Exchange, int]] = []

    @property
    def record(self) -> SimpleNamespace:
        """The one record; fails when there is none or more than one."""
        (only,) = self.records
        return only

    def called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise Broken(name)


class SceneHere(SimpleNamespace):
    """A scene of a test, seen from the thread that asks for it."""

    @property
    def vantage(self) -> Vantage:
        return vantage()


class FakeSignal:
    """A signal that notes its calls and raises where `notes.broken` says so."""

    def __init__(self, name: str, notes: Notes) -> None:
        self.name = name
        self.notes = notes

    def look(self) -> None:
        if f"{self.name}.look" in self.notes.broken:
            raise Broken

    def placed(self) -> bool:
        return self.notes.placed

    def begin(self, *_seen: Any) -> None:
        self.notes.called(f"{self.name}.begin")

    def opened(self, exchange: Exchange) -> None:
        self.notes.called(f"{self.name}.open")

    def closed(self, exchange: Exchange) -> None:
        self.notes.called(f"{self.name}.close")

    def flush(self, timeout_s: float) -> None:
        self.notes.called(f"{self.name}.flush")

    def shutdown(self, timeout_s: float) -> None:
        self.notes.called(f"{self.name}.shutdown")


class FakeTraces(FakeSignal):
    carrier_headers = frozenset({"traceparent", "tracestate", "baggage"})

    def opened(self, exchange: Exchange) -> None:
        super().opened(exchange)
        exchange.trace_id, exchange.span_id = TRACE_ID, SPAN_ID

    def closed(self, exchange: Exchange) -> None:
        # Traces close last, while nothing of the record is gone yet.
        self.notes.records.append(snapshot(exchange))
        super().closed(exchange)

    def enter(self, exchange: Exchange) -> Any:
        self.notes.called("traces.enter")
        return "token"

    def leave(self, token: Any) -> None:
        self.notes.called("traces.leave")

    def goodbye(self) -> None:
        self.notes.called("traces.goodbye")

    def keeps(self, exchange: Exchange) -> str:
        return ""

    def may_wait(self) -> bool:
        self.notes.called("traces.may_wait")
        return self.notes.may_wait

    def rests(self, exchange: Exchange) -> bool:
        self.notes.called("traces.rests")
        return "traces" not in self.notes.restless


class FakeMetrics(FakeSignal):
    def left(self, exchange: Exchange) -> None:
        self.notes.called("metrics.left")

    def counted(self, exchange: Exchange) -> None:
        self.notes.called("metrics.counted")

    def count_finding(self, finding: Finding) -> None:
        self.notes.called("metrics.finding")
        self.notes.counted.append(finding)

    def count_invariant(self, name: str, *, held: bool) -> None:
        self.notes.called("metrics.invariant")
        self.notes.counted.append((name, held))


class FakeLogs(FakeSignal):
    def may_wait(self) -> bool:
        self.notes.called("logs.may_wait")
        return self.notes.may_wait

    def closed_together(self, exchanges: Iterator[Exchange]) -> None:
        for exchange in exchanges:
            self.notes.written.append(exchange.url_path)
            self.notes.called("logs.closed_together")

    def inherited(self, exchange: Exchange, pid: int) -> None:
        self.notes.called("logs.inherited")
        self.notes.inherited.append((exchange, pid))

    def emit(self, *line: Any, **more: Any) -> None:
        self.notes.called("logs.emit")
        self.notes.lines.append(line)

    def tell(self, stage: str, error: BaseException) -> None:
        self.notes.called("logs.tell")
        self.notes.told.append(stage)


class FakeWatch(FakeSignal):
    """What sees requests from outside."""

    def queued(self, exchange: Exchange) -> None:
        self.notes.called("watch.queued")

    def timed_out(self) -> None:
        self.notes.called("watch.timed_out")

    def rests(self, exchange: Exchange) -> bool:
        self.notes.called("watch.rests")
        if "watch" in self.notes.restless:
            return False
        exchange.flight_slot = exchange.flight_slot or "a slot"
        return True

    def counted(self, exchange: Exchange) -> None:
        self.notes.called("watch.counted")

    def closed(self, exchange: Exchange) -> None:
        exchange.flight_slot = None
        super().closed(exchange)

    def answering(self, exchange: Exchange) -> None:
        self.notes.called("watch.answering")

    def goodbye(self) -> None:
        self.notes.called("watch.goodbye")

    def shutdown(self, timeout_s: float = 0) -> None:
        self.notes.called("watch.shutdown")


class FakeReporter:
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def internal_error(self, stage: str) -> None:
        self.notes.called("reporter.internal_error")
        self.notes.stages.append(stage)

    def dropped(self, signal: str, reason: str) -> None:
        self.notes.called("reporter.dropped")
        self.notes.lost.append((signal, reason))


def snapshot(exchange: Exchange) -> SimpleNamespace:
    """The record as signals see it on close, kept after the exchange has let go of it."""
    names = [name for name in Exchange.__slots__ if not name.startswith("__")]
    kept = SimpleNamespace(**{name: getattr(exchange, name) for name in names})
    kept.facts = dict(exchange.facts or {})
    kept.duration, kept.time_to_first_byte = exchange.duration, exchange.time_to_first_byte
    kept.error_type = exchange.error_type
    return kept


def make_pipeline(
    endpoints: Mapping[str, Any] | None = None,
    detectors: Sequence[tuple[Detector, Judge | None]] = (),
    **options: Any,
) -> tuple[Pipeline, Notes]:
    notes = Notes()
    pipeline = Pipeline(
        Config(**options),
        FakeTraces("traces", notes),
        FakeMetrics("metrics", notes),
        FakeLogs("logs", notes),
        FakeReporter(notes),
        endpoints,
        detectors,
        FakeWatch("watch", notes),
    )
    return pipeline, notes


# ---- an ASGI server made of lists -------------------------------------------------------------------


@dataclass
class AsgiTalk:
    """What passed on both sides of an ASGI application."""

    sent: list[dict[str, Any]] = field(default_factory=list)
    taken: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None
    returned: Any = None

    @property
    def status(self) -> int:
        return next(m["status"] for m in self.sent if m["type"].endswith("response.start"))

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent if m["type"].endswith("response.body"))

    @property
    def headers(self) -> dict[str, str]:
        start = next(m for m in self.sent if m["type"] == "http.response.start")
        return {k.decode("latin-1"): v.decode("latin-1") for k, v in start.get("headers", ())}


def http_scope(
    path: str = "/", method: str = "GET", headers: Iterable[tuple[bytes, bytes]] = (), **more: Any
) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        **more,
    }


def websocket_scope(path: str = "/ws", **more: Any) -> dict[str, Any]:
    scope = http_scope(path, **more)
    del scope["method"]
    return {**scope, "type": "websocket", "scheme": "ws", "subprotocols": []}


REQUEST: Sequence[dict[str, Any]] = ({"type": "http.request", "body": b"", "more_body": False},)


async def talk_asgi(
    app: Any,
    scope: dict[str, Any] | None = None,
    incoming: Iterable[dict[str, Any] | BaseException] = REQUEST,
    on_send: Callable[[dict[str, Any]], Awaitable[None] | None] | None = None,
    *,
    patient: bool = False,
) -> AsgiTalk:
    """Run one call. After the end of `incoming` the client is gone; a `patient` one waits for the response first."""
    talk = AsgiTalk()
    answered = anyio.Event()
    scope = http_scope() if scope is None else scope
    left = list(incoming)

    async def receive() -> dict[str, Any]:
        if patient and not left:
            await answered.wait()
        message = left.pop(0) if left else {"type": "http.disconnect"}
        if isinstance(message, BaseException):
            raise message
        talk.taken.append(message)
        return message

    async def send(message: dict[str, Any]) -> None:
        if on_send is not None:
            waiting = on_send(message)
            if waiting is not None:
                await waiting
        talk.sent.append(message)
        if message.get("type") == "http.response.body" and not message.get("more_body", False):
            answered.set()

    try:
        talk.returned = await app(scope, receive, send)
    except BaseException as error:
        talk.error = error
    return talk


def call_asgi(app: Any, *args: Any, **kwargs: Any) -> AsgiTalk:
    return asyncio.run(talk_asgi(app, *args, **kwargs))


def asgi_record(app: Any, *args: Any, route_of: Any = None, **kwargs: Any) -> SimpleNamespace:
    """The record that one call of `app` behind the door leaves."""
    pipeline, notes = make_pipeline()
    call_asgi(AsgiDoor(app, pipeline, route_of), *args, **kwargs)
    assert notes.stages == []
    return notes.record


def replying(*messages: dict[str, Any]) -> Any:
    """An ASGI application that sends these messages and returns."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def start(status: int = 200, *headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


# ---- a WSGI server made of lists --------------------------------------------------------------------


@dataclass
class WsgiTalk:
    """What a WSGI server saw, in order, and how its call ended."""

    events: list[tuple[Any, ...]] = field(default_factory=list)
    error: BaseException | None = None
    body: Any = None

    @property
    def status(self) -> str:
        return next(event[1] for event in self.events if event[0] == "start_response")

    @property
    def headers(self) -> dict[str, str]:
        return dict(next(event[2] for event in self.events if event[0] == "start_response"))

    @property
    def data(self) -> bytes:
        return b"".join(event[1] for event in self.events if event[0] in ("chunk", "write"))


def make_environ(path: str = "/", method: str = "GET", data: bytes = b"", **more: Any) -> dict[str, Any]:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(data),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if data:
        environ["CONTENT_LENGTH"] = str(len(data))
    return {**environ, **more}


def talk_wsgi(
    app: Any,
    environ: dict[str, Any] | None = None,
    *,
    take: int | None = None,
    close: bool = True,
    fails_on_chunk: BaseException | None = None,
) -> WsgiTalk:
    """Run one call as a server does; `take` chunks (None: all), then close while any failure is in flight."""
    talk = WsgiTalk()
    events = talk.events
    headers_sent = False

    def write(data: bytes) -> None:
        nonlocal headers_sent
        headers_sent = True
        events.append(("write", data))

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        events.append(("start_response", status, list(headers), exc_info and exc_info[1]))
        if exc_info and headers_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        return write

    try:
        result = app(make_environ() if environ is None else environ, start_response)
        talk.body = result
        try:
            if take != 0:
                for count, chunk in enumerate(result, 1):
                    events.append(("chunk", bytes(chunk)))
                    headers_sent = headers_sent or bool(chunk)
                    if fails_on_chunk is not None:
                        raise fails_on_chunk
                    if count == take:
                        break
        finally:
            if close and hasattr(result, "close"):
                events.append(("close",))
                result.close()
    except BaseException as error:
        talk.error = error
    return talk


def wsgi_record(app: Any, *args: Any, route_of: Any = None, **kwargs: Any) -> SimpleNamespace:
    """The record that one call of `app` behind the door leaves."""
    pipeline, notes = make_pipeline()
    talk_wsgi(WsgiDoor(app, pipeline, route_of), *args, **kwargs)
    assert notes.stages == []
    assert current() is None
    return notes.record


def listing(*chunks: bytes, status: str = "200 OK", headers: Any = ()) -> Callable[..., Any]:
    """A WSGI application that answers with a list of these chunks."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(status, list(headers))
        return list(chunks)

    return app
