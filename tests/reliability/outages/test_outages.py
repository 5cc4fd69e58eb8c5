"""The short form: one batch after another meets each bad habit of a collector, and no span is unaccounted for."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from obskit.signals.collector import DO, Teller
from obskit.signals.otlp_http import HttpExporter
from obskit.signals.otlp_lean import LeanExporter
from obskit.signals.span_queue import Sizes, SpanQueue

from .collector import ANSWERS, BELOW, MODES, REJECTED, TAKES_ALL, Collector
from .run import HABITS, QUEUED, Trial, report

BATCH = 8
TIMEOUT_S = 0.6
SIZES = Sizes(capacity=32, batch=BATCH, delay_s=0.02)
PATIENT = Sizes(capacity=32, batch=BATCH, delay_s=60.0)
"""Only a whole batch leaves by itself."""


class Books:
    """What a queue counts."""

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


class Line:
    """A queue before a collector, and what it counted and told."""

    def __init__(self, exporter: type, endpoint: str, sizes: Sizes = SIZES) -> None:
        self.books = Books()
        self.told: list[tuple[str, dict[str, Any]]] = []
        teller = Teller("c", lambda level, event, facts: self.told.append((event, facts)))
        self.queue = SpanQueue(exporter(f"{endpoint}/v1/traces"), self.books, teller, sizes)
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(self.queue)
        self._tracer = self._provider.get_tracer("outages")
        self.produced = 0

    def produce(self, spans: int) -> None:
        for number in range(spans):
            self._tracer.start_span(f"s{number}").end()
        self.produced += spans

    def reasons(self) -> set[Any]:
        return {facts.get("reason") for _, facts in self.told}


@pytest.fixture(params=[LeanExporter, HttpExporter], ids=["lean", "official"])
def line(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Line]]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", str(TIMEOUT_S))
    made: list[Line] = []

    def make(*arguments: Any) -> Line:
        made.append(Line(request.param, *arguments))
        return made[-1]

    yield make
    for one in made:
        one.queue.shutdown(0.0)


WHY = {
    "400": "http_error", "401": "http_error", "404": "http_error", "500": "http_error", "503": "http_error",
    "429": "throttled", "503-later": "throttled", "html": "not_otlp", "redirect": "not_otlp", "garbage": "not_otlp",
    "endless": "not_otlp", "partial": "rejected", "partial-json": "rejected", "warning": "warned",
    "refused": "refused", "hang": "timeout", "deaf": "timeout", "drip": "timeout", "reset": "reset",
    "early-reset": "reset", "noise": "reset",
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_every_span_that_meets_a_bad_collector_is_taken_or_counted_and_the_next_ones_flow_again(
    mode: str, line: Callable[..., Line]
) -> None:
    with Collector(mode) as collector:
        one = line(collector.url, PATIENT)
        one.produce(BATCH)
        assert one.queue.force_flush(10_000)
        taken = BATCH - REJECTED if mode.startswith("partial") else BATCH if mode in TAKES_ALL else 0
        assert collector.taken == taken
        reason = {"not_otlp": "not_otlp", "rejected": "rejected"}.get(WHY.get(mode, ""), "export_failed")
        assert one.books.lost == ({reason: BATCH - taken} if taken < BATCH else {})
        assert one.books.exports == ({"success": 1} if taken else {"failure": 1})
        assert one.reasons() == ({WHY[mode]} if mode in WHY else set())
        collector.mode = "ok"
        one.produce(BATCH)
        assert one.queue.force_flush(10_000)
        assert collector.taken == taken + BATCH
        assert one.produced == collector.taken + one.books.lost.total()
        assert one.books.faults == []


def test_an_outage_longer_than_the_queue_loses_the_oldest_spans_counted_by_reason(
    line: Callable[..., Line],
) -> None:
    with Collector("hang") as collector:
        one = line(collector.url)
        one.produce(BATCH)
        collector.wait_for("hang")
        one.produce(SIZES.capacity + 5)
        assert one.books.lost["queue_full"] == 5
        collector.mode = "ok"
        assert one.queue.force_flush(10_000)
        assert one.produced == collector.taken + one.books.lost.total()
        assert set(one.books.lost) <= {"queue_full", "export_failed"}
        full = [facts for event, facts in one.told if event == "telemetry.queue_full"]
        assert [(facts["spans_lost"], facts["queue_capacity"]) for facts in full] == [(5, SIZES.capacity)]


def test_spans_flow_again_by_themselves_after_an_outage(line: Callable[..., Line]) -> None:
    with Collector("refused") as collector:
        one = line(collector.url)
        one.produce(BATCH)
        deadline = time.monotonic() + 10
        while not one.books.lost and time.monotonic() < deadline:
            time.sleep(0.01)
        collector.mode = "ok"
        one.produce(BATCH)
        collector.wait_for("ok")
        assert one.queue.force_flush(10_000)
        assert (collector.taken, one.books.lost) == (BATCH, {"export_failed": BATCH})
        assert [event for event, _ in one.told] == ["telemetry.export_failed", "telemetry.export_recovered"]
        assert one.told[1][1]["spans_lost"] == 0  # told before


def test_a_collector_that_asks_for_time_gets_it(line: Callable[..., Line]) -> None:
    with Collector("503-later") as collector:
        one = line(collector.url)
        one.produce(BATCH)
        collector.wait_for("503-later")
        deadline = time.monotonic() + 10
        while not one.books.lost and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(10):
            one.produce(BATCH)
            time.sleep(SIZES.delay_s)
        assert collector.seen["503-later"] == 1
        one.queue.shutdown(5.0)  # which does not wait that long
        assert one.produced == collector.taken + one.books.lost.total()


@pytest.mark.parametrize("mode", ["refused", "hang", "drip", "503"])
def test_shutdown_keeps_its_bound_and_counts_and_tells_what_it_leaves(
    mode: str, line: Callable[..., Line]
) -> None:
    with Collector(mode) as collector:
        one = line(collector.url, Sizes(capacity=64, batch=BATCH, delay_s=60.0))
        one.produce(BATCH - 1)
        began = time.monotonic()
        one.queue.shutdown(0.3)
        assert time.monotonic() - began < 1.0
        time.sleep(TIMEOUT_S)  # what still hangs comes to its end, and is not counted again
        assert one.books.lost.total() == BATCH - 1
        assert collector.taken == 0
        told = [facts for event, facts in one.told if event == "telemetry.spans_lost"]
        assert [facts["spans_lost"] for facts in told] == [BATCH - 1] * (one.books.lost["shutdown"] > 0)
        assert len(one.told) == 1


def test_no_name_that_does_not_resolve_is_looked_up_before_the_first_export(
    line: Callable[..., Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    asked: list[Any] = []

    def lookup(host: Any, *arguments: Any, **more: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    one = line("http://collector.invalid:4318")
    one.queue.begin()
    assert asked == []
    one.produce(1)
    assert one.queue.force_flush(10_000)
    assert asked
    assert (one.reasons(), one.books.lost) == ({"dns"}, {"export_failed": 1})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate nobody vouches for, with its key."""
    path: Path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


