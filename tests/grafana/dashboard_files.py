"""The shipped dashboards as data: panels, queries, links, and PromQL with variables replaced by marked values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import promql_parser as promql

GRAFANA = Path(__file__).resolve().parents[2] / "grafana"
DASHBOARDS = GRAFANA / "dashboards"

Json = dict[str, Any]

PROMETHEUS = {"type": "prometheus", "uid": "${prometheus}"}

# Panels of values have a unit, a least value and a text for "no value"; of these three nothing of the kind.
WITHOUT_VALUES = frozenset({"row", "text", "logs"})

# Odd durations, so that they are recognised in a parsed query.
RATE_INTERVAL, RANGE = "7m7s", "1h7s"
_DURATIONS = {
    "__rate_interval": RATE_INTERVAL,
    "__range": RANGE,
    "__rate_interval_ms": "427000",
    "__range_s": "3607",
    "__interval": "1m",
    "__auto": "1m",
}
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?:\.[^}:]+)?(?::[^}]*)?\}|(?P<plain>\w+))")


def shipped() -> dict[str, Json]:
    """Every dashboard by its file name without ending."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))
    }


def all_panels(dashboard: Json) -> Iterator[Json]:
    """Every panel, rows and what is inside closed rows included."""
    for panel in dashboard.get("panels", []):
        yield panel
        yield from panel.get("panels", [])


def value_panels(dashboard: Json) -> Iterator[Json]:
    """Every panel that shows values."""
    return (panel for panel in all_panels(dashboard) if panel["type"] not in WITHOUT_VALUES)


def variables_in(text: str) -> set[str]:
    """The names of all variables in `text`."""
    return {match["braced"] or match["plain"] for match in _VARIABLE.finditer(text)}


def marked(text: str, values: Mapping[str, str] = MappingProxyType({})) -> str:
    """`text` with the durations above and `values` for variables of these names, and every other $name as VAR_name."""
    known = {**_DURATIONS, **values}

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        return known.get(name, f"VAR_{name}")

    return _VARIABLE.sub(value, text)


@dataclass(frozen=True)
class PromQuery:
    """A PromQL query and where it stands. `panel` is None for one of an annotation or a variable."""

    place: str
    expr: str
    target: Json
    panel: Json | None = None

    @property
    def tree(self) -> promql.Expr:
        """The parsed query."""
        return promql.parse(marked(self.expr))


def prom_queries(dashboard: Json) -> Iterator[PromQuery]:
    """The PromQL of all panels and annotations."""
    for panel in all_panels(dashboard):
        for target in panel.get("targets", []):
            if "expr" in target and (target.get("datasource") or PROMETHEUS).get("type") == "prometheus":
                yield PromQuery(f"{panel['title']} {target['refId']}", target["expr"], target, panel)
    for annotation in dashboard.get("annotations", {}).get("list", []):
        if "expr" in annotation:
            yield PromQuery(f"annotation {annotation['name']}", annotation["expr"], annotation)


def nodes(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every node of a parsed query with those above it, parentheses left out."""
    if isinstance(tree, promql.ParenExpr):
        yield from nodes(tree.expr, above)
        return
    yield tree, above
    below = [getattr(tree, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector")]
    for node in [*below, *(getattr(tree, "args", None) or [])]:
        if isinstance(node, promql.Expr):
            yield from nodes(node, (*above, tree))


def selectors(tree: Any) -> Iterator[tuple[promql.VectorSelector, str]]:
    """Every selector, with the name of the function that takes it directly as a range; "" for none."""
    for node, above in nodes(tree):
        if isinstance(node, promql.VectorSelector):
            ranged = len(above) >= 2 and isinstance(above[-1], promql.MatrixSelector)
            call = above[-2] if ranged else None
            yield node, call.func.name if isinstance(call, promql.Call) else ""


def metric_of(selector: promql.VectorSelector) -> str:
    """The metric that a selector reads."""
    named = [matcher.value for matcher in selector.matchers.matchers if matcher.name == "__name__"]
    return selector.name or (named[0] if named else "")


def data_links(value: Any, title: str = "") -> Iterator[tuple[str, Json]]:
    """Every link of panels, fields and overrides, with the title of the panel around it."""
    if isinstance(value, list):
        for item in value:
            yield from data_links(item, title)
    elif isinstance(value, dict):
        if "gridPos" in value:
            title = value.get("title", "")
        if "url" in value and "title" in value:
            yield title, value
        for item in value.values():
            yield from data_links(item, title)
