"""What the WSGI door writes down: one conversation in, one record out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from obskit.context import current
from obskit.pipeline import Answer
from obskit.wsgi import WsgiDoor
from tests.support.recording import listing, make_environ, make_pipeline, talk_wsgi, wsgi_record

LENGTH_10 = ("Content-Length", "10")


def replying(
    *chunks: bytes, status: str = "200 OK", headers: Any = (), error: BaseException | None = None
) -> Callable[..., Any]:
    """An application that answers lazily with these chunks, then raises `error` if there is one."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response(status, list(headers))
        yield from chunks
        if error is not None:
            raise error

    return app


def raising(error: BaseException) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise error

    return app


class Body:
    """An iterable that counts how often it is closed, and may fail when it is."""

    def __init__(self, *chunks: bytes, close_error: BaseException | None = None) -> None:
        self.chunks = chunks
        self.closed = 0
        self.close_error = close_error
        self.current_on_close: Any = None

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        self.closed += 1
        self.current_on_close = current()
        if self.close_error is not None:
            raise self.close_error


def giving(body: Any, headers: Any = ()) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(headers))
        return body

    return app


# ---- how it ended ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "outcome", "status"),
    [
        (replying(b"ok"), "completed", 200),
        (listing(b"ok"), "completed", 200),
        (listing(), "completed", 200),
        (listing(b"", b""), "completed", 200),
        (listing(b"0123456789", headers=[LENGTH_10]), "completed", 200),
        (listing(b"0123", headers=[LENGTH_10]), "truncated", 200),
        (replying(b"0123", headers=[("content-length", "10")]), "truncated", 200),
        (listing(status="204 No Content", headers=[LENGTH_10]), "completed", 204),
        (listing(status="304 Not Modified", headers=[LENGTH_10]), "completed", 304),
        (raising(ValueError()), "raised", 500),
        (replying(error=ValueError()), "raised", 500),
        (replying(b"", error=ValueError()), "raised", 500),
        (replying(b"1", error=ValueError()), "raised_after_headers", 200),
        (replying(b"1", error=SystemExit(1)), "cancelled", 200),
        (raising(KeyboardInterrupt()), "cancelled", None),
        (lambda environ, start_response: [], "no_response", 500),
    ],
)
def test_the_outcome_and_status_of_a_response(app: Any, outcome: str, status: int | None) -> None:
    record = wsgi_record(app)
    assert (record.outcome, record.status) == (outcome, status)


@pytest.mark.parametrize(
    ("declared", "known"),
    [
        ("10", 10),
        ("0", 0),
        ("-1", None),
        ("1e3", None),
        ("", None),
        ("9" * 19, None),
        (" 5", None),
        ("٣", None),
    ],
)
def test_a_length_is_believed_only_if_it_is_digits(declared: str, known: int | None) -> None:
    record = wsgi_record(
        listing(headers=[("Content-Length", declared)]), make_environ(CONTENT_LENGTH=declared)
    )
    assert (record.declared_response_bytes, record.declared_request_bytes) == (known, known)


def test_a_head_reply_sends_no_bytes_and_is_complete() -> None:
    record = wsgi_record(listing(b"0123456789", headers=[LENGTH_10]), make_environ(method="HEAD"))
    assert (record.outcome, record.response_bytes, record.first_byte_ns) == ("completed", 0, None)


@pytest.mark.parametrize("take", [0, 1])
def test_a_body_closed_before_its_end_is_a_client_that_left(take: int) -> None:
    record = wsgi_record(replying(b"1", b"2"), take=take)
    assert (record.outcome, record.response_bytes) == ("client_disconnect", take)


def test_a_server_whose_send_fails_says_that_the_client_has_left() -> None:
    record = wsgi_record(replying(b"1", b"2"), fails_on_chunk=BrokenPipeError())
    assert (record.outcome, record.level) == ("client_disconnect", "warning")


def test_a_worker_that_is_stopped_in_the_middle_cancels() -> None:
    assert wsgi_record(replying(b"1", b"2"), fails_on_chunk=SystemExit(1)).outcome == "cancelled"


def test_a_server_that_stops_after_the_declared_bytes_has_sent_all() -> None:
    record = wsgi_record(replying(b"01234", b"56789", b"more", headers=[LENGTH_10]), take=2)
    assert (record.outcome, record.response_bytes) == ("completed", 10)


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified")])
def test_a_server_that_needs_no_body_may_close_it_unread(method: str, status: str) -> None:
    record = wsgi_record(listing(b"x", status=status), make_environ(method=method), take=0)
    assert record.outcome == "completed"


@pytest.mark.parametrize(
    ("first", "status", "handed_over"),
    [(b"x" * 4096, None, 0), (b"x" * 4097, 200, 4097)],
    ids=["too small to go in pieces", "some of it may have arrived"],
)
def test_a_client_that_left_before_the_first_part_got_no_headers_either(
    first: bytes, status: int | None, handed_over: int
) -> None:
    record = wsgi_record(replying(first, b"2"), fails_on_chunk=BrokenPipeError())
    assert (record.outcome, record.status) == ("client_disconnect", status)
    assert record.response_bytes == handed_over
    assert (record.first_byte_ns is None) == (status is None)


