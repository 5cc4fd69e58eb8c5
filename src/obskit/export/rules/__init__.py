"""All rules, one file a family: a family is a module with `alerts(series)`, and its file is its registration."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module

from obskit.export.objectives import Objective
from obskit.export.rules import slo
from obskit.export.rules.model import Alert, Group
from obskit.export.rules.series import CountedSeries, RecordedSeries

# What the families are written with.
_TOOLS = frozenset({"model", "series", "slo"})


def groups(objectives: Iterable[Objective], *, recorded: bool = True) -> tuple[Group, ...]:
    """Every group of rules for these objectives.

    With `recorded` false the alerts need no recording rules, and there are none: what Grafana itself evaluates.
    """
    objectives = tuple(objectives)
    recordings = slo.recording_groups(objectives) if recorded else ()
    return (*recordings, slo.alert_group(objectives, recorded=recorded), *_families(recorded=recorded))


def alerts(objectives: Iterable[Objective]) -> tuple[Alert, ...]:
    """Every alert, in the order of the groups."""
    return tuple(alert for group in groups(objectives) for alert in group.alerts)


def _families(*, recorded: bool) -> Iterable[Group]:
    series = RecordedSeries() if recorded else CountedSeries()
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        if name not in _TOOLS:
            family = import_module(f"{__name__}.{name}")
            yield Group(f"obskit-{name}", "1m", tuple(family.alerts(series)))
