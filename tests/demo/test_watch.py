"""The arithmetic of the demonstration: quantiles, rates and increases, from scrapes alone."""

from __future__ import annotations

import json
import math
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from obskit import names
from obskit.demo.watch import WINDOW_S, Samples, Watch, histogram_quantile, parse, summarise

INF = math.inf
Buckets = list[tuple[float, float]]

SPREAD: Buckets = [(0.1, 10), (0.5, 50), (1.0, 90), (INF, 100)]
ONE_BUCKET: Buckets = [(0.005, 0), (0.01, 7), (0.025, 7), (INF, 7)]
BEYOND: Buckets = [(0.005, 0), (0.01, 0), (INF, 3)]
FIRST: Buckets = [(0.005, 4), (0.01, 4), (INF, 4)]


@pytest.mark.parametrize(
    ("buckets", "quantile", "expected"),
    [
        (SPREAD, 0.25, 0.25),
        (SPREAD, 0.5, 0.5),
        (SPREAD, 0.9, 1.0),
        (SPREAD, 0.95, 1.0),  # in +Inf: the highest finite bound
        (list(reversed(SPREAD)), 0.25, 0.25),
        (ONE_BUCKET, 0.5, 0.0075),
        (BEYOND, 0.5, 0.01),
        (FIRST, 0.5, 0.0025),
        ([(-1.0, 3), (1.0, 3), (INF, 3)], 0.5, -1.0),
        ([(0.1, 5), (0.2, 4), (INF, 10)], 0.5, 0.1),  # not monotonic: as if 0.2 had 5
        (SPREAD, 1.5, INF),
        (SPREAD, -0.5, -INF),
    ],
)
def test_a_quantile_is_interpolated_within_its_bucket(
    buckets: Buckets, quantile: float, expected: float
) -> None:
    assert histogram_quantile(quantile, buckets) == pytest.approx(expected)


@pytest.mark.parametrize("buckets", [[], [(INF, 3)], [(0.1, 3), (0.2, 3)], [(0.1, 0), (INF, 0)]])
def test_without_observations_or_an_infinite_bucket_there_is_no_quantile(buckets: Buckets) -> None:
    assert math.isnan(histogram_quantile(0.5, buckets))


@pytest.mark.parametrize("buckets", [SPREAD, ONE_BUCKET, BEYOND, FIRST])
def test_prometheus_computes_the_same_quantiles(buckets: Buckets, tmp_path: Path) -> None:
    series = [
        {"series": f'x_bucket{{le="{"+Inf" if le == INF else le}"}}', "values": f"{count:g}"}
        for le, count in buckets
    ]
    asked = [
        {
            "expr": f"histogram_quantile({quantile}, x_bucket)",
            "eval_time": "0m",
            "exp_samples": [{"labels": "{}", "value": histogram_quantile(quantile, buckets)}],
        }
        for quantile in (0.01, 0.3, 0.5, 0.77, 0.95, 0.99, 1.0)
    ]
    tests = tmp_path / "tests.yaml"  # JSON is YAML
    tests.write_text(
        json.dumps({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": asked}]})
    )
    done = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_labels_are_read_as_prometheus_client_reads_them() -> None:
    registry = CollectorRegistry()
    counter = Counter("odd", "help", ["http_route", "outcome"], registry=registry)
    for value in (
        'say "hi"',
        "back\\slash",
        "two\nlines",
        "a,b={c}",
        "",
        "/bücher/<int:id>",
        "par\u2028agraph",
    ):
        counter.labels(value, "completed").inc(3)
    histogram = Histogram("took_seconds", "help", registry=registry)
    histogram.observe(0.3)
    text = generate_latest(registry).decode()
    expected = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in {"odd_total", "took_seconds_bucket"}
    }
    assert len(expected) > 10
    assert parse(text, frozenset({"odd_total", "took_seconds_bucket"})) == expected


def test_a_broken_line_of_a_watched_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="odd_total"):
        parse("odd_total{a=", frozenset({"odd_total"}))


