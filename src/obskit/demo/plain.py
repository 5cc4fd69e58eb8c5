"""The demonstration as plain text, for pipes and files: a paragraph now and then, and the summary at the end."""

from __future__ import annotations

import sys
from typing import TextIO

from obskit.demo.state import Picture, Result
from obskit.demo.tail import milliseconds, short_form
from obskit.demo.watch import Report

EVERY_S = 5.0
LINES_SHOWN = 3


class PlainView:
    """Writes a paragraph to `out` every EVERY_S seconds."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._next_s = 0.0
        self._said_hello = False

    def open(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to put back."""

    def show(self, picture: Picture) -> None:
        """Show this picture, if it is time."""
        if not self._said_hello:
            self._said_hello = True
            self._next_s = picture.up_s + EVERY_S
            self._say(
                f"obskit demo: {picture.service} on {picture.server}, process {picture.pid}. Ctrl-C stops it.",
                f"metrics: curl -s {picture.metrics_url}",
                "",
            )
        elif picture.up_s >= self._next_s:
            self._next_s = picture.up_s + EVERY_S
            self._say(*paragraph(picture), "")

    def _say(self, *lines: str) -> None:
        self._out.write("\n".join(lines) + "\n")
        self._out.flush()


class QuietView(PlainView):
    """Says on stderr that it runs, for `--json`: stdout belongs to the one object."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def show(self, picture: Picture) -> None:
        if not self._said_hello:
            super().show(picture)


def paragraph(picture: Picture) -> list[str]:
    """The state of things in a few lines."""
    report = picture.report
    return [
        (
            f"up {picture.up_s:.0f} s, last {report.seconds:.0f} s: {report.rate:.1f} requests/s, "
            f"errors {report.error_ratio:.1%}, in flight {report.in_flight}"
        ),
        *table(report),
        *found(report),
        *("  ".join(short_form(line)) for line in picture.lines[-LINES_SHOWN:]),
    ]


def table(report: Report) -> list[str]:
    """A row for each route."""
    width = max([len(route.route) for route in report.routes], default=5)
    rows = [f"  {'route':<{width}}  requests  errors      p50      p95  other outcomes"]
    for route in report.routes:
        rows.append(
            f"  {route.route:<{width}}  {route.requests:>8}  {route.errors:>6}  {milliseconds(route.p50_s):>7}  "
            f"{milliseconds(route.p95_s):>7}  {outcomes(route.other_outcomes)}".rstrip()
        )
    return rows


def found(report: Report) -> list[str]:
    """What the detectors found, in a line of its own; none for nothing."""
    return [f"  findings since the start: {outcomes(report.findings)}"] if report.findings else []


def outcomes(counts: dict[str, int]) -> str:
    """client_disconnect 3, raised 1"""
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))


def summary(result: Result) -> list[str]:
    """The end of it, for people."""
    report = result.report
    return [
        (
            f"obskit demo: {result.service} on {result.server}, {result.duration_s:.1f} s, "
            f"{report.rate:.1f} requests/s, errors {report.error_ratio:.1%}"
        ),
        *table(report),
        *found(report),
        f"{result.comparison()} The log has {result.lines_seen} canonical lines.",
    ]
