"""Every LogQL and TraceQL query that is shipped: in targets and links of dashboards, and in runbooks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.grafana.dashboard_files import marked, shipped
from tests.grafana.runbooks import runbooks
from tests.support.node_tools import Query

LANGUAGES = {"loki": "logql", "tempo": "traceql"}


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
    for name, dashboard in shipped().items():
        yield from dashboard_queries(name, dashboard)


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
        yield Query(language, marked(text, values), place)


def _of_link(url: str, place: str, values: Mapping[str, str]) -> Iterator[Query]:
    address = parse_qs(urlsplit(marked(url, values)).query)
    panes = [*address.get("left", []), *address.get("panes", [])]
    assert panes, f"{place}: a link to Explore without a query: {url}"
    for pane in panes:
        yield from _within(json.loads(pane), f"{place} (link)", values)
