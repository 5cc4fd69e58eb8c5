"""An upload that ended before the length it had declared."""

from __future__ import annotations

from obskit.exchange import Evidence, Exchange
from obskit.findings import Detector


def judge(exchange: Exchange) -> Evidence | None:
    # What the application did not read is no cut: only a read that met the end too early says so.
    if not exchange.upload_cut:
        return None
    return {
        "request_bytes": exchange.request_bytes,
        "declared_bytes": exchange.declared_request_bytes,
        "answered": exchange.status,
    }


DETECTOR = Detector(
    name="truncated_request",
    help="The upload ended before all of it had arrived, and the application may have taken a part for the whole.",
    why="The application answers what it read; whether that was all of it no status says.",
    severity="warning",
    runbook="ObskitTruncatedRequests",
    judge=judge,
    always=False,
)
