"""The queue of ended spans: bounded, never in the way of who ends one, and exact about what became of each."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from obskit.signals import span_queue
from obskit.signals.collector import Hush, Saw, Teller
from obskit.signals.otlp_wire import Encoded
from obskit.signals.span_queue import Sizes, SpanQueue
from tests.signals.conftest import records_of, wait_until

SIZES = Sizes(capacity=8, batch=4, delay_s=60.0)


class Books:
    def __init__(self) -> None:
        self.exports: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.faults: list[tuple[str, str]] = []

    def export(self, outcome: str) -> None:
        self.exports[outcome] += 1

    def dropped(self, reason: str, spans: int) -> None:
        self.lost[reason] += spans

    def fault(self, stage: str, error: BaseException) -> None:
        self.faults.append((stage, type(error).__name__))


class Exporter(SpanExporter):
    """Keeps what it gets, once it is let."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.entered = threading.Event()
        self.got: list[str] = []
        self.batches: list[int] = []
        self.shut = 0
        self.saw = Saw()
        self.result = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.go_on.wait(30)
        self.batches.append(len(spans))
        self.got += [span.name for span in spans]
        return self.result

    def shutdown(self) -> None:
        self.shut += 1


class Made:
    def __init__(self, sizes: Sizes = SIZES, exporter: Any = None) -> None:
        self.books, self.exporter = Books(), exporter or Exporter()
        self.told: list[tuple[str, dict[str, Any]]] = []
        teller = Teller("c", lambda level, event, facts: self.told.append((event, facts)))
        self.queue = SpanQueue(self.exporter, self.books, teller, sizes)
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.queue)
        self.tracer = self.provider.get_tracer("test")
        self.ended = 0

    def end(self, count: int = 1) -> None:
        for _ in range(count):
            self.tracer.start_span(f"s{self.ended}").end()
            self.ended += 1


@pytest.fixture
def made() -> Any:
    every: list[Made] = []

    def make(*arguments: Any, **more: Any) -> Made:
        every.append(Made(*arguments, **more))
        return every[-1]

    yield make
    for one in every:
        getattr(one.exporter, "go_on", threading.Event()).set()
        one.queue.shutdown(5.0)


def test_a_whole_batch_leaves_at_once_and_a_part_of_one_when_asked_for(made: Callable[..., Made]) -> None:
    one = made()
    one.end(5)
    wait_until(lambda: one.exporter.batches)
    assert one.exporter.batches == [4]
    assert one.queue.force_flush(5000)
    assert one.exporter.got == ["s0", "s1", "s2", "s3", "s4"]
    assert (one.books.exports, one.books.lost) == ({"success": 2}, {})


def test_a_part_of_a_batch_leaves_when_its_time_has_come(made: Callable[..., Made]) -> None:
    one = made(Sizes(8, 4, 0.01))
    one.end()
    wait_until(lambda: one.exporter.got)


def test_the_oldest_spans_make_room_for_the_newest_and_are_counted_when_they_do(
    made: Callable[..., Made],
) -> None:
    one = made()
    one.exporter.go_on.clear()
    one.end(4)
    assert one.exporter.entered.wait(10)
    one.end(8)
    assert (one.queue.size, one.queue.capacity, one.books.lost) == (8, 8, {})
    one.end(3)
    assert (one.queue.size, one.books.lost) == (8, {"queue_full": 3})
    one.exporter.go_on.set()
    assert one.queue.force_flush(5000)
    assert one.exporter.got == [f"s{n}" for n in (*range(4), *range(7, 15))]
    assert [(event, facts["spans_lost"]) for event, facts in one.told] == [("telemetry.queue_full", 3)]


