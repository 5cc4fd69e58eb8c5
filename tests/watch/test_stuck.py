"""When a request counts as stuck, and how often it is told of. Where it is: test_stacks.py."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from obskit import names
from obskit.detectors.request_stuck import DETECTOR
from obskit.exchange import Exchange
from obskit.names import Metric
from obskit.watch import stuck
from obskit.watch.stuck import StuckWatch
from obskit.watch.vantage import vantage
from obskit.wsgi_input import Input
from tests.support.recording import make_pipeline

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 1_000 * SECOND

    def __call__(self) -> int:
        return self.now


class World:
    """One install whose clock and requests a test sets."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        self.clock = clock
        self.pipeline, self.notes = make_pipeline(detectors=[(DETECTOR, None)], **options)
        self.in_flight: list[Exchange] = []
        self.gauges: dict[str, float] = {}
        self.watch = StuckWatch(self._scene())
        self.watch.begin()

    def _scene(self) -> Any:
        return SimpleNamespace(
            config=self.pipeline.config,
            pipeline=self.pipeline,
            metrics=self,
            flight=SimpleNamespace(in_flight=self.in_flight),
            vantage=vantage(),
        )

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        self.gauges[metric.name] = value

    def open(self, path: str = "/orders", protocol: str = "http", method: str = "GET") -> Exchange:
        exchange = Exchange(protocol, method, path)
        exchange.pipeline = self.pipeline
        exchange.started_ns = self.clock.now
        self.in_flight.append(exchange)
        return exchange

    def after(self, seconds: float) -> list[dict[str, Any]]:
        """What is told once so many seconds have passed."""
        before = len(self.notes.lines)
        end = self.clock.now + round(seconds * SECOND)
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + round(self.watch.every_s * SECOND))
            self.watch.tick()
        assert self.notes.stages == []
        return [line[3] for line in self.notes.lines[before:]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stuck, "perf_counter_ns", made)
    return made


@pytest.fixture
def world(clock: Clock) -> World:
    return World(clock)


def test_it_is_told_at_its_threshold_and_each_time_the_wait_has_doubled(world: World) -> None:
    world.open()
    told = [(second, line["waited_s"]) for second in range(1, 100) for line in world.after(1)]
    assert told == [(10, 10), (20, 20), (40, 40), (80, 80)]
    (finding,) = world.in_flight[0].findings
    assert (finding.times, finding.told) == (4, True)


def test_what_is_told(world: World) -> None:
    exchange = world.open("/orders/7", method="POST")
    exchange.thread_id = threading.get_ident()
    world.pipeline.route_for = lambda method, path: "/orders/{id}"
    world.after(3)
    (line,) = world.after(9)
    assert {name: line[name] for name in ("finding", "http_request_method", "http_route", "url_path")} == {
        "finding": "request_stuck",
        "http_request_method": "POST",
        "http_route": "/orders/{id}",
        "url_path": "/orders/7",
    }
    assert (line["waited_s"], line["age_s"], line["phase"]) == (10, 10, "open")
    assert set(line) >= {"where", "doing", "runs_in", "stack"}


def test_a_request_that_moves_is_not_stuck_and_is_again_when_it_stops(world: World) -> None:
    exchange = world.open()
    exchange.response_started = True
    for _ in range(50):
        exchange.response_bytes += 1
        assert world.after(5) == []
    assert world.after(5) == []
    (line,) = world.after(1)
    assert (line["waited_s"], line["age_s"], line["phase"]) == (10, 256, "answering")


def test_an_upload_that_arrives_is_progress(world: World) -> None:
    exchange = world.open()
    for _ in range(10):
        exchange.request_bytes += 1000
        assert world.after(9) == []


class Slow:
    """The body of a client that a test lets wait."""

    def __init__(self) -> None:
        self.asked, self.there = threading.Event(), threading.Event()

    def read(self, size: int) -> bytes:
        self.asked.set()
        self.there.wait(10)
        return b"x" * size


