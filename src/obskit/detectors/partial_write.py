"""Something that had to happen as a whole happened in part; reported by obskit.unit_of_work."""

from __future__ import annotations

from obskit import names
from obskit.findings import Detector

DETECTOR = Detector(
    name="partial_write",
    help="One part of what belongs together was saved or sent, and another was not.",
    why="The status tells how the request ended, and nothing of what it had done until then.",
    severity="critical",
    runbook="ObskitPartialWrites",
    metric=names.PARTIAL_WRITES,
)
