"""The kinds of panels. Each demands what a reader needs: a title, what to do when it looks bad, unit and no-value text.

`about` becomes the description. Sizes are in Grafana's grid of 24 columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import common as builders
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import heatmap as heatmaps
from grafana_foundation_sdk.builders import logs as logs_panels
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.builders import text as texts
from grafana_foundation_sdk.builders import timeseries as curves
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import text as text_models

from obskit_dashboards.markdown import shielded
from obskit_dashboards.queries import Query, log_query, trace_query
from obskit_dashboards.style import Colours, Thresholds, neutral
from obskit_dashboards.variables import LOKI, PROMETHEUS, TEMPO

Item = TypeVar("Item")
Link = Builder[models.DashboardLink]

NO_TRAFFIC = "no traffic"


@dataclass(frozen=True)
class Panel:
    """A panel that has yet to get its place and number. `key` is what the number is made from, else the title."""

    title: str
    about: str
    width: int
    height: int
    make: Callable[[], models.Panel]
    key: str = ""

    def build(self, number: int) -> models.Panel:
        """The model, under its number."""
        panel = self.make()
        panel.id_val, panel.title, panel.description = number, self.title, self.about
        # Asked for by no panel; the SDK writes it all the same, and it means nothing without `repeat`.
        panel.repeat_direction = None
        return panel


class _Fields(Protocol):
    """What the builders of all panels with values have in common."""

    def unit(self, unit: str) -> Self: ...
    def min(self, min_val: float) -> Self: ...
    def max(self, max_val: float) -> Self: ...
    def no_value(self, no_value: str) -> Self: ...
    def build(self) -> models.Panel: ...
    def override_by_regexp(self, regexp: str, properties: list[models.DynamicConfigValue]) -> Self: ...
    def override_by_name(self, name: str, properties: list[models.DynamicConfigValue]) -> Self: ...


def stat(
    title: str,
    about: str,
    queries: Query | Sequence[Query],
    unit: str,
    *,
    empty: str,
    thresholds: Thresholds | None = None,
    width: int = 4,
    height: int = 4,
    at_least: float | None = 0,
    decimals: int | None = None,
    names: bool = False,
    links: Sequence[Link] = (),
) -> Panel:
    """A figure of this moment. `names` shows the series' names beside the figures."""

    def make() -> models.Panel:
        text_mode = common.BigValueTextMode.VALUE_AND_NAME if names else common.BigValueTextMode.VALUE
        builder = (
            stats.Panel()
            .datasource(PROMETHEUS)
            .unit(unit)
            .no_value(empty)
            .thresholds(thresholds.build() if thresholds else neutral())
            .color_scheme(dashboards.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
            # Without it the SDK leaves the list of calculations empty, and the panel shows nothing.
            .reduce_options(builders.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
            .graph_mode(common.BigValueGraphMode.NONE)
            .text_mode(text_mode)
            .data_links(list(links))
        )
        if at_least is not None:
            builder.min(at_least)
        if decimals is not None:
            builder.decimals(decimals)
        panel = builder.build()
        panel.targets = [query.now(ref) for ref, query in _queries(queries)]
        return panel

    return Panel(title, about, width, height, make)


def timeseries(
    title: str,
    about: str,
    queries: Query | Sequence[Query],
    unit: str,
    *,
    empty: str = NO_TRAFFIC,
    colours: Colours | None = None,
    width: int = 12,
    height: int = 8,
    at_least: float | None = 0,
    at_most: float | None = None,
    stacked: bool = False,
    bars: bool = False,
    thresholds: Thresholds | None = None,
    dashed: Sequence[str] = (),
    links: Sequence[Link] = (),
) -> Panel:
    """Curves over time. `dashed` names (by regular expression) what is drawn to compare with."""

    def make() -> models.Panel:
        legend = (
            builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
            .sort_by("Max")
            .sort_desc(True)
        )
        builder = (
            curves.Panel()
            .datasource(PROMETHEUS)
            .unit(unit)
            .no_value(empty)
            .legend(legend)
            .tooltip(
                builders.VizTooltipOptions()
                .mode(common.TooltipDisplayMode.MULTI)
                .sort(common.SortOrder.DESCENDING)
            )
            .line_width(1)
            .fill_opacity(70 if bars else 30 if stacked else 10)
            .show_points(common.VisibilityMode.NEVER if bars else common.VisibilityMode.AUTO)
            .draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
            # A gap is news: no samples were there.
            .span_nulls(False)
            .data_links(list(links))
        )
        if stacked:
            builder.stacking(builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
        if thresholds:
            builder.thresholds(thresholds.build())
            builder.thresholds_style(
                builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
            )
        if at_least is not None:
            builder.min(at_least)
        if at_most is not None:
            builder.max(at_most)
        _paint(builder, colours)
        for pattern in dashed:
            style = {"fill": "dash", "dash": [8, 8]}
            builder.override_by_regexp(
                pattern, [_property("custom.lineStyle", style), _property("custom.fillOpacity", 0)]
            )
        panel = builder.build()
        panel.targets = [query.over_time(ref) for ref, query in _queries(queries)]
        return panel

    return Panel(title, about, width, height, make)


def heatmap(title: str, about: str, query: Query, unit: str, *, width: int = 12, height: int = 8) -> Panel:
    """How many observations fell into which bucket of a histogram, over time."""

    def make() -> models.Panel:
        axis = heatmap_models.YAxisConfig(unit=unit, min_val=0, axis_placement=common.AxisPlacement.LEFT)
        builder = (
            heatmaps.Panel()
            .datasource(PROMETHEUS)
            .unit(unit)
            .min(0)
            .no_value(NO_TRAFFIC)
            .calculate(False)
            .cell_gap(1)
            .show_legend()
        )
        panel = builder.build()
        options = panel.options
        assert isinstance(options, heatmap_models.Options)
        options.y_axis = axis
        options.cell_values = heatmap_models.CellValues(unit="short")
        options.tooltip = heatmap_models.HeatmapTooltip(
            mode=common.TooltipDisplayMode.SINGLE, y_histogram=True, show_color_scale=True
        )
        panel.targets = [query.over_time("A", heatmap=True)]
        return panel

    return Panel(title, about, width, height, make)


@dataclass(frozen=True)
class Column:
    """A column of values: its query by labels, heading, unit and judgement."""

    heading: str
    query: str
    unit: str
    thresholds: Thresholds | None = None


def table(
    title: str,
    about: str,
    columns: Sequence[Column],
    labels: Sequence[str],
    *,
    empty: str,
    sort: str,
    descending: bool = True,
    width: int = 24,
    height: int = 10,
    links: Mapping[str, Sequence[Link]] | None = None,
    hide_values: bool = False,
) -> Panel:
    """One line for each set of `labels`, one column for each of `columns`; `links` are those of a label's cells."""

    def make() -> models.Panel:
        builder = (
            tables.Panel()
            .datasource(PROMETHEUS)
            .unit("short")
            .min(0)
            .no_value(empty)
            .filterable(True)
            .sort_by([builders.TableSortByFieldState().display_name(sort).desc(descending)])
        )
        for column in columns:
            properties = [_property("unit", column.unit)]
            if column.thresholds:
                properties += [
                    _property("thresholds", column.thresholds.build().build()),
                    _property("custom.cellOptions", {"type": "color-text"}),
                ]
            builder.override_by_name(column.heading, properties)
        for label, leads in (links or {}).items():
            builder.override_by_name(label, [_property("links", [link.build() for link in leads])])
        panel = builder.build()
        queries = [Query(column.query) for column in columns]
        panel.targets = [query.now(ref, table=True) for ref, query in _lettered(queries)]
        panel.transformations = _as_one_table(columns, labels, hide_values)
        return panel

    return Panel(title, about, width, height, make)


def _as_one_table(
    columns: Sequence[Column], labels: Sequence[str], hide_values: bool
) -> list[models.DataTransformerConfig]:
    # A single query keeps the name "Value"; several are told apart by their letter.
    names = ["Value"] if len(columns) == 1 else [f"Value #{ref}" for ref, _ in _lettered(columns)]
    order = {name: place for place, name in enumerate([*labels, *names])}
    hidden = {"Time": True, **(dict.fromkeys(names, True) if hide_values else {})}
    headings = {name: column.heading for name, column in zip(names, columns, strict=True)}
    return [
        models.DataTransformerConfig(id_val="merge", options={}),
        models.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": hidden, "indexByName": order, "renameByName": headings},
        ),
    ]


def logs(title: str, about: str, expr: str, *, width: int = 24, height: int = 10) -> Panel:
    """Log lines, newest first. A trace id in them leads to its trace where the Loki data source says so."""

    def make() -> models.Panel:
        panel = (
            logs_panels.Panel()
            .datasource(LOKI)
            .show_time(True)
            .wrap_log_message(True)
            .enable_log_details(True)
            .sort_order(common.LogsSortOrder.DESCENDING)
            .dedup_strategy(common.LogsDedupStrategy.NONE)
            .build()
        )
        panel.targets = [log_query(expr)]
        return panel

    return Panel(title, about, width, height, make)


def traces(
    title: str, about: str, query: str, *, empty: str, spans: bool = True, width: int = 12, height: int = 9
) -> Panel:
    """Spans or traces that a TraceQL query finds, longest first; each leads to its trace."""

    def make() -> models.Panel:
        panel = (
            tables.Panel()
            .datasource(TEMPO)
            # The columns come from Tempo and bring their own units.
            .unit("none")
            .min(0)
            .no_value(empty)
            .filterable(True)
            .sort_by([builders.TableSortByFieldState().display_name("Duration").desc(True)])
            .build()
        )
        panel.targets = [trace_query(query, spans=spans)]
        return panel

    return Panel(title, about, width, height, make)


def text(
    title: str,
    about: str,
    markdown: str,
    *,
    width: int = 24,
    height: int = 4,
    key: str = "",
    quoted: bool = True,
) -> Panel:
    """Markdown. `quoted` keeps dollar signs and braces from being read as Grafana's variables."""

    def make() -> models.Panel:
        content = shielded(markdown) if quoted else markdown
        return texts.Panel().mode(text_models.TextMode.MARKDOWN).content(content).build()

    return Panel(title, about, width, height, make, key)


def _paint(builder: _Fields, colours: Colours | None) -> None:
    for pattern, colour in (colours or {}).items():
        builder.override_by_regexp(pattern, [_property("color", {"mode": "fixed", "fixedColor": colour})])


def _property(name: str, value: Any) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(id_val=name, value=value)


def _queries(queries: Query | Sequence[Query]) -> list[tuple[str, Query]]:
    return _lettered([queries] if isinstance(queries, Query) else queries)


def _lettered(items: Sequence[Item]) -> list[tuple[str, Item]]:
    return [(chr(ord("A") + place), item) for place, item in enumerate(items)]
