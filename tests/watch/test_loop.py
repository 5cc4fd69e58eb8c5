"""Who is blamed for a blocked loop, and when nobody is. The clock of the watching thread is a test's own."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import uvloop

from obskit import asgi
from obskit.context import _current
from obskit.detectors.event_loop_blocked import DETECTOR
from obskit.exchange import Exchange
from obskit.names import EVENT_LOOP_LAG, Metric
from obskit.watch import loop as watched
from obskit.watch.loop import BEAT_S, LoopWatch
from obskit.watch.processor import NOTHING, Used
from obskit.watch.vantage import Vantage, vantage
from tests.support.recording import SceneHere, make_pipeline

DEADLINE_S = 10.0


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := what()):
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.002)
    return found


class Held:
    """Synchronous code that has begun, and that a test lets go of."""

    def __init__(self) -> None:
        self.begun, self.gone = threading.Event(), threading.Event()

    def block(self) -> None:
        self.begun.set()
        self.gone.wait(DEADLINE_S)


class World:
    """A loop in a thread of its own, begun by a request in it, with a watch that ticks when a test says so."""

    def __init__(self, factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: Any) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(watched, "monotonic", lambda: self.now)
        self.used = NOTHING
        monkeypatch.setattr(
            watched, "Processor", lambda thread: SimpleNamespace(used=lambda: self.used, close=lambda: None)
        )
        self.pipeline, self.notes = make_pipeline(detectors=[(DETECTOR, None)])
        self.lags: list[float] = []
        self.watch = LoopWatch(
            SceneHere(config=self.pipeline.config, pipeline=self.pipeline, metrics=self)  # type: ignore[arg-type]
        )
        self.loop = factory()
        self.thread = threading.Thread(target=self._run, name="serves", daemon=True)
        self.thread.start()
        self.call(self._begin())

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            self.ended = asyncio.Event()
            runner.run(self.ended.wait())  # type: ignore[arg-type]

    async def _begin(self) -> None:
        self.watch.begin()

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        assert metric is EVENT_LOOP_LAG
        self.lags.append(value)

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE_S)

    def beaten(self) -> None:
        """Wait until the loop has come to a beat that was asked for at this time."""
        before = len(self.lags)
        until(lambda: len(self.lags) >= before + 2)

    def begin(self, work: Callable[[], Coroutine[Any, Any, Any]], exchange: Exchange | None = None) -> None:
        async def begun() -> None:
            if exchange is not None:
                _current.set(exchange)
            self.task = asyncio.get_running_loop().create_task(work())

        asyncio.run_coroutine_threadsafe(begun(), self.loop)

    def request(self, path: str = "/orders") -> Exchange:
        exchange = Exchange("http", "GET", path)
        exchange.pipeline = self.pipeline
        return exchange

    def tick(self, seconds: float = BEAT_S) -> None:
        self.now += seconds
        self.watch.tick()
        assert self.notes.stages == []

    def told(self) -> list[dict[str, Any]]:
        return [line[3] for line in self.notes.lines if line[3].get("finding") == "event_loop_blocked"]

    def end(self) -> None:
        self.watch.shutdown()
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(request.param, monkeypatch)
    yield made
    made.end()


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.gone.set()


def test_the_request_that_blocks_is_blamed_with_its_line_while_it_blocks(world: World, held: Held) -> None:
    async def view() -> None:
        held.block()

    exchange = world.request()
    world.begin(view, exchange)
    assert held.begun.wait(DEADLINE_S)
    for _ in range(3):  # 0.1 s until the beat is due, 0.2 s behind it
        world.tick()
    assert world.told() == []
    world.tick(0.06)  # 0.26 s: for the first time
    assert world.told() == []
    world.tick()  # and it is still there
    (line,) = world.told()
    assert line["where"].startswith("tests/watch/test_loop.py:")
    assert line["where"].endswith("Held.block")
    assert (line["doing"], line["runs_in"]) == ("in threading.Condition.wait", "thread serves")
    assert line["blocked_s"] == pytest.approx(0.36)
    assert line["url_path"] == "/orders"
    (finding,) = exchange.findings
    assert finding.finding == "event_loop_blocked"
    held.gone.set()


def test_it_is_told_again_each_time_it_has_doubled_and_anew_for_the_next_block(
    world: World, held: Held
) -> None:
    async def view() -> None:
        held.block()

    world.begin(view, world.request())
    assert held.begun.wait(DEADLINE_S)
    for _ in range(35):
        world.tick()
    told = [line["blocked_s"] for line in world.told()]
    assert told == pytest.approx([0.4, 0.9, 1.9], abs=0.11)
    held.gone.set()
    world.beaten()
    held.begun.clear()
    held.gone.clear()
    world.begin(view, world.request("/again"))
    assert held.begun.wait(DEADLINE_S)
    for _ in range(6):
        world.tick()
    assert world.told()[len(told)]["url_path"] == "/again"


def test_a_task_beside_a_request_is_blamed_on_that_request(world: World, held: Held) -> None:
    async def beside() -> None:
        held.block()

    async def view() -> None:
        await asyncio.gather(beside(), asyncio.sleep(0))

    world.begin(view, world.request("/parent"))
    assert held.begun.wait(DEADLINE_S)
    for _ in range(6):
        world.tick()
    assert [line["url_path"] for line in world.told()] == ["/parent"]
    held.gone.set()


def test_code_outside_all_requests_is_told_without_one(world: World, held: Held) -> None:
    world.loop.call_soon_threadsafe(held.block)
    assert held.begun.wait(DEADLINE_S)
    for _ in range(6):
        world.tick()
    (line,) = world.told()
    assert line["where"].endswith("Held.block")
    assert "url_path" not in line
    assert len(line["stack"]) <= 5, "without what has started the loop"
    held.gone.set()


def test_work_of_a_request_that_is_over_is_told_without_it(world: World, held: Held) -> None:
    async def later() -> None:
        held.block()

    exchange = world.request()
    exchange.closed = True
    world.begin(later, exchange)
    assert held.begun.wait(DEADLINE_S)
    for _ in range(6):
        world.tick()
    (line,) = world.told()
    assert "url_path" not in line
    held.gone.set()


def test_a_loop_that_waits_for_something_to_do_blocks_nobody(world: World) -> None:
    world.beaten()
    # The beat is overdue on our clock, as in a process that was stopped; the loop's thread shows nothing but waiting.
    for _ in range(20):
        world.tick()
    world.tick(3600)
    world.tick()
    assert world.told() == []


def test_time_in_which_the_watching_thread_stood_still_as_well_is_taken_off(world: World, held: Held) -> None:
    async def view() -> None:
        held.block()

    world.begin(view, world.request())
    assert held.begun.wait(DEADLINE_S)
    for _ in range(2):  # 0.1 s behind the beat, then a stopped process
        world.tick()
    world.tick(9)
    world.tick(0)  # 0.2 s
    world.tick()
    assert world.told() == []
    world.tick()
    (line,) = world.told()
    assert line["blocked_s"] == pytest.approx(0.4)
    held.gone.set()


def test_time_without_a_processor_is_taken_off(world: World, held: Held) -> None:
    async def view() -> None:
        held.block()

    world.used = Used(5.0, 9.0, True)
    world.watch.tick()
    world.begin(view, world.request())
    assert held.begun.wait(DEADLINE_S)
    for _ in range(20):  # it runs a fourth of the time, and waits for other processes in the rest
        world.used = Used(world.used.ran_s + 0.025, world.used.waited_s + 0.075, True)
        world.tick()
        assert not world.told() or world.now > 1_001
    line = world.told()[0]
    assert line["blocked_s"] == pytest.approx(0.25, abs=0.1)
    assert line["cpu_s"] == pytest.approx(line["blocked_s"], abs=0.1)
    held.gone.set()


def test_a_kernel_that_tells_no_more_takes_nothing_off(world: World, held: Held) -> None:
    async def view() -> None:
        held.block()

    world.used = Used(5.0, 9.0, True)
    world.watch.tick()
    world.begin(view, world.request())
    assert held.begun.wait(DEADLINE_S)
    world.tick()
    world.used = NOTHING
    for _ in range(2):
        world.tick()
    assert world.told() == []
    for _ in range(3):
        world.tick()
    assert "cpu_s" not in world.told()[0]
    held.gone.set()


def test_a_loop_that_is_merely_busy_is_not_blamed_on_any_one_of_its_calls(world: World) -> None:
    calls = [Held() for _ in range(8)]

    def all_in_one_round() -> None:
        for one in calls:
            world.loop.call_soon(one.block)

    world.loop.call_soon_threadsafe(all_in_one_round)
    for number, one in enumerate(calls):
        assert one.begun.wait(DEADLINE_S)
        gc.collect()
        world.tick()
        assert world.told() == [], number
        one.gone.set()
    world.beaten()
    assert max(world.lags) > 0.4, "the lag is there to be seen"


def test_the_lag_is_observed_at_every_beat(world: World) -> None:
    world.beaten()
    world.beaten()
    assert max(world.lags) < 1e-6, "our clock has not moved since"


def test_the_door_and_what_lies_outside_of_it_is_not_shown(world: World, held: Held) -> None:
    async def view() -> None:
        held.block()

    async def server() -> None:
        await known["door"](None)

    known: dict[str, Any] = {"view": view}
    exec(compile("async def door(exchange): await view()", asgi.__file__, "exec"), known)
    world.begin(server)
    assert held.begun.wait(DEADLINE_S)
    for _ in range(6):
        world.tick()
    (line,) = world.told()
    assert line["stack"][0].endswith(".view")
    held.gone.set()


def test_the_first_request_may_block_before_the_first_beat(
    monkeypatch: pytest.MonkeyPatch, held: Held
) -> None:
    world = World(uvloop.new_event_loop, monkeypatch)
    world.watch.shutdown()
    exchange = world.request("/first")

    async def first() -> None:
        world.watch.begin()
        held.block()

    world.begin(first, exchange)
    assert held.begun.wait(DEADLINE_S)
    for _ in range(6):
        world.tick()
    assert [line["url_path"] for line in world.told()] == ["/first"]
    held.gone.set()
    world.end()


def test_no_context_of_a_request_lives_on_in_the_beat(world: World) -> None:
    variable_of_the_app = Exchange()

    async def first() -> None:
        _current.set(variable_of_the_app)
        world.watch.shutdown()
        world.watch.begin()

    world.call(first())
    world.beaten()
    seen = weakref.ref(variable_of_the_app)
    first = variable_of_the_app = None  # type: ignore[assignment]
    until(lambda: (gc.collect(), seen() is None)[1])


def test_a_suspect_is_not_kept_alive(world: World) -> None:
    held, seen = Held(), []

    class Large:
        pass

    async def view() -> None:
        large = Large()
        seen.append(weakref.ref(large))
        held.block()

    world.begin(view)
    assert held.begun.wait(DEADLINE_S)
    for _ in range(4):
        world.tick()
    assert world.watch._suspect is not None
    held.gone.set()
    world.beaten()
    assert world.watch._suspect is None
    world.task = None  # type: ignore[assignment]
    until(lambda: (gc.collect(), seen[0]() is None)[1])


def test_a_loop_that_has_ended_is_let_go(world: World) -> None:
    world.loop.call_soon_threadsafe(world.ended.set)
    world.thread.join(DEADLINE_S)
    assert world.loop.is_closed()
    world.tick()
    assert world.watch._loop is None
    world.tick(10)
    assert world.told() == []


def test_no_beat_comes_after_the_end(world: World) -> None:
    world.beaten()
    world.watch.shutdown()
    world.call(asyncio.sleep(0))
    after = len(world.lags)
    world.call(asyncio.sleep(2.5 * BEAT_S))
    assert len(world.lags) == after


def test_a_failure_of_ours_is_counted_and_the_beat_goes_on(world: World, monkeypatch: Any) -> None:
    failing = [True]

    def observe(*_: Any) -> None:
        if failing:
            failing.pop()
            raise RuntimeError("of ours")
        world.lags.append(0)

    monkeypatch.setattr(world, "observe", observe)
    until(lambda: world.notes.stages)
    world.beaten()
    assert world.notes.stages == ["watch.loop"]
    monkeypatch.setattr(sys.modules["obskit.watch.loop"], "Look", lambda *_: 1 / 0)
    held = Held()
    world.loop.call_soon_threadsafe(held.block)
    assert held.begun.wait(DEADLINE_S)
    for _ in range(6):
        world.now += BEAT_S
        world.watch.tick()
    assert set(world.notes.stages) == {"watch.loop"}
    assert len(world.notes.stages) > 1
    held.gone.set()


@pytest.mark.parametrize(
    "runs", [lambda work: work(), lambda work: trio.run(_async(work))], ids=["wsgi", "trio"]
)
def test_without_a_loop_of_asyncio_there_is_nothing_to_watch(runs: Any) -> None:
    watch = LoopWatch(SceneHere())  # type: ignore[arg-type]
    runs(watch.begin)
    assert watch.every_s == 0
    watch.tick()
    watch.shutdown()


def test_a_loop_that_has_been_closed_by_now_is_not_watched() -> None:
    """A test client's: it is closed before the thread that begins has come to it."""

    async def first_request() -> Vantage:
        return vantage()

    seen = asyncio.run(first_request())
    assert seen.loop is not None
    assert seen.loop.is_closed()
    watch = LoopWatch(SimpleNamespace(vantage=seen))  # type: ignore[arg-type]
    watch.begin()
    assert watch.every_s == 0
    watch.tick()


def _async(work: Callable[[], None]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def call() -> None:
        work()

    return call
