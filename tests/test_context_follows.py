"""A line belongs to the request whose code wrote it, wherever that runs, and to none when the request is over.

200 requests at once, in each of the ways that Python knows to run them; each logs ten lines from all places its code
gets to (tests/support/following.py). Both are looked at: our own context, and the span that OpenTelemetry sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.support.following import (
    BEHIND,
    FAILED,
    LINES_OF_A_WHOLE_ONE,
    NOTE,
    REQUESTS,
    behind,
    faults,
    in_threads,
    note,
    one_request,
    whose,
    wsgi_app,
)
from tests.support.recording import body, http_scope, start

ROOT = Path(__file__).resolve().parents[1]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Ten lines: behind awaits, of two tasks, of two threads, of a stream, and behind the answer."""
    who = dict(scope["headers"])[b"user-agent"].decode()
    note(who, "call")
    await anyio.sleep(0.002)
    note(who, "after an await", stdlib=True)

    async def task(where: str) -> None:
        await anyio.sleep(0)
        note(who, where)

    async with anyio.create_task_group() as group:
        group.start_soon(task, "task")
        group.start_soon(task, "another task")
    await anyio.to_thread.run_sync(partial(note, who, "worker thread", stdlib=True))
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(note, who, "thread"))
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    await receive()

    async def stream() -> AsyncIterator[bytes]:
        for part in (b"1", b"2"):
            await anyio.sleep(0.001)
            note(who, "stream")
            yield part

    await send(start())
    async for part in stream():
        await send(body(part, more=True))
    await send(body())
    note(who, "behind the answer")
    await anyio.sleep(0)
    note(who, "long behind the answer", stdlib=True)


async def ask(app: Any, who: str, **more: Any) -> None:
    """As a server's task does it."""
    scope = http_scope("/follow", headers=[(b"user-agent", who.encode())], **more)

    async def receive() -> dict[str, Any]:
        await anyio.sleep(0.001)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        await anyio.sleep(0)

    await app(scope, receive, send)
    behind(who)


async def ask_all(app: Any) -> None:
    async with anyio.create_task_group() as group:
        for number in range(REQUESTS):
            group.start_soon(ask, app, str(number))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_line_of_200_concurrent_requests_is_its_own_in_an_event_loop(
    backend: str, install: Any, lines: Any
) -> None:
    anyio.run(ask_all, install(asgi_app), backend=backend)
    written = lines()
    assert faults(written, wanted=LINES_OF_A_WHOLE_ONE) == []
    assert sum(line["event"] == NOTE for line in written) == REQUESTS * LINES_OF_A_WHOLE_ONE


def test_every_line_of_200_concurrent_requests_is_its_own_in_threads(install: Any, lines: Any) -> None:
    in_threads(install(wsgi_app(lambda: threading.Event().wait(0.001) and None)))
    assert faults(lines(), wanted=LINES_OF_A_WHOLE_ONE - 2) == []


# By hand with "import eventlet; eventlet.monkey_patch()" and in_greenlets("eventlet") as well; nobody needs it to run
# the tests.
IN_GREENLETS = """
from gevent import monkey; monkey.patch_all()
from tests.support.following import in_greenlets
in_greenlets("gevent")
"""


def test_every_line_of_200_concurrent_requests_is_its_own_in_greenlets(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_GREENLETS],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "OBSKIT_STATE_DIR": str(tmp_path), "OBSKIT_LOG_LEVEL": "info"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert FAILED not in done.stderr
    written = [json.loads(line) for line in done.stdout.splitlines()]
    assert faults(written, wanted=LINES_OF_A_WHOLE_ONE - 2) == []


def test_a_server_that_runs_each_step_in_a_context_of_its_own_gets_every_line_right(
    install: Any, lines: Any
) -> None:
    """a2wsgi and asgiref call an application, its body and its close() from wherever a thread is free."""
    app = install(wsgi_app(lambda: None))
    for number in range(20):
        who = str(number)
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/follow", "HTTP_USER_AGENT": who}
        call = contextvars.copy_context()
        answer = call.run(app, environ, lambda *_: lambda data: None)
        while contextvars.copy_context().run(next, answer, None) is not None:
            pass
        contextvars.copy_context().run(answer.close)
        call.run(behind, who)
    assert faults(lines(), wanted=LINES_OF_A_WHOLE_ONE, requests=20) == []


def test_requests_one_after_the_other_in_one_thread_leave_nothing_behind(install: Any, lines: Any) -> None:
    app = install(wsgi_app(lambda: None))
    for number in range(20):
        one_request(app, str(number), lambda: None)
    assert faults(lines(), wanted=LINES_OF_A_WHOLE_ONE - 2, requests=20) == []


# ---- streams that end somewhere else ----------------------------------------------------------------


class Left(OSError):
    """The client has gone."""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("ends", ["the client leaves", "the server cancels", "read to its end"])
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_stream_that_another_task_closes_detaches_no_context_of_another_request(
    kind: str, ends: str, backend: str, install: Any, lines: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def astream(who: str) -> AsyncIterator[bytes]:
        try:
            for _ in range(3):
                note(who, "stream")
                yield b"x"
                await anyio.sleep(0.001)
        finally:
            note(who, "end of the stream")

    def stream(who: str) -> Iterator[bytes]:
        for _ in range(3):
            note(who, "stream", stdlib=True)
            yield b"x"

    async def page(request: Any) -> StreamingResponse:
        who = request.headers["user-agent"]
        note(who, "call")
        return StreamingResponse(astream(who) if kind == "async" else stream(who))

    app = install(Starlette(routes=[Route("/follow", page)]))

    async def ask_and_leave(who: str) -> None:
        scope = http_scope("/follow", headers=[(b"user-agent", who.encode())])
        sent = 0

        async def receive() -> dict[str, Any]:
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: Any) -> None:
            nonlocal sent
            sent += 1
            await anyio.sleep(0)
            if sent == 3 and ends == "the client leaves":
                raise Left
            if sent == 3 and ends == "the server cancels":
                cancel.cancel()
                await anyio.sleep(0)

        with anyio.CancelScope() as cancel:
            with contextlib.suppress(Left, ClientDisconnect):
                await app(scope, receive, send)
        behind(who)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(ask_and_leave, str(number))
        if backend == "asyncio":
            await asyncio.get_running_loop().shutdown_asyncgens()

    anyio.run(main, backend=backend)
    written = lines()
    ids = whose(written)
    assert len(ids) == 20
    for line in written:
        own = ids.get(str(line.get("who")))
        if line["event"] == NOTE:
            # Python ends a generator that nobody closed when it is collected, in the context of whoever runs then.
            late = line["where"] == "end of the stream" and ends != "read to its end"
            assert late or line["trace_id"] == own, line
        elif line["event"] == BEHIND:
            assert "trace_id" not in line, line
    assert FAILED not in caplog.text
    assert not [line for line in written if FAILED in line["event"]]
    assert not [line for line in written if line["event"] == "obskit.internal_error"]
