"""A request that its server cancelled."""

from __future__ import annotations

from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector


def judge(exchange: Exchange) -> Evidence | None:
    if exchange.outcome is not Outcome.CANCELLED:
        return None
    return {
        "by": type(exchange.exception).__name__ if exchange.exception is not None else "server",
        "after_s": round(exchange.duration, 3),
        "status_sent": exchange.status,
    }


DETECTOR = Detector(
    name="cancelled",
    help="The server ended the work while its client was still waiting.",
    why="No exception handler runs for a cancellation; the client sees a cut connection, or what a proxy makes of it.",
    severity="warning",
    runbook="ObskitRequestsCancelled",
    judge=judge,
    always=False,
)
