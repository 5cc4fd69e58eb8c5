"""Cells lose nothing, are bounded, and look to prometheus_client like its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from obskit import names
from obskit.names import DURATION_BUCKETS, METRICS, SIZE_BUCKETS, Metric
from obskit.signals.cells import MAX_LABEL, OVERFLOW_SETS, Store, _Family
from tests.signals.conftest import run_python
from tests.support.exposition import Samples, labels, parse
from tests.support.racing import THREADS, in_threads

EACH = 5_000
COUNTER = Metric("jobs_total", "counter", "Jobs.", ("http_route",))
GAUGE = Metric("jobs_waiting", "gauge", "Waiting.", ("http_route", "kind"))
HISTOGRAM = Metric("job_seconds", "histogram", "Seconds.", ("http_route",), (0.5, 1.0, 10.0))


@pytest.fixture
def store() -> Store:
    return Store(max_series=10)


def page(store: Store, *, openmetrics: bool = False) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(store)
    return (generate_openmetrics if openmetrics else generate_latest)(registry).decode()


def samples(store: Store) -> Samples:
    return parse(page(store))


def test_updates_from_eight_threads_lose_nothing(store: Store) -> None:
    counter, histogram = store.numbers(COUNTER), store.histograms(HISTOGRAM)

    def work(number: int) -> None:
        for n in range(EACH):
            counter.add(1, f"/{n % 3}")
            cell = histogram.child(f"/{n % 3}")
            with store.lock:
                cell.observe(0.25 if number % 2 else 5.0)

    in_threads(work)
    found = samples(store)
    assert sum(found["jobs_total"].values()) == THREADS * EACH
    assert sum(found["job_seconds_count"].values()) == THREADS * EACH
    assert sum(v for k, v in found["job_seconds_bucket"].items() if ("le", "0.5") in k) == THREADS * EACH / 2
    assert sum(found["job_seconds_sum"].values()) == THREADS * EACH / 2 * 5.25


def test_eight_threads_that_meet_a_new_series_get_the_same_cell(store: Store) -> None:
    counter = store.numbers(COUNTER)
    got: list[list[Any]] = [[] for _ in range(THREADS)]
    in_threads(lambda number: got[number].extend(counter.child(f"/{n}") for n in range(9)))
    assert all(len({id(cells[n]) for cells in got}) == 1 for n in range(9))


def test_a_scrape_while_others_write_never_shows_a_torn_histogram(store: Store) -> None:
    cell = store.histograms(HISTOGRAM).child("/a")

    def write(_: int) -> None:
        for _ in range(EACH):
            with store.lock:
                cell.observe(1.0)

    def look() -> None:
        found = samples(store)
        count = found["job_seconds_count"][labels(http_route="/a")]
        assert found["job_seconds_sum"][labels(http_route="/a")] == count
        assert found["job_seconds_bucket"][labels(http_route="/a", le="+Inf")] == count

    in_threads(write, meanwhile=look)


def test_past_the_limit_new_series_are_counted_under_other_and_none_is_lost(store: Store) -> None:
    counter = store.numbers(COUNTER)
    for n in range(100):
        counter.add(1, f"/{n}")
    found = samples(store)
    assert found["jobs_total"][labels(http_route="other")] == 90
    assert sum(found["jobs_total"].values()) == 100


def test_a_series_made_before_the_limit_keeps_counting_past_it(store: Store) -> None:
    counter = store.numbers(COUNTER)
    for n in range(100):
        counter.add(1, f"/{n}")
    counter.add(1, "/3")
    assert samples(store)["jobs_total"][labels(http_route="/3")] == 2


def test_past_the_limit_labels_that_are_bounded_by_definition_stay_apart(store: Store) -> None:
    gauge = store.numbers(GAUGE)
    for n in range(20):
        gauge.add(1, f"/{n}", "slow" if n % 2 else "fast")
    found = samples(store)["jobs_waiting"]
    assert found[labels(http_route="other", kind="slow")] == 5
    assert found[labels(http_route="other", kind="fast")] == 5


def test_histograms_have_the_limit_too(store: Store) -> None:
    histogram = store.histograms(HISTOGRAM)
    for n in range(100):
        histogram.child(f"/{n}").observe(1.0)
    assert samples(store)["job_seconds_count"][labels(http_route="other")] == 90


def test_gauges_say_how_many_series_there_are_and_may_be(store: Store) -> None:
    counter = store.numbers(COUNTER)
    for n in range(4):
        counter.child(f"/{n}")
    store.numbers(Metric("unlabelled_total", "counter", "One series."))
    found = samples(store)
    assert found["obskit_metric_series"] == {labels(metric="jobs_total"): 4}
    assert found["obskit_metric_series_limit"] == {labels(metric="jobs_total"): 10}
    for n in range(50):
        counter.child(f"/{n}")
    assert samples(store)["obskit_metric_series"][labels(metric="jobs_total")] >= 10


@pytest.mark.parametrize(
    ("value", "le"),
    [(0.0, "0.5"), (-1.0, "0.5"), (0.5, "0.5"), (0.5000001, "1.0"), (1.0, "1.0"), (10.0, "10.0"), (10.1, "+Inf"),
     (float("inf"), "+Inf")],
)  # fmt: skip
def test_a_value_on_a_bound_counts_in_the_bucket_below_it(value: float, le: str, store: Store) -> None:
    store.histograms(HISTOGRAM).child("/a").observe(value)
    buckets = samples(store)["job_seconds_bucket"]
    order = ["0.5", "1.0", "10.0", "+Inf"]
    seen = [buckets[labels(http_route="/a", le=bound)] for bound in order]
    assert seen == [0.0 if order.index(bound) < order.index(le) else 1.0 for bound in order]


@pytest.mark.parametrize("bounds", [DURATION_BUCKETS, SIZE_BUCKETS], ids=["duration", "size"])
def test_every_bound_is_printed_as_a_float_in_both_formats(bounds: tuple[float, ...], store: Store) -> None:
    store.histograms(Metric("h", "histogram", "h", (), bounds)).child().observe(1.0)
    for openmetrics in (False, True):
        text = page(store, openmetrics=openmetrics)
        printed = [
            line.partition('le="')[2].partition('"')[0] for line in text.splitlines() if "h_bucket" in line
        ]
        assert [float(le) for le in printed[:-1]] == list(bounds)
        assert all("." in le for le in printed[:-1])
        assert printed[-1] == "+Inf"


def test_an_exemplar_appears_in_openmetrics_only_on_its_bucket_and_the_last_one_wins(store: Store) -> None:
    cell = store.histograms(HISTOGRAM).child("/a")
    cell.observe(0.7, ("a" * 32, 0.7, 1000.0))
    cell.observe(0.8, ("b" * 32, 0.8, 1001.5))
    cell.observe(0.1)
    assert "trace_id" not in page(store)
    found = {
        sample.labels["le"]: sample.exemplar
        for family in parse_openmetrics(page(store, openmetrics=True))
        for sample in family.samples
        if sample.name == "job_seconds_bucket"
    }
    assert {le for le, exemplar in found.items() if exemplar} == {"1.0"}
    exemplar = found["1.0"]
    assert exemplar is not None
    assert (exemplar.labels, exemplar.value, float(exemplar.timestamp)) == (
        {"trace_id": "b" * 32},
        0.8,
        1001.5,
    )


@pytest.mark.parametrize("value", ['/a"b', "/a\\b", "/a\nb", "/ü", "/\U0001f600"])
def test_any_label_value_survives_the_text_format(value: str, store: Store) -> None:
    store.numbers(COUNTER).add(1, value)
    assert samples(store)["jobs_total"] == {labels(http_route=value): 1}


def test_a_label_value_no_encoding_holds_does_not_cost_the_page(store: Store) -> None:
    store.numbers(COUNTER).add(1, "/\ud800")
    store.numbers(COUNTER).add(1, "/a")
    assert 'http_route="/a"' in page(store)


@pytest.mark.parametrize(
    "metric",
    [m for m in METRICS if m.name not in ("obskit_metric_series", "obskit_metric_series_limit")],
    ids=lambda m: m.name,
)
def test_every_metric_of_the_contract_is_exposed_by_its_name_with_help(metric: Metric, store: Store) -> None:
    family = store.histograms(metric) if metric.kind == "histogram" else store.numbers(metric)
    family.child(*["x"] * len(metric.labels))
    text = page(store)
    assert f"# HELP {metric.name} {metric.help}" in text
    assert f"# TYPE {metric.name} {metric.kind}" in text


def test_an_unlabelled_metric_has_one_series(store: Store) -> None:
    store.numbers(Metric("up_total", "counter", "Up.")).add(2)
    assert samples(store)["up_total"] == {labels(): 2}


def test_a_wrong_number_of_label_values_past_the_limit_is_an_error(store: Store) -> None:
    counter = store.numbers(COUNTER)
    for n in range(10):
        counter.child(f"/{n}")
    with pytest.raises(ValueError, match="argument"):
        counter.child("/a", "surplus")


def test_the_store_describes_nothing_in_advance(store: Store) -> None:
    assert list(store.describe()) == []
    assert names.METRIC_SERIES in METRICS


def test_a_family_of_no_kind_has_no_cells(store: Store) -> None:
    with pytest.raises(NotImplementedError):
        _Family(COUNTER, 1, store)._child(("a",))


def test_a_histogram_that_nobody_observed_is_empty(store: Store) -> None:
    cell = store.histograms(HISTOGRAM).child("/a")
    assert (cell.counts, cell.total, cell.exemplars) == ([0, 0, 0, 0], 0.0, [None] * 4)


def test_a_child_forked_while_another_thread_held_the_lock_still_counts() -> None:
    done = run_python(
        """
        house = obskit.install(app, interface="wsgi", instrumentation=False)
        metrics = house.pipeline._signals[1]
        held, release = threading.Event(), threading.Event()
        def hold():
            with metrics.store.lock:
                held.set()
                release.wait(20)
        threading.Thread(target=hold, daemon=True).start()
        held.wait(10)
        child = os.fork()
        if not child:
            import signal
            signal.alarm(10)
            serve(house.pipeline)
            sys.exit()
        status = os.waitpid(child, 0)[1]
        release.set()
        sys.stderr.write(f"status={status}")
        """
    )
    assert "status=0" in done.stderr


def test_a_platform_that_cannot_fork_has_stores_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    store = Store(10)
    store.numbers(COUNTER).add(1, "/a")
    assert samples(store)["jobs_total"] == {labels(http_route="/a"): 1}


def test_a_store_that_is_gone_is_not_looked_for_after_a_fork() -> None:
    done = run_python(
        """
        import gc
        from obskit.signals.cells import Store
        store = Store(10)
        del store
        gc.collect()
        child = os.fork()
        if not child:
            os._exit(0)
        sys.stderr.write(f"status={os.waitpid(child, 0)[1]}")
        """
    )
    assert done.stderr == "status=0"


def test_past_the_overflow_all_is_counted_in_one_more_series(store: Store) -> None:
    gauge = store.numbers(GAUGE)
    for n in range(1_000):
        gauge.add(1, f"/{n}", str(n))
    found = samples(store)["jobs_waiting"]
    assert len(found) == 10 + OVERFLOW_SETS + 1
    assert found[labels(http_route="other", kind="other")] == 1_000 - 10 - OVERFLOW_SETS
    assert samples(store)["obskit_metric_series"][labels(metric="jobs_waiting")] == len(found)


@pytest.mark.parametrize("value", ["x" * 1_000_000, "\U0001f600" * 10_000, "\x00" * 5_000, "\udcff" * 5_000])
def test_a_label_of_any_length_is_cut_and_fits_into_a_file(value: str, tmp_path: Path) -> None:
    failed: list[str] = []
    store = Store(max_series=10)
    store.failed = failed.append
    store.move(str(tmp_path / "numbers"))
    store.histograms(names.REQUEST_DURATION).add(1.0, value, value, value, value)
    ((found, _),) = store.families[names.REQUEST_DURATION.name].series.items()
    assert {len(one) for one in found} == {MAX_LABEL}
    assert failed == []
    assert page(store)
