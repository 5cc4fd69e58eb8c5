"""Records that have ended under load are shown together: each once, in order, soon, and only where nobody can tell."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from obskit import together as room
from obskit.exchange import Exchange
from obskit.pipeline import Pipeline
from obskit.together import BUSY, FEW, Together
from tests.signals.conftest import wait_until
from tests.support.recording import Broken, Notes, make_pipeline

FOR_EVER = 1 << 62
COUNTED = ["metrics.counted", "watch.counted"]
SHOWN = [*COUNTED, "logs.closed_together", "traces.close", "watch.close"]


def waiting(**options: Any) -> tuple[Pipeline, Notes]:
    """A pipeline under load: its thread has said that records may wait."""
    pipeline, notes = make_pipeline(**options)
    pipeline._together.until_ns = FOR_EVER
    return pipeline, notes


def serve(pipeline: Pipeline, path: str = "/", **facts: Any) -> Exchange:
    exchange = Exchange("http", "GET", path)
    pipeline.open(exchange, None)
    exchange.status, exchange.response_started, exchange.response_complete = 200, True, True
    for name, value in facts.items():
        setattr(exchange, name, value)
    pipeline.close(exchange)
    return exchange


def paths(notes: Notes) -> list[str]:
    """What the signals have seen, in the order in which they have seen it."""
    return [record.url_path for record in notes.records]


# ---- who waits -----------------------------------------------------------------------------------


def test_one_that_went_as_it_should_waits_and_is_shown_once() -> None:
    pipeline, notes = waiting()
    exchange = serve(pipeline)
    assert exchange.closed
    assert (paths(notes), exchange.request, exchange.span_id != "") == ([], None, True)
    assert notes.calls[-3:] == ["watch.rests", "traces.rests", "metrics.left"]
    pipeline.show()
    pipeline.show()
    assert notes.calls[-5:] == SHOWN
    assert paths(notes) == ["/"]


def test_so_many_are_shown_by_the_last_of_them_and_let_go_when_all_have_their_line() -> None:
    pipeline, notes = waiting()
    for number in range(FEW - 1):
        serve(pipeline, f"/{number}")
    assert paths(notes) == []
    notes.calls.clear()
    serve(pipeline, "/last")
    assert paths(notes) == [*(f"/{number}" for number in range(FEW - 1)), "/last"]
    shown = notes.calls[notes.calls.index("metrics.counted") :]
    assert shown == COUNTED * FEW + SHOWN[2:3] * FEW + SHOWN[3:4] * FEW + SHOWN[4:] * FEW
    assert not pipeline._together.waiting


@pytest.mark.parametrize(
    "facts",
    [
        {"status": 500},
        {"response_complete": False},
        {"disconnected": True},
        {"exception": ValueError("x"), "exception_handled": True},
        {"protocol": "websocket"},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_one_with_a_story_is_shown_at_once_behind_those_that_ended_before(facts: dict[str, Any]) -> None:
    pipeline, notes = waiting()
    serve(pipeline, "/before")
    serve(pipeline, "/story", **facts)
    assert paths(notes) == ["/before", "/story"]


@pytest.mark.parametrize("signal", ["watch", "traces"])
def test_one_that_does_not_rest_is_shown_at_once(signal: str) -> None:
    pipeline, notes = waiting()
    notes.restless.add(signal)
    serve(pipeline)
    assert paths(notes) == ["/"]
    assert "metrics.left" not in notes.calls


def test_one_that_is_kept_though_not_sampled_is_shown_at_once() -> None:
    pipeline, notes = waiting()
    pipeline._keeps = lambda exchange: "slow"
    serve(pipeline)
    assert paths(notes) == ["/"]


def test_without_load_each_is_shown_at_once() -> None:
    pipeline, notes = make_pipeline()
    serve(pipeline)
    assert paths(notes) == ["/"]
    assert "watch.rests" not in notes.calls


# ---- who makes them shown ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flush", "shutdown"])
def test_a_flush_and_the_end_show_what_waits_before_they_push_it_out(how: str) -> None:
    pipeline, notes = waiting()
    serve(pipeline)
    getattr(pipeline, how)(0)
    assert paths(notes) == ["/"]
    assert notes.calls.index("traces.close") < notes.calls.index(f"traces.{how}")


def test_who_says_goodbye_shows_what_waits() -> None:
    pipeline, notes = waiting()
    serve(pipeline)
    pipeline.goodbye()
    assert notes.calls.index("traces.close") < notes.calls.index("traces.goodbye")


def test_who_begins_to_look_on_has_what_waits_behind_him_and_sees_each_at_once() -> None:
    pipeline, notes = waiting()
    notes.may_wait = True
    serve(pipeline)

    class Looker:
        name = "looker"
        seen = 0

        def opened(self, exchange: Exchange) -> None:
            return

        def closed(self, exchange: Exchange) -> None:
            self.seen += 1

        def found(self, finding: Any) -> None:
            return

    looker = Looker()
    stop = pipeline.observe(looker)
    assert (paths(notes), looker.seen) == (["/"], 0)
    serve(pipeline)
    assert (len(paths(notes)), looker.seen) == (2, 1)
    assert not pipeline._may_wait()
    stop()
    assert pipeline._may_wait()


def test_after_the_end_nothing_waits() -> None:
    pipeline, notes = waiting()
    notes.may_wait = True
    pipeline.shutdown(0)
    for _ in range(3 * BUSY):
        serve(pipeline)
    assert len(paths(notes)) == 3 * BUSY
    assert pipeline._together._thread is None


def test_what_waits_in_a_forked_child_is_its_parents_to_show() -> None:
    pipeline, notes = waiting()
    serve(pipeline)
    pid = os.fork()
    if pid == 0:
        pipeline.show()
        os._exit(len(notes.records))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    pipeline.show()
    assert paths(notes) == ["/"]


# ---- the thread ----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "QUIET_ROUNDS", 2)


def test_a_thread_lets_records_wait_under_load_and_shows_what_has_waited_long_enough(quick: None) -> None:
    pipeline, notes = make_pipeline()
    notes.may_wait = True
    served = 0
    while not pipeline._together.waiting:
        serve(pipeline)
        served += 1
        assert served < 1_000_000
    assert wait_until(lambda: len(notes.records) == served), (
        "nobody comes any more, and it is shown all the same"
    )
    thread = pipeline._together._thread
    assert wait_until(lambda: pipeline._together._thread is None)
    serve(pipeline)
    assert len(notes.records) == served + 1, "the load is over: each at once"
    assert thread is None or wait_until(lambda: not thread.is_alive())


def test_where_none_may_wait_the_thread_lets_none(quick: None) -> None:
    pipeline, notes = make_pipeline()
    for served in range(1, 5 * BUSY):
        serve(pipeline)
        assert len(notes.records) == served
    assert wait_until(lambda: "logs.may_wait" in notes.calls)
    assert wait_until(lambda: pipeline._together._thread is None)


def test_now_and_then_a_request_wakes_no_thread() -> None:
    shown: list[Any] = []
    together = Together(shown.extend, lambda: True, lambda *_: None)
    for number in range(10 * BUSY):
        together.ended(number * room._WITHIN_NS // (BUSY - 1))
    assert together._thread is None
    for number in range(BUSY):
        together.ended(number)
    assert together._thread is not None
    together.end()


def test_a_thread_that_cannot_be_had_costs_nothing_but_the_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_self: Any) -> None:
        raise RuntimeError("can't start new thread")

    pipeline, notes = make_pipeline()
    notes.may_wait = True
    serve(pipeline)
    monkeypatch.setattr(threading.Thread, "start", start)
    notes.records.clear()
    for _ in range(3 * BUSY):
        serve(pipeline)
    assert (len(notes.records), notes.stages) == (3 * BUSY, [])


def test_a_thread_that_comes_late_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    # No load could keep a record longer than the lease: the next one shows it.
    pipeline, notes = waiting()
    serve(pipeline, "/waits")
    pipeline._together.until_ns = 1
    serve(pipeline, "/next")
    assert paths(notes) == ["/waits", "/next"]


def test_an_error_of_the_thread_is_counted_and_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    pipeline, notes = make_pipeline()
    may_wait = iter([Broken("once")])

    def asked() -> bool:
        for error in may_wait:
            raise error
        return True

    monkeypatch.setattr(pipeline._together, "_may_wait", asked)
    while not pipeline._together.waiting:
        serve(pipeline)
    assert notes.stages == ["close"]
    pipeline.shutdown(0)


# ---- nothing is lost, nothing twice --------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "stage"),
    [("logs.closed_together", "logs.close"), ("traces.close", "traces.close"), ("watch.close", "watch.close"),
     ("metrics.counted", "metrics.close"), ("watch.counted", "watch.close")],
)  # fmt: skip
def test_a_signal_that_fails_is_counted_for_each_and_keeps_nothing_from_the_others(
    broken: str, stage: str
) -> None:
    pipeline, notes = waiting()
    notes.broken.add(broken)
    for number in range(3):
        serve(pipeline, f"/{number}")
    pipeline.show()
    assert Counter(notes.stages) == {stage: 3}
    for call in SHOWN:
        assert notes.calls.count(call) == 3
    assert notes.written == ["/0", "/1", "/2"]


@pytest.mark.parametrize("broken", ["watch.rests", "traces.rests", "metrics.left"])
def test_one_that_cannot_be_made_to_wait_is_shown_at_once_and_once(broken: str) -> None:
    pipeline, notes = waiting()
    notes.broken.add(broken)
    serve(pipeline)
    pipeline.show()
    assert (paths(notes), notes.stages) == (["/"], ["close"])
    assert notes.calls.count("metrics.close") == 1
    assert notes.record.duration_s == notes.record.duration > 0


def test_a_thread_that_is_told_to_end_puts_back_what_it_has_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline, notes = waiting()
    for number in range(3):
        serve(pipeline, f"/{number}")
    counted = pipeline._metrics.counted

    def ended(exchange: Exchange) -> None:
        if exchange.url_path == "/1":
            raise SystemExit
        counted(exchange)

    monkeypatch.setattr(pipeline._metrics, "counted", ended)
    with pytest.raises(SystemExit):
        pipeline.show()
    monkeypatch.undo()
    assert notes.calls.count("watch.close") == 1, "what is counted is not counted again"
    assert notes.lost == [("logs", "shutdown")], "and its line is a loss that is counted"
    pipeline.show()
    assert notes.calls.count("metrics.counted") == 3
    assert notes.calls.count("watch.close") == 3
    assert notes.written == ["/1", "/2"]


def test_lines_that_were_written_when_a_thread_is_told_to_end_are_no_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline, notes = waiting()
    for number in range(5):
        serve(pipeline, f"/{number}")

    def ended(exchanges: Iterator[Exchange]) -> None:
        notes.written += [next(exchanges).url_path, next(exchanges).url_path]
        raise SystemExit

    monkeypatch.setattr(pipeline.logs, "closed_together", ended)
    with pytest.raises(SystemExit):
        pipeline.show()
    assert notes.calls.count("metrics.counted") == notes.calls.count("watch.close") == 5
    assert (notes.written, notes.lost) == (["/0", "/1"], [("logs", "shutdown")] * 3)
    assert not pipeline._together.waiting


def test_threads_that_end_requests_at_once_show_each_once(quick: None) -> None:
    pipeline, notes = make_pipeline()
    notes.may_wait = True
    each, threads = 2000, 8

    def work(name: int) -> None:
        for number in range(each):
            serve(pipeline, f"/{name}/{number}")

    workers = [threading.Thread(target=work, args=(name,)) for name in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    pipeline.shutdown(0)
    assert wait_until(lambda: len(notes.records) >= each * threads)
    assert Counter(paths(notes)) == {
        f"/{name}/{number}": 1 for name in range(threads) for number in range(each)
    }
    assert "metrics.left" in notes.calls
    assert notes.stages == []


def test_what_cannot_be_shown_again_and_again_takes_no_more_than_its_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline, notes = waiting()

    def settle(_exchange: Exchange) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "settle", settle)
        for _ in range(room.MOST + 3 * FEW):
            serve(pipeline)
    assert room.MOST <= len(pipeline._together.waiting) <= room.MOST + FEW
    assert set(notes.stages) == {"close"}
    pipeline.show()
    assert room.MOST <= len(notes.records) <= room.MOST + FEW
