"""An application cannot tell whether the ASGI door is there: bare and behind the door, the transcripts are the same."""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from obskit.adapters.starlette import ONE_SERVER_SPAN
from obskit.asgi import MARK, AsgiDoor
from tests.support.asgi_validator import AsgiBreach, validator
from tests.support.kinds import fastapi_app, starlette_app
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
from tests.support.same_bytes import odd_asgi

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


# ---- a whole install, both sides of it, on both kinds of event loop ---------------------------------

# What a door leaves in the scope: its own mark, and that no other span is wanted.
OURS = (MARK, *(key for key, _ in ONE_SERVER_SPAN))
OFFERED = ("trailers", "pathsend", "zerocopysend", "early_hint", "push", "debug")
EXTENSIONS: dict[str, Any] = {f"http.response.{name}": {} for name in OFFERED}
EXTENSIONS |= {"websocket.http.response": {}, "tls": {"client_cert_name": "CN=x"}}
SENT_BY_APP: ContextVar[str] = ContextVar("sent_by_app", default="nothing")


async def tells_what_it_sees(scope: Any, receive: Any, send: Any) -> None:
    seen = {key: value for key, value in scope.items() if key not in OURS}
    await send(start())
    await send(body(repr(sorted(seen.items(), key=str)).encode()))


async def listens_while_it_sends(scope: Any, receive: Any, send: Any) -> None:
    """What Starlette's streams do: one task waits for the client to leave, the other one sends."""

    async def listen(task: anyio.abc.TaskGroup) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        task.cancel_scope.cancel()

    async with anyio.create_task_group() as task:
        task.start_soon(listen, task)
        await send(start())
        for number in range(3):
            await send(body(b"%d" % number, more=True))
            await anyio.sleep(0)
        await send(body())
        task.cancel_scope.cancel()


async def changes_what_it_has_sent(scope: Any, receive: Any, send: Any) -> None:
    """One message for all: the server must be given each as it is at that time, and what it keeps is its own."""
    message = start(200, (b"x", b"1"))
    await send(message)
    message["headers"].append((b"y", b"2"))
    message["status"] = 500
    message = body(b"first", more=True)
    await send(message)
    message["body"] = b"second"
    await send(message)
    message |= {"body": b"", "more_body": False}
    await send(message)
    message.clear()


