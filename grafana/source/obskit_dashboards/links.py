"""Where a panel or a row leads: another dashboard, or Explore with the log lines and traces of the same thing."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

from obskit.export.links import dashboard_uid

TAG = "obskit"

_CARRIED = ("prometheus", "loki", "tempo", "job", "instance")
_TIME = "${__url_time_range}"
_VARIABLE = re.compile(r"\$\{[^}]+\}")


def cell(label: str) -> str:
    """The value of a table row's `label`, encoded for an address."""
    return f"${{__data.fields.{label}:percentencode}}"


def series(label: str) -> str:
    """The value of a drawn series' `label`, encoded for an address."""
    return f"${{__field.labels.{label}:percentencode}}"


def dashboard_links() -> list[Builder[models.DashboardLink]]:
    """From every dashboard to every other, with all variables and the time range."""
    return [
        builders.DashboardLink("obskit")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
        .target_blank(False)
    ]


def to_board(title: str, slug: str, **chosen: str) -> Builder[models.DashboardLink]:
    """A data link to a dashboard, with variables set to `chosen`; those of `_CARRIED` stay as they are."""
    # `queryparam` writes var-job=a&var-job=b, and keeps All as All.
    carried = [f"${{{name}:queryparam}}" for name in _CARRIED if name not in chosen]
    query = "&".join([*carried, *(f"var-{name}={value}" for name, value in chosen.items()), _TIME])
    return _link(title, f"/d/{dashboard_uid(slug)}?{query}", blank=False)


def to_logs(title: str, filters: str) -> Builder[models.DashboardLink]:
    """A data link to Explore with the canonical lines that `filters` (LogQL label filters) leave."""
    expr = f'{{service_name=~"${{service:pipe}}"}} | json | event="http.request" {filters}'.rstrip()
    return explore(title, "loki", {"expr": expr, "queryType": "range"})


def to_traces(title: str, conditions: str) -> Builder[models.DashboardLink]:
    """A data link to Explore with the SERVER spans for which `conditions` (TraceQL) hold."""
    query = f'{{resource.service.name=~"${{service:pipe}}" && kind=server && {conditions}}}'
    return explore(
        title, "tempo", {"query": query, "queryType": "traceql", "tableType": "spans", "limit": 20}
    )


def explore(title: str, source: str, query: dict[str, Any]) -> Builder[models.DashboardLink]:
    """A data link to Explore, with data source and time range.

    Since 10.1 Explore reads `panes` when `schemaVersion` is there, each pane under a name of three characters;
    Grafana 10.0 reads `left` and ignores the rest. The address says both.
    """
    uid = f"${{{source}}}"
    pane = {
        "datasource": uid,
        "queries": [{"refId": "A", "datasource": {"type": source, "uid": uid}, **query}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    address = f"/explore?schemaVersion=1&panes={_encoded({'obs': pane})}&left={_encoded(pane)}"
    return _link(title, address, blank=True)


def _encoded(value: object) -> str:
    """JSON, percent-encoded but for Grafana's variables: encoded, those would not be seen."""
    text = json.dumps(value, separators=(",", ":"))
    fixed = [quote(part, safe="") for part in _VARIABLE.split(text)]
    found = [*_VARIABLE.findall(text), ""]
    return "".join(part + variable for part, variable in zip(fixed, found, strict=True))


def _link(title: str, url: str, *, blank: bool) -> Builder[models.DashboardLink]:
    return builders.DashboardLink(title).url(url).target_blank(blank)
