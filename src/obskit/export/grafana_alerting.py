"""The same alerts as Grafana-managed rules, in the file format of Grafana's alerting provisioning.

For who has no place for Prometheus rule files. Grafana evaluates these itself, so they read no recorded series.
Nothing in the file holds a `$`: in provisioning files Grafana replaces what follows one from its environment, and
which fields that concerns has changed between its versions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from obskit.export.errors import ExportError
from obskit.export.links import Links
from obskit.export.rules.model import Alert, Group, Rendering

ORGANISATION = 1
FOLDER = "obskit"

_QUERY, _CONDITION = "A", "B"
_EXPRESSIONS = "__expr__"

# A dollar that stands alone, as at the end of a regular expression, is left as it is.
_VARIABLE = re.compile(r"\$[\w{$*#@!?-]+")


def provisioning(
    groups: Iterable[Group],
    rendering: Rendering,
    links: Links,
    *,
    datasource_uid: str,
    folder: str = FOLDER,
) -> dict[str, Any]:
    """The content of a file below ``provisioning/alerting/``, to be written as YAML.

    `groups` are those made without recordings. `datasource_uid` is that of the Prometheus that Grafana shall ask:
    alert rules know no variables. ExportError for a route that Grafana would read as one of its own.
    """
    groups = tuple(groups)
    times_used = Counter(alert.name for group in groups for alert in group.alerts)
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": ORGANISATION,
                "name": group.name,
                "folder": folder,
                "interval": rendering.duration(group.interval),
                "rules": [
                    _rule(
                        alert,
                        _title(alert, unique=times_used[alert.name] == 1),
                        rendering,
                        links,
                        datasource_uid,
                    )
                    for alert in group.alerts
                ],
            }
            for group in groups
        ],
    }


def _refuse_variables(alert: Alert) -> None:
    for value in alert.labels.values():
        found = _VARIABLE.search(value)
        if found is not None:
            raise ExportError(
                f"--format grafana: Grafana would replace {found[0]!r} in {value!r} from its environment. "
                "Leave this objective out, or use the rules for Prometheus"
            )


def _title(alert: Alert, *, unique: bool) -> str:
    """What becomes the label `alertname`. Within a folder Grafana wants each title once."""
    if unique:
        return alert.name
    route = alert.labels.get("http_route", "")
    return " ".join(part for part in (alert.name, route, f"({alert.severity})") if part)


def _rule(
    alert: Alert, title: str, rendering: Rendering, links: Links, datasource_uid: str
) -> dict[str, Any]:
    _refuse_variables(alert)
    rule: dict[str, Any] = {
        "uid": _uid(rendering.job or "", title),
        "title": title,
        "condition": _CONDITION,
        "data": [_query(rendering.expression(alert.expr), datasource_uid), _any_series()],
        # No series means that nothing is wrong, as it does in Prometheus.
        "noDataState": "OK",
        "execErrState": "Error",
    }
    if alert.hold:
        rule["for"] = rendering.duration(alert.hold)
    if alert.keep_firing:
        rule["keepFiringFor"] = rendering.duration(alert.keep_firing)
    rule["labels"] = {"severity": alert.severity, **alert.labels}
    rule["annotations"] = {
        "summary": _in_grafana(alert.summary),
        "description": _in_grafana(alert.description),
        "runbook_url": links.runbook(alert.name),
        "dashboard_url": links.dashboard(alert.dashboard, *alert.by, dot=".Labels"),
    }
    return rule


def _query(expression: str, datasource_uid: str) -> dict[str, Any]:
    return {
        "refId": _QUERY,
        "relativeTimeRange": {"from": 600, "to": 0},
        "datasourceUid": datasource_uid,
        "model": {
            "refId": _QUERY,
            "datasource": {"type": "prometheus", "uid": datasource_uid},
            "expr": expression,
            "instant": True,
            "range": False,
            "intervalMs": 1000,
            "maxDataPoints": 43200,
        },
    }


def _any_series() -> dict[str, Any]:
    # In PromQL a series in the result is the alert, whatever its value; 0 is one of them (up == 0), and no rule of
    # ours has a negative one.
    return {
        "refId": _CONDITION,
        "relativeTimeRange": {"from": 600, "to": 0},
        "datasourceUid": _EXPRESSIONS,
        "model": {
            "refId": _CONDITION,
            "datasource": {"type": _EXPRESSIONS, "uid": _EXPRESSIONS},
            "type": "threshold",
            "expression": _QUERY,
            "conditions": [{"evaluator": {"type": "gt", "params": [-1]}}],
        },
    }


def _in_grafana(template: str) -> str:
    """A template of Prometheus in the form that needs no `$`; Grafana's `$value` is a text, not the number."""
    return template.replace("$labels.", ".Labels.").replace("$value", f".Values.{_QUERY}.Value")


def _uid(job: str, title: str) -> str:
    """The same at every export, so that Grafana updates a rule and adds no second one; at most 40 characters."""
    return "obskit-" + sha256(f"{job}|{title}".encode()).hexdigest()[:24]
