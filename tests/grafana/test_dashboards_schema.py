"""Dashboards against the types that Grafana publishes, for each major version they are made for."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.schema_check import ANNOTATIONS, QUERIES, VERSIONS, complaints

DASHBOARDS = Path(__file__).resolve().parents[2] / "grafana" / "dashboards"


# As small as a dashboard can be that has one of each thing the types speak of.
SAMPLE: dict[str, Any] = {
    "uid": "sample",
    "title": "Sample",
    "schemaVersion": 42,
    "graphTooltip": 1,
    "templating": {
        "list": [{"name": "job", "type": "query", "query": {"query": "label_values(job)", "refId": "A"}}]
    },
    "annotations": {
        "list": [
            {
                "name": "Deploys",
                "enable": True,
                "iconColor": "blue",
                "datasource": {"type": "prometheus", "uid": "x"},
                "titleFormat": "Version",
                "target": {"refId": "A", "datasource": {"type": "prometheus", "uid": "x"}, "expr": "up"},
            }
        ]
    },
    "panels": [
        {"id": 1, "type": "row", "title": "Row", "collapsed": False, "panels": []},
        {
            "id": 2,
            "type": "timeseries",
            "title": "Rate",
            "gridPos": {"h": 8, "w": 12, "x": 0, "y": 1},
            "options": {"legend": {"displayMode": "table", "calcs": ["lastNotNull"]}},
            "fieldConfig": {
                "defaults": {"unit": "reqps", "custom": {"drawStyle": "line", "fillOpacity": 10}},
                "overrides": [
                    {
                        "matcher": {"id": "byName", "options": "A"},
                        "properties": [{"id": "custom.lineWidth", "value": 2}, {"id": "unit", "value": "s"}],
                    }
                ],
            },
            "targets": [
                {
                    "refId": "A",
                    "datasource": {"type": "prometheus", "uid": "x"},
                    "expr": "up",
                    "instant": True,
                },
                {"refId": "B", "datasource": {"type": "loki", "uid": "x"}, "expr": '{a="b"}', "maxLines": 10},
            ],
        },
    ],
}

Typo = Callable[[dict[str, Any]], None]


def _set(*path: str | int, value: Any) -> Typo:
    def change(dashboard: dict[str, Any]) -> None:
        place: Any = dashboard
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


# Each is one slip of the pen, with the versions that can tell: the types of queries left the package over time.
TYPOS: dict[str, tuple[Typo, tuple[str, ...]]] = {
    "a property of the dashboard": (_set("refesh", value="30s"), VERSIONS),
    "a property of a variable": (_set("templating", "list", 0, "includeall", value=True), VERSIONS),
    "a property of an annotation": (_set("annotations", "list", 0, "colour", value="blue"), VERSIONS),
    "a property of an annotation's query": (
        _set("annotations", "list", 0, "target", "exp", value="up"),
        ("10",),
    ),
    "a property of a row": (_set("panels", 0, "colapsed", value=True), VERSIONS),
    "a property of a panel": (_set("panels", 1, "desciption", value="x"), VERSIONS),
    "a place on the grid": (_set("panels", 1, "gridPos", "height", value=8), VERSIONS),
    "an option of a panel": (_set("panels", 1, "options", "legends", value={}), VERSIONS),
    "an option inside an option": (_set("panels", 1, "options", "legend", "calc", value=[]), VERSIONS),
    "the value of an option": (
        _set("panels", 1, "options", "legend", "displayMode", value="tabel"),
        VERSIONS,
    ),
    "a field option": (_set("panels", 1, "fieldConfig", "defaults", "units", value="s"), VERSIONS),
    "a field option of the panel's own": (
        _set("panels", 1, "fieldConfig", "defaults", "custom", "fillOpacty", value=1),
        VERSIONS,
    ),
    "the value of one": (
        _set("panels", 1, "fieldConfig", "defaults", "custom", "drawStyle", value="lines"),
        VERSIONS,
    ),
    "the name of an overridden option": (
        _set("panels", 1, "fieldConfig", "overrides", 0, "properties", 0, "id", value="custom.linewidth"),
        VERSIONS,
    ),
    "a property of a PromQL query": (_set("panels", 1, "targets", 0, "exemplars", value=True), ("10",)),
    "a property of a LogQL query": (_set("panels", 1, "targets", 1, "maxlines", value=9), ("10", "11", "12")),
    "a missing schema version": (lambda dashboard: dashboard.pop("schemaVersion"), VERSIONS),
}


@pytest.fixture(scope="module")
def dashboards() -> dict[str, dict[str, Any]]:
    """The shipped ones, by file name."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}
    assert found, f"no dashboards in {DASHBOARDS}"
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_dashboards_are_of_the_types_that_grafana_publishes(
    version: str, dashboards: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    found = complaints(version, dashboards, tmp_path / version)
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    "property_",
    [name for table in (ANNOTATIONS, QUERIES) for left in table.values() for name in left.properties],
)
def test_what_is_added_to_grafanas_types_is_used_and_unknown_to_them(
    property_: str, dashboards: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    # The oldest version has most of the types; what it knows needs no addition.
    found = complaints(VERSIONS[0], dashboards, tmp_path / "types", unknown=property_)
    assert found
    assert all(f"'\"{property_}\"' does not exist" in one.text for one in found), "\n".join(map(str, found))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_typo_anywhere_in_a_dashboard_is_an_error_to_the_types(version: str, tmp_path: Path) -> None:
    broken: dict[str, dict[str, Any]] = {"right": SAMPLE}
    for number, (typo, versions) in enumerate(TYPOS.values()):
        if version in versions:
            broken[f"typo_{number}"] = deepcopy(SAMPLE)
            typo(broken[f"typo_{number}"])
    told = {one.dashboard for one in complaints(version, broken, tmp_path / version)}
    expected = {
        f"typo_{number}" for number, (_, versions) in enumerate(TYPOS.values()) if version in versions
    }
    assert told == expected