def test_a_send_of_the_last_chunk_that_fails_is_a_client_that_left() -> None:
    pipeline, notes = make_pipeline()
    body = WsgiDoor(listing(b"1"), pipeline)(make_environ(), lambda *a: None)
    assert list(body) == [b"1"]
    try:
        raise ConnectionResetError
    except OSError:
        body.close()  # type: ignore[attr-defined]
    assert notes.record.outcome == "client_disconnect"


def test_a_body_the_server_never_closes_is_recorded_when_it_is_let_go() -> None:
    for take, outcome in ((None, "completed"), (1, "unknown"), (0, "unknown")):
        pipeline, notes = make_pipeline()
        talk = talk_wsgi(WsgiDoor(replying(b"1", b"2"), pipeline), take=take, close=False)
        assert notes.records == []
        del talk
        gc.collect()
        assert notes.record.outcome == outcome


def test_a_body_that_raised_and_was_never_closed_is_recorded_as_raised() -> None:
    pipeline, notes = make_pipeline()
    body = WsgiDoor(replying(b"1", error=ValueError("x")), pipeline)(make_environ(), lambda *a: None)
    with pytest.raises(ValueError, match="x"):
        list(body)
    del body
    gc.collect()
    assert notes.record.outcome == "raised_after_headers"


# ---- close(), exactly once --------------------------------------------------------------------------------


@pytest.mark.parametrize("take", [0, 1, None])
def test_close_reaches_the_application_exactly_once_inside_its_request(take: int | None) -> None:
    body = Body(b"1", b"2")
    pipeline, notes = make_pipeline()
    talk = talk_wsgi(WsgiDoor(giving(body), pipeline), take=take)
    talk.body.close()
    assert body.closed == 1
    assert body.current_on_close is not None
    assert len(notes.records) == 1
    assert current() is None


def test_close_reaches_the_application_when_its_body_raises_in_the_middle() -> None:
    class Failing(Body):
        def __iter__(self) -> Iterator[bytes]:
            yield b"1"
            raise ValueError("middle")

    body = Failing()
    record = wsgi_record(giving(body))
    assert body.closed == 1
    assert (record.outcome, str(record.exception)) == ("raised_after_headers", "middle")


@pytest.mark.parametrize(
    ("take", "outcome", "level"), [(None, "completed", "error"), (1, "client_disconnect", "warning")]
)
def test_a_close_that_raises_is_the_applications_background_failure(
    take: int | None, outcome: str, level: str
) -> None:
    error = ValueError("close")
    pipeline, notes = make_pipeline()
    talk = talk_wsgi(WsgiDoor(giving(Body(b"1", b"2", close_error=error)), pipeline), take=take)
    assert talk.error is error
    assert (notes.record.outcome, notes.record.level, notes.record.exception) == (outcome, level, error)


def test_the_exception_of_the_body_is_kept_when_close_raises_too() -> None:
    class Failing(Body):
        def __iter__(self) -> Iterator[bytes]:
            raise ValueError("body")

    pipeline, notes = make_pipeline()
    talk_wsgi(WsgiDoor(giving(Failing(close_error=ValueError("close"))), pipeline))
    assert str(notes.record.exception) == "body"


def test_a_body_without_close_is_closed_without_it() -> None:
    assert wsgi_record(giving((b"1", b"2"))).response_bytes == 2


# ---- bytes and times --------------------------------------------------------------------------------------


def test_bytes_written_and_bytes_returned_are_counted_together() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"abc")
        write(b"")
        return [b"de"]

    record = wsgi_record(app)
    assert (record.outcome, record.response_bytes) == ("completed", 5)


def test_an_exception_after_a_write_is_after_the_headers() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"abc")
        raise ValueError

    assert wsgi_record(app).outcome == "raised_after_headers"


def test_a_write_the_server_refuses_because_the_client_has_left_is_a_disconnect() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"abc")
        return []

    def start_response(*_: Any) -> Any:
        def write(data: bytes) -> None:
            raise BrokenPipeError

        return write

    pipeline, notes = make_pipeline()
    with pytest.raises(BrokenPipeError):
        WsgiDoor(app, pipeline)(make_environ(), start_response)
    assert notes.record.outcome == "client_disconnect"


def test_times_rise_and_the_duration_ends_with_the_last_byte() -> None:
    record = wsgi_record(replying(b"1", b"2"))
    assert record.started_ns < record.first_byte_ns < record.last_byte_ns < record.ended_ns
    assert record.duration == pytest.approx((record.last_byte_ns - record.started_ns) * 1e-9)


