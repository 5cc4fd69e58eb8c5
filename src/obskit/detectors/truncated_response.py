"""A response that ended short."""

from __future__ import annotations

from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector

_CUT = (Outcome.TRUNCATED, Outcome.RAISED_AFTER_HEADERS)


def judge(exchange: Exchange) -> Evidence | None:
    if exchange.outcome not in _CUT or exchange.protocol != "http":
        return None
    if exchange.outcome is Outcome.RAISED_AFTER_HEADERS:
        cause = "exception"
    elif exchange.declared_response_bytes is not None:
        cause = "fewer_bytes_than_declared"
    else:
        cause = "no_end_of_body"
    return {
        "cause": cause,
        "response_bytes": exchange.response_bytes,
        "declared_bytes": exchange.declared_response_bytes,
    }


DETECTOR = Detector(
    name="truncated_response",
    help="The client got the beginning of an answer and not its end.",
    why="The status went out first and said success; what follows it cannot take it back.",
    severity="warning",
    runbook="ObskitTruncatedResponses",
    judge=judge,
    always=False,
)
