"""What the ASGI door writes down: one conversation in, one record out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio

from obskit.asgi import AsgiDoor
from obskit.pipeline import Answer
from tests.support.recording import (
    asgi_record,
    body,
    call_asgi,
    http_scope,
    make_pipeline,
    replying,
    start,
    talk_asgi,
)

LENGTH_10 = (b"content-length", b"10")
DISCONNECT = {"type": "http.disconnect"}


def upload(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def reading(*reply: dict[str, Any]) -> Any:
    """An application that takes the whole upload, then replies."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                break
        for answer in reply:
            await send(answer)

    return app


def raising(error: BaseException, *before: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in before:
            await send(message)
        raise error

    return app


# ---- how it ended ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "outcome", "status"),
    [
        (replying(start(), body(b"ok")), "completed", 200),
        (replying(start(204), body()), "completed", 204),
        (replying(start(200, LENGTH_10), body(b"12345", more=True), body(b"67890")), "completed", 200),
        (replying(start(200, LENGTH_10), body(b"1234")), "truncated", 200),
        (replying(start(200, (b"Content-Length", b"10")), body(b"1234")), "truncated", 200),
        (replying(start(), body(b"1234", more=True)), "truncated", 200),
        (replying(start()), "truncated", 200),
        (replying(), "no_response", 500),
        (raising(ValueError()), "raised", 500),
        (raising(ValueError(), start(), body(b"1", more=True)), "raised_after_headers", 200),
        (raising(ValueError(), start(500), body(b"sorry")), "raised", 500),
        (raising(ValueError(), start(), body(b"done")), "completed", 200),
        (raising(asyncio.CancelledError()), "cancelled", None),
        (raising(asyncio.CancelledError(), start()), "cancelled", 200),
        (raising(SystemExit(0)), "cancelled", None),
    ],
)
def test_the_outcome_and_status_of_a_response(app: Any, outcome: str, status: int | None) -> None:
    record = asgi_record(app)
    assert (record.outcome, record.status) == (outcome, status)


@pytest.mark.parametrize(
    ("declared", "known"),
    [
        (b"10", 10),
        (b"0", 0),
        (b"-1", None),
        (b"1e3", None),
        (b"", None),
        (b"9" * 19, None),
        (b" 5", None),
        ("٣".encode(), None),
    ],
)
def test_a_length_is_believed_only_if_it_is_digits(declared: bytes, known: int | None) -> None:
    header = (b"content-length", declared)
    record = asgi_record(replying(start(200, header), body()), http_scope(headers=[header]))
    assert (record.declared_response_bytes, record.declared_request_bytes) == (known, known)


def test_a_head_reply_sends_no_bytes_and_is_complete() -> None:
    record = asgi_record(replying(start(200, LENGTH_10), body(b"0123456789")), http_scope(method="HEAD"))
    assert (record.outcome, record.response_bytes, record.first_byte_ns) == ("completed", 0, None)


def test_a_client_that_leaves_before_the_last_byte_is_a_disconnect() -> None:
    record = asgi_record(reading(start(), body(b"late")), incoming=[upload(b"12", more=True), DISCONNECT])
    assert (record.outcome, record.request_bytes) == ("client_disconnect", 2)


def test_the_disconnect_every_server_reports_after_the_last_byte_is_none() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"ok"))
        assert (await receive())["type"] == "http.disconnect"

    assert asgi_record(app, incoming=[]).outcome == "completed"


def test_a_cancellation_after_a_disconnect_is_the_clients() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await receive()
        raise asyncio.CancelledError

    record = asgi_record(app, incoming=[DISCONNECT])
    assert (record.outcome, record.level) == ("client_disconnect", "warning")


