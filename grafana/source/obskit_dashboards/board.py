"""One dashboard: rows of panels, laid out, numbered and mended into JSON that Grafana takes as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, heatmap
from grafana_foundation_sdk.models import dashboard as models

from obskit.export.links import dashboard_uid, runbook_panel_id
from obskit_dashboards.annotations import event_lines
from obskit_dashboards.links import TAG, dashboard_links
from obskit_dashboards.panels import Panel
from obskit_dashboards.variables import ALL_VARIABLES, Variable, variables

COLUMNS = 24
_ROW_HEIGHT = 1
_MISSING = object()

# Field -> the value the SDK gives it unasked. Each is unknown to some of Grafana 10 to 13, and the others take the
# same value when it is missing. But for the first: it moves links and annotation switches into a menu, where nobody
# on call looks for them.
UNASKED: dict[str, object] = {
    "placement": models.DashboardLinkPlacement.IN_CONTROLS_MENU.value,
    "allowCustomValue": True,
    "percentChangeColorMode": common.PercentChangeColorMode.STANDARD.value,
    "selectionMode": heatmap.HeatmapSelectionMode.X.value,
    "footer": {"countRows": False, "reducer": [], "show": False},
    "auto": False,
    "auto_count": 30,
    "auto_min": "10s",
}


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it, from left to right, line by line."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


@dataclass(frozen=True)
class Board:
    """A dashboard. `hidden` names variables that no panel reads: kept, so that links carry their values on."""

    slug: str
    title: str
    description: str
    rows: Sequence[Row]
    hidden: frozenset[str] = frozenset()
    extra: Sequence[Variable] = ()
    since: str = "now-1h"
    refresh: str = "30s"
    annotated: bool = True
    tags: Sequence[str] = field(default=(TAG,))

    def to_json(self) -> dict[str, Any]:
        """The classic dashboard model. ValueError for two panels of one name, or for lines wider than the grid."""
        builder = (
            builders.Dashboard(f"obskit / {self.title}")
            .uid(dashboard_uid(self.slug))
            .description(self.description)
            .tags(list(self.tags))
            .readonly()
            .time(self.since, "now")
            .timezone("browser")
            .refresh(self.refresh)
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .variables([*variables(ALL_VARIABLES, self.hidden), *variables(self.extra, frozenset())])
            .links(dashboard_links())
        )
        if self.annotated:
            builder.annotations(event_lines())
        dashboard = builder.build()
        dashboard.panels = self._placed()
        plain: dict[str, Any] = json.loads(json.dumps(dashboard, cls=JSONEncoder))
        mended: dict[str, Any] = _mended(plain)
        return mended

    def _placed(self) -> list[models.Panel | models.RowPanel]:
        """Panels with place and number. The number comes from the name: another panel's arrival changes no link."""
        placed: list[models.Panel | models.RowPanel] = []
        numbers: dict[int, str] = {}
        top = 0

        def number(name: str) -> int:
            # The runbooks' formula for all: there is one way in which a panel gets its number.
            found = runbook_panel_id(name)
            if found in numbers:
                raise ValueError(
                    f"{self.slug}: {name!r} and {numbers[found]!r} get the same panel id: rename one"
                )
            numbers[found] = name
            return found

        for row in self.rows:
            heading = models.RowPanel(
                title=row.title,
                collapsed=row.collapsed,
                id_val=number(f"row: {row.title}"),
                grid_pos=models.GridPos(h=_ROW_HEIGHT, w=COLUMNS, x=0, y=top),
            )
            placed.append(heading)
            top += _ROW_HEIGHT
            left = line = 0
            for panel in row.panels:
                if left + panel.width > COLUMNS:
                    left, top, line = 0, top + line, 0
                model = panel.build(number(panel.key or panel.title))
                model.grid_pos = models.GridPos(h=panel.height, w=panel.width, x=left, y=top)
                left, line = left + panel.width, max(line, panel.height)
                # Panels of an open row stand beside it, of a closed one inside: Grafana drops them otherwise.
                (heading.panels if row.collapsed else placed).append(model)
            top += line
        return placed


def _mended(value: Any) -> Any:
    """`value` without what the SDK writes unasked."""
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {key: _mended(item) for key, item in value.items() if UNASKED.get(key, _MISSING) != item}
    return value