async def headers_that_can_be_read_once(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": iter([(b"a", b"b")])})
    await send(body(b"x"))


async def works_behind_its_answer(scope: Any, receive: Any, send: Any) -> None:
    await send(start())
    await send(body(b"done"))
    await anyio.sleep(0)
    await receive()
    await anyio.sleep(0)


async def fails_behind_its_answer(scope: Any, receive: Any, send: Any) -> None:
    await works_behind_its_answer(scope, receive, send)
    raise ValueError("in the background")


async def goes_on_after_an_error_of_send(scope: Any, receive: Any, send: Any) -> str:
    told = []
    for message in (start(), body(b"1", more=True), body(b"2", more=True), body()):
        try:
            await send(message)
        except Exception as error:
            told.append(f"{type(error).__name__}{error.args}")
    return " ".join(told)


async def goes_on_when_cancelled(scope: Any, receive: Any, send: Any) -> None:
    try:
        await send(start())
        await send(body(b"1", more=True))
        await receive()
    finally:
        with anyio.CancelScope(shield=True):
            await send(body(b"last words"))


async def leaves_a_context_variable(scope: Any, receive: Any, send: Any) -> None:
    SENT_BY_APP.set("something")
    await send(start())
    await send(body(SENT_BY_APP.get().encode()))


async def reads_to_the_end(scope: Any, receive: Any, send: Any) -> list[Any]:
    taken = [await receive()]
    while taken[-1]["type"].endswith(("request", "connect", "receive")) and len(taken) < 9:
        taken.append(await receive())
    await send(start())
    await send(body(b"%d" % len(taken)))
    return taken


async def gives_up_as_servers_do(scope: Any, receive: Any, send: Any) -> None:
    await send(start())
    raise SystemExit(3)


class Called:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> str:
        await odd_asgi.app({**scope, "path": "/chunks"}, receive, send)
        return "an instance"

    async def method(self, scope: Any, receive: Any, send: Any) -> str:
        return await self(scope, receive, send)


def an_old_application(scope: Any, receive: Any, send: Any) -> Any:
    """No coroutine function, but what it returns can be awaited."""
    return Called()(scope, receive, send)


OWN_APPS: dict[str, Any] = {
    one.__name__: one
    for one in (
        *(
            tells_what_it_sees,
            listens_while_it_sends,
            changes_what_it_has_sent,
            headers_that_can_be_read_once,
        ),
        *(
            works_behind_its_answer,
            fails_behind_its_answer,
            goes_on_after_an_error_of_send,
            goes_on_when_cancelled,
        ),
        *(leaves_a_context_variable, reads_to_the_end, gives_up_as_servers_do, an_old_application),
        *(chatty, malformed, PerCall),
    )
} | {
    "instance": Called(),
    "method": Called().method,
    "partial": functools.partial(Called.__call__, Called()),
}
HTTP_APPS = {**OWN_APPS, **{name: odd_asgi.PAGES[name] for name in odd_asgi.PAGES if name[:2] != "ws"}}
# chatty and malformed speak out of turn, which is for the transcripts alone.
WEBSOCKET_APPS = {
    **{name: odd_asgi.PAGES[name] for name in odd_asgi.PAGES if name[:2] == "ws"},
    **{name: OWN_APPS[name] for name in ("chatty", "reads_to_the_end", "PerCall", "goes_on_when_cancelled")},
}

LEFT = {"type": "http.disconnect"}
POSTED = [
    {"type": "http.request", "body": b"12", "more_body": True},
    {"type": "http.request", "body": b"345", "more_body": False},
]
SAID = [
    {"type": "websocket.connect"},
    *({"type": "websocket.receive", "text": text} for text in ("grüß", "again")),
    {"type": "websocket.receive", "bytes": b"\x00", "text": None},
]


class Server:
    """One call on a server made of lists: what it says, and what befalls at which of the messages it is sent.

    `shows` is where a door can see whether the client is there: in hypercorn's queue, on the flag of uvicorn's cycle.
    """

    def __init__(
        self, says: list[Any], befalls: dict[int, Any] | None = None, gone: Any = LEFT, shows: str = ""
    ) -> None:
        self.says, self.befalls, self.gone, self.shows = says, befalls or {}, gone, shows


class Cycle:
    """As uvicorn's: what is awaited is a method of it."""

    def __init__(self, receive: Any, disconnected: bool) -> None:
        self._receive, self.disconnected = receive, disconnected

    async def receive(self) -> Any:
        message = await self._receive()
        self.disconnected = self.disconnected or message["type"] == "http.disconnect"
        return message


def handed_out(server: Server, receive: Any) -> Any:
    if server.shows == "queue":
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for message in [*server.says, *[server.gone] * 9]:
            queue.put_nowait(dict(message))
        return queue.get
    return Cycle(receive, not server.says).receive if server.shows == "flag" else receive


def gone(code: int) -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code, "reason": ""}


HTTP_SERVERS = {
    "get": Server(list(REQUEST)),
    "upload": Server(POSTED),
    "left at once": Server([]),
    "left in its upload": Server(POSTED[:1]),
    "broken receive": Server([ConnectionResetError("receive")]),
    **{f"left at message {at}": Server(list(REQUEST), {at: OSError("send")}) for at in range(3)},
    **{f"refuses message {at}": Server(list(REQUEST), {at: RuntimeError("no!")}) for at in range(3)},
    **{f"cancels at message {at}": Server(list(REQUEST), {at: "cancel"}) for at in range(3)},
    "cancels its receive": Server(["cancel"]),
    **{f"shows a {what}": Server(POSTED, shows=what) for what in ("queue", "flag")},
    **{f"shows a {what}, left at once": Server([], shows=what) for what in ("queue", "flag")},
}
WEBSOCKET_SERVERS = {
    "conversation": Server(SAID, gone=gone(1000)),
    "left at once": Server(SAID[:1], gone=gone(1006)),
    "left before the handshake": Server([], gone=gone(1006)),
    "asked to close": Server([*SAID, {"type": "websocket.receive", "text": "close"}], gone=gone(1000)),
    "fails it": Server([*SAID, {"type": "websocket.receive", "text": "raise"}], gone=gone(1006)),
    **{f"left at message {at}": Server(SAID, {at: OSError("send")}, gone(1006)) for at in range(3)},
    **{f"cancels at message {at}": Server(SAID, {at: "cancel"}, gone(1006)) for at in range(3)},
}


def seen_of(value: Any) -> Any:
    """A message as it is now: what is done to it later does not reach into the transcript."""
    if not isinstance(value, dict):
        return value
    seen = {key: list(one) if key == "headers" and one is not None else one for key, one in value.items()}
    if "file" in seen:
        seen["file"] = type(seen["file"])  # the number of a descriptor is the one that happens to be free
    return seen


