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


def test_a_request_in_a_loop_has_it_started_and_goes_on_and_a_scrape_waits_for_it() -> None:
    work = Work()
    work.once.start()
    assert (work.once.over, work.once._done.is_set()) == (True, False)
    waits = threading.Thread(target=work.once.wait)
    waits.start()
    waits.join(0.05)
    assert waits.is_alive()
    work.free.set()
    waits.join(5)
    assert (waits.is_alive(), len(work.threads), work.late) == (False, 1, 0)


def test_it_can_be_looked_before_it_is_done_elsewhere() -> None:
    work = Work()
    work.free.set()
    work.once.look()
    threading.Thread(target=work.once.wait).start()
    work.once.wait()
    assert work.seen == threading.get_ident()


@pytest.mark.parametrize("placed", [True, False])
def test_where_the_socket_is_there_at_startup_it_is_done_then_and_else_with_the_first_request(
    placed: bool,
) -> None:
    pipeline, notes = make_pipeline()
    notes.placed = placed
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        seen.append(("watch.begin" in notes.calls, pipeline._serving.over))

    asyncio.run(AsgiDoor(app, pipeline)({"type": "lifespan"}, receive, send))
    assert seen == [(placed, placed)]


def test_what_hangs_is_waited_for_once_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    work = Work()
    work.once.wait()
    monkeypatch.setattr(module, "WAIT_S", 60)
    work.once.wait()
    assert (work.once.over, work.late) == (True, 1)
    work.free.set()


def test_what_is_about_to_be_undone_is_let_come_to_its_end() -> None:
    never, work = Work(), Work()
    never.once.settle()
    assert never.threads == []
    work.once.start()
    threading.Timer(0.05, work.free.set).start()
    work.once.settle()
    assert work.once._done.is_set()


def test_the_loop_goes_on_while_something_is_done_aside() -> None:
    work = Work()

    async def main() -> int:
        doing = asyncio.ensure_future(aside(work.do, "seen"))
        turns = 0
        while not work.threads or turns < 10:
            turns += 1
            await asyncio.sleep(0)
        assert not doing.done()
        work.free.set()
        await doing
        return turns

    assert asyncio.run(main()) >= 10


def test_without_asyncio_it_is_done_here() -> None:
    async def ask() -> Any:
        return await aside(threading.get_ident)

    assert trio.run(ask) == threading.get_ident()
    assert asyncio.run(ask()) != threading.get_ident()


@pytest.mark.parametrize("call", [lambda: 1 / 0, lambda: None])
def test_what_fails_or_cannot_say_that_it_has_ended_leaves_nobody_waiting(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(module, "_tell", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    assert asyncio.run(aside(call)) is None


def test_a_loop_that_was_closed_meanwhile_harms_nobody() -> None:
    work = Work()

    async def main() -> None:
        doing = asyncio.ensure_future(aside(work.do, ""))
        while not work.threads:
            await asyncio.sleep(0)
        assert not doing.done()

    asyncio.run(main())
    work.free.set()


def test_the_first_requests_of_an_application_take_turns_as_they_do_without_us() -> None:
    for _ in range(50):
        pipeline, _ = make_pipeline()
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any, seen: list[Any] = seen) -> None:
            seen.append(scope["path"])
            for _ in range(5):
                await asyncio.sleep(0)
            seen.append(scope["path"])

        async def nothing(*_: Any) -> Any:
            return {"type": "http.request"}

        door = AsgiDoor(app, pipeline)

        async def main(door: AsgiDoor = door) -> None:
            await asyncio.gather(*(door(http_scope(path=path), nothing, nothing) for path in ("/1", "/2")))

        asyncio.run(main())
        assert seen == ["/1", "/2", "/1", "/2"]


def test_detectors_have_their_memory_when_the_first_request_of_a_loop_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline, notes = make_pipeline()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        notes.called(f"app, judging {pipeline._judging}")

    call_asgi(AsgiDoor(app, pipeline))
    assert "app, judging True" in notes.calls
    hung = threading.Event()
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    pipeline, notes = make_pipeline()
    monkeypatch.setattr(pipeline, "_each_judge", lambda step: hung.wait(10) and None)
    call_asgi(AsgiDoor(app, pipeline))
    assert "app, judging False" in notes.calls, "a folder that hangs holds up nobody"
    hung.set()


def test_the_exporter_is_there_before_the_first_span_ends() -> None:
    pipeline, notes = make_pipeline()
    hung = threading.Event()
    pipeline.watch.begin = lambda _seen: hung.wait(10) and None  # type: ignore[method-assign]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        notes.called("app")

    call_asgi(AsgiDoor(app, pipeline))
    assert notes.calls.index("traces.begin") < notes.calls.index("app")
    hung.set()


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
    pipeline.serve()  # a scrape, or a request behind the other door
    pipeline.serve()
    assert notes.stages == ["watch.begin"]
    hung.set()
