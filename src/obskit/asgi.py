"""The ASGI door: fills an Exchange with what passes between server and application, and does only that.

Messages go through untouched, in order, and are never taken from the application; unknown types and extensions
pass as they are. `MARK` in the scope keeps a nested install (a mounted application) from recording twice.
"""

from __future__ import annotations

from asyncio import Future, shield
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter_ns
from typing import Any, Self

from obskit.asgi_lifespan import Lifespan
from obskit.asgi_scope import (
    BODILESS_METHODS,
    MARK,
    Scope,
    has_body,
    header_kinds,
    read_scope,
    recorded,
)
from obskit.desk import Desk
from obskit.exchange import HEAD_BYTES, Exchange, digested
from obskit.pipeline import UNAVAILABLE, Answer, Endpoint, Pipeline
from obskit.presence import FLAGGED, Presence, sight

__all__ = ["MARK", "AsgiDoor", "RouteOf", "Scope"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[Any]]
# status, headers, body
RawAnswer = tuple[int, list[tuple[bytes, bytes]], bytes]
RouteOf = Callable[[Scope, int | None], str | None]

_HEAD = slice(HEAD_BYTES)
_SERVED = ("http", "websocket")
_BODY_TYPES = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})
# Close codes with which a peer ends a WebSocket in good order (RFC 6455 §7.4.1; 1012 is a restarting server).
_CLEAN_CLOSE = frozenset({1000, 1001, 1005, 1012})


_UNAVAILABLE: RawAnswer = (
    UNAVAILABLE.status,
    [(name.lower().encode(), value.encode()) for name, value in UNAVAILABLE.headers],
    UNAVAILABLE.body,
)


class AsgiDoor:
    """Wraps an ASGI application; attributes of the application stay reachable through it."""

    def __init__(
        self,
        app: AsgiApp,
        pipeline: Pipeline,
        route_of: RouteOf | None = None,
        *,
        answers_lifespan: bool = False,
        scope_defaults: tuple[tuple[str, Any], ...] = (),
    ) -> None:
        """`answers_lifespan`: the application is known to refuse the lifespan protocol, so the door speaks it.

        `scope_defaults` are set in the scope before the application runs, where it has not set them itself.
        """
        self.app = app
        self.answers_lifespan = answers_lifespan
        way = self._way = _Way(pipeline, route_of, scope_defaults)
        self._lifespan = Lifespan(pipeline, lambda: way.in_flight)
        self._desk = Desk()
        pipeline.hears_shutdown = False  # until the application takes part in its server's lifespan

    @property
    def pipeline(self) -> Pipeline:
        """Where its records go."""
        return self._way.pipeline

    @property
    def route_of(self) -> RouteOf | None:
        """Tells the route of a request; None where nobody can."""
        return self._way.route_of

    def __getattr__(self, name: str) -> Any:
        # Copying asks an object that has no attributes yet, and for protocols that are not the application's.
        app = self.__dict__.get("app")
        if app is None or name.startswith("__"):
            raise AttributeError(name)
        return getattr(app, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        way = self._way
        pipeline = way.pipeline
        kind: Any = None
        call: _Call | None = None
        answer: RawAnswer | None = None
        try:
            kind = scope.get("type")
            http = kind == "http"
            if http or kind == "websocket":
                path = scope.get("path")
                if not pipeline._serving.over and path not in pipeline.excluded:
                    pipeline.serve_soon()
                if http and (path in pipeline.endpoints or scope.get("root_path")):
                    answer = (
                        await self._answer(endpoint, scope) if (endpoint := self._endpoint(scope)) else None
                    )
                if answer is None:
                    for key, value in way.scope_defaults:
                        if key not in scope:
                            scope[key] = value
                    if path not in pipeline.excluded and not (MARK in scope and recorded(scope)):
                        exchange, request_id = read_scope(kind, scope, way.headers)
                        made = _HttpCall() if http else _WebSocketCall()
                        call = made.begin(pipeline, exchange, receive, send)
                        pipeline.open(exchange, request_id)
                        scope[MARK] = exchange
                        entered = pipeline.enter(exchange)
            elif kind == "lifespan":
                send = self._lifespan.flushing(send)
                await pipeline.begun()
        except Exception as error:
            pipeline.lost(None if call is None else call.exchange, "asgi.open", error)
            call = None
        except BaseException as error:
            pipeline.lost(None if call is None else call.exchange, "asgi.open", error)
            raise
        if call is None:
            if answer is not None:
                status, headers, body = answer
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return None
            if kind == "lifespan" and self.answers_lifespan:
                return await self._lifespan.answer(receive, send)
            # Excluded, of another type, or recorded by a door further out, which will find the route.
            return await self.app(scope, receive, send)
        way.in_flight += 1
        try:
            return await self.app(scope, call.receive, call.send)
        except BaseException as error:
            try:
                call.raised(error)
            except Exception as failure:
                pipeline.failed("asgi.close", failure)
            raise
        finally:
            way.in_flight -= 1
            try:
                pipeline.leave(entered)
                try:
                    if call.presence is not None:
                        call.presence.close()
                    if exchange.http_route is None and way.route_of is not None:
                        exchange.http_route = way.route_of(scope, exchange.status)
                except Exception as error:
                    pipeline.failed("adapter.route", error)
                pipeline.close(exchange)
            except Exception as failure:
                pipeline.lost(exchange, "asgi.close", failure)

    def _endpoint(self, scope: Scope) -> Endpoint | None:
        # In ASGI the path includes the prefix the application is served under.
        path, root = scope.get("path"), scope.get("root_path")
        if root and path:
            root = root.rstrip("/")
            if path.startswith(root + "/"):
                path = path[len(root) :]
        if path not in self.pipeline.endpoints or recorded(scope):
            return None
        return self.pipeline.endpoint(path, scope.get("raw_path"))

    async def _answer(self, endpoint: Endpoint, scope: Scope) -> RawAnswer:
        try:
            return await self._ask(endpoint, scope)
        except Exception as error:
            self.pipeline.failed("asgi.open", error)
            return _UNAVAILABLE

    async def _ask(self, endpoint: Endpoint, scope: Scope) -> RawAnswer:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope.get("headers", ())}
        client = scope.get("client")
        peer = client[0] if client else None
        asked = (endpoint, scope.get("method", "GET"), headers, peer)
        # A refusal is no work: it takes no thread, and no place in the line. None: the line is full.
        answer: Answer | None = self.pipeline.at_once(*asked)
        if answer is None:
            answer = await self._desk.ask(self.pipeline.answer, *asked) or UNAVAILABLE
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in answer.headers]
        return answer.status, raw, answer.body


