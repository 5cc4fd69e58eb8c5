"""The WSGI door: fills an Exchange with what passes between server and application, and does only that.

The record stays open until the server has closed the response (PEP 3333): a stream's duration runs to its last
byte, and a server that closes early says that the client has left. `MARK` in the environ keeps a nested install
from recording twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from sys import exception as exception_now
from time import perf_counter_ns
from typing import Any

from obskit.exchange import HEAD_BYTES, Exchange, Outcome, cut_off_by
from obskit.pipeline import UNAVAILABLE, Answer, Endpoint, Entered, Pipeline
from obskit.wsgi_environ import SELDOM, Environ, code_of, file_size, head_of, headers_of, length, read_environ
from obskit.wsgi_input import observe_input

StartResponse = Callable[..., Callable[[bytes], Any]]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]
RouteOf = Callable[[Environ], str | None]
Beside = tuple[StartResponse, Answer | None]
Ready = Callable[[Any], Any]
Idle = Callable[[Any], bool]
AtStart = Callable[[Exchange, Environ | None], None]

MARK = "obskit.exchange"
# How far the server has come with a body.
_NOT_YET, _AT_END, _RAISED = range(3)


def _plain(body: Any) -> bool | None:
    """A list or a tuple: its items are there, and there is nothing to close."""
    kind = type(body)
    return True if kind is list or kind is tuple else None


class WsgiDoor:
    """Wraps a WSGI application; attributes of the application stay reachable through it."""

    def __init__(
        self,
        app: WsgiApp,
        pipeline: Pipeline,
        route_of: RouteOf | None = None,
        ready: Ready = _plain,
        idle: Idle = lambda ready: True,
        at_start: AtStart | None = None,
    ) -> None:
        """`route_of` and `at_start` run while the application's own context is still there: its response starts.

        `ready` knows bodies whose items are there already: nothing of the application runs when they are taken.
        What it gives back (None for any other body) is shown to `idle`: does closing it run nothing either?
        """
        self.app = app
        self._way = _Way(pipeline, route_of, ready, idle, at_start)

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

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        way = self._way
        pipeline = way.pipeline
        call: _Call | None = None
        entered: Entered | None = None
        beside: Beside | None = None
        try:
            if MARK in environ or environ.get("PATH_INFO") in pipeline.endpoints:
                beside = self._beside(environ, start_response)
            if beside is None:
                exchange, request_id = read_environ(environ, way.seldom, way.carrier_keys)
                if exchange.url_path not in pipeline.excluded:
                    if not exchange.request_complete:
                        observe_input(environ, exchange, pipeline)
                    call = _Call(way, exchange, start_response)
                    pipeline.open(exchange, request_id)
                    environ[MARK] = exchange
                    entered = pipeline.enter(exchange)
        except Exception as error:
            pipeline.lost(None if call is None else call.exchange, "wsgi.open", error)
            call = None
        except BaseException as error:
            pipeline.lost(None if call is None else call.exchange, "wsgi.open", error)
            raise
        if call is None:
            if beside is None:
                return self.app(environ, start_response)
            start_response, answer = beside
            if answer is None:
                return self.app(environ, start_response)
            start_response(f"{answer.status} {answer.reason}", answer.headers)
            return [answer.body]
        try:
            body = self.app(environ, call.start_response)
        except BaseException as error:
            call.exchange.exception = error
            try:
                way.find_route(call.exchange, environ)
                pipeline.leave(entered)
                pipeline.close(call.exchange)
            except Exception as failure:
                pipeline.lost(call.exchange, "wsgi.close", failure)
            raise
        try:
            pipeline.leave(entered)
            return call.observed(body, environ)
        except Exception as error:
            call.exchange.outcome = Outcome.UNKNOWN
            pipeline.lost(call.exchange, "wsgi.body", error)
            return body
        except BaseException as error:
            # The process is to end, told so in our code: the server never gets this body, so nobody else closes it.
            pipeline.lost(call.exchange, "wsgi.body", error)
            app_close = getattr(body, "close", None)
            if app_close is not None:
                app_close()
            raise

    def _beside(self, environ: Environ, start_response: StartResponse) -> Beside | None:
        """How to answer a call that is no request to record, and our own answer if it is ours; None for any other."""
        outer: Exchange | None = environ.get(MARK)
        if outer is not None and not outer.closed:
            return self._way.routing(outer, environ, start_response), None
        path, sent = environ.get("PATH_INFO", ""), environ.get("RAW_URI") or environ.get("REQUEST_URI")
        endpoint = self.pipeline.endpoint(path, sent)
        if endpoint is None:
            return None
        try:
            return start_response, self._ask(endpoint, environ)
        except Exception as error:
            self.pipeline.failed("wsgi.open", error)
            return start_response, UNAVAILABLE

    def _ask(self, endpoint: Endpoint, environ: Environ) -> Answer:
        method, peer = environ.get("REQUEST_METHOD", "GET"), environ.get("REMOTE_ADDR")
        return self.pipeline.answer(endpoint, method, headers_of(environ), peer)


class _Way:
    """Of a door, what each request passes: a class with `__getattr__` pays for each read of its own attributes."""

    __slots__ = ("at_start", "carrier_keys", "idle", "pipeline", "ready", "route_of", "seldom")

    def __init__(
        self, pipeline: Pipeline, route_of: RouteOf | None, ready: Ready, idle: Idle, at_start: AtStart | None
    ) -> None:
        self.pipeline = pipeline
        self.route_of, self.ready, self.idle, self.at_start = route_of, ready, idle, at_start
        self.carrier_keys = tuple(
            (name, "HTTP_" + name.upper().replace("-", "_")) for name in sorted(pipeline.carrier_headers)
        )
        self.seldom = SELDOM.union(key for _, key in self.carrier_keys)

    def __deepcopy__(self, memo: object) -> _Way:
        return self  # what a copy of the door serves is recorded where that of the door is

    def find_route(self, exchange: Exchange, environ: Environ) -> None:
        if self.route_of is not None and exchange.http_route is None:
            try:
                exchange.http_route = self.route_of(environ)
            except Exception as error:
                self.pipeline.failed("adapter.route", error)

    def routing(self, exchange: Exchange, environ: Environ, start_response: StartResponse) -> StartResponse:
        """A start_response for an application inside one that records already: it only names the route."""

        def start(*args: Any, **kwargs: Any) -> Callable[[bytes], Any]:
            try:
                self.find_route(exchange, environ)
            except Exception as error:
                self.pipeline.failed("adapter.route", error)
            return start_response(*args, **kwargs)

        return start


class _Call:
    """One request on its way through the door."""

    __slots__ = (
        "_start_response",
        "_write",
        "body",
        "done",
        "ended",
        "exchange",
        "items",
        "ready",
        "started",
        "way",
    )
    _write: Callable[[bytes], Any]

    def __init__(self, way: _Way, exchange: Exchange, start_response: StartResponse) -> None:
        self.way = way
        self.exchange = exchange
        self._start_response = start_response
        self.started = False
        # Of the body that the server has been given.
        self.items: Iterator[bytes] | None = None
        self.ended = _NOT_YET
        self.done = False

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], Any]:
        exchange, way = self.exchange, self.way
        try:
            if exchange.http_route is None:
                way.find_route(exchange, exchange.request)
            if way.at_start is not None:
                way.at_start(exchange, exchange.request)
            if way.pipeline.echo_request_id:
                headers = [*headers, ("X-Request-ID", exchange.request_id)]
        except Exception as error:  # headers that are no list are the server's to refuse
            way.pipeline.failed("wsgi.start_response", error)
        if exc_info is None:
            write = self._start_response(status, headers)
        else:
            # Raises if headers are out already: what was sent then stays what it was.
            write = self._start_response(status, headers, exc_info)
        given: Callable[[bytes], Any] = self.write
        try:
            if self.started:  # once more: each write() goes where the server wanted it
                anew = _Call(way, exchange, self._start_response)
                anew._write = write
                given = anew.write
                exchange.declared_response_bytes = None
            else:
                self.started = True
                self._write = write
            exchange.status = code_of(status)
            if type(headers) is list or isinstance(headers, tuple | list):  # else readable only once, perhaps
                exchange.response_headers = headers
                for name, value in headers:
                    if len(name) == 14 and name.lower() == "content-length":
                        exchange.declared_response_bytes = length(value)
                        break
        except Exception as error:
            way.pipeline.failed("wsgi.start_response", error)
        return given

    def write(self, data: bytes) -> Any:
        """The application's write(), which counts."""
        write = self._write
        try:
            result = write(data)
        except OSError:
            self.exchange.disconnected = True
            raise
        try:
            self.sent(data)
        except Exception as error:
            self.way.pipeline.failed("wsgi.body", error)
        return result

    def sent(self, data: bytes | str) -> None:
        """Note bytes handed to the server. The first ones take the headers with them."""
        exchange = self.exchange
        size = len(data)
        if not size:
            return
        exchange.response_started = True
        if exchange.method == "HEAD":
            return
        exchange.response_bytes += size
        if exchange.first_byte_ns is None:
            exchange.first_byte_ns = perf_counter_ns()
            exchange.response_head = data if type(data) is bytes and size <= HEAD_BYTES else head_of(data)
        declared = exchange.declared_response_bytes
        if declared is not None and exchange.response_bytes >= declared:
            self.way.pipeline.answering(exchange)

    def exhausted(self) -> None:
        """The application has given its last byte; headers go out now if no byte did."""
        exchange = self.exchange
        exchange.last_byte_ns = perf_counter_ns()
        if not exchange.response_bytes or exchange.declared_response_bytes is None:
            self.way.pipeline.answering(exchange)  # the end of the body is only now known
        exchange.response_started = exchange.response_complete = self.started or exchange.response_started

    def closed_early(self) -> None:
        """The server closed the body before its end. Tell a departed client from a server that needs no more."""
        exchange = self.exchange
        error = exception_now()
        declared = exchange.declared_response_bytes
        all_sent = declared is not None and exchange.response_bytes >= declared
        if error is not None:
            if isinstance(error, OSError):
                self.left()
            elif isinstance(error, Exception):
                exchange.disconnected = True
            else:
                exchange.outcome = cut_off_by(error)
        elif all_sent or (self.started and not exchange.body_expected()):
            self.exhausted()
        else:
            exchange.disconnected = True

    def left(self) -> None:
        """What was handed over last could not be sent: the client has left, perhaps before the first of it."""
        exchange = self.exchange
        exchange.disconnected = True
        if exchange.response_bytes == len(exchange.response_head):
            # It was the first part, and too small to have gone in pieces: not even the headers before it arrived.
            exchange.response_started = exchange.response_complete = False
            exchange.response_bytes, exchange.first_byte_ns = 0, None

    def observed(self, body: Iterable[bytes], environ: Environ) -> Iterable[bytes]:
        """The body to hand to the server: it looks like the application's own and tells us how it went."""
        wrapper = environ.get("wsgi.file_wrapper")
        if wrapper is not None and isinstance(wrapper, type) and isinstance(body, wrapper):
            return self._observed_file(body)
        self.body = body
        self.ready = self.way.ready(body)
        return (_SizedBody if hasattr(body, "__len__") else _Body)(self)

    def _observed_file(self, body: Any) -> Iterable[bytes]:
        # The server recognises its own file wrapper by type and sends the file itself (sendfile): hand back the
        # very same object, and learn of the end from its close().
        exchange, pipeline = self.exchange, self.way.pipeline
        exchange.server_sends_file = True
        size = exchange.declared_response_bytes
        held = file_size(body) if size is None else size
        exchange.response_bytes = held if exchange.body_expected() else 0
        if exchange.response_bytes:
            # From here on the server reads by itself: handing the file over is the nearest to a first byte.
            exchange.first_byte_ns = perf_counter_ns()
        app_close = getattr(body, "close", None)

        def close() -> None:
            try:
                self._file_closed(body)
            except Exception as error:
                pipeline.failed("wsgi.close", error)
            finally:
                try:
                    if app_close is not None:
                        app_close()
                finally:
                    try:
                        pipeline.close(exchange)
                    except Exception as error:
                        pipeline.lost(exchange, "wsgi.close", error)

        body.close = close
        return body  # type: ignore[no-any-return]

    def _file_closed(self, body: Any) -> None:
        exchange = self.exchange
        error = exception_now()
        # waitress closes its file buffer without an exception; what was not sent is still in it.
        exchange.disconnected = isinstance(error, OSError) or bool(getattr(body, "remain", 0))
        exchange.response_started = True
        exchange.response_complete = error is None and not exchange.disconnected
        if not exchange.response_complete:
            exchange.response_bytes = 0  # how far the server got, it does not say
            if isinstance(error, SystemExit) and cut_off_by(error) is Outcome.TIMEOUT:
                exchange.outcome = Outcome.TIMEOUT
        exchange.last_byte_ns = perf_counter_ns()