def test_a_send_the_server_refuses_because_the_client_has_left_is_a_disconnect() -> None:
    # ASGI: send() on a closed connection raises a subclass of OSError.
    def gone(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    record = asgi_record(replying(start(), body(b"ok")), on_send=gone)
    assert (record.outcome, record.level, record.response_bytes) == ("client_disconnect", "warning", 0)


@pytest.mark.parametrize("before_the_start", [True, False])
def test_a_flag_on_the_servers_cycle_tells_of_a_client_that_left(before_the_start: bool) -> None:
    class Cycle:
        """uvicorn's: its bound `receive` leads to the flag; `send` then does nothing."""

        disconnected = False

        async def receive(self) -> dict[str, Any]:
            return DISCONNECT

    cycle = Cycle()
    pipeline, notes = make_pipeline()

    async def send(message: Any) -> None:
        cycle.disconnected = before_the_start or message["type"] == "http.response.body"

    door = AsgiDoor(replying(start(), body(b"1", more=True), body(b"2")), pipeline)
    asyncio.run(door(http_scope(), cycle.receive, send))
    record = notes.record
    assert (record.outcome, record.response_bytes) == ("client_disconnect", 0)
    assert record.status == (None if before_the_start else 200)


def test_the_cycles_flag_after_a_whole_response_says_nothing() -> None:
    class Cycle:
        disconnected = False

        async def receive(self) -> dict[str, Any]:
            return DISCONNECT

    cycle = Cycle()
    pipeline, notes = make_pipeline()

    async def send(message: Any) -> None:
        return None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"ok"))
        cycle.disconnected = True
        await send(body(b"beyond the end"))

    asyncio.run(AsgiDoor(app, pipeline)(http_scope(), cycle.receive, send))
    assert notes.record.outcome == "completed"


def queue_server(
    app: Any, waiting: list[dict[str, Any]], scope: dict[str, Any] | None = None
) -> tuple[Any, list[Any]]:
    """hypercorn's way: `receive` is the get of a queue. Returns the record and the stages that failed."""
    pipeline, notes = make_pipeline()

    async def main() -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for message in waiting:
            queue.put_nowait(message)

        async def send(message: Any) -> None:
            return None

        await AsgiDoor(app, pipeline)(scope or http_scope(), queue.get, send)

    asyncio.run(main())
    return notes.record, notes.stages


def test_a_disconnect_that_waits_in_the_servers_queue_is_seen_and_not_taken_from_the_application() -> None:
    taken: list[dict[str, Any]] = []
    waiting = [upload(b"1", more=True), upload(b"2"), DISCONNECT]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        taken.append(await receive())
        await send(start())
        await send(body(b"x", more=True))
        taken.extend([await receive(), await receive()])

    record, stages = queue_server(app, waiting)
    assert taken == waiting
    assert (record.outcome, record.request_bytes, stages) == ("client_disconnect", 2, [])


def test_looking_into_the_queue_takes_no_more_than_it_must() -> None:
    taken: list[dict[str, Any]] = []
    waiting = [upload(bytes([number]), more=True) for number in range(40)]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"x", more=True))
        taken.extend([await receive() for _ in waiting])
        await send(body(b"y"))
        await send(body(b"beyond the end"))

    record, _ = queue_server(app, waiting)
    assert taken == waiting
    assert (record.outcome, record.request_bytes) == ("completed", 40)


def test_an_empty_queue_says_nothing() -> None:
    record, stages = queue_server(replying(start(), body(b"ok")), [])
    assert (record.outcome, stages) == ("completed", [])


# ---- bytes and times ------------------------------------------------------------------------------------


def test_bytes_are_counted_both_ways_and_times_rise() -> None:
    record = asgi_record(
        reading(start(), body(b"abc", more=True), body(b"", more=True), body(b"de")),
        incoming=[upload(b"1234", more=True), upload(b"5")],
    )
    assert (record.request_bytes, record.response_bytes) == (5, 5)
    assert record.started_ns <= record.first_byte_ns <= record.last_byte_ns <= record.ended_ns


def test_a_single_body_message_is_first_and_last_byte_at_once() -> None:
    record = asgi_record(replying(start(), body(b"ok")))
    assert record.first_byte_ns == record.last_byte_ns


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("data", [b"", b"whole", b"x" * 5_000])
def test_a_body_in_one_message_is_noted_like_one_in_pieces(data: bytes, kind: Any, method: str) -> None:
    def noted(*messages: Any) -> dict[str, Any]:
        record = asgi_record(
            replying(start(200, (b"content-length", b"5")), *messages), http_scope(method=method)
        )
        names = ("outcome", "status", "response_bytes", "response_head", "response_complete")
        seen = {name: getattr(record, name) for name in names}
        return {**seen, "head": type(record.response_head), "some": record.first_byte_ns is not None}

    pieces = noted(body(kind(data), more=True), body(b""))
    assert noted(body(kind(data))) == noted(body(b"", more=True), body(kind(data))) == pieces
    sent = data if method == "GET" else b""
    assert (pieces["response_bytes"], pieces["response_head"]) == (len(sent), sent[:4_096])


