"""An application that returned without an answer."""

from __future__ import annotations

from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector


def judge(exchange: Exchange) -> Evidence | None:
    return {"duration_s": round(exchange.duration, 3)} if exchange.outcome is Outcome.NO_RESPONSE else None


DETECTOR = Detector(
    name="no_response",
    help="The application returned and had answered nothing.",
    why="The server makes up a 500 or cuts the connection; the application's own error handling never sees it.",
    severity="warning",
    runbook="ObskitNoResponse",
    judge=judge,
    always=False,
)