class _Way:
    """Of a door, what each request passes: a class with `__getattr__` pays for each read of its own attributes."""

    __slots__ = ("headers", "in_flight", "pipeline", "route_of", "scope_defaults")

    def __init__(
        self, pipeline: Pipeline, route_of: RouteOf | None, scope_defaults: tuple[tuple[str, Any], ...]
    ) -> None:
        self.pipeline = pipeline
        self.route_of = route_of
        self.scope_defaults = scope_defaults
        self.headers = header_kinds(frozenset(name.encode("latin-1") for name in pipeline.carrier_headers))
        self.in_flight = 0

    def __deepcopy__(self, memo: object) -> _Way:
        return self  # what a copy of the door serves is recorded where that of the door is


class _Call:
    """One request on its way through the door. Subclasses note what its messages say."""

    __slots__ = ("_receive", "_send", "exchange", "pipeline", "presence")

    def begin(self, pipeline: Pipeline, exchange: Exchange, receive: Receive, send: Send) -> Self:
        """Instead of an `__init__`, which Python 3.12 and before call in a roundabout way."""
        self.pipeline = pipeline
        self.exchange = exchange
        self._receive = receive
        self._send = send
        self.presence: Presence | None = None
        return self

    async def receive(self) -> Message:
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        raise NotImplementedError

    def raised(self, error: BaseException) -> None:
        self.exchange.exception = error


