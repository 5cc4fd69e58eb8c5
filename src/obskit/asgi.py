"""The ASGI door: fills an Exchange with what passes between server and application, and does only that.

Messages go through untouched, in order, and are never taken from the application; unknown types and extensions
pass as they are. `MARK` in the scope keeps a nested install (a mounted application) from recording twice.
"""

from __future__ import annotations

from asyncio import get_running_loop, sleep
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic, perf_counter_ns
from typing import Any

from obskit.aside import aside
from obskit.exchange import HEAD_BYTES, Exchange
from obskit.names import HTTP_METHODS, OTHER_METHOD
from obskit.pipeline import Endpoint, Pipeline
from obskit.presence import Presence, presence_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RouteOf = Callable[[Scope, int | None], str | None]

MARK = "obskit.exchange"
# Methods whose requests have no body unless they declare one.
_BODILESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
_SERVED = ("http", "websocket")
_BODY_TYPES = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})
_QUEUE_HEADERS = frozenset({b"x-request-start", b"x-queue-start"})
# Close codes with which a peer ends a WebSocket in good order (RFC 6455 §7.4.1; 1012 is a restarting server).
_CLEAN_CLOSE = frozenset({1000, 1001, 1005, 1012})


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
        self.pipeline = pipeline
        self.route_of = route_of
        self.answers_lifespan = answers_lifespan
        self.scope_defaults = scope_defaults
        self._in_flight = 0
        pipeline.hears_shutdown = False  # until the application takes part in its server's lifespan
        carried = frozenset(name.encode("latin-1") for name in pipeline.carrier_headers)
        self._wanted_headers = carried | _QUEUE_HEADERS

    def __getattr__(self, name: str) -> Any:
        # Copying asks an object that has no attributes yet, and for protocols that are not the application's.
        app = self.__dict__.get("app")
        if app is None or name.startswith("__"):
            raise AttributeError(name)
        return getattr(app, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope.get("type")
        if not self.pipeline.serving and kind in _SERVED and scope.get("path") not in self.pipeline.excluded:
            await self.pipeline.served()
        if kind == "http":
            endpoint = self._endpoint(scope)
            if endpoint is not None:
                await self._answer(endpoint, scope, send)
                return
            call: _Call | None = self._open(_HttpCall, scope, receive, send)
        elif kind == "websocket":
            call = self._open(_WebSocketCall, scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        else:
            call = None
        if call is None:
            # Excluded, of an unknown type, or recorded by a door further out, which will find the route.
            await self.app(scope, receive, send)
            return
        pipeline = self.pipeline
        exchange = call.exchange
        self._in_flight += 1
        entered = pipeline.enter(exchange)
        try:
            await self.app(scope, call.receive, call.send)
        except BaseException as error:
            call.raised(error)
            raise
        finally:
            self._in_flight -= 1
            pipeline.leave(entered)
            self._finish(call, scope)

    def _endpoint(self, scope: Scope) -> Endpoint | None:
        # In ASGI the path includes the prefix the application is served under.
        path, root = scope.get("path"), scope.get("root_path")
        if root and path and path.startswith(root):
            path = path[len(root) :]
        return self.pipeline.endpoints.get(path) if path and not _recorded(scope) else None

    def _open(self, make: type[_Call], scope: Scope, receive: Receive, send: Send) -> _Call | None:
        pipeline = self.pipeline
        try:
            for key, value in self.scope_defaults:
                scope.setdefault(key, value)
            if _recorded(scope) or scope.get("path") in pipeline.excluded:
                return None
            exchange, request_id = _read_scope(scope, self._wanted_headers)
            call = make(pipeline, exchange, receive, send)
        except Exception as error:
            pipeline.failed("asgi.open", error)
            return None
        pipeline.open(exchange, request_id)
        scope[MARK] = exchange
        return call

    def _finish(self, call: _Call, scope: Scope) -> None:
        exchange = call.exchange
        try:
            call.returned()
            if exchange.http_route is None and self.route_of is not None:
                exchange.http_route = self.route_of(scope, exchange.status)
        except Exception as error:
            self.pipeline.failed("adapter.route", error)
        self.pipeline.close(exchange)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.pipeline.begun()
        if self.answers_lifespan:
            await self._answer_lifespan(receive, send)
            return

        async def flushing_send(message: Message) -> None:
            kind = message.get("type", "")
            if kind == "lifespan.startup.complete":
                self.pipeline.hears_shutdown = True
            # uvicorn re-raises SIGTERM after this message and atexit never runs: it is the last chance to flush.
            elif kind.startswith("lifespan.shutdown."):
                await self._say_goodbye()
            await send(message)

        await self.app(scope, receive, flushing_send)

    async def _answer_lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.pipeline.hears_shutdown = True
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._say_goodbye()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _say_goodbye(self) -> None:
        await self._settle()
        await aside(self.pipeline.flush, FLUSH_TIMEOUT_S)
        await aside(self.pipeline.goodbye)

    async def _settle(self) -> None:
        """Let requests that the server has just cancelled end: their records are to be flushed, too.

        Django needs some turns of the loop for that, and uvicorn ends the process right behind the lifespan.
        """
        try:
            get_running_loop()
        except RuntimeError:  # not asyncio (trio)
            return
        deadline = monotonic() + SETTLE_TIMEOUT_S
        while self._in_flight and monotonic() < deadline:
            await sleep(SETTLE_POLL_S)

    async def _answer(self, endpoint: Endpoint, scope: Scope, send: Send) -> None:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope.get("headers", ())}
        client = scope.get("client")
        peer = client[0] if client else None
        answer = await aside(self.pipeline.answer, endpoint, scope.get("method", "GET"), headers, peer)
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in answer.headers],
            }
        )
        await send({"type": "http.response.body", "body": answer.body})