def test_the_exchange_is_current_while_the_body_is_made_and_not_between() -> None:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(3):
            seen.append(current())
            yield b"x"

    pipeline, _ = make_pipeline()
    body = WsgiDoor(app, pipeline)(make_environ(), lambda *a: None)
    for _ in body:
        assert current() is None
    assert len(set(seen)) == 1
    assert seen[0] is not None


# ---- start_response a second time -------------------------------------------------------------------------


def failing_over(*before: bytes) -> Callable[..., Any]:
    """An application that replaces its answer, as PEP 3333 lets it while headers have not been sent."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [LENGTH_10])
        try:
            yield from before
            raise ValueError("late")
        except ValueError as error:
            start_response("502 Bad Gateway", [], (type(error), error, error.__traceback__))
        yield b"sorry"

    return app


def test_an_answer_replaced_before_its_headers_were_sent_is_the_answer() -> None:
    record = wsgi_record(failing_over(b""))
    assert (record.status, record.outcome, record.declared_response_bytes) == (502, "completed", None)


def test_an_answer_that_came_too_late_to_be_replaced_keeps_the_status_that_was_sent() -> None:
    record = wsgi_record(failing_over(b"1"))
    assert (record.outcome, record.status) == ("raised_after_headers", 200)


# ---- routes, endpoints, exclusion, nesting --------------------------------------------------------------------


def test_the_route_is_asked_for_while_the_response_starts() -> None:
    order: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        order.append("context gone")
        yield b"x"

    def route_of(environ: Any) -> str:
        order.append("asked")
        return "/orders/<id>"

    assert wsgi_record(app, route_of=route_of).http_route == "/orders/<id>"
    assert order == ["asked", "context gone"]


def test_the_route_of_a_request_that_raised_is_found_too() -> None:
    assert wsgi_record(raising(ValueError()), route_of=lambda environ: "/boom").http_route == "/boom"


def test_a_route_the_application_named_wins() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["obskit.exchange"].name_route("/named")
        start_response("200 OK", [])
        return []

    assert wsgi_record(app, route_of=lambda environ: "/found").http_route == "/named"


def endpoint(*asked: Any) -> Answer:
    return Answer(200, "OK", [("Content-Type", "text/plain")], repr(asked).encode())


def test_an_endpoint_is_answered_before_the_application_and_not_recorded() -> None:
    pipeline, notes = make_pipeline({"/metrics": endpoint})
    door = WsgiDoor(raising(ValueError()), pipeline)
    talk = talk_wsgi(door, make_environ("/metrics", HTTP_X_FORWARDED_FOR="1.2.3.4"))
    assert talk.data == b"('GET', {'x-forwarded-for': '1.2.3.4'}, '127.0.0.1')"
    assert (talk.status, talk.headers) == ("200 OK", {"Content-Type": "text/plain"})
    assert notes.records == []


def test_an_excluded_path_leaves_no_record() -> None:
    pipeline, notes = make_pipeline(exclude=("/healthz",))
    assert talk_wsgi(WsgiDoor(listing(b"ok"), pipeline), make_environ("/healthz")).data == b"ok"
    assert notes.calls == []


def test_a_door_inside_a_door_records_nothing_but_names_the_route() -> None:
    outer, outer_notes = make_pipeline()
    inner, inner_notes = make_pipeline({"/metrics": endpoint})
    app = WsgiDoor(WsgiDoor(listing(b"ok"), inner, lambda environ: "/inner"), outer)
    assert talk_wsgi(app, make_environ("/metrics")).data == b"ok"
    assert (outer_notes.record.http_route, inner_notes.records) == ("/inner", [])


def test_an_environ_used_again_is_a_request_of_its_own() -> None:
    pipeline, notes = make_pipeline()
    environ = make_environ()
    door = WsgiDoor(listing(b"ok"), pipeline)
    talk_wsgi(door, environ)
    talk_wsgi(door, environ)
    assert len(notes.records) == 2


def test_attributes_of_application_and_body_are_reachable() -> None:
    class Response(list[bytes]):
        status_code = 200

    app = giving(Response([b"ok"]))
    app.title = "shop"  # type: ignore[attr-defined]
    door = WsgiDoor(app, make_pipeline()[0])
    assert door.title == "shop"
    body = talk_wsgi(door).body
    assert body.status_code == 200
    with pytest.raises(AttributeError):
        door.nothing  # noqa: B018
    with pytest.raises(AttributeError):
        body.nothing  # noqa: B018


@pytest.mark.parametrize(("body", "length"), [([b"ok"], 1), ((b"a", b"b"), 2), (iter([b"ok"]), None)])
def test_the_server_may_ask_for_the_length_where_it_could_before(body: Any, length: int | None) -> None:
    seen = WsgiDoor(giving(body), make_pipeline()[0])(make_environ(), lambda *a: None)
    assert hasattr(seen, "__len__") == (length is not None)
    assert length is None or len(seen) == length  # type: ignore[arg-type]