def test_background_work_is_no_part_of_the_duration() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"ok"))
        for _ in range(50):
            await asyncio.sleep(0)

    record = asgi_record(app)
    assert record.last_byte_ns < record.ended_ns
    assert record.duration == pytest.approx((record.last_byte_ns - record.started_ns) * 1e-9)


def test_a_response_without_a_byte_has_no_time_to_first_byte_but_a_duration() -> None:
    record = asgi_record(replying(start(304), body()))
    assert record.time_to_first_byte is None
    assert record.last_byte_ns is not None


@pytest.mark.parametrize(
    ("messages", "outcome"),
    [
        ([body(b"ok"), {"type": "http.response.trailers", "headers": []}], "completed"),
        (
            [
                body(b"ok"),
                {"type": "http.response.trailers", "headers": [], "more_trailers": True},
                {"type": "http.response.trailers", "headers": []},
            ],
            "completed",
        ),
        ([body(b""), {"type": "http.response.trailers", "headers": []}], "completed"),
        ([body(b"ok")], "truncated"),
        ([body(b"")], "truncated"),
    ],
)
def test_a_response_with_trailers_ends_with_the_last_of_them(messages: Any, outcome: str) -> None:
    assert asgi_record(replying(start(trailers=True), *messages)).outcome == outcome


def test_a_file_the_server_sends_counts_as_what_it_declared() -> None:
    message = {"type": "http.response.pathsend", "path": "/tmp/report.pdf"}
    record = asgi_record(replying(start(200, LENGTH_10), message))
    assert (record.outcome, record.response_bytes, record.server_sends_file) == ("completed", 10, True)
    assert record.first_byte_ns is not None


def test_zero_copy_sends_end_with_the_last_of_them() -> None:
    message = {"type": "http.response.zerocopysend", "file": 3}
    whole = asgi_record(replying(start(200, LENGTH_10), {**message, "more_body": True}, message))
    assert (whole.outcome, whole.response_bytes) == ("completed", 10)
    assert asgi_record(replying(start(), {**message, "more_body": True})).outcome == "truncated"


@pytest.mark.parametrize(
    "kind", ["http.response.early_hint", "http.response.push", "http.response.debug", "x.y"]
)
def test_other_messages_change_nothing(kind: str) -> None:
    record = asgi_record(replying({"type": kind}, start(), body(b"ok")))
    assert (record.outcome, record.status, record.response_bytes) == ("completed", 200, 2)


# ---- routes, endpoints, exclusion, nesting ----------------------------------------------------------------


def test_the_route_is_asked_for_at_the_end_with_the_status() -> None:
    asked: list[Any] = []

    def route_of(scope: Any, status: int | None) -> str:
        asked.append((scope["path"], status))
        return "/orders/{id}"

    record = asgi_record(replying(start(201), body()), http_scope("/orders/7"), route_of=route_of)
    assert (record.http_route, asked) == ("/orders/{id}", [("/orders/7", 201)])


def test_a_route_the_application_named_wins() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["obskit.exchange"].name_route("/named")

    assert asgi_record(app, route_of=lambda scope, status: "/found").http_route == "/named"


def endpoint(*asked: Any) -> Answer:
    return Answer(200, "OK", [("Content-Type", "text/plain")], repr(asked).encode())


@pytest.mark.parametrize(
    ("path", "root_path", "answered"),
    [
        ("/metrics", "", True),
        ("/metrics/", "", False),
        ("/api/metrics", "/api", True),
        ("/metrics", "/api", True),
        ("/apimetrics", "/api", False),
        ("/api/metrics", "", False),
    ],
)
def test_an_endpoint_is_answered_before_the_application_and_not_recorded(
    path: str, root_path: str, answered: bool
) -> None:
    pipeline, notes = make_pipeline({"/metrics": endpoint})
    scope = http_scope(path, headers=[(b"Accept", b"x\xff")], root_path=root_path)
    talk = call_asgi(AsgiDoor(replying(start(418), body()), pipeline), scope)
    if answered:
        assert talk.body == repr(("GET", {"accept": "xÿ"}, "127.0.0.1")).encode()
        assert talk.headers == {"content-type": "text/plain"}
    assert talk.status == (200 if answered else 418)
    assert len(notes.records) == (0 if answered else 1)


