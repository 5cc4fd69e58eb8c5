"""Our linter of dashboards, first half: what every panel, variable and link must have.

A rule is a function that yields one text for each fault of one dashboard; `RULES` of both halves is all there are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from grafana_foundation_sdk.models import units

from tests.grafana.dashboard_files import Json, all_panels, data_links, value_panels, variables_in

SOURCES = {"prometheus": "${prometheus}", "loki": "${loki}", "tempo": "${tempo}"}
CHOICES = ("job", "instance", "http_route", "http_request_method")
TAG = "obskit"
COLUMNS = 24

# What Grafana 10 to 13 all have built in. `graph`, `singlestat`, `table-old` and others are gone in 11 or 12.
PANEL_TYPES = frozenset(
    {"bargauge", "gauge", "heatmap", "logs", "row", "stat", "table", "text", "timeseries"}
)

# Set by Grafana itself, wherever a link or query stands.
_BUILT_IN = frozenset(
    "__data __field __from __range __range_s __rate_interval __rate_interval_ms __to __url_time_range".split()
)


@dataclass(frozen=True)
class House:
    """What a dashboard is judged against: all dashboards by uid, and the metrics there are, with their labels."""

    dashboards: Mapping[str, Json]
    metrics: Mapping[str, frozenset[str]] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()
    counters: frozenset[str] = frozenset()


Rule = Callable[[Json, House], Iterator[str]]


def known_units(module: ModuleType = units) -> frozenset[str]:
    """Every unit that Grafana knows, by the SDK's list."""
    return frozenset(value for value in vars(module).values() if isinstance(value, str))


def _units_of(panel: Json) -> Iterator[str | None]:
    config = panel.get("fieldConfig", {})
    yield config.get("defaults", {}).get("unit")
    for override in config.get("overrides", []):
        yield from (item["value"] for item in override["properties"] if item["id"] == "unit")


# ---- the dashboard -----------------------------------------------------------------------------------


def not_editable(dashboard: Json, house: House) -> Iterator[str]:
    """A change made in Grafana is lost with the next import: it must not be made by accident."""
    if dashboard.get("editable") is not False:
        yield "editable is not false"


def identity(dashboard: Json, house: House) -> Iterator[str]:
    """Links and alerts find dashboards by uid and tag."""
    if not str(dashboard.get("uid", "")).startswith("obskit-"):
        yield f"uid is {dashboard.get('uid')!r}"
    if not str(dashboard.get("title", "")).startswith("obskit / "):
        yield f"title is {dashboard.get('title')!r}"
    if TAG not in dashboard.get("tags", []):
        yield f"no tag {TAG}"
    if not dashboard.get("description"):
        yield "no description"
    if "id" in dashboard:
        yield "carries the id of the Grafana it comes from"


def linked_to_all(dashboard: Json, house: House) -> Iterator[str]:
    """From each dashboard to all others, with choices and time."""
    for link in dashboard.get("links", []):
        if link.get("type") == "dashboards" and TAG in link.get("tags", []):
            if not (link.get("includeVars") and link.get("keepTime")):
                yield "the link to the other dashboards drops variables or time"
            return
    yield f"no link to the dashboards with the tag {TAG}"


# ---- panels ------------------------------------------------------------------------------------------


def panel_ids(dashboard: Json, house: House) -> Iterator[str]:
    """Two panels of one id: Grafana shows one of them."""
    found = Counter(panel.get("id") for panel in all_panels(dashboard))
    yield from (f"id {number!r} {times} times" for number, times in found.items() if times > 1)
    yield from (
        f"{panel['title']}: id {panel.get('id')!r}" for panel in all_panels(dashboard) if not panel.get("id")
    )


