"""One request, one observation in each histogram of its labels; what is lost is counted."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from obskit import names
from obskit.exchange import Exchange, Outcome
from obskit.names import HTTP_METHODS, OTHER_METHOD, Metric
from obskit.signals import cells, process
from obskit.signals import metrics as metrics_module
from obskit.signals.metrics import Metrics
from obskit.version import __version__
from tests.signals.conftest import House
from tests.support.exposition import labels
from tests.support.racing import THREADS, in_threads

Make = Callable[..., House]
DURATION = "http_server_request_duration_seconds"


def of(
    method: str = "GET", route: str = "/orders/{id}", status: object = 200, error: str = ""
) -> dict[str, Any]:
    return {
        "http_request_method": method, "http_route": route, "http_response_status_code": status, "error_type": error,
    }  # fmt: skip


def test_a_request_is_one_observation_of_its_duration(house: Make) -> None:
    made = house()
    made.serve(seconds=0.25)
    made.serve(seconds=0.5)
    found = made.samples()
    assert found[DURATION + "_count"] == {labels(**of()): 2}
    assert found[DURATION + "_sum"][labels(**of())] == pytest.approx(0.75)
    assert found[DURATION + "_bucket"][labels(**of(), le="0.25")] == 1


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"status": 404, "route": None}, of(route="unmatched", status=404)),
        ({"status": 503}, of(status=503, error="503")),
        ({"status": None, "raised": KeyError("x")}, of(status=500, error="500")),
        (
            {"status": 200, "outcome": Outcome.RAISED_AFTER_HEADERS, "raised": KeyError("x")},
            of(error="KeyError"),
        ),
        ({"status": None, "disconnected": True}, of(status="")),
        ({"method": OTHER_METHOD}, of(method="_OTHER")),
    ],
    ids=["unmatched", "server error", "raised", "cut off", "no status", "method"],
)
def test_the_labels_say_what_the_record_says(
    how: dict[str, Any], expected: dict[str, Any], house: Make
) -> None:
    made = house()
    made.serve(**how)
    assert made.samples()[DURATION + "_count"] == {labels(**expected): 1}


def test_sizes_and_the_first_byte_are_observed_by_method_and_route(house: Make) -> None:
    made = house()
    with made.request("POST", request_bytes=100, response_bytes=2000) as exchange:
        exchange.first_byte_ns = exchange.started_ns + 20_000_000
    by = labels(http_request_method="POST", http_route="/orders/{id}")
    found = made.samples()
    assert found["http_server_request_body_size_bytes_sum"][by] == 100
    assert found["http_server_response_body_size_bytes_sum"][by] == 2000
    assert found["http_server_time_to_first_byte_seconds_sum"][by] == pytest.approx(0.02)


def test_a_response_without_a_body_has_no_time_to_first_byte(house: Make) -> None:
    made = house()
    made.serve(status=204)
    by = labels(http_request_method="GET", http_route="/orders/{id}")
    assert made.samples()["http_server_time_to_first_byte_seconds_count"].get(by, 0) == 0


def test_a_request_in_flight_is_seen_in_flight(house: Make) -> None:
    made = house()
    with made.request("PUT"), made.request("PUT"), made.request(OTHER_METHOD):
        assert made.value("http_server_active_requests", http_request_method="PUT") == 2
        assert made.value("http_server_active_requests", http_request_method="_OTHER") == 1
    assert set(made.samples()["http_server_active_requests"].values()) == {0}


def test_every_method_is_known_before_its_first_request(house: Make) -> None:
    found = house().samples()
    assert found["http_server_active_requests"] == {
        labels(http_request_method=method): 0 for method in (*HTTP_METHODS, OTHER_METHOD)
    }
    assert found["obskit_telemetry_exports_total"] == {
        labels(signal="traces", outcome="success"): 0, labels(signal="traces", outcome="failure"): 0
    }  # fmt: skip


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_counted_by_its_name(outcome: Outcome, house: Make) -> None:
    made = house()
    made.serve(outcome=outcome)
    made.serve(outcome=outcome)
    assert (
        made.value("obskit_http_server_outcomes_total", http_route="/orders/{id}", outcome=str(outcome)) == 2
    )


def test_a_websocket_is_counted_by_outcome_alone(house: Make) -> None:
    made = house()
    with made.request(protocol="websocket", status=101):
        assert made.value("http_server_active_requests", http_request_method="GET") == 0
    found = made.samples()
    assert found["obskit_http_server_outcomes_total"] == {
        labels(http_route="/orders/{id}", outcome="completed"): 1
    }
    assert DURATION + "_count" not in found
    assert made.value("http_server_active_requests", http_request_method="GET") == 0


@pytest.mark.parametrize(("handled", "status"), [(True, 418), (False, None)])
def test_an_exception_is_counted_by_class_and_whether_it_was_handled(
    handled: bool, status: int | None, house: Make
) -> None:
    made = house()
    made.serve(status=status, raised=KeyError("x"), handled=handled)
    assert made.samples()["obskit_exceptions_total"] == {
        labels(http_route="/orders/{id}", exception_type="KeyError", handled=str(handled).lower()): 1
    }


def test_a_cancellation_is_no_exception_of_the_application(house: Make) -> None:
    made = house()
    made.serve(status=None, raised=SystemExit())
    assert "obskit_exceptions_total" not in made.samples()


def test_the_duration_carries_the_trace_as_exemplar_under_openmetrics(house: Make) -> None:
    made = house()
    exchange = made.serve(seconds=0.25)
    text = made.scrape("application/openmetrics-text; version=1.0.0").body.decode()
    (exemplar,) = [
        sample.exemplar for family in parse_openmetrics(text) for sample in family.samples if sample.exemplar
    ]
    assert exemplar.labels == {"trace_id": exchange.trace_id}
    assert exemplar.value == pytest.approx(0.25)
    assert float(exemplar.timestamp) == pytest.approx(exchange.started_unix_ns / 1e9 + 0.25, abs=0.01)


def test_app_info_says_what_runs(house: Make) -> None:
    made = house(service="shop", service_version="1.2", environment="test")
    assert made.samples()["obskit_app_info"] == {
        labels(
            service_name="shop", service_version="1.2", deployment_environment="test", framework="none",
            obskit_version=__version__, python_version=platform.python_version(),
        ): 1
    }  # fmt: skip


def test_past_the_limit_every_request_is_still_counted(house: Make) -> None:
    made = house(max_series=10)
    for n in range(40):
        made.serve(route=f"/made/up/{n}", status=200 + n % 2)
    found = made.samples()
    assert sum(found[DURATION + "_count"].values()) == 40
    assert sum(found["http_server_request_body_size_bytes_count"].values()) == 40
    assert sum(found["obskit_http_server_outcomes_total"].values()) == 40
    assert found[DURATION + "_count"][labels(**of(route="other", status=201))] == 15
    assert found["obskit_metric_series"][labels(metric=DURATION)] <= 12


def test_exception_classes_made_up_at_run_time_do_not_grow_without_end(house: Make) -> None:
    made = house(max_series=10)
    for n in range(40):
        made.serve(status=None, raised=type(f"Error{n}", (Exception,), {})())
    assert len(made.samples()["obskit_exceptions_total"]) <= 12


def test_losses_and_errors_of_our_own_are_counted_by_reason_and_stage() -> None:
    metrics = Metrics(10)
    metrics.dropped("traces", "export_failed", 3)
    metrics.dropped("logs", "write_failed")
    metrics.internal_error("traces.close")
    metrics.export("traces", "success")
    counted = {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.store.collect() for sample in family.samples
    }  # fmt: skip
    assert counted["obskit_telemetry_dropped_total", "traces", "export_failed"] == 3
    assert counted["obskit_telemetry_dropped_total", "logs", "write_failed"] == 1
    assert counted["obskit_internal_errors_total", "traces.close"] == 1
    assert counted["obskit_telemetry_exports_total", "traces", "success"] == 1


def test_two_installs_count_apart(house: Make) -> None:
    first, second = house(service="one"), house(service="two")
    first.serve()
    assert first.samples()[DURATION + "_count"] == {labels(**of()): 1}
    assert DURATION + "_count" not in second.samples()


def test_after_shutdown_a_scrape_shows_nothing_of_the_install() -> None:
    metrics = Metrics(10)
    metrics.begin()
    metrics.flush(0.0)
    assert list(metrics.registry.collect())
    metrics.shutdown(0.0)
    assert list(metrics.registry.collect()) == []


def test_an_exchange_that_never_closed_is_in_flight_and_nothing_else() -> None:
    metrics = Metrics(10)
    metrics.opened(Exchange("http", "GET", "/"))
    metrics.opened(Exchange("websocket", "GET", "/"))
    assert metrics._active_cells["GET"].value == 1


def test_every_way_a_worker_can_end_is_known_before_the_first(house: Make) -> None:
    assert house().samples()["obskit_worker_exits_total"] == {
        labels(reason=reason): 0 for reason in ("exited", "timeout", "oom", "died", "unknown")
    }


@pytest.mark.parametrize(
    "metric",
    [names.REQUEST_CAPACITY, names.LISTEN_BACKLOG, names.LISTEN_BACKLOG_LIMIT, names.OLDEST_REQUEST_AGE,
     names.THREADPOOL_THREADS, names.THREADPOOL_THREADS_MAX, names.THREADPOOL_QUEUE],
    ids=lambda metric: metric.name,
)  # fmt: skip
def test_a_gauge_nobody_knows_is_absent_and_not_zero(metric: Metric) -> None:
    metrics = Metrics(10)
    assert metrics.store.look()[metric.name] == {}
    metrics.set(metric, 0)
    assert metrics.store.look()[metric.name][()].numbers == [0]
    metrics.forget(metric)
    assert metrics.store.look()[metric.name] == {}


def test_histograms_of_the_watch_are_there_before_the_first_observation() -> None:
    page = Metrics(10).store.look()
    for metric in (names.QUEUE_DURATION, names.EVENT_LOOP_LAG, names.GC_PAUSE):
        assert set(page[metric.name][()].numbers) == {0}


def test_alone_there_is_one_worker_and_its_number_is_0(house: Make) -> None:
    found = house().samples()
    assert found["obskit_workers"] == {labels(): 1}
    assert found["process_resident_memory_bytes"].keys() == {labels(worker="0")}
    assert found["python_gc_collections_total"].keys() == {
        labels(generation=str(generation), worker="0") for generation in range(3)
    }


def test_a_finding_told_while_its_request_ran_is_not_counted_again_at_its_end(house: Make) -> None:
    made = house()
    with made.request() as exchange:
        made.pipeline.tell("request_stuck", exchange, {"age_s": 30})
        exchange.http_route = "/orders/{id}"
    assert sum(made.samples()["obskit_findings_total"].values()) == 1


def test_an_answer_whose_worker_died_is_counted_with_an_outcome_nobody_knows() -> None:
    metrics = Metrics(10)
    for status in (200, 503, 0):
        metrics.count_answer("GET", "/orders", status, 0.25)
    page = metrics.store.look()
    assert page["obskit_http_server_outcomes_total"]["/orders", "unknown"].numbers == [3]
    assert page[DURATION].keys() == {
        ("GET", "/orders", "200", ""), ("GET", "/orders", "503", "503"), ("GET", "/orders", "", "")
    }  # fmt: skip


def test_what_takes_long_to_ask_of_the_process_is_asked_seldom_but_for_a_scrape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics, clock = Metrics(10), [100.0]
    spent = iter([0.0, 0.01] * 4)
    time = SimpleNamespace(monotonic=lambda: clock[0], thread_time=lambda: next(spent))
    monkeypatch.setattr(process, "time", time)

    def asked(work: Callable[[], Any]) -> bool:
        metrics.set(names.PROCESS_OPEN_FDS, -1)
        work()
        return metrics.store.page()["process_open_fds"]["0",].numbers != [-1]

    assert asked(metrics.publish)
    clock[0] += 3.9
    assert not asked(metrics.publish)
    assert asked(metrics.store.look)
    clock[0] += 4.1
    assert asked(metrics.publish)
    assert asked(metrics.leave)


@pytest.mark.parametrize("spoilt", [{"status": [200]}, {"duration_s": "long"}], ids=["status", "clock"])
def test_a_record_that_is_not_whole_is_not_in_flight_any_more(spoilt: dict[str, Any]) -> None:
    metrics = Metrics(100)
    exchange = Exchange()
    metrics.opened(exchange)
    exchange.ended_ns = exchange.started_ns
    exchange.outcome = Outcome.RAISED_AFTER_HEADERS
    for name, value in spoilt.items():
        setattr(exchange, name, value)
    with pytest.raises(TypeError):
        metrics.closed(exchange)
    assert metrics._active_cells["GET"].value == 0.0


def closing(**fields: Any) -> Exchange:
    """A record that is about to be shown to the signals."""
    exchange = Exchange()
    exchange.http_route, exchange.status, exchange.outcome = "/orders", 200, Outcome.COMPLETED
    exchange.last_byte_ns = exchange.started_ns + 2_000_000
    for name, value in fields.items():
        setattr(exchange, name, value)
    exchange.settle()
    return exchange


def serve(metrics: Metrics, **fields: Any) -> None:
    exchange = closing(**fields)
    metrics.opened(exchange)
    metrics.closed(exchange)


@pytest.mark.parametrize(
    ("fields", "shown"), [({"sampled": True}, True), ({"kept": "error"}, True), ({}, False)], ids=str
)
def test_an_exemplar_names_a_trace_that_is_recorded_and_no_other(fields: dict[str, Any], shown: bool) -> None:
    metrics = Metrics(10)
    serve(metrics, trace_id="a" * 32, **fields)
    (series,) = metrics.store.look()[DURATION].values()
    assert [one[0] for one in series.exemplars or () if one] == ["a" * 32] * shown


def test_the_first_byte_of_a_slow_answer_is_in_a_bucket_of_its_own() -> None:
    metrics, exchange = Metrics(10), closing()
    metrics.opened(exchange)
    exchange.first_byte_ns = exchange.started_ns + 20_000_000
    exchange.last_byte_ns = exchange.started_ns + 300_000_000
    exchange.settle()
    metrics.closed(exchange)
    page = metrics.store.look()
    assert page["http_server_time_to_first_byte_seconds"]["GET", "/orders"].numbers[2] == 1
    assert page[DURATION]["GET", "/orders", "200", ""].numbers[7] == 1


def test_of_one_status_and_outcome_each_error_has_a_series_of_its_own() -> None:
    metrics = Metrics(100)
    for error in (KeyError("a"), ValueError("b"), KeyError("c"), None):
        serve(metrics, exception=error, outcome=Outcome.RAISED_AFTER_HEADERS)
    found = metrics.store.look()[DURATION]
    assert {labels[3]: sum(series.numbers[:-1]) for labels, series in found.items()} == {
        "KeyError": 2, "ValueError": 1, "": 1
    }  # fmt: skip


def test_a_5xx_with_an_exception_and_one_without_are_of_one_series() -> None:
    metrics = Metrics(100)
    serve(metrics, status=503)
    serve(metrics, status=503, exception=KeyError("a"), outcome=Outcome.RAISED)
    (series,) = metrics.store.look()[DURATION].values()
    assert sum(series.numbers[:-1]) == 2


class Lock:
    """A lock that says how often it was taken."""

    def __init__(self) -> None:
        self._lock, self.taken = threading.RLock(), 0

    def acquire(self) -> None:
        self._lock.acquire()
        self.taken += 1

    def release(self, *_: object) -> None:
        self._lock.release()

    __enter__, __exit__ = acquire, release


COUNTED_EACH_TIME = {
    DURATION,
    "http_server_response_body_size_bytes",
    "http_server_active_requests",
    "obskit_http_server_outcomes_total",
    "obskit_log_records_total",
}


@pytest.mark.parametrize("undivided", sorted({False, cells.UNDIVIDED}))
def test_requests_that_are_counted_while_their_numbers_move_are_all_counted(
    undivided: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "UNDIVIDED", undivided)
    metrics, served, over = Metrics(100), [0] * THREADS, threading.Event()
    serve(metrics)
    every = dict(metrics.store.families)
    for name in every.keys() - COUNTED_EACH_TIME:  # what is moved is always what is counted in
        del metrics.store.families[name]
    moves = iter([str(tmp_path / "numbers"), *[None] * 1_000])

    def work(number: int) -> None:
        while not over.is_set():
            serve(metrics)
            metrics.log_record("info")
            served[number] += 1

    def move() -> None:
        try:
            metrics.store.move(next(moves))
        except StopIteration:
            over.set()

    in_threads(work, meanwhile=move)
    metrics.store.families.update(every)
    page = metrics.store.look()
    (duration,) = page[DURATION].values()
    (size,) = page["http_server_response_body_size_bytes"].values()
    (outcome,) = page["obskit_http_server_outcomes_total"].values()
    assert sum(duration.numbers[:-1]) == outcome.numbers[0] == sum(size.numbers[:-1]) == sum(served) + 1
    assert duration.numbers[-1] == pytest.approx((sum(served) + 1) * 0.002)
    assert page["obskit_log_records_total"]["info",].numbers == [sum(served)]
    assert {series.numbers[0] for series in page["http_server_active_requests"].values()} == {0}


def test_without_knowing_that_it_is_undivided_a_request_is_counted_under_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_module, "UNDIVIDED", False)
    metrics, exchange = Metrics(10), closing()
    lock = metrics.store.lock = Lock()
    for step, given in (
        (metrics.opened, exchange),
        (metrics.log_record, "info"),
        (metrics.left, exchange),
        (metrics.counted, exchange),
    ):
        metrics.store.look()
        before = lock.taken
        step(given)
        assert lock.taken > before