async def serve(app: Any, scope: dict[str, Any], server: Server) -> list[Any]:
    """The transcript of one call, as its server sees it."""
    events: list[Any] = []
    left = list(server.says)
    befalls = dict(server.befalls)
    count = 0
    SENT_BY_APP.set("nothing")

    async def befall(what: Any, cancel: anyio.CancelScope) -> None:
        if what == "cancel":
            cancel.cancel()
            with anyio.move_on_after(0.05):  # for an application that shields itself
                await anyio.sleep_forever()
            return
        raise what

    with anyio.CancelScope() as cancel:

        async def receive() -> Any:
            await anyio.lowlevel.checkpoint()
            message = left.pop(0) if left else server.gone
            events.append(("asked for", message))
            if not isinstance(message, dict):
                await befall(message, cancel)
            return dict(message)

        async def send(message: Any) -> None:
            nonlocal count
            count += 1
            events.append(("sent", seen_of(message)))
            if count - 1 in befalls:
                await befall(befalls[count - 1], cancel)
            await anyio.lowlevel.checkpoint()

        try:
            events.append(("returned", await app(scope, handed_out(server, receive), send)))
        except BaseException as error:
            events.append(("raised", type(error), error.args if isinstance(error, Exception) else ()))
            if not isinstance(error, Exception | SystemExit):
                raise
    return [*events, SENT_BY_APP.get()]


def witnessed(app: Any, seen: list[Any], scopes: list[Any]) -> Any:
    """`app`, noting what it is given and what becomes of what it sends."""

    async def witness(scope: Any, receive: Any, send: Any) -> Any:
        scopes.append(scope)

        async def noting_receive() -> Any:
            try:
                message = await receive()
            except BaseException as error:
                seen.append(("receive raised", type(error)))
                raise
            seen.append(("received", dict(message)))
            return message

        async def noting_send(message: Any) -> None:
            try:
                seen.append(("send returned", await send(message)))
            except BaseException as error:
                seen.append(("send raised", type(error)))
                raise

        return await app(scope, noting_receive, noting_send)

    return witness


async def transcripts(app: Any, install: Any, scope: Callable[[], Any], server: Server) -> list[Any]:
    """Of the same call, bare and installed: each as server and application saw it."""
    seen: list[Any] = []
    scopes: list[Any] = []
    bare = witnessed(app, seen, scopes)
    both = []
    for called in (bare, install(bare)):
        seen.clear()
        given = scope()
        events = await serve(called, given, server)
        after = {key: value for key, value in given.items() if key not in OURS}
        both.append((events, list(seen), scopes.pop() is given, after))
    return both


def differing(
    backend: str, apps: dict[str, Any], install: Any, scope: Callable[[], Any], server: Server
) -> dict[str, list[Any]]:
    async def main() -> dict[str, list[Any]]:
        found = {name: await transcripts(app, install, scope, server) for name, app in apps.items()}
        return {name: both for name, both in found.items() if both[0] != both[1]}

    return anyio.run(main, backend=backend)


@pytest.fixture
def installed(install: Any) -> Callable[[Any], Any]:
    """Through one install for all: the application is changed behind its door."""
    called: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        return await called[0](scope, receive, send)

    door = install(app)

    def change(to: Any) -> Any:
        called[:] = [to]
        return door

    return change


BACKENDS = ("asyncio", "trio")
# Two tasks take turns in it: under trio by lot.
UNORDERED = ("listens_while_it_sends",)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("server", HTTP_SERVERS)
def test_both_sides_of_an_install_see_what_they_saw_without_it(
    server: str, backend: str, installed: Any, canonical: Any
) -> None:
    def scope() -> Any:
        return http_scope("/orders", "POST", extensions=EXTENSIONS, state={"db": 1})

    apps = {name: app for name, app in HTTP_APPS.items() if backend != "trio" or name not in UNORDERED}
    assert len(apps) >= 51
    assert differing(backend, apps, installed, scope, HTTP_SERVERS[server]) == {}
    assert len(canonical()) == len(apps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
def test_both_sides_of_a_conversation_see_what_they_saw_without_an_install(
    server: str, backend: str, installed: Any, canonical: Any
) -> None:
    def scope() -> Any:
        return websocket_scope(extensions=EXTENSIONS, subprotocols=["a", "b"])

    assert differing(backend, WEBSOCKET_APPS, installed, scope, WEBSOCKET_SERVERS[server]) == {}
    assert len(canonical()) == len(WEBSOCKET_APPS)


async def answers_lifespan(scope: Any, receive: Any, send: Any) -> None:
    scope["state"]["db"] = "open"
    for _ in range(2):
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})