def no_overlap(dashboard: Json, house: House) -> Iterator[str]:
    """Panels side by side, within the grid."""
    places = {}
    for panel in all_panels(dashboard):
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS or min(place["h"], place["w"]) < 1:
            yield f"{panel['title']}: outside the grid"
        places[panel["title"]] = place
    for (one, a), (other, b) in combinations(places.items(), 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        if not (beside or above):
            yield f"{one} overlaps {other}"


def titles(dashboard: Json, house: House) -> Iterator[str]:
    """A title each, of its own: runbooks name panels by it."""
    found = Counter(panel.get("title", "") for panel in all_panels(dashboard))
    yield from (f"{title!r} {times} times" for title, times in found.items() if times > 1 or not title)


def panel_types(dashboard: Json, house: House) -> Iterator[str]:
    """Only what all supported versions have."""
    for panel in all_panels(dashboard):
        if panel["type"] not in PANEL_TYPES:
            yield f"{panel['title']}: {panel['type']}"


def descriptions(dashboard: Json, house: House) -> Iterator[str]:
    """What to do when it looks bad."""
    for panel in all_panels(dashboard):
        if panel["type"] != "row" and not str(panel.get("description", "")).endswith("."):
            yield f"{panel['title']}: no description, or no sentence"


def panel_units(dashboard: Json, house: House) -> Iterator[str]:
    """A unit that Grafana knows; another one is printed behind the number as it is."""
    known = known_units()
    for panel in value_panels(dashboard):
        yield from (f"{panel['title']}: unit {unit!r}" for unit in _units_of(panel) if unit not in known)


def least_values(dashboard: Json, house: House) -> Iterator[str]:
    """An axis that starts at 0: otherwise a tremor looks like a breakdown."""
    for panel in value_panels(dashboard):
        if panel.get("fieldConfig", {}).get("defaults", {}).get("min") is None:
            yield f"{panel['title']}: no min"


def no_value_texts(dashboard: Json, house: House) -> Iterator[str]:
    """What the absence of a value means."""
    for panel in value_panels(dashboard):
        if not panel.get("fieldConfig", {}).get("defaults", {}).get("noValue"):
            yield f"{panel['title']}: no noValue"


def calculations(dashboard: Json, house: House) -> Iterator[str]:
    """A stat without calculation shows nothing."""
    for panel in all_panels(dashboard):
        if panel["type"] == "stat" and not panel.get("options", {}).get("reduceOptions", {}).get("calcs"):
            yield f"{panel['title']}: no calcs"


# ---- data sources and variables ----------------------------------------------------------------------


def templated_sources(dashboard: Json, house: House) -> Iterator[str]:
    """A uid of ours means empty panels, without an error, in everybody else's Grafana."""
    for place, source in _sources(dashboard, ""):
        if not isinstance(source, dict) or SOURCES.get(source.get("type", "")) != source.get("uid"):
            yield f"{place}: {source!r}"
    for panel in all_panels(dashboard):
        for item in [panel, *panel.get("targets", [])]:
            if panel["type"] not in ("row", "text") and not item.get("datasource"):
                yield f"{panel['title']}: no datasource"
    if "__inputs" in dashboard or "${DS_" in json.dumps(dashboard):
        yield "inputs, which break provisioning"


def _sources(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for item in value:
            yield from _sources(item, place)
    elif isinstance(value, dict):
        place = str(value.get("title") or value.get("name") or place)
        for key, item in value.items():
            if key == "datasource":
                yield place, item
            yield from _sources(item, place)


def variables(dashboard: Json, house: House) -> Iterator[str]:
    """The same variables everywhere, or links carry nothing over."""
    found = {variable["name"]: variable for variable in dashboard.get("templating", {}).get("list", [])}
    for name in SOURCES:
        variable = found.get(name, {})
        if (variable.get("type"), variable.get("query")) != ("datasource", name):
            yield f"{name}: no data source variable"
        if variable.get("current"):
            yield f"{name}: chosen beforehand"
    for name in CHOICES:
        variable = found.get(name, {})
        if not (variable.get("multi") and variable.get("includeAll") and variable.get("allValue") == ".*"):
            yield f"{name}: not multi with All as '.*'"
        source = "obskit_app_info" if name in CHOICES[:2] else "http_server_request_duration_seconds_count"
        if source not in str(variable.get("query")):
            yield f"{name}: not from {source}"


def defined_variables(dashboard: Json, house: House) -> Iterator[str]:
    """A variable that is not there stays in the query as text."""
    found = {variable["name"] for variable in dashboard.get("templating", {}).get("list", [])}
    for panel in all_panels(dashboard):
        if panel["type"] != "text":
            for name in sorted(variables_in(json.dumps({**panel, "panels": []})) - found - _BUILT_IN):
                yield f"{panel['title']}: ${name}"


# ---- links -------------------------------------------------------------------------------------------


def links_resolve(dashboard: Json, house: House) -> Iterator[str]:
    """Every link leads to a dashboard, panel and variable that exist, or is a whole address for Explore."""
    for place, link in data_links(dashboard.get("panels", [])):
        address = urlsplit(link["url"])
        if address.path.startswith("/d/"):
            fault = _dashboard_fault(address.path.removeprefix("/d/"), address.query, house)
        elif address.path == "/explore":
            fault = _explore_fault(address.query)
        else:
            fault = "leads out of Grafana"
        if fault:
            yield f"{place} -> {link['title']}: {fault}"


def _dashboard_fault(uid: str, query: str, house: House) -> str:
    target = house.dashboards.get(uid)
    if target is None:
        return f"no dashboard {uid}"
    if "${__url_time_range}" not in query:
        return "drops the time range"
    names = {variable["name"] for variable in target.get("templating", {}).get("list", [])}
    chosen = parse_qs(query)
    for name in chosen:
        if name.startswith("var-") and name.removeprefix("var-") not in names:
            return f"{uid} has no variable {name}"
    ids = {str(panel.get("id")) for panel in all_panels(target)}
    missing = set(chosen.get("viewPanel", [])) - ids
    return f"{uid} has no panel {sorted(missing)}" if missing else ""


def _explore_fault(query: str) -> str:
    values = parse_qs(query)
    try:
        panes = {**json.loads(values["panes"][0]), "left": json.loads(values["left"][0])}
    except (KeyError, ValueError) as error:
        return f"no Explore state: {error!r}"
    if values.get("schemaVersion") != ["1"]:
        return "no schemaVersion"
    for name, pane in panes.items():
        # Grafana renames a pane whose name has not three characters, and its history then breaks.
        if name != "left" and len(name) != 3:
            return f"pane {name!r}"
        if pane.get("range") != {"from": "${__from}", "to": "${__to}"}:
            return "drops the time range"
        for source in [
            pane.get("datasource"),
            *(item["datasource"]["uid"] for item in pane.get("queries", [])),
        ]:
            if source not in SOURCES.values():
                return f"data source {source!r}"
    return ""


RULES: tuple[Rule, ...] = (
    not_editable,
    identity,
    linked_to_all,
    panel_ids,
    no_overlap,
    titles,
    panel_types,
    descriptions,
    panel_units,
    least_values,
    no_value_texts,
    calculations,
    templated_sources,
    variables,
    defined_variables,
    links_resolve,
)
