"""What the views show: one picture of the demonstration at one moment, and its end result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from obskit.demo.tail import Line
from obskit.demo.traffic import Tally
from obskit.demo.watch import Report, RouteReport


@dataclass(frozen=True)
class Picture:
    """The demonstration now. `report` covers the last seconds; `lines` are the latest canonical lines."""

    service: str
    server: str
    pid: int
    url: str
    metrics_url: str
    up_s: float
    report: Report
    lines: list[Line]
    tally: Tally
    counted: int


@dataclass(frozen=True)
class Result:
    """How it ended. `report` covers everything from the first request to the last."""

    service: str
    server: str
    metrics_url: str
    duration_s: float
    tally: Tally
    counted: int
    report: Report
    line: Line | None
    lines_seen: int

    @property
    def agrees(self) -> bool:
        """Whether /metrics counted every request that was sent, and no other."""
        return self.tally.sent == self.counted

    def comparison(self) -> str:
        """One sentence: what was sent against what /metrics and the log say."""
        sent, counted = self.tally.sent, self.counted
        if self.agrees:
            return f"{sent} requests sent, {counted} counted by /metrics: they agree."
        return (
            f"{sent} requests sent, {counted} counted by /metrics: THEY DIFFER by {abs(sent - counted)} "
            f"({self.tally.unanswered} found no answer, {self.report.in_flight} were still in flight)."
        )

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints; times in seconds."""
        report = self.report
        return {
            "service": self.service,
            "server": self.server,
            "metrics_url": self.metrics_url,
            "duration_s": round(self.duration_s, 3),
            "requests_sent": self.tally.sent,
            "requests_counted": self.counted,
            "agree": self.agrees,
            "requests_left_by_client": self.tally.left,
            "requests_unanswered": self.tally.unanswered,
            "connections_failed": self.tally.not_connected,
            "errors": report.errors,
            "p95_s": {route.route: _finite(route.p95_s) for route in report.routes},
            "findings": report.findings,
            "routes": [_route_json(route) for route in report.routes],
            "canonical_lines": self.lines_seen,
            "canonical_line": self.line,
        }


def _route_json(route: RouteReport) -> dict[str, Any]:
    return {
        "http_route": route.route,
        "methods": list(route.methods),
        "requests": route.requests,
        "errors": route.errors,
        "p50_s": _finite(route.p50_s),
        "p95_s": _finite(route.p95_s),
        "other_outcomes": route.other_outcomes,
    }


def _finite(value: float) -> float | None:
    # NaN is no JSON.
    return round(value, 6) if math.isfinite(value) else None
