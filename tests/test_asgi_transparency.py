"""An application cannot tell whether the ASGI door is there: bare and behind the door, the transcripts are the same."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from obskit.asgi import MARK, AsgiDoor
from tests.support.recording import (
    REQUEST,
    AsgiTalk,
    body,
    call_asgi,
    http_scope,
    make_pipeline,
    start,
    websocket_scope,
)

UPLOAD = [
    {"type": "http.request", "body": b"12", "more_body": True},
    {"type": "http.request"},
    {"type": "http.request", "body": b"3", "more_body": False, "stranger": object},
    {"type": "http.disconnect"},
]
SCOPES = {
    "plain": http_scope("/orders"),
    "bare": {"type": "http"},
    "no headers": {k: v for k, v in http_scope().items() if k != "headers"},
    "non-UTF-8": http_scope("/\udcff", headers=[(b"x", b"\xff"), (b"\xfe", b"")], query_string=b"\xff=\xfe"),
    "bad length": http_scope(headers=[(b"content-length", b"twelve")]),
    "two lengths": http_scope(headers=[(b"content-length", b"1"), (b"content-length", b"2")]),
    "junk traceparent": http_scope(headers=[(b"traceparent", b"\x00\xff"), (b"traceparent", b"00-0-0-0")]),
    "bad request id": http_scope(headers=[(b"x-request-id", b"a\r\nb"), (b"x-request-id", b"x" * 65_536)]),
    "unknown method": http_scope(method="BREW"),
    "extensions": http_scope(extensions={"http.response.trailers": {}, "tls": {"x": 1}}, state={"db": 1}),
    "malformed headers": http_scope(headers=[(b"only a name",)]),  # type: ignore[list-item]
    "None headers": {**http_scope(), "headers": None},
    "odd client": http_scope(client=7),
    "websocket": websocket_scope(),
    "unknown type": {"type": "telepathy", "x": 1},
    "no type": {"x": 1},
}


async def chatty(scope: Any, receive: Any, send: Any) -> Any:
    """Takes all, sends one of everything, answers with a value of its own."""
    taken = [await receive() for _ in range(5)]
    for kind in (
        "early_hint",
        "push",
        "debug",
        "start",
        "body",
        "pathsend",
        "zerocopysend",
        "trailers",
        "later",
    ):
        await send({"type": f"http.response.{kind}", "status": 200, "headers": [(b"a", b"b")], "x": [1]})
    await send({"type": "websocket.send", "text": "x"})
    await send({})
    return taken


async def failing_at_once(scope: Any, receive: Any, send: Any) -> None:
    raise KeyError("app")


async def failing_late(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(start())
    await send(body(b"1", more=True))
    raise ValueError("late")


async def malformed(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start"})
    await send({"type": "http.response.start", "status": 200, "headers": None})
    await send({"type": "http.response.body", "body": None})
    await send({"type": "http.response.body", "body": 5})


class PerCall:
    """A class-based application: the instance is what is awaited."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.send = send

    def __await__(self) -> Any:
        return self.reply().__await__()

    async def reply(self) -> None:
        await self.send(start(201))
        await self.send(body(b"class"))


APPS = [chatty, failing_at_once, failing_late, malformed, PerCall]


def told(talk: AsgiTalk) -> Any:
    error = talk.error and (type(talk.error), talk.error.args)
    return talk.sent, talk.taken, error


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
@pytest.mark.parametrize("incoming", [REQUEST, UPLOAD, [OSError("server")]], ids=["get", "upload", "broken"])
def test_the_transcript_is_the_same_with_and_without_the_door(app: Any, scope: Any, incoming: Any) -> None:
    pipeline, _ = make_pipeline()
    bare = call_asgi(app, copy.copy(scope), incoming)
    observed = call_asgi(AsgiDoor(app, pipeline), copy.copy(scope), incoming)
    assert told(observed) == told(bare)


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
def test_the_application_sees_the_servers_scope_itself_with_nothing_changed(scope: Any) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    given = copy.copy(scope)
    call_asgi(AsgiDoor(app, make_pipeline()[0]), given)
    assert seen[0] is given
    assert {key: value for key, value in given.items() if key != MARK} == scope


@pytest.mark.parametrize("echo", [False, True])
def test_messages_pass_as_the_same_objects(echo: bool) -> None:
    reply = [start(), body(b"x", more=True), {"type": "x"}, body()]
    taken: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        taken.append(await receive())
        for message in reply:
            await send(message)

    talk = call_asgi(AsgiDoor(app, make_pipeline(echo_request_id=echo)[0]))
    assert taken[0] is talk.taken[0]
    assert all(a is b for a, b in zip(talk.sent[echo:], reply[echo:], strict=True))


@pytest.mark.parametrize("server_fails_in", ["receive", "send"])
@pytest.mark.parametrize(
    "error",
    [OSError("gone"), asyncio.CancelledError("stop"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()],
)
def test_what_the_server_raises_reaches_the_application_and_the_server_as_the_same_object(
    server_fails_in: str, error: BaseException
) -> None:
    seen: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
            await send(start())
        except BaseException as caught:
            seen.append(caught)
            raise

    def refuse(message: Any) -> None:
        raise error

    incoming = [error] if server_fails_in == "receive" else REQUEST
    pipeline, notes = make_pipeline()

    async def main() -> BaseException | None:
        # Not asyncio.run(call): it would turn a KeyboardInterrupt into its own business.
        from tests.support.recording import talk_asgi

        return (await talk_asgi(AsgiDoor(app, pipeline), http_scope(), incoming, refuse)).error

    assert asyncio.run(main()) is error
    assert seen == [error]
    assert notes.stages == []


def test_an_exception_keeps_its_traceback_context_and_cause() -> None:
    cause = KeyError("cause")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("app") from cause

    error = call_asgi(AsgiDoor(app, make_pipeline()[0])).error
    assert error is not None
    assert error.__cause__ is cause
    assert error.__context__ is None
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    assert innermost is not None
    assert innermost.tb_frame.f_code is app.__code__


def test_cancelling_the_servers_task_cancels_the_application() -> None:
    pipeline, notes = make_pipeline()
    seen: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            seen.append(error)
            raise

    async def main() -> None:
        task = asyncio.ensure_future(AsgiDoor(app, pipeline)(http_scope(), app, app))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel("shutdown")
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [type(error) for error in seen] == [asyncio.CancelledError]
    assert notes.record.outcome == "cancelled"


@pytest.mark.parametrize("failing", ["startup", "shutdown", "raise"])
def test_lifespan_passes_through_untouched(failing: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if failing == "raise":
            raise RuntimeError("no lifespan here")
        await receive()
        if failing == "startup":
            await send({"type": "lifespan.startup.failed", "message": "db"})
            return
        await send({"type": "lifespan.startup.complete", "x": 1})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "db"})

    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    bare = call_asgi(app, {"type": "lifespan"}, incoming)
    assert told(call_asgi(AsgiDoor(app, make_pipeline()[0]), {"type": "lifespan"}, incoming)) == told(bare)


def test_a_scope_without_a_path_below_a_root_is_the_applications_to_refuse() -> None:
    scope = {**http_scope(root_path="/api"), "path": None}
    assert told(call_asgi(AsgiDoor(chatty, make_pipeline()[0]), scope)) == told(call_asgi(chatty, scope))
