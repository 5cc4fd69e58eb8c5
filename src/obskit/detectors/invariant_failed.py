"""An assumption that did not hold; reported by obskit.invariant."""

from __future__ import annotations

from obskit.findings import Detector

DETECTOR = Detector(
    name="invariant_failed",
    help="An assumption of the application about its own data did not hold.",
    why="The application went on and answered as if nothing were wrong.",
    severity="warning",
    runbook="ObskitInvariantFailed",
)
