"""wsgi.input, counted: an upload that ends before its length is a client that left."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from obskit.wsgi import WsgiDoor
from tests.support.recording import make_environ, make_pipeline, talk_wsgi, wsgi_record


def using(read: Callable[[Any], Any]) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        read(environ["wsgi.input"])
        start_response("200 OK", [])
        return [b"ok"]

    return app


READS = {
    "read()": lambda stream: stream.read(),
    "read(-1)": lambda stream: stream.read(-1),
    "read(None)": lambda stream: stream.read(None),
    "read(n)": lambda stream: [stream.read(4) for _ in range(4)],
    "readline": lambda stream: [stream.readline() for _ in range(4)],
    "readline(n)": lambda stream: [stream.readline(3) for _ in range(6)],
    "readlines": lambda stream: stream.readlines(),
    "iteration": list,
    "mixed": lambda stream: (stream.read(2), stream.readline(), stream.read()),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize(("declared", "outcome"), [("10", "completed"), ("99", "client_disconnect")])
def test_an_upload_is_counted_and_one_that_ends_early_is_a_client_that_left(
    read: Any, declared: str, outcome: str
) -> None:
    record = wsgi_record(using(read), make_environ(data=b"ab\ncd\nefgh", CONTENT_LENGTH=declared))
    assert (record.request_bytes, record.outcome) == (10, outcome)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_application_reads_the_same_through_the_door(read: Any) -> None:
    seen: list[Any] = []
    app = using(lambda stream: seen.append(read(stream)))
    for called in (app, WsgiDoor(app, make_pipeline()[0])):
        talk_wsgi(called, make_environ(data=b"ab\ncd\nefgh"))
    assert seen[0] == seen[1] != []


@pytest.mark.parametrize(
    "read", [lambda s: None, lambda s: s.read(3), lambda s: s.readlines(2), lambda s: next(iter(s))]
)
def test_an_upload_the_application_does_not_want_to_its_end_is_not_cut_off(read: Any) -> None:
    assert wsgi_record(using(read), make_environ(data=b"ab\ncd\nefgh")).outcome == "completed"


def test_a_short_read_that_is_followed_by_the_rest_is_not_cut_off() -> None:
    class Slow(io.BytesIO):
        def read(self, size: Any = -1) -> bytes:
            return super().read(min(size, 3))

    read = lambda stream: (stream.read(100), stream.read(100), stream.read(3), stream.read(1))  # noqa: E731
    record = wsgi_record(using(read), make_environ(data=b"0123456789", **{"wsgi.input": Slow(b"0123456789")}))
    assert (record.outcome, record.request_bytes) == ("completed", 10)


def test_a_stream_that_fails_is_an_upload_cut_off() -> None:
    class Reset(io.BytesIO):
        def read(self, size: Any = -1) -> bytes:
            raise ConnectionResetError

    pipeline, notes = make_pipeline()
    environ = make_environ(data=b"0123456789", **{"wsgi.input": Reset()})
    talk = talk_wsgi(WsgiDoor(using(lambda s: s.read()), pipeline), environ)
    assert isinstance(talk.error, ConnectionResetError)
    assert notes.record.outcome == "client_disconnect"


@pytest.mark.parametrize(
    "call", ["read()", "read(-1)", "read(None)", "read(5)", "readline(3)", "readlines(1)"]
)
def test_the_servers_stream_is_called_as_the_application_called_us(call: str) -> None:
    calls: list[str] = []

    class Stream:
        def __getattr__(self, name: str) -> Any:
            def method(*arguments: Any) -> Any:
                calls.append(f"{name}({', '.join(map(repr, arguments))})")
                return [] if name == "readlines" else b""

            return method

    app = using(lambda stream: eval(f"stream.{call}", {"stream": stream}))
    talk_wsgi(WsgiDoor(app, make_pipeline()[0]), make_environ(CONTENT_LENGTH="5", **{"wsgi.input": Stream()}))
    assert calls == [call]


def test_attributes_of_the_stream_are_reachable() -> None:
    seen: list[Any] = []
    wsgi_record(using(lambda stream: seen.append(stream.seekable())), make_environ(data=b"x"))
    assert seen == [True]


@pytest.mark.parametrize(
    "headers", [{"CONTENT_LENGTH": "0"}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "junk"}, {}]
)
def test_a_request_without_a_body_keeps_the_servers_own_stream(headers: dict[str, str]) -> None:
    seen: list[Any] = []
    environ = make_environ(**headers)
    stream = environ["wsgi.input"]
    wsgi_record(using(seen.append), environ)
    assert seen == [stream]


def test_a_chunked_upload_is_counted_without_a_length() -> None:
    environ = make_environ(HTTP_TRANSFER_ENCODING="chunked", **{"wsgi.input": io.BytesIO(b"12345")})
    record = wsgi_record(using(lambda s: s.read()), environ)
    assert (record.request_bytes, record.outcome) == (5, "completed")


def test_reading_after_the_record_has_closed_changes_nothing() -> None:
    kept: list[Any] = []
    record = wsgi_record(using(kept.append), make_environ(data=b"12345"))
    assert kept[0].read() == b"12345"
    assert record.request_bytes == 0
