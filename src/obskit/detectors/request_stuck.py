"""A request that hangs; reported while it does (obskit.watch.stuck)."""

from __future__ import annotations

from obskit.findings import Detector

DETECTOR = Detector(
    name="request_stuck",
    help="A request hangs: for a long time it has made no progress.",
    why="There is no status yet: a request that hangs is in no count and no log until it ends.",
    severity="warning",
    runbook="ObskitRequestsStuck",
)
