"""What each kind of ASGI server lets the door see of a client that has left, and that no message is ever lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from obskit import presence
from obskit.asgi import AsgiDoor
from tests.support.recording import body, http_scope, make_pipeline, start

DISCONNECT = {"type": "http.disconnect"}
LENGTH_2 = [(b"content-length", b"2")]


def upload(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


class ASGIHTTPProtocol:
    """granian's, by its name: only receive() tells. `deliver` is the network."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.waiting = asyncio.Event()
        self.receiving = self.doubled = False
        self.sent: list[dict[str, Any]] = []
        for message in messages:
            self.messages.put_nowait(message)

    async def receive(self) -> dict[str, Any]:
        self.doubled |= self.receiving
        self.waiting.set()
        self.receiving = True
        try:
            return await self.messages.get()
        finally:
            self.receiving = False

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


@pytest.fixture(autouse=True)
def _listen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "LISTEN_AFTER_S", 0)


def granian(app: Any, *messages: dict[str, Any], **scope: Any) -> Any:
    """The record of one request; `app` gets the server too, to act as the network."""
    pipeline, notes = make_pipeline()

    async def main() -> None:
        server = ASGIHTTPProtocol(*messages)

        async def called(scope: Any, receive: Any, send: Any) -> None:
            await app(server, receive, send)

        async with asyncio.timeout(5):
            await AsgiDoor(called, pipeline)(http_scope(**scope), server.receive, server.send)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1, "a listener outlived its request"
        assert not server.doubled, "two callers waited for one message"

    asyncio.run(main())
    assert notes.stages == []
    return notes.record


async def until_left(server: ASGIHTTPProtocol) -> None:
    """The client leaves, and the listener has time to hear of it."""
    await server.waiting.wait()
    server.messages.put_nowait(DISCONNECT)
    while not server.messages.empty():
        await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_a_client_that_leaves_while_the_application_is_busy_is_heard_of() -> None:
    async def app(server: Any, receive: Any, send: Any) -> None:
        await until_left(server)
        await send(start())
        await send(body(b"late"))

    record = granian(app)
    assert (record.outcome, record.status, record.response_bytes) == ("client_disconnect", None, 0)


def test_what_the_listener_heard_is_handed_to_the_application() -> None:
    taken: list[Any] = []

    async def app(server: Any, receive: Any, send: Any) -> None:
        await until_left(server)
        taken.append(await receive())

    assert granian(app).outcome == "client_disconnect"
    assert taken == [DISCONNECT]


def test_an_application_that_asks_while_we_listen_waits_with_us() -> None:
    taken: list[Any] = []

    async def app(server: Any, receive: Any, send: Any) -> None:
        await server.waiting.wait()
        asked = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        server.messages.put_nowait(DISCONNECT)
        taken.append(await asked)

    granian(app)
    assert taken == [DISCONNECT]


def test_an_upload_is_read_by_the_application_alone_and_listening_begins_after_it() -> None:
    taken: list[Any] = []
    messages = [upload(b"1", more=True), upload(b"2")]

    async def app(server: Any, receive: Any, send: Any) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        assert server.messages.qsize() == 2
        taken.extend([await receive(), await receive()])
        server.waiting.clear()
        await until_left(server)
        await send(start())

    record = granian(app, *messages, headers=LENGTH_2)
    assert taken == messages
    assert (record.outcome, record.request_bytes) == ("client_disconnect", 2)


def test_nobody_listens_while_the_application_itself_waits() -> None:
    taken: list[Any] = []

    async def app(server: Any, receive: Any, send: Any) -> None:
        asked = asyncio.ensure_future(receive())
        for _ in range(5):
            await asyncio.sleep(0)
        server.messages.put_nowait(DISCONNECT)
        taken.append(await asked)
        await send(start())

    assert granian(app).outcome == "client_disconnect"
    assert taken == [DISCONNECT]


def test_an_application_that_gives_up_waiting_loses_no_message() -> None:
    taken: list[Any] = []

    async def app(server: Any, receive: Any, send: Any) -> None:
        await server.waiting.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.001)
        server.messages.put_nowait(DISCONNECT)
        taken.append(await receive())

    granian(app)
    assert taken == [DISCONNECT]


def test_the_listener_ends_with_the_request() -> None:
    async def app(server: Any, receive: Any, send: Any) -> None:
        await server.waiting.wait()
        await send(start())
        await send(body(b"ok"))

    assert granian(app).outcome == "completed"


def test_the_listener_keeps_what_it_heard_in_order_and_no_more_than_it_must() -> None:
    messages = [upload(bytes([number]), more=True) for number in range(20)]
    taken: list[Any] = []

    async def app(server: Any, receive: Any, send: Any) -> None:
        while server.messages.qsize() > 4:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert server.messages.qsize() == 4
        taken.extend([await receive() for _ in messages])
        await send(start())
        await send(body(b"ok"))

    assert granian(app, *messages).outcome == "completed"
    assert taken == messages


def test_a_request_that_is_short_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "LISTEN_AFTER_S", 60)

    async def app(server: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"ok"))
        assert not server.waiting.is_set()

    assert granian(app).outcome == "completed"


def test_listening_to_the_end_of_a_finished_response_is_no_disconnect() -> None:
    async def app(server: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(body(b"ok"))
        await until_left(server)
        await send(body(b"beyond the end"))

    assert granian(app).outcome == "completed"


def test_a_receive_that_fails_while_we_listen_fails_for_the_application_and_is_no_lost_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuse() -> Any:
        raise RuntimeError("transport")

    async def app(server: Any, receive: Any, send: Any) -> None:
        await server.waiting.wait()
        server.messages.put_nowait(upload(b""))
        server.messages.get = refuse
        for _ in range(5):
            await asyncio.sleep(0)
        assert await receive() == upload(b"")
        with pytest.raises(RuntimeError, match="transport"):
            await receive()

    granian(app)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def unexpected(stage: str, error: BaseException) -> None:
    raise AssertionError(stage) from error


@pytest.mark.parametrize("owner", [object(), type("Cycle", (), {"disconnected": None})()])
def test_a_server_that_shows_nothing_is_left_alone(owner: Any) -> None:
    class Server:
        disconnected = getattr(owner, "disconnected", "")

        async def receive(self) -> Any: ...

    assert presence.sight(Server().receive, unexpected, has_body=False) == (None, None)


def test_a_receive_that_belongs_to_nobody_shows_nothing() -> None:
    async def receive() -> Any: ...

    assert presence.sight(receive, unexpected, has_body=False) == (None, None)


def test_the_base_case_never_knows() -> None:
    base = presence.Presence()
    assert (base.left(), base.early) == (False, ())
    base.received(DISCONNECT)
    base.close()
