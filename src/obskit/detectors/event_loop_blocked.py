"""Code that blocks the event loop; reported while it does (obskit.watch.loop)."""

from __future__ import annotations

from obskit.findings import Detector

DETECTOR = Detector(
    name="event_loop_blocked",
    help="Synchronous code kept the event loop from all other requests of the worker.",
    why="The requests that had to wait answer with success, later.",
    severity="warning",
    runbook="ObskitEventLoopBlocked",
)