class _HttpCall(_Call):
    __slots__ = ("_flag", "_last_handed_over", "_trailers")

    def begin(self, pipeline: Pipeline, exchange: Exchange, receive: Receive, send: Send) -> Self:
        self.pipeline = pipeline
        self.exchange = exchange
        self._receive = receive
        self._send = send
        self._trailers = self._last_handed_over = False
        declared = exchange.declared_request_bytes
        exchange.request_complete = exchange.method in BODILESS_METHODS if declared is None else declared <= 0
        # What the server itself shows of the client, or another way to see it.
        self._flag = self.presence = None
        owner = getattr(receive, "__self__", None)
        if owner is not None:
            if type(owner) in FLAGGED:
                self._flag = owner
            else:
                complete = exchange.request_complete
                self._flag, self.presence = sight(receive, pipeline.failed, has_body=not complete)
        return self

    async def receive(self) -> Message:
        presence = self.presence
        if presence is None:
            message = await self._receive()
        elif not presence.early:
            presence.awaited += 1
            try:
                message = await self._receive()
            finally:
                presence.awaited -= 1
        else:
            # Asked for before the application did, and handed over as it came: message or error.
            early: Future[Message] = presence.early[0]
            waiting = early
            try:
                waiting = shield(
                    early
                )  # the application may give up waiting: the message is then kept for it
            except Exception as error:
                self.pipeline.failed("asgi.presence", error)
            try:
                message = await waiting
            except Exception:
                presence.early = (*[one for one in presence.early if one is not early],)
                raise
            presence.early = (*[one for one in presence.early if one is not early],)
        try:
            if presence is not None:
                presence.received(message)
            exchange = self.exchange
            kind = message["type"]
            if kind == "http.request":
                body = message.get("body", b"")
                if body:
                    if exchange.method in self.pipeline.digested:
                        before = exchange.body_checksum or 0
                        exchange.body_checksum = digested(body, before, exchange.request_bytes)
                    exchange.request_bytes += len(body)
                exchange.request_complete = not message.get("more_body", False)
            elif kind == "http.disconnect" and not self._last_handed_over:
                # After a finished response every server says this; before, the client has really left.
                exchange.disconnected = True
                # While the application was still reading: the upload is what was cut. Once the client has left, uvicorn
                # says only that: what had arrived is not handed out any more.
                arrived = getattr(self._flag, "more_body", True) is False
                exchange.upload_cut = not (exchange.request_complete or arrived) and has_body(exchange)
        except Exception as error:
            self.pipeline.failed("asgi.receive", error)
        return message

    async def send(self, message: Message) -> None:
        exchange, flag = self.exchange, self._flag
        kind, whole = None, False
        try:
            kind = message["type"]
            if flag is not None:
                if flag.disconnected and not exchange.response_complete:
                    exchange.disconnected = True
            elif self.presence is not None:
                self._look(self.presence)
            if kind == "http.response.start":
                if self.pipeline.echo_request_id:
                    message = self._with_request_id(message)
            elif not self._last_handed_over:
                if kind == "http.response.body":
                    last = whole = not self._trailers and (
                        "more_body" not in message or not message["more_body"]
                    )
                else:
                    last = self._is_last(kind, message)
                if last:
                    # Before the send: hypercorn says http.disconnect from within its last one.
                    self._last_handed_over = True
                    self.pipeline.answering(exchange)
        except Exception as error:
            self.pipeline.failed("asgi.send", error)
        try:
            await self._send(message)
        except OSError:
            exchange.disconnected = True  # ASGI 2.4: what send() raises when the client has left
            raise
        except Exception:
            try:
                self._note_short(message)
            except Exception as error:
                self.pipeline.failed("asgi.send", error)
            raise
        try:
            if flag is not None and flag.disconnected and not exchange.response_complete:
                exchange.disconnected = True
            if exchange.disconnected:
                return  # what is sent to a client that has left goes nowhere; servers accept it in silence
            if (
                whole
                and exchange.first_byte_ns is None
                and exchange.method != "HEAD"
                and (body := message.get("body"))
            ):
                # Nearly every response is one message behind its start; `_note_sent` knows all others.
                exchange.response_bytes = len(body)
                exchange.first_byte_ns = exchange.last_byte_ns = perf_counter_ns()
                exchange.response_head = bytes(body[_HEAD])
                exchange.response_complete = True
            elif kind == "http.response.start":
                exchange.status = message["status"]
                exchange.response_started = True
                self._trailers = "trailers" in message and message["trailers"]
                headers = exchange.response_headers = message.get("headers", ())
                for name, value in headers:
                    if name == b"content-length" or (len(name) == 14 and name.lower() == b"content-length"):
                        # As in `length`, without a call.
                        exchange.declared_response_bytes = (
                            int(value) if value.isdigit() and len(value) < 19 else None
                        )
                        break
            else:
                self._note_sent(kind, message)
        except Exception as error:
            self.pipeline.failed("asgi.send", error)

    def _is_last(self, kind: Any, message: Message) -> bool:
        if kind in _BODY_TYPES:
            return not message.get("more_body", False) and not self._trailers
        return kind == "http.response.trailers" and not message.get("more_trailers", False)

    def _note_short(self, message: Message) -> None:
        """uvicorn and hypercorn write a body that is shorter than declared, and only then raise: it is out."""
        declared = self.exchange.declared_response_bytes
        if message.get("type") == "http.response.body" and declared is not None:
            body = message.get("body", b"")
            if self.exchange.response_bytes + len(body) < declared:
                self._note_sent("http.response.body", message)

    def _look(self, presence: Presence) -> None:
        try:
            if not self.exchange.response_complete and presence.left():
                self.exchange.disconnected = True
        except Exception as error:
            self.pipeline.failed("asgi.presence", error)

    def _note_sent(self, kind: Any, message: Message) -> None:
        exchange = self.exchange
        if kind == "http.response.body":
            body = message.get("body", b"")
            if body and exchange.method != "HEAD":
                exchange.response_bytes += len(body)
                if exchange.first_byte_ns is None:
                    exchange.first_byte_ns = perf_counter_ns()
                    exchange.response_head = bytes(body[_HEAD])
            if not (message.get("more_body", False) or self._trailers):
                self._complete()
        elif kind in ("http.response.pathsend", "http.response.zerocopysend"):
            # The server reads the file itself: the declared length is all we know of its size.
            now = perf_counter_ns()
            exchange.first_byte_ns = exchange.first_byte_ns or now
            if kind == "http.response.pathsend" or not message.get("more_body", False):
                exchange.server_sends_file = True
                exchange.response_bytes = exchange.declared_response_bytes or 0
                self._complete()
        elif kind == "http.response.trailers" and not message.get("more_trailers", False):
            self._complete()

    def _complete(self) -> None:
        self.exchange.response_complete = True
        self.exchange.last_byte_ns = perf_counter_ns()

    def _with_request_id(self, message: Message) -> Message:
        pair = (b"x-request-id", self.exchange.request_id.encode("ascii"))
        return {**message, "headers": [*message.get("headers", ()), pair]}


