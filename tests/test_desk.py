"""Scrapes of an event loop are answered one after the other, by one thread, and only so many a second."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from obskit import desk as module
from obskit.desk import BURST, RATE, Desk, Pace


def test_who_asks_gets_what_the_call_returns_from_a_thread_that_is_not_the_loops() -> None:
    async def main() -> tuple[Any, Any]:
        desk = Desk()
        name = await desk.ask(lambda: threading.current_thread().name)
        return name, await desk.ask(lambda a, b: a + b, 1, 2)

    assert asyncio.run(main()) == ("obskit-desk", 3)


def test_a_call_that_raises_gives_none_and_the_next_one_is_answered() -> None:
    def raising() -> None:
        raise SystemExit(1)

    async def main() -> list[Any]:
        desk = Desk()
        return [await desk.ask(raising), await desk.ask(lambda: 1)]

    assert asyncio.run(main()) == [None, 1]


def test_one_thread_answers_all_in_turn() -> None:
    seen: list[tuple[int, int]] = []

    async def main() -> None:
        desk = Desk()
        await asyncio.gather(
            *(desk.ask(lambda n=n: seen.append((n, threading.get_ident()))) for n in range(50))
        )

    asyncio.run(main())
    assert [number for number, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen}) == 1


def test_who_finds_the_line_full_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 3)
    go_on = threading.Event()

    async def main() -> list[Any]:
        desk = Desk()
        first = asyncio.create_task(desk.ask(go_on.wait, 10))
        while desk._line or desk._thread is None:
            await asyncio.sleep(0)
        waiting = [asyncio.create_task(desk.ask(lambda: "answered")) for _ in range(5)]
        await asyncio.sleep(0)
        refused = [
            task.result() for task in waiting if task.done() or (await asyncio.sleep(0)) or task.done()
        ]
        go_on.set()
        await asyncio.gather(first, *waiting)
        return refused + [task.result() for task in waiting]

    assert asyncio.run(main()) == [None, None, "answered", "answered", "answered", None, None]


def test_who_left_is_not_answered() -> None:
    go_on, called = threading.Event(), []

    async def main() -> None:
        desk = Desk()
        first = asyncio.create_task(desk.ask(go_on.wait, 10))
        gone = asyncio.create_task(desk.ask(called.append, "gone"))
        stays = asyncio.create_task(desk.ask(called.append, "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        go_on.set()
        await asyncio.gather(first, stays)

    asyncio.run(main())
    assert called == ["stays"]


def test_the_thread_ends_when_nobody_asks_and_there_is_another_one_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.01)

    async def main() -> list[Any]:
        desk = Desk()
        found = [await desk.ask(lambda: 1)]
        deadline = time.monotonic() + 10
        while desk._thread is not None and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return [*found, desk._thread, await desk.ask(lambda: 2)]

    assert asyncio.run(main()) == [1, None, 2]


def test_a_desk_that_fails_lets_nobody_wait_and_answers_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def wait(self) -> None:
            raise MemoryError

    class BrokenLine(deque[Any]):
        def popleft(self) -> Any:
            first = super().popleft()
            if threading.current_thread().name == "obskit-desk" and not broken:
                broken.append(first)
                self.appendleft(first)
                raise MemoryError
            return first

    broken: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    async def main() -> list[Any]:
        desk = Desk()
        desk._pace = Broken()  # type: ignore[assignment]
        found = [await desk.ask(lambda: 1)]
        desk._pace = Pace()
        desk._line = BrokenLine()
        found.append(await desk.ask(lambda: 2))
        return [*found, await desk.ask(lambda: 3)]

    assert asyncio.run(main()) == [None, None, 3]
    assert len(broken) == 1


def test_who_could_not_be_told_looks_by_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)

    async def main() -> Any:
        desk, loop = Desk(), asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            patched.setattr(loop, "call_soon_threadsafe", None)
            return await desk.ask(lambda: 1)

    assert asyncio.run(main()) == 1


def test_nobody_stands_in_line_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.02)
    go_on = threading.Event()

    async def main() -> list[Any]:
        desk = Desk()
        found = await asyncio.gather(desk.ask(go_on.wait, 10), desk.ask(lambda: 2))
        go_on.set()
        return found

    assert asyncio.run(main()) == [None, None]


def test_without_a_thread_to_be_had_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> list[Any]:
        desk = Desk()
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refused)
            found = [await desk.ask(lambda: 1)]
        return [*found, await desk.ask(lambda: 2)]

    assert asyncio.run(main()) == [None, 2]


def test_a_loop_that_is_gone_is_not_told() -> None:
    desk, go_on = Desk(), threading.Event()

    async def leaves() -> None:
        asyncio.create_task(desk.ask(go_on.wait, 10))  # noqa: RUF006 - it is to be left behind
        await asyncio.sleep(0.01)

    asyncio.run(leaves())
    go_on.set()
    assert asyncio.run(desk.ask(lambda: "the next loop")) == "the next loop"


def test_a_copy_has_a_line_of_its_own() -> None:
    desk = Desk()
    copied = copy.deepcopy([desk])[0]
    assert copied is not desk
    assert asyncio.run(copied.ask(lambda: 1)) == 1


def test_outside_of_asyncio_the_call_is_made_here() -> None:
    asking = Desk().ask(threading.get_ident)
    with pytest.raises(StopIteration) as done:
        asking.send(None)
    assert done.value.value == threading.get_ident()


def _paced(times: int, pause: float) -> tuple[float, Callable[[], float]]:
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(lambda: now[0], wait)
    for _ in range(times):
        pace.wait()
        now[0] += pause
    return now[0], lambda: now[0]


def test_a_burst_passes_at_once_and_then_so_many_a_second() -> None:
    assert _paced(int(BURST), 0.0)[0] == 0.0
    taken, _ = _paced(1000 + int(BURST), 0.0)
    assert taken == pytest.approx(1000 / RATE, rel=0.01)


def test_who_asks_more_slowly_than_that_never_waits() -> None:
    pause = 1.01 / RATE
    assert _paced(2000, pause)[0] == pytest.approx(2000 * pause)
