"""A client that left before it had its answer."""

from __future__ import annotations

from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector


def judge(exchange: Exchange) -> Evidence | None:
    if exchange.outcome is not Outcome.CLIENT_DISCONNECT or exchange.upload_cut:
        return None
    phase = "during_body" if exchange.first_byte_ns is not None else "before_headers"
    return {
        "phase": phase,
        "waited_s": round(exchange.duration, 3),
        "response_bytes": exchange.response_bytes,
        "declared_bytes": exchange.declared_response_bytes,
    }


DETECTOR = Detector(
    name="client_disconnect",
    help="The client left before the last byte of its answer.",
    why="The status had been decided, often 200, and nobody was there to read it.",
    severity="warning",
    runbook="ObskitClientDisconnects",
    judge=judge,
    always=False,
)
