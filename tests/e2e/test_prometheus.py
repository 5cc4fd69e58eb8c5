"""A real Prometheus scrapes the shops of integrations/: what it answers is what their clients counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.support.exposition import parse
from tests.support.load import PATHS, LoadResult, run_load
from tests.support.prometheus import PrometheusServer, promtool_check_metrics
from tests.support.servers import Server
from tests.support.shops import SHOPS, Shop, get, running

pytestmark = pytest.mark.e2e

JOB = "shop"
REQUESTS = 240

Counts = dict[tuple[str, str, str], float]


@dataclass(frozen=True)
class Run:
    """A shop after its load has ended and a scrape has passed; Prometheus still answers."""

    shop: Shop
    server: Server
    prometheus: PrometheusServer
    load: LoadResult
    database_url: str | None

    @property
    def expected(self) -> Counts:
        counted: Counter[tuple[str, str, str]] = Counter()
        for (method, kind, status), number in self.load.counts.items():
            counted[method, self.shop.route(kind), str(status)] += number
        return {key: float(number) for key, number in counted.items()}


@pytest.fixture(scope="module", params=SHOPS, ids=lambda shop: shop.name)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    shop: Shop = request.param
    tmp_path = tmp_path_factory.mktemp(shop.name)
    with ExitStack() as stack:
        server, database_url = stack.enter_context(running(shop, tmp_path))
        prometheus = stack.enter_context(
            PrometheusServer(tmp_path / "prometheus", {JOB: f"127.0.0.1:{server.port}"})
        )
        # The first scrape comes before the load, as in life: no counter is born under Prometheus' eyes unseen.
        prometheus.wait_for_scrape_after(0, JOB)
        load = run_load(server.url, requests=REQUESTS)
        # A record closes a moment after the client has its last byte.
        prometheus.wait_for_scrape_after(load.ended_at + 0.5, JOB)
        yield Run(shop, server, prometheus, load, database_url)


def by_labels(run: Run, expression: str, *names: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(labels.get(name, "") for name in names): value
        for labels, value in run.prometheus.query(expression)
    }


def test_the_load_met_every_kind_of_answer(run: Run) -> None:
    # Without this, the tests below would compare next to nothing with next to nothing.
    assert run.load.errors == []
    assert run.load.total >= REQUESTS
    statuses = {(method, kind): set[int]() for method, kind, _ in run.load.counts}
    for method, kind, status in run.load.counts:
        statuses[method, kind].add(status)
    assert statuses["POST", "orders"] == {201, 422}
    assert statuses["GET", "order"] == {200, 404}
    assert {200, 409} <= statuses["POST", "pay"] <= {200, 402, 409}
    assert statuses["GET", "fail"] == {500}
    assert statuses["GET", "me"] == {200, 401}
    assert statuses["POST", "login"] == {200, 401}
    assert statuses["DELETE", "orders"] == {405}
    assert statuses["GET", "nowhere"] == {404}
    assert {kind for _, kind, _ in run.load.counts} == set(PATHS)


def test_queries_return_the_numbers_that_the_load_generator_counted(run: Run) -> None:
    labels = ("http_request_method", "http_route", "http_response_status_code")
    metric = "http_server_request_duration_seconds"
    counted = f'sum by ({", ".join(labels)}) ({metric}_count{{job="{JOB}"}}) > 0'
    in_largest_bucket = f'sum by ({", ".join(labels)}) ({metric}_bucket{{job="{JOB}",le="+Inf"}}) > 0'
    assert by_labels(run, counted, *labels) == run.expected
    assert by_labels(run, in_largest_bucket, *labels) == run.expected


def test_the_log_tells_of_the_same_requests(run: Run) -> None:
    logged = Counter(
        (line["http_request_method"], line["http_route"], str(line["http_response_status_code"]))
        for line in run.server.lines
        if line.get("event") == "http.request"
    )
    assert dict(logged) == run.expected


def test_the_outcomes_add_up_to_the_same_requests(run: Run) -> None:
    failed = run.load.counts["GET", "fail", 500]
    outcomes = by_labels(
        run, f'sum by (outcome) (obskit_http_server_outcomes_total{{job="{JOB}"}}) > 0', "outcome"
    )
    assert outcomes == {("completed",): run.load.total - failed, ("raised",): failed}
    errors = f'sum by (error_type) (http_server_request_duration_seconds_count{{job="{JOB}"}}) > 0'
    assert by_labels(run, errors, "error_type") == {("",): run.load.total - failed, ("500",): failed}
    assert run.prometheus.value(f'sum(http_server_active_requests{{job="{JOB}"}})') == 0


@pytest.mark.parametrize("direction", ["request", "response"])
def test_the_body_bytes_are_those_that_client_and_app_exchanged(run: Run, direction: str) -> None:
    metric = f"http_server_{direction}_body_size_bytes_sum"
    wire = run.load.received_bytes if direction == "response" else run.load.sent_bytes
    expected: Counter[tuple[str, ...]] = Counter()
    for kind, size in wire.items():
        expected[(run.shop.route(kind),)] += size
    measured = by_labels(run, f'sum by (http_route) ({metric}{{job="{JOB}"}}) > 0', "http_route")
    assert measured == {route: float(size) for route, size in expected.items() if size}


def test_exemplars_arrive_and_lead_to_logged_requests(run: Run) -> None:
    exemplars = run.prometheus.exemplars(f'http_server_request_duration_seconds_bucket{{job="{JOB}"}}')
    logged = {line["trace_id"]: line for line in run.server.lines if line.get("event") == "http.request"}
    assert exemplars
    for series, labels, seconds in exemplars:
        line = logged[labels["trace_id"]]
        assert line["http_route"] == series["http_route"]
        assert line["duration_s"] == pytest.approx(seconds, abs=0.001)
    assert {series["http_route"] for series, _, _ in exemplars} >= {
        run.shop.route("orders"),
        run.shop.route("slow"),
    }


def test_prometheus_and_promtool_have_nothing_to_complain_about(run: Run) -> None:
    assert run.prometheus.target_errors() == {JOB: ""}
    assert run.prometheus.log() == ""
    status, content_type, text = get(run.server.port, "/metrics", accept="text/plain;version=0.0.4")
    assert (status, content_type.partition(";")[0]) == (200, "text/plain")
    assert promtool_check_metrics(text) == (0, "")
    assert "http_server_request_duration_seconds_count" in parse(text)


def test_the_orders_are_in_postgresql_where_it_was_asked_for(run: Run) -> None:
    created = run.load.counts["POST", "orders", 201]
    sqlite_path = Path(run.server.env["SHOP_DB_PATH"])
    if run.database_url is None:
        assert sqlite_path.stat().st_size > 0
        return
    assert not sqlite_path.exists()
    with psycopg.connect(run.database_url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'price_cents'"
        ).fetchall()
        ((table,),) = tables
        row = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()
    assert row == (created,)
