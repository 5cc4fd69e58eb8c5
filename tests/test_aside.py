"""What may block is done aside: the loop goes on, nobody waits for ever, and a cancellation is the application's."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import trio

from obskit import aside as module
from obskit.asgi import AsgiDoor
from obskit.aside import Once, aside
from tests.support.recording import body, call_asgi, http_scope, make_pipeline, start


class Work:
    """Something that takes as long as a test says."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.threads: list[int] = []
        self.late = 0
        self.once = Once(self.do, self.was_late, threading.get_ident)

    def do(self, seen: Any) -> None:
        self.seen = seen
        self.threads.append(threading.get_ident())
        self.free.wait(10)

    def was_late(self) -> None:
        self.late += 1


def test_it_is_done_once_on_another_thread_with_what_the_first_one_saw() -> None:
    work = Work()
    work.free.set()
    work.once.wait()
    work.once.wait()
    assert (len(work.threads), work.seen, work.once.over) == (1, threading.get_ident(), True)
    assert work.threads != [threading.get_ident()]


def test_the_loop_goes_on_while_all_who_came_meanwhile_wait() -> None:
    work = Work()

    async def main() -> int:
        waiting = [asyncio.ensure_future(work.once.awaited()) for _ in range(3)]
        turns = 0
        while not work.threads or turns < 10:
            turns += 1
            await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)
        work.free.set()
        await asyncio.gather(*waiting)
        return turns

    assert asyncio.run(main()) >= 10
    assert (len(work.threads), work.late) == (1, 0)


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
def test_what_hangs_is_waited_for_once_and_told_once(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    work = Work()
    if how == "blocking":
        work.once.wait()
        work.once.wait()
    else:

        async def main() -> None:
            await asyncio.gather(work.once.awaited(), work.once.awaited())

        asyncio.run(main())
    assert (work.once.over, work.late) == (True, 1)
    work.free.set()


def test_without_asyncio_it_is_done_all_the_same() -> None:
    work = Work()
    work.free.set()
    trio.run(work.once.awaited)
    assert work.once.over

    async def ask() -> Any:
        return await aside(threading.get_ident)

    assert trio.run(ask) == threading.get_ident()
    assert asyncio.run(ask()) != threading.get_ident()


def test_a_loop_that_was_closed_meanwhile_harms_nobody() -> None:
    work = Work()

    async def main() -> None:
        asyncio.ensure_future(work.once.awaited())
        while not work.threads:
            await asyncio.sleep(0)

    asyncio.run(main())
    work.free.set()
    work.once.wait()
    assert work.once.over


def test_a_request_cancelled_while_it_waits_reaches_the_application_which_sees_the_cancellation() -> None:
    beginning, go_on = threading.Event(), threading.Event()
    pipeline, notes = make_pipeline()

    def begin(_seen: Any) -> None:
        beginning.set()
        go_on.wait(10)

    pipeline.watch.begin = begin  # type: ignore[method-assign]
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append("called")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as cancelled:
            seen.append(f"cancelled {cancelled.args}")
            raise

    async def nothing(*_: Any) -> Any:
        return {"type": "http.request"}

    async def main() -> None:
        task = asyncio.ensure_future(AsgiDoor(app, pipeline)(http_scope(), nothing, nothing))
        while not beginning.is_set():
            await asyncio.sleep(0)
        task.cancel("by the server")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())
    go_on.set()
    assert seen == ["called", "cancelled ('by the server',)"]
    assert notes.record.outcome == "cancelled"


def test_a_watch_that_hangs_at_its_beginning_holds_up_no_request_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    pipeline, notes = make_pipeline()
    hung = threading.Event()
    pipeline.watch.begin = lambda _seen: hung.wait(10) and None  # type: ignore[method-assign]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200))
        await send(body(b"ok"))

    door = AsgiDoor(app, pipeline)
    assert [call_asgi(door).body for _ in range(3)] == [b"ok"] * 3
    assert notes.stages == ["watch.begin"]
    hung.set()
