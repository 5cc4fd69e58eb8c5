"""The API below /api/v1; the orders in it have a router of their own."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import func, select

import obskit

from . import orders
from .database import Database, DatabaseDependency
from .models import Order

MAX_SLEEP_S = 5.0

router = APIRouter()
router.include_router(orders.router, prefix="/orders")
log = obskit.get_logger(__name__)


@router.post("/uploads", status_code=201)
async def upload(request: Request) -> dict[str, Any]:
    limit = request.app.state.settings.max_upload_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise HTTPException(413, "upload too large")
    digest, received = hashlib.sha256(), 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise HTTPException(413, "upload too large")
        digest.update(chunk)
    log.info("upload.received", upload_bytes=received)
    return {"bytes": received, "sha256": digest.hexdigest()}


@router.get("/reports/slow")
async def slow_report(
    database: DatabaseDependency, seconds: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.5
) -> dict[str, Any]:
    """A report that takes its time: one query, then `seconds` of waiting, bounded."""
    seconds = min(seconds, MAX_SLEEP_S)
    totals = await run_in_threadpool(order_totals, database)
    await asyncio.sleep(seconds)
    return {**totals, "seconds": seconds}


def order_totals(database: Database) -> dict[str, int]:
    """Number of orders and their sum in cents."""
    with database.session() as db:
        totals = select(func.count(Order.id), func.sum(Order.quantity * Order.price_cents))
        number, amount_cents = db.execute(totals).one()
    return {"orders": number, "amount_cents": int(amount_cents or 0)}


@router.get("/fail")
def fail() -> None:
    raise RuntimeError("the warehouse does not answer")