# The collector may be away: give up after this many seconds rather than hold the server's shutdown.
FLUSH_TIMEOUT_S = 2.0
SETTLE_TIMEOUT_S = 0.5
SETTLE_POLL_S = 0.005


class _Call:
    """One request on its way through the door. Subclasses note what its messages say."""

    __slots__ = ("_receive", "_send", "exchange", "pipeline")

    def __init__(self, pipeline: Pipeline, exchange: Exchange, receive: Receive, send: Send) -> None:
        self.pipeline = pipeline
        self.exchange = exchange
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        raise NotImplementedError

    def raised(self, error: BaseException) -> None:
        self.exchange.exception = error

    def returned(self) -> None:
        """The application has returned or raised."""


class _HttpCall(_Call):
    __slots__ = ("_has_body", "_last_handed_over", "_presence", "_trailers")

    def __init__(self, pipeline: Pipeline, exchange: Exchange, receive: Receive, send: Send) -> None:
        super().__init__(pipeline, exchange, receive, send)
        self._trailers = False
        self._last_handed_over = False
        self._has_body = _has_body(exchange)
        exchange.request_complete = not self._has_body
        self._presence = presence_of(receive, has_body=self._has_body)

    async def receive(self) -> Message:
        presence = self._presence
        message = await (self._receive() if presence is None else presence.receive())
        try:
            exchange = self.exchange
            kind = message["type"]
            if kind == "http.request":
                body = message.get("body", b"")
                exchange.request_bytes += len(body)
                if exchange.body_digest is not None:
                    exchange.body_digest.feed(body)
                exchange.request_complete = not message.get("more_body", False)
            elif kind == "http.disconnect" and not self._last_handed_over:
                # After a finished response every server says this; before, the client has really left.
                exchange.disconnected = True
                # While the application was still reading: the upload is what was cut.
                arrived = presence is not None and presence.upload_arrived()
                exchange.upload_cut = not (exchange.request_complete or arrived) and self._has_body
        except Exception as error:
            self.pipeline.failed("asgi.receive", error)
        return message

    async def send(self, message: Message) -> None:
        if self._presence is not None:
            self._look(self._presence)
        try:
            # Before the send: hypercorn says http.disconnect from within its last one.
            if not self._last_handed_over and self._is_last(message):
                self._last_handed_over = True
                self.pipeline.answering(self.exchange)
            if self.pipeline.echo_request_id and message["type"] == "http.response.start":
                message = self._with_request_id(message)
        except Exception as error:
            self.pipeline.failed("asgi.send", error)
        try:
            await self._send(message)
        except OSError:
            self.exchange.disconnected = True  # ASGI 2.4: what send() raises when the client has left
            raise
        except Exception:
            self._note_short(message)
            raise
        if self._presence is not None and self._presence.valid_after_send:
            self._look(self._presence)
        # What is sent to a client that has left goes nowhere; servers accept it in silence.
        if not self.exchange.disconnected:
            try:
                self._note_sent(message)
            except Exception as error:
                self.pipeline.failed("asgi.send", error)

    def _is_last(self, message: Message) -> bool:
        kind = message.get("type")
        if kind in _BODY_TYPES:
            return not message.get("more_body", False) and not self._trailers
        return kind == "http.response.trailers" and not message.get("more_trailers", False)

    def _note_short(self, message: Message) -> None:
        """uvicorn and hypercorn write a body that is shorter than declared, and only then raise: it is out."""
        try:
            declared = self.exchange.declared_response_bytes
            if message.get("type") == "http.response.body" and declared is not None:
                body = message.get("body", b"")
                if self.exchange.response_bytes + len(body) < declared:
                    self._note_sent(message)
        except Exception as error:
            self.pipeline.failed("asgi.send", error)

    def returned(self) -> None:
        if self._presence is not None:
            self._presence.close()

    def _look(self, presence: Presence) -> None:
        try:
            if not self.exchange.response_complete and presence.left():
                self.exchange.disconnected = True
        except Exception as error:
            self.pipeline.failed("asgi.presence", error)

    def _note_sent(self, message: Message) -> None:
        exchange = self.exchange
        kind = message["type"]
        if kind == "http.response.body":
            body = message.get("body", b"")
            size = len(body)
            last = not message.get("more_body", False)
            if size and exchange.method != "HEAD":
                exchange.response_bytes += size
                if exchange.first_byte_ns is None:
                    now = exchange.first_byte_ns = perf_counter_ns()
                    exchange.response_head = bytes(body[:HEAD_BYTES])
                    if last and not self._trailers:
                        exchange.last_byte_ns = now
                        exchange.response_complete = True
                        return
            if last and not self._trailers:
                self._complete()
        elif kind == "http.response.start":
            exchange.status = message["status"]
            exchange.response_started = True
            self._trailers = message.get("trailers", False)
            exchange.response_headers = message.get("headers")
            for name, value in message.get("headers", ()):
                if name == b"content-length" or (len(name) == 14 and name.lower() == b"content-length"):
                    exchange.declared_response_bytes = _length(value)
                    break
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

    def __init__(self, pipeline: Pipeline, exchange: Exchange, receive: Receive, send: Send) -> None:
        super().__init__(pipeline, exchange, receive, send)
        self._closed_by_client = False

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


