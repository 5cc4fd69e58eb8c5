"""Every LogQL and TraceQL query that is shipped: in targets and links of dashboards, and in runbooks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.grafana.runbooks import runbooks
from tests.support.node_tools import Query

DASHBOARDS = Path(__file__).resolve().parents[2] / "grafana" / "dashboards"
LANGUAGES = {"loki": "logql", "tempo": "traceql"}

_VARIABLE = re.compile(r"\$\{(?P<braced>\w+)[^}]*\}|\$(?P<bare>\w+)")
# Windows and steps stand where only a duration may.
_DURATIONS = dict.fromkeys(("__auto", "__interval", "__rate_interval", "__range"), "5m")


def with_values(text: str, values: Mapping[str, str] = MappingProxyType({})) -> str:
    """`text` as the data source gets it: Grafana puts the variables' values in before anybody parses it."""
    known = {**_DURATIONS, **values}
    return _VARIABLE.sub(lambda found: known.get(found["braced"] or found["bare"], "value"), text)


def shipped_queries() -> list[Query]:
    """All of them, with where each was found."""
    return [*_of_dashboards(), *_of_runbooks()]


def dashboard_queries(name: str, dashboard: dict[str, Any]) -> Iterator[Query]:
    """Those of the targets and of the links to Explore of one dashboard, wherever in it they stand."""
    # A choice among fixed values may stand anywhere, also where no label value could.
    values = {
        variable["name"]: variable["current"]["value"]
        for variable in dashboard.get("templating", {}).get("list", [])
        if variable["type"] == "custom"
    }
    yield from _within(dashboard, name, values)


def _of_dashboards() -> Iterator[Query]:
    for path in sorted(DASHBOARDS.glob("*.json")):
        yield from dashboard_queries(path.stem, json.loads(path.read_text()))


def _of_runbooks() -> Iterator[Query]:
    for runbook in runbooks():
        for language in LANGUAGES.values():
            for text in runbook.blocks(language):
                yield Query(language, text, f"runbooks/{runbook.alert}.md")


def _within(value: Any, place: str, values: Mapping[str, str]) -> Iterator[Query]:
    if isinstance(value, list):
        for item in value:
            yield from _within(item, place, values)
    elif isinstance(value, dict):
        if isinstance(value.get("title"), str):
            place = f"{place} / {value['title']}"
        yield from _of_target(value, place, values)
        if isinstance(value.get("url"), str) and "/explore?" in value["url"]:
            yield from _of_link(value["url"], place, values)
        for item in value.values():
            yield from _within(item, place, values)


def _of_target(value: dict[str, Any], place: str, values: Mapping[str, str]) -> Iterator[Query]:
    source = value.get("datasource")
    language = LANGUAGES.get(source.get("type", "")) if isinstance(source, dict) else None
    text = value.get("expr") or value.get("query")
    if language is not None and "refId" in value and isinstance(text, str):
        yield Query(language, with_values(text, values), place)


def _of_link(url: str, place: str, values: Mapping[str, str]) -> Iterator[Query]:
    address = parse_qs(urlsplit(with_values(url, values)).query)
    panes = [*address.get("left", []), *address.get("panes", [])]
    assert panes, f"{place}: a link to Explore without a query: {url}"
    for pane in panes:
        yield from _within(json.loads(pane), f"{place} (link)", values)
