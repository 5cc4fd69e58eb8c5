"""What passed between server and application, and what it shows: each finding beside what only looks like it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import FileWrapper

import pytest

from obskit.asgi import AsgiDoor
from obskit.exchange import Outcome
from tests.detectors.conftest import found_in, judging
from tests.support.recording import body, http_scope, listing, make_environ, replying, start, websocket_scope

Detect = Callable[..., dict[str, Any]]

DISCONNECT = {"type": "http.disconnect"}
LENGTH_10 = (b"content-length", b"10")
STARTED = {"response_started": True, "status": 200}
WHOLE = {**STARTED, "response_complete": True, "first_byte_ns": 1}
GONE = {"disconnected": True}
TIMES = {"started_ns": 0, "last_byte_ns": 1_500_000_000}


# ---- one record in, findings out -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (
            {**GONE, **TIMES},
            {
                "client_disconnect": {
                    "phase": "before_headers",
                    "waited_s": 1.5,
                    "response_bytes": 0,
                    "declared_bytes": None,
                }
            },
        ),
        (
            {
                **GONE,
                **STARTED,
                **TIMES,
                "first_byte_ns": 9,
                "response_bytes": 4,
                "declared_response_bytes": 10,
            },
            {
                "client_disconnect": {
                    "phase": "during_body",
                    "waited_s": 1.5,
                    "response_bytes": 4,
                    "declared_bytes": 10,
                }
            },
        ),
        (
            {**WHOLE, "declared_response_bytes": 10, "response_bytes": 4},
            {
                "truncated_response": {
                    "cause": "fewer_bytes_than_declared",
                    "response_bytes": 4,
                    "declared_bytes": 10,
                }
            },
        ),
        (
            {**STARTED, "response_bytes": 4},
            {"truncated_response": {"cause": "no_end_of_body", "response_bytes": 4, "declared_bytes": None}},
        ),
        (
            {**STARTED, "response_bytes": 4, "exception": ValueError("secret")},
            {
                "raised_after_headers": {
                    "exception_type": "ValueError",
                    "status_sent": 200,
                    "response_bytes": 4,
                },
                "truncated_response": {"cause": "exception", "response_bytes": 4, "declared_bytes": None},
            },
        ),
        (
            {**WHOLE, "upload_cut": True, "request_bytes": 4, "declared_request_bytes": 10},
            {"truncated_request": {"request_bytes": 4, "declared_bytes": 10, "answered": 200}},
        ),
        (TIMES, {"no_response": {"duration_s": 1.5}}),
        (
            {**WHOLE, "exception": ValueError("secret")},
            {"background_failure": {"exception_type": "ValueError", "status_sent": 200}},
        ),
        (
            {**TIMES, "exception": asyncio.CancelledError()},
            {"cancelled": {"by": "CancelledError", "after_s": 1.5, "status_sent": None}},
        ),
        (
            {**TIMES, **STARTED, "outcome": Outcome.TIMEOUT},
            {"timeout": {"after_s": 1.5, "status_sent": 200}},
        ),
    ],
)
def test_a_record_shows_what_happened_and_the_facts_of_it(
    fields: dict[str, Any], found: dict[str, Any], detect: Detect
) -> None:
    assert detect(**fields) == found


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("GET", WHOLE),
        ("GET", {**WHOLE, "declared_response_bytes": 10, "response_bytes": 10}),
        ("GET", {**WHOLE, "declared_response_bytes": 10, "response_bytes": 12}),
        # A declared length that must not be sent (RFC 9110 §9.3.2, §6.4.1).
        ("HEAD", {**WHOLE, "declared_response_bytes": 10}),
        *(
            ("GET", {**WHOLE, "status": status, "declared_response_bytes": 10})
            for status in (204, 205, 304, 103)
        ),
        ("GET", {**WHOLE, "status": 206, "declared_response_bytes": 5, "response_bytes": 5}),
        ("GET", {**WHOLE, "status": 416, "declared_response_bytes": 0}),
        # Files the server sends: how many bytes went out nobody tells us.
        ("GET", {**WHOLE, "server_sends_file": True, "declared_response_bytes": 10}),
        ("GET", {**STARTED, "server_sends_file": True}),
        # A handled exception is an answer; so is a 500, which its status does show.
        ("GET", {**WHOLE, "exception": ValueError(), "exception_handled": True, "status": 418}),
        ("GET", {**WHOLE, "exception": ValueError(), "exception_handled": True, "status": 500}),
        ("GET", {**WHOLE, "exception": ValueError(), "status": 500}),
        ("GET", {"exception": ValueError()}),
        # Servers cancel what an application still does after its answer, at every shutdown.
        ("GET", {**WHOLE, "exception": asyncio.CancelledError()}),
        ("GET", {**WHOLE, "exception": SystemExit(0)}),
        ("POST", {**WHOLE, "declared_request_bytes": 10, "request_bytes": 3}),
    ],
)
def test_what_only_looks_alike_is_no_finding(method: str, fields: dict[str, Any], detect: Detect) -> None:
    assert detect(method, **fields) == {}


def test_a_websocket_that_ends_without_a_close_is_no_truncated_answer(detect: Detect) -> None:
    assert detect(protocol="websocket", **{**STARTED, "status": 101}) == {}


# ---- through the ASGI door -----------------------------------------------------------------------


def upload(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def reading(pieces: int, *reply: dict[str, Any], then: int = 0) -> Any:
    """Takes at most that many pieces of the upload, replies, and asks `then` times more."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(pieces):
            message = await receive()
            if not message.get("more_body", False):
                break
        for answer in reply:
            await send(answer)
        for _ in range(then):
            await receive()

    return app


