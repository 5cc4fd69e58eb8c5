"""Work after the answer that failed."""

from __future__ import annotations

from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector


def judge(exchange: Exchange) -> Evidence | None:
    error = exchange.exception
    if exchange.outcome is not Outcome.COMPLETED or exchange.exception_handled:
        return None
    if not isinstance(error, Exception):
        return None
    return {"exception_type": type(error).__name__, "status_sent": exchange.status}


DETECTOR = Detector(
    name="background_failure",
    help="What was to happen after the answer (a mail, a job, a clean-up) failed.",
    why="The client had its whole answer with a good status before the failure happened.",
    severity="warning",
    runbook="ObskitBackgroundFailures",
    judge=judge,
    always=False,
)