@pytest.mark.parametrize("mode", ["noise", "certificate"])
def test_a_tls_connection_that_fails_says_that_it_was_that(
    mode: str, certificate: Path, line: Callable[..., Line]
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with Collector("noise") if mode == "noise" else Collector("ok", tls) as collector:
        one = line(collector.url.replace("http:", "https:"))
        one.produce(2)
        assert one.queue.force_flush(10_000)
        assert one.reasons() == {"tls"}
        assert (collector.taken, one.books.lost) == (0, {"export_failed": 2})


def test_each_kind_of_trouble_has_a_word_of_advice() -> None:
    assert set(WHY.values()) <= set(DO)
    assert set(WHY) == set(ANSWERS) - {"ok", "slow", "empty", "json"} | set(BELOW)
    assert set(HABITS) <= set(MODES)


TRIAL = Trial(
    name="http", kind="uvicorn", seconds=60.0, produced=100, taken=90, dropped={"export_failed": 10}, failed=0,
    troubled=[0.001], healthy=[0.001], before=(0.001, 0.001), rss_growth=0, rss_late=0, rss_well=(0, 0),
    recovered_s=1.0, said=Counter({("telemetry.export_failed", "refused"): 2}), other_lines=0, stopped_s=2.2,
    stopped_well_s=0.2, lost_at_stop=QUEUED, healthy_exact=True, by_mode={},
)  # fmt: skip


def test_a_run_in_which_all_is_well_has_no_problem_and_a_row_for_each_claim() -> None:
    assert TRIAL.problems() == []
    assert len(report([TRIAL])) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"taken": 89}, {"taken": 91}, {"failed": 1}, {"rss_growth": 33 << 20}, {"rss_late": 4 << 20},
        {"recovered_s": None},
        {"said": Counter({("telemetry.export_failed", "refused"): 3})}, {"other_lines": 1}, {"stopped_s": 3.0},
        {"lost_at_stop": QUEUED - 1}, {"healthy_exact": False},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_in_which_something_is_not_says_so(change: dict[str, Any]) -> None:
    (problem,) = replace(TRIAL, **change).problems()
    assert problem.startswith("http, uvicorn: ")
