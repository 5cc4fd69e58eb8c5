"""The shipped dashboards under our linter, and the linter on dashboards with one fault each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from tests.grafana import dashboard_lint, dashboard_lint_queries
from tests.grafana.dashboard_files import PROMETHEUS, Json, all_panels, shipped
from tests.grafana.dashboard_lint import CHOICES, SOURCES, House, Rule
from tests.grafana.dashboard_lint_queries import house, series_of_names, used_metrics

RULES: dict[str, Rule] = {
    rule.__name__: rule for rule in (*dashboard_lint.RULES, *dashboard_lint_queries.RULES)
}


@dataclass(frozen=True)
class Exclusion:
    """Faults that are none: the rule, a regular expression of "dashboard: fault", and why."""

    rule: str
    pattern: str
    reason: str

    def covers(self, rule: str, fault: str) -> bool:
        return rule == self.rule and re.search(self.pattern, fault) is not None


EXCLUSIONS = (
    Exclusion(
        "least_values",
        r"obskit-(overview|slo): Error budget left( over time)?: no min",
        "an overdrawn budget is below 0, and that is what must be seen",
    ),
    Exclusion(
        "counters_as_rates",
        r"obskit-(runtime|silent-failures|telemetry): .+ in last_over_time$",
        "a rare event is the birth of a series, which increase() cannot see: its height is the number of events",
    ),
    Exclusion(
        "no_nan",
        r"obskit-slo: (All objectives [DE]|Burn rate over \w+ A): divides by what may be 0",
        "an objective of 1 cannot be set: obskit export refuses more than 99.999 %",
    ),
)


def faults(name: str, dashboards: dict[str, Json], against: House) -> Iterator[str]:
    return (f"{file}: {fault}" for file, board in dashboards.items() for fault in RULES[name](board, against))


@pytest.mark.parametrize("name", RULES)
def test_shipped_dashboards_keep_the_rule(name: str) -> None:
    dashboards = shipped()
    assert len(dashboards) == 8
    found = [
        fault
        for fault in faults(name, dashboards, house(dashboards))
        if not any(exclusion.covers(name, fault) for exclusion in EXCLUSIONS)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("exclusion", EXCLUSIONS, ids=lambda exclusion: exclusion.rule)
def test_every_exclusion_excludes_something_and_says_why(exclusion: Exclusion) -> None:
    dashboards = shipped()
    found = faults(exclusion.rule, dashboards, house(dashboards))
    assert any(exclusion.covers(exclusion.rule, fault) for fault in found)
    assert len(exclusion.reason.split()) > 5


def test_every_metric_of_obskit_is_shown_by_a_panel() -> None:
    used = set().union(*(used_metrics(dashboard) for dashboard in shipped().values()))
    names = {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in series_of_names()}
    shown = {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in used}
    assert not names - shown


def test_every_recorded_series_of_an_objective_is_shown_but_for_the_windows_only_alerts_read() -> None:
    dashboards = shipped()
    used = set().union(*(used_metrics(dashboard) for dashboard in dashboards.values()))
    windows = {f"obskit:slo_error:ratio_rate{window}" for window in ("30m", "2h", "1d")}
    # Half-hour means from which the 30-day ratio is made.
    means = {"obskit:slo_bad:avg30m", "obskit:slo_total:avg30m"}
    objective = {series for series in house(dashboards).recorded if series.startswith("obskit:slo_")}
    assert objective - used == windows | means


# ---- the linter catches what it is for ---------------------------------------------------------------

COUNT = 'http_server_request_duration_seconds_count{job=~"$job",instance=~"$instance"}'
MISSPELLED = COUNT.replace("instance=~", 'route=~"a",instance=~')
BUCKET = COUNT.replace("_count", "_bucket")


def _explore(pane: str = "obs", uid: str = "${loki}", start: str = "${__from}") -> str:
    state = {
        "datasource": uid,
        "queries": [{"refId": "A", "datasource": {"type": "loki", "uid": uid}}],
        "range": {"from": start, "to": "${__to}"},
    }
    panes, left = quote(json.dumps({pane: state})), quote(json.dumps(state))
    return f"/explore?schemaVersion=1&panes={panes}&left={left}"


def _sound() -> Json:
    """A dashboard without fault."""
    choices = [
        {
            "name": name,
            "type": "query",
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "datasource": PROMETHEUS,
            "query": {"query": f"label_values({metric}, {name})"},
        }
        for name, metric in zip(
            CHOICES,
            ["obskit_app_info"] * 2 + ["http_server_request_duration_seconds_count"] * 2,
            strict=True,
        )
    ]
    sources = [{"name": name, "type": "datasource", "query": name} for name in SOURCES]
    links = [
        {"title": "Itself", "url": "/d/obskit-sample?var-job=a&viewPanel=2&${__url_time_range}"},
        {"title": "Lines", "url": _explore()},
    ]
    return {
        "uid": "obskit-sample",
        "title": "obskit / Sample",
        "description": "A sample.",
        "tags": ["obskit"],
        "editable": False,
        "links": [{"type": "dashboards", "tags": ["obskit"], "includeVars": True, "keepTime": True}],
        "templating": {"list": [*sources, *choices]},
        "annotations": {
            "list": [{"name": "Starts", "datasource": PROMETHEUS, "expr": f"rate({COUNT}[$__range])"}]
        },
        "panels": [
            {"id": 1, "type": "row", "title": "Row", "gridPos": {"h": 1, "w": 24, "x": 0, "y": 0}},
            {
                "id": 2,
                "type": "timeseries",
                "title": "Curve",
                "description": "What to do.",
                "gridPos": {"h": 8, "w": 12, "x": 0, "y": 1},
                "datasource": PROMETHEUS,
                "fieldConfig": {"defaults": {"unit": "s", "min": 0, "noValue": "none", "links": links}},
                "targets": [_target(f"rate({COUNT}[$__rate_interval])")],
            },
            {
                "id": 3,
                "type": "stat",
                "title": "Figure",
                "description": "What to do.",
                "gridPos": {"h": 8, "w": 12, "x": 12, "y": 1},
                "datasource": PROMETHEUS,
                "fieldConfig": {"defaults": {"unit": "s", "min": 0, "noValue": "none"}},
                "options": {"reduceOptions": {"calcs": ["lastNotNull"]}},
                "targets": [{**_target(f"increase({COUNT}[$__range])"), "instant": True, "range": False}],
            },
        ],
    }


def _target(expr: str, **more: Any) -> Json:
    return {"refId": "A", "datasource": PROMETHEUS, "expr": expr, "range": True, **more}


def _at(*path: str | int, value: Any) -> Callable[[Json], None]:
    """Puts `value` where `path` leads in a dashboard."""

    def change(dashboard: Json) -> None:
        place: Any = dashboard
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def _query(expr: str) -> Callable[[Json], None]:
    return _at("panels", 1, "targets", 0, "expr", value=expr)


def _link(url: str) -> Callable[[Json], None]:
    return _at("panels", 1, "fieldConfig", "defaults", "links", 0, "url", value=url)


def _table(expr: str) -> Callable[[Json], None]:
    def change(dashboard: Json) -> None:
        dashboard["panels"][2]["type"] = "table"
        dashboard["panels"][2]["targets"][0]["expr"] = expr

    return change


def _defaults(key: str, value: Any) -> Callable[[Json], None]:
    return _at("panels", 1, "fieldConfig", "defaults", key, value=value)


OTHER_PLACE = {"h": 8, "w": 12, "x": 6, "y": 4}
FOREIGN = {"type": "prometheus", "uid": "P1809F7CD0C75ACF3"}

# Rule, what is broken, and how.
BROKEN: list[tuple[str, str, Callable[[Json], None]]] = [
    ("not_editable", "editable", _at("editable", value=True)),
    ("identity", "uid", _at("uid", value="sample")),
    ("identity", "tag", _at("tags", value=[])),
    ("identity", "id", _at("id", value=7)),
    ("linked_to_all", "no link", _at("links", value=[])),
    ("linked_to_all", "drops time", _at("links", 0, "keepTime", value=False)),
    ("panel_ids", "twice", _at("panels", 2, "id", value=2)),
    ("panel_ids", "null", _at("panels", 2, "id", value=None)),
    ("panel_ids", "row of 0", _at("panels", 0, "id", value=0)),
    ("no_overlap", "overlap", _at("panels", 2, "gridPos", value=OTHER_PLACE)),
    ("no_overlap", "outside", _at("panels", 2, "gridPos", "w", value=13)),
    ("titles", "none", _at("panels", 1, "title", value="")),
    ("titles", "twice", _at("panels", 2, "title", value="Curve")),
    ("panel_types", "graph", _at("panels", 1, "type", value="graph")),
    ("descriptions", "none", _at("panels", 1, "description", value="")),
    ("panel_units", "unknown", _defaults("unit", "seconds")),
    ("panel_units", "none", _defaults("unit", None)),
    (
        "panel_units",
        "in an override",
        _at(
            "panels",
            1,
            "fieldConfig",
            "overrides",
            value=[{"matcher": {}, "properties": [{"id": "unit", "value": "reqs"}]}],
        ),
    ),
    ("least_values", "none", _defaults("min", None)),
    ("no_value_texts", "none", _defaults("noValue", "")),
    ("calculations", "none", _at("panels", 2, "options", "reduceOptions", "calcs", value=[])),
    ("templated_sources", "panel", _at("panels", 1, "datasource", value=FOREIGN)),
    ("templated_sources", "by name", _at("panels", 1, "datasource", value="Prometheus")),
    ("templated_sources", "target", _at("panels", 1, "targets", 0, "datasource", value=FOREIGN)),
    ("templated_sources", "missing", _at("panels", 1, "targets", 0, "datasource", value=None)),
    ("templated_sources", "variable", _at("templating", "list", 3, "datasource", value=FOREIGN)),
    ("templated_sources", "annotation", _at("annotations", "list", 0, "datasource", value=FOREIGN)),
    ("templated_sources", "inputs", _at("__inputs", value=[])),
    ("variables", "chosen source", _at("templating", "list", 0, "current", value={"value": "abc"})),
    ("variables", "single", _at("templating", "list", 3, "multi", value=False)),
    ("variables", "All as list", _at("templating", "list", 4, "allValue", value=None)),
    ("variables", "other metric", _at("templating", "list", 3, "query", value="label_values(up, job)")),
    ("variables", "missing", _at("templating", "list", value=[])),
    ("defined_variables", "undefined", _query(f"rate({COUNT}[$interval])")),
    ("links_resolve", "no dashboard", _link("/d/obskit-gone?${__url_time_range}")),
    ("links_resolve", "no panel", _link("/d/obskit-sample?viewPanel=9&${__url_time_range}")),
    ("links_resolve", "no variable", _link("/d/obskit-sample?var-route=a&${__url_time_range}")),
    ("links_resolve", "no time", _link("/d/obskit-sample?var-job=a")),
    ("links_resolve", "elsewhere", _link("https://example.org/d/obskit-sample")),
    ("links_resolve", "Explore without state", _link("/explore?schemaVersion=1&panes=%7B")),
    ("links_resolve", "pane name", _link(_explore(pane="a"))),
    ("links_resolve", "fixed source", _link(_explore(uid="loki-1"))),
    ("links_resolve", "fixed time", _link(_explore(start="now-1h"))),
    ("parses", "syntax", _query(f"rate({COUNT}[$__rate_interval]")),
    ("known_metrics", "misspelled", _query('http_server_requests{job=~"$job",instance=~"$instance"}')),
    ("known_labels", "misspelled", _query(f"rate({MISSPELLED}[$__rate_interval])")),
    ("counters_as_rates", "as it is", _query(f"sum({COUNT})")),
    ("counters_as_rates", "in the wrong function", _query(f"delta({COUNT}[$__rate_interval])")),
    ("counters_as_rates", "over a subquery", _query(f"max_over_time({COUNT}[1h:1m])")),
    ("rate_windows", "fixed", _query(f"rate({COUNT}[5m])")),
    ("rate_windows", "interval", _query(f"rate({COUNT}[$__interval])")),
    ("job_and_instance", "no instance", _query('up{job=~"$job"}')),
    ("job_and_instance", "fixed job", _query('up{job="shop",instance=~"$instance"}')),
    ("job_and_instance", "equal", _query('up{job="$job",instance=~"$instance"}')),
    ("job_and_instance", "alerts", _query('ALERTS{alertstate="firing"}')),
    (
        "job_and_instance",
        "annotation",
        _at("annotations", "list", 0, "expr", value="process_start_time_seconds"),
    ),
    ("no_nan", "quotient", _query(f"rate({COUNT}[$__rate_interval]) / rate({COUNT}[$__rate_interval])")),
    ("no_nan", "quantile", _query(f"histogram_quantile(0.5, rate({BUCKET}[$__rate_interval]))")),
    ("exemplars", "none", _query(f"histogram_quantile(0.5, rate({BUCKET}[$__rate_interval])) >= 0")),
    ("tables_join", "bare", _table('up{job=~"$job",instance=~"$instance"}')),
    ("figures_are_of_now", "range", _at("panels", 2, "targets", 0, "instant", value=False)),
]


def _judged(dashboard: Json) -> dict[str, list[str]]:
    against = house({"obskit-sample": dashboard})
    judged = {}
    for name, rule in RULES.items():
        try:
            judged[name] = list(rule(dashboard, against))
        except ValueError:  # what does not parse is told by the rule `parses`
            judged[name] = []
    return judged


def test_a_sound_dashboard_has_no_fault() -> None:
    assert not {name: found for name, found in _judged(_sound()).items() if found}


@pytest.mark.parametrize(
    ("rule", "change"),
    [(rule, change) for rule, _, change in BROKEN],
    ids=[f"{rule}: {what}" for rule, what, _ in BROKEN],
)
def test_the_rule_catches_its_fault(rule: str, change: Callable[[Json], None]) -> None:
    dashboard = deepcopy(_sound())
    change(dashboard)
    assert _judged(dashboard)[rule]


def test_every_rule_is_shown_to_catch_a_fault() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


def test_panels_inside_closed_rows_are_judged_too() -> None:
    dashboard = _sound()
    curve = dashboard["panels"].pop(1)
    dashboard["panels"][0]["panels"] = [{**curve, "description": ""}]
    assert [panel["title"] for panel in all_panels(dashboard)] == ["Row", "Curve", "Figure"]
    assert _judged(dashboard)["descriptions"]
