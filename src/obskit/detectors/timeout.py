"""A request that its server gave up on."""

from __future__ import annotations

from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector


def judge(exchange: Exchange) -> Evidence | None:
    if exchange.outcome is not Outcome.TIMEOUT:
        return None
    return {"after_s": round(exchange.duration, 3), "status_sent": exchange.status}


DETECTOR = Detector(
    name="timeout",
    help="The server gave up on the request because it took too long.",
    why="Either no status was sent at all, or the one that was out already had promised success.",
    severity="warning",
    runbook="ObskitServerTimeouts",
    judge=judge,
    always=False,
)
