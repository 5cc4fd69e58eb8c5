"""A WebSocket connection is one record: its status, its bytes, and how it really ended."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.recording import asgi_record, replying, websocket_scope

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close", "code": 1000}


def left(code: int) -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code}


def echoing(*last: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send(ACCEPT)
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
        for answer in last:
            await send(answer)

    return app


def websocket_record(app: Any, *incoming: Any, **more: Any) -> Any:
    return asgi_record(app, websocket_scope(), [{"type": "websocket.connect"}, *incoming], **more)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (1000, "completed"),
        (1001, "completed"),
        (1005, "completed"),
        (1012, "completed"),
        (1006, "client_disconnect"),
        (1011, "client_disconnect"),
    ],
)
def test_how_a_peer_ends_a_websocket_is_told_by_its_code(code: int, outcome: str) -> None:
    messages = [{"type": "websocket.receive", "text": "abc"}, {"type": "websocket.receive", "bytes": b"de"}]
    record = websocket_record(echoing(), *messages, left(code))
    assert (record.protocol, record.method, record.status) == ("websocket", "GET", 101)
    assert (record.outcome, record.request_bytes, record.response_bytes) == (outcome, 5, 5)
    assert record.first_byte_ns is not None


@pytest.mark.parametrize(
    ("messages", "status", "outcome"),
    [
        ([ACCEPT, CLOSE], 101, "completed"),
        ([CLOSE], 403, "completed"),
        ([ACCEPT], 101, "truncated"),
        ([], 500, "no_response"),
        (
            [
                {"type": "websocket.http.response.start", "status": 401, "headers": []},
                {"type": "websocket.http.response.body", "body": b"no", "more_body": True},
                {"type": "websocket.http.response.body", "body": b"."},
            ],
            401,
            "completed",
        ),
        ([{"type": "websocket.http.response.start", "status": 401, "headers": []}], 401, "truncated"),
        ([{"type": "websocket.something.new"}, ACCEPT, CLOSE], 101, "completed"),
    ],
)
def test_the_status_of_a_websocket_says_whether_it_was_accepted(
    messages: Any, status: int, outcome: str
) -> None:
    record = asgi_record(replying(*messages), websocket_scope())
    assert (record.status, record.outcome) == (status, outcome)


def test_a_client_that_leaves_before_the_accept_is_a_disconnect_without_status() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    record = websocket_record(app, left(1000))
    assert (record.outcome, record.status) == ("client_disconnect", None)


def test_the_disconnect_that_follows_the_applications_own_close_is_none() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await send(CLOSE)
        await receive()
        await receive()

    assert websocket_record(app, left(1006)).outcome == "completed"


class WebSocketDisconnect(Exception):
    """Named as Starlette's."""


@pytest.mark.parametrize(
    ("error", "code", "outcome", "level"),
    [
        (WebSocketDisconnect(), 1000, "completed", "info"),
        (WebSocketDisconnect(), 1006, "client_disconnect", "warning"),
        (ValueError(), 1000, "completed", "error"),
    ],
)
def test_the_exception_that_tells_of_the_end_of_a_conversation_is_no_failure(
    error: Exception, code: int, outcome: str, level: str
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await echoing()(scope, receive, send)
        raise error

    record = websocket_record(app, left(code))
    assert (record.outcome, record.level) == (outcome, level)
    assert (record.exception is error) == (level == "error")


def test_an_exception_in_an_open_conversation_is_the_applications() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        raise WebSocketDisconnect

    record = asgi_record(failing, websocket_scope())
    assert (record.outcome, record.level, record.error_type) == (
        "raised_after_headers",
        "error",
        "WebSocketDisconnect",
    )


def test_a_push_to_a_client_that_has_left_is_a_disconnect() -> None:
    # uvicorn: send() raises an OSError; Starlette turns it into a WebSocketDisconnect(1006), which nobody catches.
    def gone(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise ConnectionResetError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        try:
            await send({"type": "websocket.send", "text": "tick"})
        except OSError:
            raise WebSocketDisconnect from None

    record = asgi_record(app, websocket_scope(), on_send=gone)
    assert (record.outcome, record.level) == ("client_disconnect", "warning")
