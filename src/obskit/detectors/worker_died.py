"""A request whose worker died; reported by the next process of the service (obskit.watch.flight)."""

from __future__ import annotations

from obskit.findings import Detector

DETECTOR = Detector(
    name="worker_died",
    help="The worker ended while it worked on this request.",
    why="There is no status: the client got a broken connection, or an error that the proxy made up.",
    severity="critical",
    runbook="ObskitRequestsLost",
)