def scraped(
    *, route: str = "/orders", ok: int = 0, failed: int = 0, fast: int = 0, left: int = 0, in_flight: int = 0
) -> Samples:
    """A scrape of one route: `fast` of its requests took up to 10 ms, the others up to 1 s."""
    duration, samples = names.REQUEST_DURATION.name, {}
    for status, count, quick in (("200", ok, fast), ("500", failed, 0)):
        labels = (("error_type", "500" if status == "500" else ""), ("http_request_method", "GET"))
        labels += (("http_response_status_code", status), ("http_route", route))
        samples[f"{duration}_count", labels] = float(count)
        for le, number in (("0.01", quick), ("1.0", count), ("+Inf", count)):
            samples[f"{duration}_bucket", tuple(sorted((*labels, ("le", le))))] = float(number)
    for outcome, count in (("completed", ok), ("client_disconnect", left)):
        samples[names.OUTCOMES.name, (("http_route", route), ("outcome", outcome))] = float(count)
    if left:
        samples[names.FINDINGS.name, (("finding", "client_disconnect"), ("http_route", route))] = float(left)
    samples[names.ACTIVE_REQUESTS.name, (("http_request_method", "GET"),)] = float(in_flight)
    return samples


def watching(*scrapes: tuple[float, Samples]) -> Watch:
    watch = Watch(port=1)
    began = watch._started
    for at, samples in scrapes:
        watch.take(samples, began + at)
    return watch


def test_the_window_covers_what_happened_in_it_and_the_rest_what_happened_ever() -> None:
    watch = watching(
        (0.0, scraped(ok=10)),
        (30.0, scraped(ok=100, fast=100)),
        (60.0, scraped(ok=400, failed=100, fast=100, left=2, in_flight=3)),
    )
    window, ever = watch.window(), watch.since_start()
    assert (window.seconds, window.requests, window.errors) == (WINDOW_S, 400, 100)
    assert window.rate == pytest.approx(400 / 30)
    assert window.error_ratio == 0.25
    assert window.in_flight == 3
    (route,) = window.routes
    assert route.p50_s == pytest.approx(0.01 + 0.99 * 0.5)
    assert route.other_outcomes == {"client_disconnect": 2}
    assert window.findings == ever.findings == {"client_disconnect": 2}
    assert (ever.requests, ever.errors, watch.counted) == (500, 100, 500)


def test_a_series_that_is_new_counts_from_nought() -> None:
    watch = watching((0.0, {}), (1.0, scraped(ok=7)))
    assert watch.counted == 7
    assert watch.window().requests == 7


def test_a_counter_that_fell_was_born_again_with_its_process() -> None:
    watch = watching((0.0, scraped(ok=50)), (1.0, scraped(ok=60)), (2.0, scraped(ok=5)), (3.0, scraped(ok=9)))
    assert watch.counted == 60 + 9


def test_a_gauge_is_what_it_was_at_last() -> None:
    watch = watching((0.0, scraped(in_flight=9)), (1.0, scraped(in_flight=2)))
    assert watch.in_flight == 2
    assert watch.window().in_flight == 2


def test_what_no_route_matched_comes_last() -> None:
    samples = {**scraped(route="unmatched", ok=5), **scraped(route="/z", ok=1), **scraped(route="/a", ok=1)}
    assert [route.route for route in summarise(samples, samples, 1.0).routes] == ["/a", "/z", "unmatched"]


def test_a_route_without_requests_in_the_window_stays_without_quantiles() -> None:
    watch = watching((0.0, scraped(ok=5)), (40.0, scraped(ok=5)), (80.0, scraped(ok=5)))
    (route,) = watch.window().routes
    assert (route.requests, route.rate) == (0, 0.0)
    assert math.isnan(route.p95_s)


def test_a_scrape_that_is_refused_is_an_error() -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(Exception, match="answered 403"):
            Watch(server.server_port).scrape()
        thread.join()