def test_a_long_read_of_an_upload_may_make_progress_that_nobody_sees(world: World) -> None:
    exchange, body = world.open(method="POST"), Slow()
    other = world.open()

    def reads() -> None:
        exchange.thread_id = threading.get_ident()
        Input(body, exchange).read(100)

    thread = threading.Thread(target=reads)
    thread.start()
    assert body.asked.wait(10)
    assert [line["url_path"] for line in world.after(12)] == [other.url_path]
    body.there.set()
    thread.join(10)
    told = [line for line in world.after(12) if line["http_request_method"] == "POST"]
    assert [line["waited_s"] for line in told] == [10], "since the bytes came"


def test_what_waits_by_nature_is_not_stuck_and_not_old(world: World) -> None:
    world.open(protocol="websocket")
    events = world.open()
    events.response_started = True
    events.response_headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    behind = world.open()  # a background task
    behind.response_started = behind.response_complete = True
    for _ in range(10):
        assert world.after(100) == []
    assert world.gauges == {names.OLDEST_REQUEST_AGE.name: 0}


def test_events_that_never_begin_are_stuck(world: World) -> None:
    world.open().response_headers = [(b"content-type", b"text/event-stream")]
    assert world.after(10)


def test_a_stream_of_something_else_that_has_stopped_is_stuck(world: World) -> None:
    exchange = world.open()
    exchange.response_started, exchange.response_headers = True, [("Content-Type", "text/csv")]
    assert world.after(5) == []
    assert world.after(10)


def test_a_view_knows_better(world: World) -> None:
    world.open().may_take(60)
    world.open().may_take(2)
    assert [line["waited_s"] for second in range(70) for line in world.after(1)] == [2, 4, 8, 16, 32, 60, 64]


def test_the_threshold_is_an_option(clock: Clock) -> None:
    world = World(clock, stuck_request_s=0.4)
    assert world.watch.every_s == pytest.approx(0.1), "looked at often enough for it"
    world.open()
    assert world.after(0.3) == []
    assert world.after(0.1)


def test_the_oldest_age_is_that_of_the_oldest_and_goes_back(world: World) -> None:
    oldest = world.open()
    world.after(3)
    world.open()
    world.after(2)
    assert world.gauges[names.OLDEST_REQUEST_AGE.name] == 5
    world.in_flight.remove(oldest)
    world.after(1)
    assert world.gauges[names.OLDEST_REQUEST_AGE.name] == 3
    world.in_flight.clear()
    world.after(1)
    assert world.gauges[names.OLDEST_REQUEST_AGE.name] == 0


def test_a_request_that_is_gone_is_forgotten(world: World) -> None:
    for _ in range(5):
        world.open()
    world.after(1)
    assert len(world.watch._known) == 5
    world.in_flight.clear()
    world.after(1)
    assert world.watch._known == {}


def test_a_process_that_was_stopped_makes_no_request_stuck(world: World) -> None:
    world.open()
    assert world.after(4) == []
    world.clock.now += 3600 * SECOND
    assert world.after(5) == [], "10 s of its own time are not over: the hour is none of it"
    (line,) = world.after(1)
    assert line["waited_s"] == 10


def test_one_that_closes_while_it_is_looked_at_is_not_told(world: World) -> None:
    world.open().closed = True
    assert world.after(100) == []


def test_many_at_once_are_told_over_several_looks_the_oldest_first(world: World) -> None:
    for number in range(250):
        world.open(f"/{number}")
        world.clock.now += 1
    world.in_flight.reverse()
    told = [[line["url_path"] for line in world.after(1)] for _ in range(13)]
    assert [len(one) for one in told] == [0] * 9 + [100, 100, 50, 0]
    assert [path for one in told for path in one] == [f"/{number}" for number in range(250)]


def test_a_failure_of_ours_is_counted_and_goes_no_further(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.open()
    monkeypatch.setattr(stuck.Look, "stack", lambda *_: 1 / 0)
    world.clock.now += 100 * SECOND
    world.watch.tick()
    assert world.notes.stages == ["watch.stuck"]


def test_nothing_is_kept_after_the_end(world: World) -> None:
    world.open()
    world.after(1)
    world.watch.shutdown()
    assert world.watch._known == {}