def test_many_threads_lose_nothing_uncounted(made: Callable[..., Made]) -> None:
    one = made(Sizes(64, 16, 0.001))
    threads = [
        threading.Thread(target=lambda: [one.tracer.start_span("s").end() for _ in range(500)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.queue.shutdown(10.0)
    assert len(one.exporter.got) + one.books.lost.total() == 8 * 500
    assert set(one.books.lost) <= {"queue_full"}


def test_spans_that_are_not_sampled_are_not_taken(made: Callable[..., Made]) -> None:
    one = made()
    quiet = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    quiet.add_span_processor(one.queue)
    quiet.get_tracer("t").start_span("s").end()
    assert one.queue.size == 0


def test_a_fault_of_ours_never_reaches_who_ends_a_span(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made()
    monkeypatch.setattr(one.queue, "_look", lambda: 1 / 0)
    one.end()
    assert one.books.faults == [("traces.queue", "ZeroDivisionError")]


def test_a_thread_that_cannot_be_started_costs_no_span_as_long_as_there_is_room(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made()

    class Unstartable(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", Unstartable)
        one.end()
    assert one.books.faults == [("traces.queue", "RuntimeError")]
    one.end()
    assert one.queue.force_flush(5000)
    assert one.exporter.got == ["s0", "s1"]


def test_a_span_that_ends_while_another_one_is_put_away_is_put_away_too(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made()

    def collecting() -> None:  # as a garbage collection may, in the middle of everything
        monkeypatch.undo()
        one.end()

    monkeypatch.setattr(one.queue, "_hurry", collecting)
    one.end(4)
    assert one.queue.size + len(one.exporter.got) == 5
    assert one.queue.force_flush(5000)
    assert sorted(one.exporter.got) == ["s0", "s1", "s2", "s3", "s3"]


def test_an_exporter_that_raises_is_a_failure_that_is_counted(made: Callable[..., Made]) -> None:
    class Raising(Exporter):
        def export(self, spans: Any) -> SpanExportResult:
            raise RuntimeError("secret")

    one = made(exporter=Raising())
    one.end(3)
    assert one.queue.force_flush(5000)
    assert (one.books.exports, one.books.lost) == ({"failure": 1}, {"export_failed": 3})
    assert "secret" not in str(one.told)


def test_a_fault_in_telling_or_counting_stops_no_export(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made()
    monkeypatch.setattr(one.books, "export", lambda outcome: 1 / 0)
    one.end(1)
    assert one.queue.force_flush(5000)
    one.end(1)
    assert one.queue.force_flush(5000)
    assert one.exporter.got == ["s0", "s1"]
    assert len(one.books.faults) == 2


def test_a_span_that_cannot_be_cleaned_of_secrets_is_lost_alone_and_counted(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    def clean(span: ReadableSpan) -> ReadableSpan:
        if span.name == "s1":
            raise ValueError("no")
        return span

    monkeypatch.setattr(span_queue, "scrubbed", clean)
    one = made()
    one.end(3)
    assert one.queue.force_flush(5000)
    assert (one.exporter.got, one.books.lost) == (["s0", "s2"], {"unprintable": 1})
    assert one.books.faults == [("traces.scrub", "ValueError")]
    monkeypatch.setattr(span_queue, "scrubbed", lambda span: 1 / 0)
    one.end(2)
    assert one.queue.force_flush(5000)
    assert (one.books.lost, one.exporter.batches) == ({"unprintable": 3}, [2])


def test_what_leaves_has_no_secret_in_it(made: Callable[..., Made]) -> None:
    class Keeping(Exporter):
        def export(self, spans: Any) -> SpanExportResult:
            self.spans = list(spans)
            return super().export(spans)

    one = made(exporter=Keeping())
    one.tracer.start_span(
        "s", attributes={"url.full": "http://c/?token=hunter2", "password": "hunter2"}
    ).end()
    assert one.queue.force_flush(5000)
    assert "hunter2" not in str(dict(one.exporter.spans[0].attributes))


class Encoding(Exporter):
    """Takes bytes, as the lean exporter does."""

    def encode(self, span: ReadableSpan) -> Encoded:
        if span.name == "odd":
            raise ValueError("no such id")
        return Encoded(span.resource, span.instrumentation_scope, span.name.encode())

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        self.batches.append(len(spans))
        self.got += [span.data.decode() for span in spans]
        return self.result


def test_spans_are_encoded_on_the_way_and_bytes_go_as_they_are(made: Callable[..., Made]) -> None:
    one = made(exporter=Encoding())
    one.end(1)
    one.queue.put(Encoded(Resource({}), None, b"bytes"))
    one.tracer.start_span("odd").end()
    one.end(1)
    assert one.queue.force_flush(5000)
    assert (one.exporter.got, one.books.lost) == (["s0", "bytes", "s1"], {"unprintable": 1})
    assert one.books.faults == [("traces.scrub", "ValueError")]


def test_what_is_too_large_for_one_request_leaves_in_several(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_queue, "MAX_REQUEST", 10)
    one = made(exporter=Encoding())
    for data in (b"123456", b"1234", b"x", b"y" * 30):
        one.queue.put(Encoded(Resource({}), None, data))
    wait_until(lambda: len(one.exporter.got) == 4)
    assert one.exporter.batches == [2, 1, 1]
    assert one.queue.force_flush(5000)
    assert (one.books.exports, one.books.lost) == ({"success": 3}, {})


def test_what_was_given_up_in_the_midst_of_a_batch_is_not_sent(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_queue, "MAX_REQUEST", 1)

    class GivingUp(Encoding):
        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            one.queue.give_up()
            return super().export(spans)

    one = made(exporter=GivingUp())
    for _ in range(3):
        one.queue.put(Encoded(Resource({}), None, b"x"))
    assert one.queue.force_flush(5000)
    assert (one.exporter.batches, one.books.lost, one.books.exports) == ([1], {"shutdown": 3}, {})


def test_a_queue_that_is_closed_keeps_nothing(made: Callable[..., Made]) -> None:
    one = made()
    one.queue.shutdown(5.0)
    one.queue.put(Encoded(Resource({}), None, b"x"))
    assert one.queue.size == 0


def test_exporting_is_not_instrumented(made: Callable[..., Made]) -> None:
    seen: list[Any] = []

    class Looking(Exporter):
        def export(self, spans: Any) -> SpanExportResult:
            seen.append(otel_context.get_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY))
            return super().export(spans)

    one = made(exporter=Looking())
    one.end()
    assert one.queue.force_flush(5000)
    assert seen == [True]


# ---- the end -------------------------------------------------------------------------------------------------------


def test_a_flush_waits_no_longer_than_it_was_told(made: Callable[..., Made]) -> None:
    one = made()
    one.exporter.go_on.clear()
    one.end()
    assert not one.queue.force_flush(50)
    one.exporter.go_on.set()
    assert one.queue.force_flush(5000)
    assert one.exporter.got == ["s0"]


def test_what_was_given_up_is_counted_once_whatever_becomes_of_it(made: Callable[..., Made]) -> None:
    one = made()
    one.exporter.go_on.clear()
    one.end(4)
    assert one.exporter.entered.wait(10)
    one.end(2)
    assert one.queue.give_up() == 6
    assert one.queue.give_up() == 0
    one.exporter.go_on.set()
    wait_until(lambda: one.exporter.batches)
    one.end(1)  # the process goes on after all, and so does this
    assert one.queue.force_flush(5000)
    assert (one.books.lost, one.books.exports) == ({"shutdown": 6}, {"success": 1})
    assert [(event, facts["spans_lost"]) for event, facts in one.told] == [("telemetry.spans_lost", 6)]


def test_shutdown_sends_what_waits_and_then_takes_nothing(made: Callable[..., Made]) -> None:
    one = made()
    one.end(3)
    one.queue.shutdown(5.0)
    one.end(1)
    one.queue.shutdown(5.0)
    assert (one.exporter.got, one.exporter.shut, one.books.lost) == (["s0", "s1", "s2"], 1, {})
    assert one.queue.force_flush(0)
    filters = [thing for name in Hush.LOGGERS for thing in logging.getLogger(name).filters]
    assert not any(isinstance(thing, Hush) for thing in filters)


def test_a_queue_that_was_never_used_can_be_shut_down(made: Callable[..., Made]) -> None:
    one = made()
    one.queue.shutdown(5.0)
    one.queue.begin()
    assert one.queue._thread is None


def test_a_forked_child_has_a_queue_of_its_own_and_no_thread_until_it_needs_one(
    made: Callable[..., Made],
) -> None:
    one = made()
    one.exporter.go_on.clear()
    one.end(4)
    assert one.exporter.entered.wait(10)
    one.end(2)
    with one.queue._lock:  # of a thread that is not there in the child
        child = os.fork()
        if not child:
            status = 1
            try:
                one.exporter.go_on = threading.Event()
                one.exporter.go_on.set()
                fresh = one.queue.size == 0 and one.queue._thread is None
                one.end()
                done = one.queue.force_flush(5000)
                status = 0 if fresh and done and one.exporter.got == ["s6"] else 2
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "sizes"),
    [
        ({}, Sizes(2048, 512, 5.0)),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, Sizes(100, 100, 5.0)),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "4096", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": " 8 ", "OTEL_BSP_SCHEDULE_DELAY": "250"},
         Sizes(4096, 8, 0.25)),
    ],
    ids=str,
)  # fmt: skip
def test_the_environment_says_how_much_waits_and_how_long(
    environ: dict[str, str], sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert Sizes.from_environ() == sizes


@pytest.mark.parametrize("value", ["0", "-1", "many", "1e3", "9" * 40, "٣"])
def test_a_setting_that_makes_no_sense_is_told_and_the_default_taken(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", value)
    with records_of("obskit") as records:
        assert Sizes.from_environ() == Sizes()
    (record,) = records
    assert (record.getMessage(), record.__dict__["variable"]) == (
        "telemetry.setting_ignored",
        "OTEL_BSP_MAX_QUEUE_SIZE",
    )
