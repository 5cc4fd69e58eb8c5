"""The queries of the runbooks, run while their alert is firing: they find something."""

from __future__ import annotations

import math

import pytest

from tests.grafana.runbooks import runbook_queries
from tests.support.watched.story import Seen, Story

pytestmark = pytest.mark.e2e

QUERIES = list(runbook_queries())

# What a runbook writes for the labels of the alert, as its README says.
EXAMPLES = {"job": "shop", "http_route": "/orders/{order_id}", "exception_type": "KeyError"}

_NO_YESTERDAY = "a day ago by the clock there was no Prometheus; the rules' day here is 24 minutes"
_CLEAN = "it rules out a cause that is not that of this run"
# (alert, how the query begins): why it finds nothing in this run.
NOTHING_TO_FIND = {
    (
        "ObskitAvailabilityBudgetBurn",
        "sum by (http_route, outcome) (rate(obskit_http_server_outcomes",
    ): _CLEAN,
    ("ObskitCardinalityLimit", 'sum(rate(obskit_http_server_outcomes_total{job="shop",http_route="other"}'): (
        "the alert comes before the limit is reached"
    ),
    ("ObskitCapacityExhausted", "sum by (instance) (http_server_active_requests"): (
        "the servers of this run set no limit"
    ),
    ("ObskitRequestsQueue", "histogram_quantile(0.95"): "there is no proxy in front",
    ("ObskitClientDisconnects", "histogram_quantile(0.5, sum by (le, http_route)"): (
        "the clients of this run leave after the status, and it asks about those that left before"
    ),
    ("ObskitClientErrorSpike", "sum(rate(http_server_request_duration_seconds_count"): _NO_YESTERDAY,
    ("ObskitLogsSilent", "sum by (stage) (increase(obskit_internal_errors_total"): _CLEAN,
    ("ObskitLogsSilent", "sum by (reason) (increase(obskit_telemetry_dropped_total"): _CLEAN,
    ("ObskitServerTimeouts", "sum by (http_route) (obskit_findings_total"): (
        "no server of this run ends a request for its length"
    ),
    ("ObskitTrafficDrop", "topk(10, (job_route:http_server_requests:rate5m"): _NO_YESTERDAY,
}


def asked(query: str, labels: dict[str, str]) -> str:
    for name, example in EXAMPLES.items():
        query = query.replace(f'{name}="{example}"', f'{name}="{labels.get(name, example)}"')
    return query


def reason(alert: str, query: str) -> str | None:
    for (name, start), why in NOTHING_TO_FIND.items():
        if name == alert and query.startswith(start) and ("offset" in query or why is not _NO_YESTERDAY):
            return why
    return None


def moments(story: Story, seen: Seen | None) -> list[float]:
    """When somebody who was woken would ask: at once, or a little later. Otherwise in the end."""
    if seen is None:
        return [story.ended]
    assert seen.fired is not None, seen.problem
    return [seen.fired.at, seen.ended]


@pytest.mark.parametrize(("alert", "query"), QUERIES, ids=lambda value: value[:60])
def test_a_query_of_a_runbook_finds_what_the_alert_is_about(story: Story, alert: str, query: str) -> None:
    seen = next((one for one in story.seen if one.labels["alertname"] == alert), None)
    expression = asked(query, seen.labels if seen else {})
    found = [
        value
        for moment in moments(story, seen)
        for _, value in story.world.prometheus.query(expression, at=moment)
        if not math.isnan(value)
    ]
    why = reason(alert, query)
    assert bool(found) == (why is None), f"listed as finding nothing ({why})" if why else expression


@pytest.mark.parametrize(("alert", "start"), NOTHING_TO_FIND, ids=lambda value: value[:60])
def test_what_is_listed_as_finding_nothing_is_a_query_of_that_runbook(alert: str, start: str) -> None:
    assert any(name == alert and query.startswith(start) for name, query in QUERIES)