class _WebSocketCall(_Call):
    """A whole connection is one exchange: 101 when accepted, 403 when refused before that."""

    __slots__ = ("_closed_by_client",)

    def begin(self, pipeline: Pipeline, exchange: Exchange, receive: Receive, send: Send) -> Self:
        self._closed_by_client = False
        return super().begin(pipeline, exchange, receive, send)

    async def receive(self) -> Message:
        message = await self._receive()
        try:
            kind = message["type"]
            if kind == "websocket.receive":
                self.exchange.request_bytes += len(message.get("bytes") or message.get("text") or b"")
            elif kind == "websocket.disconnect":
                self._closed_by_client = True
                accepted = self.exchange.response_started
                clean = accepted and message.get("code", 1005) in _CLEAN_CLOSE
                if not clean and not self.exchange.response_complete:
                    self.exchange.disconnected = True
                self._complete()
        except Exception as error:
            self.pipeline.failed("asgi.receive", error)
        return message

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            self.exchange.disconnected = True  # ASGI 2.4: what send() raises when the client has left
            raise
        try:
            exchange = self.exchange
            kind = message["type"]
            if kind == "websocket.send":
                exchange.response_bytes += len(message.get("bytes") or message.get("text") or b"")
                if exchange.first_byte_ns is None:
                    exchange.first_byte_ns = perf_counter_ns()
            elif kind == "websocket.accept":
                exchange.status = 101
                exchange.response_started = True
            elif kind == "websocket.close":
                if not exchange.response_started:
                    exchange.status = 403
                    exchange.response_started = True
                self._complete()
            elif kind == "websocket.http.response.start":
                exchange.status = message["status"]
                exchange.response_started = True
            elif kind == "websocket.http.response.body" and not message.get("more_body", False):
                self._complete()
        except Exception as error:
            self.pipeline.failed("asgi.send", error)

    def raised(self, error: BaseException) -> None:
        # Frameworks let the exception that told the application of a closed connection escape from it: that is
        # how a conversation ends, and not a failure.
        gone = self._closed_by_client or self.exchange.disconnected
        if not (gone and type(error).__name__ == "WebSocketDisconnect"):
            self.exchange.exception = error

    def _complete(self) -> None:
        self.exchange.response_complete = True
        if self.exchange.last_byte_ns is None:
            self.exchange.last_byte_ns = perf_counter_ns()
