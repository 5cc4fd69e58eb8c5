"""An exception after the status had been sent."""

from __future__ import annotations

from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector


def judge(exchange: Exchange) -> Evidence | None:
    if exchange.outcome is not Outcome.RAISED_AFTER_HEADERS:
        return None
    return {
        "exception_type": type(exchange.exception).__name__,
        "status_sent": exchange.status,
        "response_bytes": exchange.response_bytes,
    }


DETECTOR = Detector(
    name="raised_after_headers",
    help="An exception cut the answer off after its status had been sent.",
    why="A status that is out cannot be taken back: proxies and access logs show the success it promised.",
    severity="warning",
    runbook="ObskitRaisedAfterHeaders",
    judge=judge,
    always=False,
)
