"""Our linter of dashboards, second half: what every PromQL query must be, and that no metric is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import yaml

from obskit.names import METRICS, REQUEST_DURATION
from tests.grafana.dashboard_files import (
    GRAFANA,
    RANGE,
    RATE_INTERVAL,
    Json,
    metric_of,
    nodes,
    prom_queries,
    selectors,
)
from tests.grafana.dashboard_lint import House, Rule

# Beside what obskit makes: prometheus-client's collectors and Prometheus' own.
OTHERS = frozenset(
    """
    process_cpu_seconds_total process_resident_memory_bytes process_virtual_memory_bytes process_open_fds
    process_max_fds process_start_time_seconds python_gc_collections_total python_gc_objects_collected_total
    python_gc_objects_uncollectable_total python_info up scrape_duration_seconds scrape_samples_scraped ALERTS
    """.split()
)
_COUNTING = ("rate", "irate", "increase")
_COMPARISONS = (">", ">=", "<", "<=", "==", "!=")


def series_of_names() -> dict[str, frozenset[str]]:
    """Every series obskit makes, with its labels."""
    found = {}
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        for suffix in suffixes:
            found[f"{metric.name}{suffix}"] = frozenset(metric.labels) | (
                {"le"} if suffix == "_bucket" else set()
            )
    return found


def recorded_series() -> frozenset[str]:
    """Every series that the shipped rules record."""
    rules = yaml.safe_load((GRAFANA / "rules" / "obskit.yaml").read_text(encoding="utf-8"))
    return frozenset(
        rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule
    )


def house(dashboards: dict[str, Json]) -> House:
    """The house that the shipped dashboards are judged against."""
    series = series_of_names()
    counters = {name for name in [*series, *OTHERS] if name.endswith(("_total", "_count", "_sum", "_bucket"))}
    return House(
        dashboards={dashboard["uid"]: dashboard for dashboard in dashboards.values()},
        metrics=series,
        recorded=recorded_series(),
        counters=frozenset(counters),
    )


def used_metrics(dashboard: Json) -> set[str]:
    """Every metric that a panel of the dashboard reads."""
    return {
        metric_of(selector)
        for query in prom_queries(dashboard)
        if query.panel is not None
        for selector, _ in selectors(query.tree)
    }


def parses(dashboard: Json, house: House) -> Iterator[str]:
    """PromQL, with variables put in as Grafana does."""
    for query in prom_queries(dashboard):
        try:
            _ = query.tree
        except ValueError as error:
            yield f"{query.place}: {error}"


def known_metrics(dashboard: Json, house: House) -> Iterator[str]:
    """A misspelled metric is an empty panel without an error."""
    known = house.metrics.keys() | house.recorded | OTHERS
    for query in prom_queries(dashboard):
        for selector, _ in selectors(query.tree):
            if metric_of(selector) not in known:
                yield f"{query.place}: {metric_of(selector)!r}"


def known_labels(dashboard: Json, house: House) -> Iterator[str]:
    """A matcher on a label that the metric has not finds nothing, or everything."""
    for query in prom_queries(dashboard):
        for selector, _ in selectors(query.tree):
            labels = house.metrics.get(metric_of(selector))
            for matcher in selector.matchers.matchers:
                if labels is not None and matcher.name not in labels | {"job", "instance"}:
                    yield f"{query.place}: {metric_of(selector)} has no label {matcher.name}"


def counters_as_rates(dashboard: Json, house: House) -> Iterator[str]:
    """The height of a counter says how old the process is, and nothing else."""
    for query in prom_queries(dashboard):
        for selector, function in selectors(query.tree):
            if metric_of(selector) in house.counters and function not in _COUNTING:
                yield f"{query.place}: {metric_of(selector)} in {function or 'no function'}"


def rate_windows(dashboard: Json, house: House) -> Iterator[str]:
    """A fixed window is shorter than two scrapes in one Grafana and hides peaks in another."""
    allowed = {promql.parse_duration(RATE_INTERVAL), promql.parse_duration(RANGE)}
    for query in prom_queries(dashboard):
        for node, _ in nodes(query.tree):
            if isinstance(node, promql.Call) and node.func.name in (*_COUNTING, "changes", "resets"):
                window = getattr(node.args[0], "range", None)
                if window not in allowed:
                    yield f"{query.place}: {node.func.name} over {window}"


def job_and_instance(dashboard: Json, house: House) -> Iterator[str]:
    """Without both matchers a panel mixes services of strangers in."""
    for query in prom_queries(dashboard):
        for selector, _ in selectors(query.tree):
            metric = metric_of(selector)
            needed = ("job",) if metric in house.recorded | {"ALERTS"} else ("job", "instance")
            for name in needed:
                if not any(_chooses(matcher, name) for matcher in selector.matchers.matchers):
                    yield f"{query.place}: {metric} without {name}"


def _chooses(matcher: promql.Matcher, name: str) -> bool:
    # With `|` behind it also series without that label: an alert about a job that is gone has none.
    return bool(
        matcher.name == name
        and matcher.op == promql.MatchOp.Re
        and matcher.value in (f"VAR_{name}", f"VAR_{name}|")
    )


def no_nan(dashboard: Json, house: House) -> Iterator[str]:
    """0 / 0 and the quantile of nothing are NaN, which panels draw and thresholds take for good."""
    for query in prom_queries(dashboard):
        for node, above in nodes(query.tree):
            if isinstance(node, promql.BinaryExpr) and str(node.op) == "/" and not _never_zero(node.rhs):
                yield f"{query.place}: divides by what may be 0"
            if isinstance(node, promql.Call) and node.func.name == "histogram_quantile":
                compared = (
                    above and isinstance(above[-1], promql.BinaryExpr) and str(above[-1].op) in _COMPARISONS
                )
                if not compared:
                    yield f"{query.place}: a quantile that may be NaN"


def _never_zero(divisor: Any) -> bool:
    while isinstance(divisor, promql.ParenExpr):
        divisor = divisor.expr
    if isinstance(divisor, promql.NumberLiteral):
        return bool(divisor.val != 0)
    return isinstance(divisor, promql.BinaryExpr) and str(divisor.op) == ">"


def exemplars(dashboard: Json, house: House) -> Iterator[str]:
    """A curve of durations leads to a trace."""
    for query in prom_queries(dashboard):
        # obskit attaches exemplars to this histogram alone.
        durations = any(
            metric_of(selector) == f"{REQUEST_DURATION.name}_bucket" for selector, _ in selectors(query.tree)
        )
        quantile = "histogram_quantile" in query.expr
        if durations and quantile and query.target.get("range") and not query.target.get("exemplar"):
            yield f"{query.place}: no exemplars"


def figures_are_of_now(dashboard: Json, house: House) -> Iterator[str]:
    """A figure from a range query is the last point of a curve that may have ended long ago."""
    for query in prom_queries(dashboard):
        if query.panel and query.panel["type"] in ("stat", "table") and not query.target.get("instant"):
            yield f"{query.place}: not instant"


def tables_join(dashboard: Json, house: House) -> Iterator[str]:
    """A bare selector brings the name of the series into the table, and its lines do not join the other columns'."""
    for query in prom_queries(dashboard):
        if query.panel and query.panel["type"] == "table" and isinstance(query.tree, promql.VectorSelector):
            yield f"{query.place}: a bare selector"


RULES: tuple[Rule, ...] = (
    parses,
    known_metrics,
    known_labels,
    counters_as_rates,
    rate_windows,
    job_and_instance,
    no_nan,
    exemplars,
    figures_are_of_now,
    tables_join,
)
