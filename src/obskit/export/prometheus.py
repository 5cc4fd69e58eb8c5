"""Rules as a Prometheus rule file, which Mimir, Thanos and VictoriaMetrics' vmalert read as well."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from obskit.export.links import Links
from obskit.export.rules.model import Alert, Group, Recording, Rendering


def rule_file(groups: Iterable[Group], rendering: Rendering, links: Links) -> dict[str, Any]:
    """The content of a rule file, to be written as YAML."""
    return {
        "groups": [
            {
                "name": group.name,
                "interval": rendering.duration(group.interval),
                "rules": [
                    _recording(rule, rendering)
                    if isinstance(rule, Recording)
                    else _alert(rule, rendering, links)
                    for rule in group.rules
                ],
            }
            for group in groups
        ]
    }


def _recording(rule: Recording, rendering: Rendering) -> dict[str, Any]:
    written: dict[str, Any] = {"record": rule.record, "expr": rendering.expression(rule.expr)}
    if rule.labels:
        written["labels"] = dict(rule.labels)
    return written


def _alert(rule: Alert, rendering: Rendering, links: Links) -> dict[str, Any]:
    written: dict[str, Any] = {"alert": rule.name, "expr": rendering.expression(rule.expr)}
    if rule.hold:
        written["for"] = rendering.duration(rule.hold)
    if rule.keep_firing:
        written["keep_firing_for"] = rendering.duration(rule.keep_firing)
    written["labels"] = {"severity": rule.severity, **rule.labels}
    written["annotations"] = {
        "summary": rule.summary,
        "description": rule.description,
        "runbook_url": links.runbook(rule.name),
        "dashboard_url": links.dashboard(rule.dashboard, *rule.by),
    }
    return written