def raising(error: BaseException, *before: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        raise error

    return app


def ok(status: int = 200) -> tuple[dict[str, Any], dict[str, Any]]:
    return start(status), body(b"ok")


POST_10 = http_scope(method="POST", headers=[LENGTH_10])
CHUNKED = http_scope(method="POST", headers=[(b"transfer-encoding", b"chunked")])
EXPECTING = http_scope(method="POST", headers=[LENGTH_10, (b"expect", b"100-continue")])


@pytest.mark.parametrize(
    ("app", "scope", "incoming", "found"),
    [
        (reading(9, *ok()), POST_10, [upload(b"12345", more=True), DISCONNECT], {"truncated_request"}),
        (reading(9, *ok()), CHUNKED, [upload(b"12345", more=True), DISCONNECT], {"truncated_request"}),
        (reading(9, *ok()), EXPECTING, [DISCONNECT], {"truncated_request"}),
        # The same exchanges, with all of it there.
        (reading(9, *ok()), POST_10, [upload(b"12345", more=True), upload(b"67890")], set()),
        (reading(9, *ok()), CHUNKED, [upload(b"12345", more=True), upload(b"")], set()),
        (reading(9, *ok()), EXPECTING, [upload(b"1234567890")], set()),
        # What the application does not read was not cut by the client.
        (reading(0, *ok()), POST_10, [upload(b"12345", more=True), DISCONNECT], set()),
        (reading(1, *ok(413)), POST_10, [upload(b"12345", more=True), DISCONNECT], set()),
        (reading(1, *ok(413), then=2), POST_10, [upload(b"12345", more=True), DISCONNECT], set()),
        (reading(0, *ok(), then=1), POST_10, [DISCONNECT], set()),
        # All of the upload had arrived, and the client left while the application was working.
        (reading(2), POST_10, [upload(b"1234567890"), DISCONNECT], {"no_response"}),
        (
            reading(1, start(), body(b"1", more=True), then=1),
            POST_10,
            [upload(b"1234567890"), DISCONNECT],
            {"client_disconnect"},
        ),
        (reading(1, then=1), POST_10, [upload(b"1234567890"), DISCONNECT], {"client_disconnect"}),
        (reading(0, then=2), http_scope(), [upload(b""), DISCONNECT], {"client_disconnect"}),
        (reading(1), http_scope(method="DELETE"), [DISCONNECT], {"client_disconnect"}),
    ],
)
def test_only_a_read_that_met_the_end_too_early_is_a_truncated_request(
    app: Any, scope: Any, incoming: Any, found: set[str], over_asgi: Detect
) -> None:
    assert set(over_asgi(app, dict(scope), incoming)) == found


@pytest.mark.parametrize(("arrived", "found"), [(True, "client_disconnect"), (False, "truncated_request")])
def test_an_upload_that_uvicorn_holds_unread_when_the_client_leaves_was_not_cut(
    arrived: bool, found: str
) -> None:
    class Cycle:
        """Once the client has left, uvicorn hands out that alone, whatever had arrived before."""

        disconnected = False
        more_body = not arrived

        async def receive(self) -> dict[str, Any]:
            self.disconnected = True
            return DISCONNECT

    async def send(message: Any) -> None:
        raise AssertionError("nothing was to be sent")

    pipeline, notes = judging()
    asyncio.run(AsgiDoor(reading(1), pipeline)(dict(POST_10), Cycle().receive, send))
    assert list(found_in(notes.record, notes)) == [found]


@pytest.mark.parametrize(
    ("app", "method", "found"),
    [
        (replying(start(200, LENGTH_10), body(b"1234")), "GET", {"truncated_response"}),
        (replying(start(200, LENGTH_10), body(b"1234", more=True)), "GET", {"truncated_response"}),
        (replying(start(), body(b"1", more=True)), "GET", {"truncated_response"}),
        (replying(start()), "GET", {"truncated_response"}),
        (replying(), "GET", {"no_response"}),
        (
            raising(ValueError(), start(), body(b"1", more=True)),
            "GET",
            {"raised_after_headers", "truncated_response"},
        ),
        (raising(ValueError(), start()), "GET", {"raised_after_headers", "truncated_response"}),
        (raising(ValueError(), *ok()), "GET", {"background_failure"}),
        (raising(asyncio.CancelledError(), start(), body(b"1", more=True)), "GET", {"cancelled"}),
        (raising(asyncio.CancelledError()), "GET", {"cancelled"}),
        # Near misses.
        (raising(asyncio.CancelledError(), *ok()), "GET", set()),
        (raising(ValueError()), "GET", set()),
        (raising(ValueError(), *ok(500)), "GET", set()),
        (replying(start(200, LENGTH_10), body(b"1234567890")), "HEAD", set()),
        (replying(start(200, LENGTH_10), body()), "HEAD", set()),
        (replying(start(204, LENGTH_10), body()), "GET", set()),
        (replying(start(304, LENGTH_10), body()), "GET", set()),
        (
            replying(start(206, (b"content-length", b"2"), (b"content-range", b"bytes 4-5/10")), body(b"45")),
            "GET",
            set(),
        ),
        (
            replying(start(200, LENGTH_10), {"type": "http.response.pathsend", "path": "/tmp/report.pdf"}),
            "GET",
            set(),
        ),
        (
            replying(
                start(200, trailers=True),
                body(b"1234"),
                {"type": "http.response.trailers", "headers": [], "more_trailers": False},
            ),
            "GET",
            set(),
        ),
        (
            replying({"type": "http.response.push", "path": "/x", "headers": []}, *ok()),
            "GET",
            set(),
        ),
        (replying({"type": "http.response.debug", "info": {}}, *ok()), "GET", set()),
    ],
)
def test_how_an_asgi_answer_ended(app: Any, method: str, found: set[str], over_asgi: Detect) -> None:
    assert set(over_asgi(app, http_scope(method=method))) == found


def test_trailers_that_were_promised_and_never_came_are_a_truncated_answer(over_asgi: Detect) -> None:
    assert set(over_asgi(replying(start(200, trailers=True), body(b"1234")))) == {"truncated_response"}


def test_a_send_that_fails_for_a_departed_client_is_no_failure_of_the_application(over_asgi: Detect) -> None:
    def gone(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has left")

    assert set(over_asgi(replying(*ok()), on_send=gone)) == {"client_disconnect"}


@pytest.mark.parametrize(
    ("incoming", "found"),
    [
        ([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}], set()),
        (
            [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006}],
            {"client_disconnect"},
        ),
    ],
)
def test_a_websocket_knows_a_client_that_closed_from_one_that_vanished(
    incoming: Any, found: set[str], over_asgi: Detect
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    assert set(over_asgi(app, websocket_scope(), incoming)) == found


# ---- through the WSGI door -----------------------------------------------------------------------


def taking(read: Callable[[Any], Any], status: str = "200 OK") -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            read(environ["wsgi.input"])
        except OSError:
            start_response("400 Bad Request", [])
            return [b"cut"]
        start_response(status, [])
        return [b"ok"]

    return app


class Reset(io.BytesIO):
    """Gives what had arrived, then fails as a server's stream does when the connection is gone."""

    def read(self, size: Any = -1) -> bytes:
        return super().read(size) or self._fail()

    def readline(self, size: Any = -1) -> bytes:
        return super().readline(size) or self._fail()

    def readlines(self, hint: Any = -1) -> list[bytes]:
        self._fail()
        return []

    def __next__(self) -> bytes:
        return super().readline() or self._fail()

    def _fail(self) -> bytes:
        raise ConnectionResetError


READS = {
    "read": lambda stream: [stream.read(4) for _ in range(9)],
    "readline": lambda stream: [stream.readline() for _ in range(9)],
    "readlines": lambda stream: stream.readlines(),
    "iteration": list,
}
CHUNKED_WSGI = {"HTTP_TRANSFER_ENCODING": "chunked"}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("headers", [{"CONTENT_LENGTH": "10"}, CHUNKED_WSGI], ids=["length", "chunked"])
def test_a_stream_that_fails_is_a_truncated_request_also_when_its_length_was_not_declared(
    read: Any, headers: dict[str, str], over_wsgi: Detect
) -> None:
    environ = make_environ(method="POST", **headers, **{"wsgi.input": Reset(b"ab\n")})
    found = over_wsgi(taking(read), environ)
    assert list(found) == ["truncated_request"]
    assert found["truncated_request"]["answered"] == 400


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_stream_that_fails_after_the_whole_upload_was_read_is_no_cut(read: Any, over_wsgi: Detect) -> None:
    environ = make_environ(method="POST", CONTENT_LENGTH="3", **{"wsgi.input": Reset(b"ab\n")})
    if read is not READS["readlines"]:
        assert over_wsgi(taking(read), environ) == {}


def test_a_stream_that_was_called_wrongly_is_no_cut(over_wsgi: Detect) -> None:
    def read(stream: Any) -> None:
        with pytest.raises(TypeError):
            stream.read("all")

    assert over_wsgi(taking(read), make_environ(method="POST", data=b"0123456789")) == {}


@pytest.mark.parametrize(
    ("app", "data", "declared", "found"),
    [
        (taking(lambda s: s.read()), b"01234", "10", {"truncated_request"}),
        (taking(lambda s: s.read(10)), b"01234", "10", {"truncated_request"}),
        (taking(lambda s: s.read()), b"0123456789", "10", set()),
        (taking(lambda s: s.read(5), "413 Payload Too Large"), b"01234", "10", set()),
        (taking(lambda s: None), b"01234", "10", set()),
        (taking(lambda s: s.readline()), b"01\n", "10", set()),
    ],
)
def test_an_upload_is_cut_where_a_read_got_less_than_was_declared(
    app: Any, data: bytes, declared: str, found: set[str], over_wsgi: Detect
) -> None:
    environ = make_environ(method="POST", CONTENT_LENGTH=declared, **{"wsgi.input": io.BytesIO(data)})
    assert set(over_wsgi(app, environ)) == found


def iterating(*items: bytes | BaseException, status: str = "200 OK", headers: Any = ()) -> Any:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response(status, list(headers))

        def steps() -> Iterator[bytes]:
            for item in items:
                if isinstance(item, BaseException):
                    raise item
                yield item

        return steps()

    return app


class Closing(list):  # type: ignore[type-arg]
    """A body whose close() fails, as clean-up after the answer may."""

    def close(self) -> None:
        raise ValueError("clean-up")


def clean_up_failing(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return Closing([b"ok"])


TEN = [("Content-Length", "10")]


@pytest.mark.parametrize(
    ("app", "method", "found"),
    [
        (listing(b"1234", headers=TEN), "GET", {"truncated_response"}),
        (iterating(b"1", ValueError()), "GET", {"raised_after_headers", "truncated_response"}),
        (lambda environ, start_response: [], "GET", {"no_response"}),
        (clean_up_failing, "GET", {"background_failure"}),
        (iterating(b"1", SystemExit(1)), "GET", {"cancelled"}),
        # Near misses.
        (listing(b"1234567890", headers=TEN), "HEAD", set()),
        (listing(headers=TEN), "HEAD", set()),
        (listing(status="204 No Content", headers=TEN), "GET", set()),
        (listing(status="304 Not Modified", headers=TEN), "GET", set()),
        (listing(b"45", status="206 Partial Content", headers=[("Content-Length", "2")]), "GET", set()),
        (iterating(ValueError()), "GET", set()),
        (iterating(b"12345", b"67890", headers=TEN), "GET", set()),
        (listing(b"", status="200 OK", headers=[("Content-Length", "0")]), "GET", set()),
    ],
)
def test_how_a_wsgi_answer_ended(app: Any, method: str, found: set[str], over_wsgi: Detect) -> None:
    assert set(over_wsgi(app, make_environ(method=method))) == found


def test_a_file_the_server_sends_itself_is_no_truncation(over_wsgi: Detect) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEN)
        return environ["wsgi.file_wrapper"](io.BytesIO(b"0123456789"))

    assert over_wsgi(app, make_environ(**{"wsgi.file_wrapper": FileWrapper})) == {}


@pytest.mark.parametrize(("take", "found"), [(1, {"client_disconnect"}), (2, set()), (None, set())])
def test_a_server_that_closes_before_the_last_byte_tells_that_the_client_left(
    take: int | None, found: set[str], over_wsgi: Detect
) -> None:
    app = iterating(b"12345", b"67890", headers=TEN)
    assert set(over_wsgi(app, take=take)) == found
