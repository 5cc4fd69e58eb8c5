"""Every Prometheus query of every shipped dashboard returns data from services that have seen every fault."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest

from tests.grafana.substitute import Choice, Moment, Substitution
from tests.grafana.targets import Target, prometheus_targets
from tests.support.watched.story import Story

pytestmark = pytest.mark.e2e

STEP_S = 5
CHOICES = ("all", "one", "several")

# (dashboard, title of panel or variable): why a query of it has no data in this run, and for which choices.
_NO_FINDINGS = ("the shop, which is the one that is chosen, has no such finding", frozenset({"one"}))
NO_DATA: dict[tuple[str, str], tuple[str, frozenset[str]]] = {
    **dict.fromkeys(
        (
            ("obskit-silent-failures", "Findings over time"),
            ("obskit-silent-failures", "Findings"),
            ("obskit-silent-failures", "duplicate_request: by kind"),
            ("obskit-silent-failures", "invariant_failed: held and failed"),
            ("obskit-silent-failures", "partial_write: by kind"),
        ),
        _NO_FINDINGS,
    ),
    ("obskit-runtime", "Requests lost with their worker"): (
        "the shop, which is the one that is chosen, has lost none",
        frozenset({"one"}),
    ),
    ("obskit-runtime", "Capacity in use"): (
        "of the servers of this run only that of the orders sets a limit",
        frozenset({"one", "several"}),
    ),
    ("obskit-runtime", "Queue time in front"): ("there is no proxy in front", frozenset(CHOICES)),
    ("obskit-telemetry", "Errors of obskit itself"): (
        "the shop, which is the one that is chosen, has none: that is how it should be",
        frozenset({"one"}),
    ),
}


@cache
def targets() -> tuple[Target, ...]:
    return tuple(prometheus_targets())


def chosen(story: Story, how: str) -> dict[str, Choice]:
    """What is chosen in the lists of a dashboard: All by its value, one entry, or several."""
    shop, *others = (story.world.instance(name) for name in ("shop", "edge", "spare-edge", "mute"))
    if how == "all":
        return dict.fromkeys(("job", "instance", "http_route", "http_request_method"), ".*")
    if how == "one":
        return {
            "job": ["shop"],
            "instance": [shop],
            # The one that has everything, failures among it.
            "http_route": ["/api/v1/fail"],
            "http_request_method": ["GET"],
        }
    return {
        "job": ["shop", "edge", "mute"],
        "instance": [shop, *others],
        "http_route": [
            "/api/v1/orders",
            "/api/v1/orders/{order_id}",
            "/api/v1/fail",
            "/truncated",
            "/raised",
            "/half",
            "/checkout",
        ],
        "http_request_method": ["GET", "POST"],
    }


def substitution(story: Story, target: Target, how: str, end: float) -> Substitution:
    choices = chosen(story, how)
    for name, kind, current in target.variables:
        if kind in ("custom", "textbox", "constant", "interval") and isinstance(current, str):
            choices[name] = current
    return Substitution(Moment(story.world.began, end, interval_s=STEP_S), choices)


def moments(story: Story) -> list[float]:
    """When a person would have looked: whenever an alert came, and in the end."""
    return [*sorted({seen.fired.at for seen in story.seen if seen.fired}, reverse=True), story.ended]


def has_data(story: Story, target: Target, how: str) -> bool:
    prometheus, world = story.world.prometheus, story.world
    if target.kind == "variable":
        selector = substitution(story, target, how, story.ended).apply(target.expr)
        return bool(prometheus.label_values(target.label, selector, world.began, story.ended))
    if target.kind == "range":
        expr = substitution(story, target, how, story.ended).apply(target.expr)
        series = prometheus.query_range(expr, world.began, story.ended, STEP_S)
        return any(not math.isnan(value) for _, samples in series for _, value in samples)
    return any(
        not math.isnan(value)
        for moment in moments(story)
        for _, value in prometheus.query(
            substitution(story, target, how, moment).apply(target.expr), at=moment
        )
    )


def reason(target: Target, how: str) -> str | None:
    why, choices = NO_DATA.get((target.dashboard, target.title), ("", frozenset()))
    return why if how in choices else None


@pytest.mark.parametrize("how", CHOICES)
@pytest.mark.parametrize("target", targets(), ids=str)
def test_the_query_returns_data(story: Story, target: Target, how: str) -> None:
    why = reason(target, how)
    data = has_data(story, target, how)
    query = substitution(story, target, how, story.ended).apply(target.expr)
    assert data == (why is None), f"listed as without data ({why}), and has some" if why else query


@pytest.mark.parametrize("how", CHOICES)
@pytest.mark.parametrize("target", [target for target in targets() if target.exemplar], ids=str)
def test_the_query_returns_exemplars_with_a_trace(story: Story, target: Target, how: str) -> None:
    expr = substitution(story, target, how, story.ended).apply(target.expr)
    exemplars = story.world.prometheus.exemplars(expr)
    assert exemplars
    assert all(len(labels["trace_id"]) == 32 for _, labels, _ in exemplars)


def test_exemplars_lead_to_the_log_line_of_their_request(story: Story) -> None:
    (one, *_) = [target for target in targets() if target.exemplar]
    expr = substitution(story, one, "one", story.ended).apply(one.expr)
    logged = {line.get("trace_id") for line in story.world.servers["shop"].lines}
    traces = {labels["trace_id"] for _, labels, _ in story.world.prometheus.exemplars(expr)}
    assert traces
    assert traces <= logged


def test_a_route_with_braces_is_chosen_by_its_escaped_form(story: Story) -> None:
    route = "/api/v1/orders/{order_id}"
    moment = Moment(story.world.began, story.ended)
    query = Substitution(moment, {"http_route": [route]}).apply(
        'group by (http_route) (http_server_request_duration_seconds_count{http_route=~"$http_route"})'
    )
    assert [labels for labels, _ in story.world.prometheus.query(query, at=story.ended)] == [
        {"http_route": route}
    ]


def test_the_table_of_queries_without_data_names_only_what_is_there() -> None:
    assert set(NO_DATA) <= {(target.dashboard, target.title) for target in targets()}


def test_there_are_queries_of_every_kind() -> None:
    # Without this, a change of the JSON's form could leave the tests above with nothing to look at.
    found: dict[str, Any] = {}
    for target in targets():
        found.setdefault(target.kind, []).append(target)
    assert {kind: len(of_kind) > 10 for kind, of_kind in found.items()} == {
        "range": True,
        "instant": True,
        "variable": True,
    }