# Their items are there already: nothing of the application runs when one is asked for.
_RUN_NO_CODE: frozenset[type] = frozenset({type(iter([])), type(iter(()))})


class _Body:
    """The application's iterable, seen from the server: same items, same attributes, closed exactly once."""

    # All of it stands in the call: a class with __getattr__ pays for each read of its own attributes.
    __slots__ = ("_call",)

    def __init__(self, call: _Call) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_call").body, name)

    # What code that is no server may do with it: compare it in a test, or take Django's response for its bytes.
    def __eq__(self, other: object) -> bool:
        return bool(self._call.body == (other._call.body if isinstance(other, _Body) else other))

    __hash__ = object.__hash__

    def __bytes__(self) -> bytes:
        return bytes(self._call.body)  # type: ignore[arg-type]

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        call = self._call
        items = call.items
        entered: Entered | None = None
        try:
            if call.ready is None and type(items) not in _RUN_NO_CODE:
                entered = call.way.pipeline.enter(call.exchange)
        except Exception as error:
            call.way.pipeline.failed("wsgi.body", error)
        try:
            if items is None:
                items = call.items = iter(call.body)
            item = next(items)
        except StopIteration:
            call.ended = _AT_END
            try:
                if entered is not None:
                    call.way.pipeline.leave(entered)
                call.exhausted()
            except Exception as error:
                call.way.pipeline.failed("wsgi.body", error)
            raise
        except BaseException as error:
            call.ended = _RAISED
            call.exchange.exception = error
            call.exchange.exception_handled = False
            try:
                call.way.pipeline.leave(entered)
            except Exception as failure:
                call.way.pipeline.failed("wsgi.body", failure)
            raise
        try:
            if entered is not None:
                call.way.pipeline.leave(entered)
            call.sent(item)
        except Exception as error:
            call.way.pipeline.failed("wsgi.body", error)
        return item

    def close(self) -> None:
        call = self._call
        if call.done:
            return
        call.done = True
        exchange, pipeline = call.exchange, call.way.pipeline
        entered: Entered | None = None
        try:
            if call.ended is _AT_END:
                # The server may still have failed to send the last item; it then closes while handling that.
                if isinstance(exception_now(), OSError):
                    exchange.disconnected = True
            elif call.ended is _NOT_YET:
                call.closed_early()
            if call.ready is None or not call.way.idle(call.ready):
                entered = pipeline.enter(exchange)
        except Exception as error:
            pipeline.failed("wsgi.close", error)
        finally:  # whatever has come out of our own code: the application's close() is called
            try:
                app_close = getattr(call.body, "close", None)
                if app_close is not None:
                    app_close()
            except BaseException as error:
                if exchange.exception is None:
                    exchange.exception = error
                raise
            finally:
                try:
                    if entered is not None:
                        pipeline.leave(entered)
                    pipeline.close(exchange)
                except Exception as error:
                    pipeline.lost(exchange, "wsgi.close", error)

    def __del__(self) -> None:
        # A server that never closes still leaves a record; what became of the response nobody can say.
        call = self._call
        try:
            if not call.done:
                if call.ended is _NOT_YET:
                    call.exchange.outcome = Outcome.UNKNOWN
                call.way.pipeline.close(call.exchange)
        except Exception as error:
            call.way.pipeline.failed("wsgi.del", error)


class _SizedBody(_Body):
    """A body whose length the server may ask for: PEP 3333 lets it set Content-Length from a single item."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._call.body)  # type: ignore[arg-type]

    def __getitem__(self, index: Any) -> Any:
        return self._call.body[index]  # type: ignore[index]