async def fails_to_start(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def fails_to_stop(scope: Any, receive: Any, send: Any) -> None:
    for end in ("complete", "failed"):
        await send({"type": f"{(await receive())['type']}.{end}"})


async def dies_while_it_runs(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    raise RuntimeError("lost the database")


async def knows_no_lifespan(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http", scope["type"]


async def returns_at_once(scope: Any, receive: Any, send: Any) -> str:
    return "returned"


LIFESPANS: dict[str, Any] = {
    app.__name__: app
    for app in (
        *(answers_lifespan, fails_to_start, fails_to_stop, dies_while_it_runs, knows_no_lifespan),
        *(returns_at_once, chatty, PerCall),
    )
}
ALIVE = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
LIFES = {
    "a whole life": Server(ALIVE),
    "a broken server": Server([ALIVE[0], OSError("pipe")]),
    "cancelled while it runs": Server([ALIVE[0], "cancel"]),
    **{f"refuses message {at}": Server(ALIVE, {at: RuntimeError("no!")}) for at in range(2)},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("life", LIFES)
@pytest.mark.parametrize("kind", ["lifespan", "telepathy"])
def test_a_lifespan_or_what_is_not_known_yet_passes_as_it_is(
    kind: str, life: str, backend: str, installed: Any
) -> None:
    def scope() -> Any:
        return {"type": kind, "asgi": {"version": "3.0"}, "state": {}, "extensions": EXTENSIONS}

    assert differing(backend, LIFESPANS, installed, scope, LIFES[life]) == {}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", [starlette_app, fastapi_app], ids=["starlette", "fastapi"])
@pytest.mark.parametrize("server", HTTP_SERVERS)
def test_a_frameworks_transcript_is_the_same(server: str, make: Any, backend: str, install: Any) -> None:
    paths = ("/orders/7", "/orders/x", "/nowhere", "/orders/7/")

    async def main() -> list[Any]:
        return [
            await serve(validator(app), http_scope(path, method), HTTP_SERVERS[server])
            for app in (make(), install(make()))
            for method in ("GET", "HEAD", "POST")
            for path in paths
        ]

    ends = anyio.run(main, backend=backend)
    half = len(ends) // 2
    # FastAPI's and Starlette's errors differ from one to the other by their addresses alone.
    assert [str(end) for end in ends[half:]] == [str(end) for end in ends[:half]]


SOUND = {
    name: app
    for name, app in HTTP_APPS.items()
    if name not in ("chatty", "malformed", "headers_that_can_be_read_once", "no-trailers", *UNORDERED)
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "server", ["get", "upload", "left at once", "left at message 1", "cancels at message 1"]
)
@pytest.mark.parametrize("echo", [False, True])
def test_the_install_keeps_the_protocol_towards_both_sides(
    echo: bool, server: str, backend: str, install: Any
) -> None:
    """validator(install(validator(app))): a breach is the application's own, and raised where it was."""
    called: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        return await validator(called[0])(scope, receive, send)

    door = validator(install(app, echo_request_id=echo))
    breaches, found = {}, {}

    async def main() -> None:
        for name, one in SOUND.items():
            called[:] = [one]
            ends = []
            for outermost in (validator(one), door):
                scope = http_scope("/", "POST", extensions=EXTENSIONS)
                ends.append((await serve(outermost, scope, HTTP_SERVERS[server]))[-2])
            if ends[0] != ends[1]:
                found[name] = ends
            if ends[0][0] == "raised" and ends[0][1] is AsgiBreach:
                breaches[name] = ends[0]

    anyio.run(main, backend=backend)
    assert found == {}
    assert len(SOUND) - len(breaches) >= 40, breaches


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([body(b"x")], "body when start was due"),
        ([start(), start()], "start when body was due"),
        ([start(), body(), body()], "body when nothing was due"),
        ([{"type": "http.response.start", "status": "200"}], "status is '200'"),
        ([start(200, ("x", "y"))], "is not bytes"),  # type: ignore[arg-type]
        ([start(200, (b"X", b"y"))], "lower case"),
        ([start(trailers=True)], "nobody offered"),
        ([start(), body("text")], "body is 'text'"),  # type: ignore[arg-type]
        ([{"type": "http.response.early_hint", "links": []}], "early_hint when start was due"),
        ([{"type": "http.response.telepathy"}], "telepathy"),
        ([{}], "no type"),
    ],
)
def test_a_breach_of_the_protocol_is_seen(messages: list[Any], said: str) -> None:
    error = call_asgi(validator(odd_asgi.telling(messages))).error
    assert isinstance(error, AsgiBreach)
    assert said in str(error)