def test_an_endpoint_answers_under_trio_and_without_a_peer() -> None:
    pipeline, _ = make_pipeline({"/metrics": endpoint})
    talk = trio.run(talk_asgi, AsgiDoor(replying(), pipeline), http_scope("/metrics", client=None))
    assert talk.body == b"('GET', {}, None)"


def test_an_excluded_path_leaves_no_record() -> None:
    pipeline, notes = make_pipeline(exclude=("/healthz",))
    assert call_asgi(AsgiDoor(replying(start(), body()), pipeline), http_scope("/healthz")).status == 200
    assert notes.calls == []


def test_a_door_inside_a_door_records_nothing_and_answers_no_endpoint() -> None:
    outer, outer_notes = make_pipeline()
    inner, inner_notes = make_pipeline({"/metrics": endpoint})
    app = AsgiDoor(AsgiDoor(replying(start(404), body()), inner), outer)
    assert call_asgi(app, http_scope("/metrics")).status == 404
    assert (outer_notes.record.status, inner_notes.records) == (404, [])


def test_a_scope_used_again_is_a_request_of_its_own() -> None:
    pipeline, notes = make_pipeline()
    scope = http_scope()
    door = AsgiDoor(replying(start(), body(b"ok")), pipeline)
    call_asgi(door, scope)
    call_asgi(door, scope)
    assert len(notes.records) == 2


def test_scope_defaults_are_set_only_where_nothing_is() -> None:
    pipeline, _ = make_pipeline()
    door = AsgiDoor(replying(), pipeline, scope_defaults=(("a", 1), ("b", 2)))
    scope = http_scope(b=3)
    call_asgi(door, scope)
    assert (scope["a"], scope["b"]) == (1, 3)


def test_attributes_of_the_application_are_reachable_through_the_door() -> None:
    app = replying()
    app.title = "shop"
    door = AsgiDoor(app, make_pipeline()[0])
    assert door.title == "shop"
    with pytest.raises(AttributeError):
        door.nothing  # noqa: B018


# ---- lifespan -------------------------------------------------------------------------------------------

LIFESPAN = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]


@pytest.mark.parametrize("answer", ["complete", "failed"])
def test_lifespan_begins_the_signals_and_flushes_before_the_last_message(answer: str) -> None:
    pipeline, notes = make_pipeline()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        assert [c for c in notes.calls if c.endswith("begin")] != []
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": f"lifespan.shutdown.{answer}"})

    def on_send(message: Any) -> None:
        assert ("traces.flush" in notes.calls) == message["type"].startswith("lifespan.shutdown")

    talk = call_asgi(AsgiDoor(app, pipeline), {"type": "lifespan"}, LIFESPAN, on_send)
    assert talk.error is None
    assert talk.sent == [{"type": "lifespan.startup.complete"}, {"type": f"lifespan.shutdown.{answer}"}]
    assert notes.records == []


def test_a_door_speaks_lifespan_for_an_application_that_refuses_it() -> None:
    pipeline, notes = make_pipeline()
    door = AsgiDoor(raising(ValueError("lifespan")), pipeline, answers_lifespan=True)
    talk = call_asgi(door, {"type": "lifespan"}, [{"type": "lifespan.unknown"}, *LIFESPAN])
    assert talk.sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]
    assert talk.error is None
    assert "traces.flush" in notes.calls


# ---- other event loops ----------------------------------------------------------------------------------


def test_the_door_works_under_trio() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await trio.lowlevel.checkpoint()
        await send(start())
        await send(body(b"ok"))

    pipeline, notes = make_pipeline()
    talk = trio.run(talk_asgi, AsgiDoor(app, pipeline))
    assert (talk.body, notes.record.outcome, notes.stages) == (b"ok", "completed", [])


def test_a_cancellation_by_trio_passes_through() -> None:
    pipeline, notes = make_pipeline()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep_forever()

    async def main() -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            await AsgiDoor(app, pipeline)(http_scope(), app, app)
        return scope.cancelled_caught

    assert trio.run(main)
    assert notes.record.outcome == "cancelled"