def _recorded(scope: Scope) -> bool:
    exchange = scope.get(MARK)
    return exchange is not None and not exchange.closed


def _read_scope(scope: Scope, wanted_headers: frozenset[bytes]) -> tuple[Exchange, str | None]:
    """The exchange with all that is known before the application runs, and the client's request id."""
    original = scope.get("method", "GET")
    path, prefix = scope.get("path", ""), scope.get("root_path")
    exchange = Exchange(scope["type"], original, path)
    if prefix and path.startswith(prefix):
        exchange.path_prefix = prefix
    exchange.request = scope
    if original not in HTTP_METHODS:
        exchange.method = OTHER_METHOD
        exchange.method_original = str(original)[:64]
    exchange.scheme = scope.get("scheme", "http")
    exchange.http_version = scope.get("http_version")
    client = scope.get("client")
    if client:
        exchange.client_address = client[0] or None
    server = scope.get("server")
    if server:
        exchange.server_address, exchange.server_port = server[0], server[1]
    request_id: str | None = None
    carrier: dict[str, str] | None = None
    headers = scope.get("headers", ())
    if hasattr(headers, "__next__"):
        headers = ()  # readable only once, and that is the application's
    for raw_name, raw_value in headers:
        if raw_name == b"user-agent":
            exchange.user_agent = raw_value.decode("latin-1")
        elif raw_name == b"x-request-id":
            request_id = raw_value.decode("latin-1")
        elif raw_name == b"content-length":
            exchange.declared_request_bytes = _length(raw_value)
        elif raw_name not in wanted_headers:
            continue
        elif raw_name in _QUEUE_HEADERS:
            if exchange.queue_start is None or raw_name == b"x-request-start":
                exchange.queue_start = raw_value.decode("latin-1")
        else:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            if carrier is None:
                carrier = {}
            # Repeated fields join (RFC 9110 §5.3); a repeated traceparent thereby becomes invalid, as it must.
            carrier[name] = f"{carrier[name]},{value}" if name in carrier else value
    exchange.carrier = carrier
    return exchange, request_id


def _has_body(exchange: Exchange) -> bool:
    declared = exchange.declared_request_bytes
    return exchange.method not in _BODILESS_METHODS if declared is None else declared > 0


def _length(value: bytes) -> int | None:
    # RFC 9110 §8.6: digits only. Anything else is the server's or the application's to answer, not ours.
    return int(value) if value.isdigit() and len(value) < 19 else None
