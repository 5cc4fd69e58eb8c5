"""The API below /api/v1: orders in a blueprint of their own, and the rest."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Any

from flask import Blueprint, request
from sqlalchemy import func, select

from .database import get_database
from .inputs import sleep_seconds
from .models import Order
from .orders import orders

UPLOAD_CHUNK_BYTES = 64 * 1024

api = Blueprint("api", __name__, url_prefix="/api/v1")
api.register_blueprint(orders)
log = logging.getLogger(__name__)


@api.post("/uploads")
def upload() -> tuple[dict[str, Any], int]:
    # Read piece by piece; Werkzeug raises beyond MAX_CONTENT_LENGTH.
    digest, received = hashlib.sha256(), 0
    while chunk := request.stream.read(UPLOAD_CHUNK_BYTES):
        digest.update(chunk)
        received += len(chunk)
    if received < (request.content_length or 0):
        # gunicorn ends the input without a word when the client leaves half-way.
        return {"error": "upload incomplete", "bytes": received}, 400
    log.info("upload received", extra={"upload_bytes": received})
    return {"bytes": received, "sha256": digest.hexdigest()}, 201


@api.get("/reports/slow")
def slow_report() -> dict[str, Any]:
    """A report that takes its time: one query, then `seconds` of waiting, bounded."""
    seconds = sleep_seconds(request.args.get("seconds", "0.5"))
    totals = select(func.count(Order.id), func.sum(Order.quantity * Order.price_cents))
    with get_database().session() as db:
        number, amount_cents = db.execute(totals).one()
    time.sleep(seconds)
    return {"orders": number, "amount_cents": int(amount_cents or 0), "seconds": seconds}


@api.get("/fail")
def fail() -> str:
    raise RuntimeError("the warehouse does not answer")
