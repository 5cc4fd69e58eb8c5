"""The demonstration on a terminal, live. The one file that draws with rich."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from obskit.demo.plain import outcomes
from obskit.demo.state import Picture
from obskit.demo.tail import Line, milliseconds, short_form
from obskit.demo.watch import WINDOW_S, Report, RouteReport

LINES_SHOWN = 6
# Title, numbers, findings, table head and its last row, two rules, the foot, and the blank lines between them.
FIXED_ROWS = 12
NARROW_COLUMNS = 96
LEVEL_STYLES = {
    "debug": "dim",
    "info": "green",
    "warning": "yellow",
    "error": "bold red",
    "critical": "bold red",
}
SLOW_S = 0.5


class ScreenView:
    """Draws on the alternate screen, so that the terminal is as it was when it closes."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console if console is not None else Console()
        self._live = Live(console=self.console, screen=True, auto_refresh=False)

    def open(self) -> None:
        self._live.start()

    def close(self) -> None:
        self._live.stop()

    def show(self, picture: Picture) -> None:
        """Draw this picture over the last one."""
        self._live.update(render(picture, self.console.width, self.console.height), refresh=True)


def render(picture: Picture, width: int, height: int) -> RenderableType:
    """The whole screen, of at most `height` rows; a narrow one leaves out what can be done without."""
    narrow = width < NARROW_COLUMNS
    room = max(3, height - FIXED_ROWS)
    lines = min(LINES_SHOWN, max(2, room // 2))
    return Group(
        _title(picture),
        _numbers(picture),
        _findings(picture.report),
        Text(),
        _routes(picture.report, room - lines, narrow),
        Text(),
        Rule("last requests, from the service's log", align="left", style="dim"),
        _lines(picture.lines[-lines:], narrow),
        Text(),
        Rule("see for yourself", align="left", style="dim"),
        _foot(picture),
    )


def _title(picture: Picture) -> RenderableType:
    row = Table.grid(expand=True)
    row.add_column(ratio=1, no_wrap=True)
    row.add_column(justify="right", no_wrap=True)
    minutes, seconds = divmod(int(picture.up_s), 60)
    left = Text.assemble(
        ("obskit demo", "bold"),
        f"  {picture.service} shop on {picture.server}",
        (f"  pid {picture.pid}  up {minutes}:{seconds:02d}", "dim"),
    )
    row.add_row(left, Text.assemble(("Ctrl-C", "bold"), " stops it"))
    address = Text.assemble(("metrics  ", "dim"), (picture.metrics_url, "cyan"))
    row.add_row(address, Text())
    return row


def _numbers(picture: Picture) -> RenderableType:
    report = picture.report
    error_style = "green" if report.errors == 0 else "yellow" if report.error_ratio < 0.05 else "bold red"
    return Text.assemble(
        ("requests ", "dim"),
        (f"{report.rate:.1f}/s", "bold"),
        ("   errors ", "dim"),
        (f"{report.error_ratio:.1%}", error_style),
        ("   in flight ", "dim"),
        (str(report.in_flight), "bold"),
        ("   sent ", "dim"),
        str(picture.tally.sent),
        ("   counted by /metrics ", "dim"),
        str(picture.counted),
        (f"   in the last {min(report.seconds, WINDOW_S):.0f} s", "dim"),
        no_wrap=True,
    )


def _findings(report: Report) -> RenderableType:
    told = outcomes(report.findings)
    return Text.assemble(
        ("findings ", "dim"),
        (told or "none", "yellow" if told else "dim"),
        ("   since the start: what no status code shows" if told else "", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def _routes(report: Report, rows: int, narrow: bool) -> RenderableType:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("route", no_wrap=True, overflow="ellipsis")
    if not narrow:
        table.add_column("methods", no_wrap=True, style="dim")
    table.add_column("req/s", justify="right", no_wrap=True)
    table.add_column("errors", justify="right", no_wrap=True)
    table.add_column("p50", justify="right", no_wrap=True, min_width=7)
    table.add_column("p95", justify="right", no_wrap=True, min_width=7)
    # It alone gives way: a route cut short could be any of three.
    table.add_column("not completed", no_wrap=True, overflow="ellipsis", ratio=1)
    for route in _fitting(report.routes, rows):
        table.add_row(
            route.route,
            *([] if narrow else [" ".join(route.methods)]),
            f"{route.rate:.2f}",
            Text(str(route.errors), style="bold red") if route.errors else Text("0", style="dim"),
            milliseconds(route.p50_s),
            Text(milliseconds(route.p95_s), style="yellow" if route.p95_s >= SLOW_S else ""),
            Text(outcomes(route.other_outcomes), style="yellow"),
        )
    hidden = len(report.routes) - rows
    if hidden > 0:
        table.add_row(Text(f"and {hidden} more", style="dim"))
    return table


def _fitting(routes: Sequence[RouteReport], rows: int) -> Sequence[RouteReport]:
    """As many as there is room for: the busiest, in the order they had."""
    if len(routes) <= rows:
        return routes
    busiest = {route.route for route in sorted(routes, key=lambda route: -route.rate)[: max(rows, 0)]}
    return [route for route in routes if route.route in busiest]


def _lines(lines: Sequence[Line], narrow: bool) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1 if narrow else None)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    if not narrow:
        table.add_column(no_wrap=True, overflow="ellipsis", style="dim")
    for line in lines:
        time, level, request, status, outcome, duration, trace_id = short_form(line)
        table.add_row(
            Text(time[:8] if narrow else time, style="dim"),
            Text(level, style=LEVEL_STYLES.get(level, "")),
            Text(request),
            Text(status, style="bold red" if status.startswith("5") else ""),
            Text(outcome, style="dim" if outcome == "completed" else "yellow"),
            Text(duration),
            *([] if narrow else [Text(trace_id)]),
        )
    return table


def _foot(picture: Picture) -> RenderableType:
    return Text(
        f"curl -s {picture.metrics_url} | grep request_duration_seconds_count", style="cyan", no_wrap=True
    )
