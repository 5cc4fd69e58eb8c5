"""Every Prometheus query of the shipped dashboards: of panels, annotations and variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.grafana.dashboard_files import Json, all_panels, shipped

_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+),\s*(?P<label>\w+)\)", re.DOTALL)


@dataclass(frozen=True)
class Target:
    """One query. `kind` is range, instant or variable; of a variable `expr` is the selector, `label` what is listed."""

    dashboard: str
    title: str
    ref: str
    expr: str
    kind: str
    exemplar: bool = False
    label: str = ""
    variables: tuple[tuple[str, str, Any], ...] = field(default=(), repr=False)
    """(name, type, current value) of each variable of its dashboard."""

    def __str__(self) -> str:
        return f"{self.dashboard}/{self.title}/{self.ref}"


def prometheus_targets() -> list[Target]:
    """All of them, in the order of the files."""
    return [target for dashboard in shipped().values() for target in dashboard_targets(dashboard)]


def dashboard_targets(dashboard: Json) -> Iterator[Target]:
    """Those of one dashboard."""
    uid = dashboard["uid"]
    listed = dashboard.get("templating", {}).get("list", [])
    variables = tuple(
        (variable["name"], variable["type"], variable.get("current", {}).get("value")) for variable in listed
    )
    for panel in all_panels(dashboard):
        for target in panel.get("targets", []):
            if _is_prometheus(target.get("datasource") or panel.get("datasource")):
                kind = "instant" if target.get("instant") else "range"
                exemplar = bool(target.get("exemplar"))
                yield Target(
                    uid, panel["title"], target["refId"], target["expr"], kind, exemplar, "", variables
                )
    for annotation in dashboard.get("annotations", {}).get("list", []):
        if _is_prometheus(annotation.get("datasource")):
            yield Target(
                uid, annotation["name"], "annotation", annotation["expr"], "range", variables=variables
            )
    for variable in listed:
        if variable["type"] == "query" and _is_prometheus(variable.get("datasource")):
            found = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert found, f"{uid}, variable {variable['name']}: not label_values(...): {variable['query']}"
            yield Target(
                uid,
                variable["name"],
                "variable",
                found["selector"],
                "variable",
                label=found["label"],
                variables=variables,
            )


def _is_prometheus(source: Any) -> bool:
    return isinstance(source, dict) and source.get("type") == "prometheus"
