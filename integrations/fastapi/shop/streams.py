"""Responses that go on for a while: all orders as CSV, and new orders as server-sent events."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import func, select

from .database import Database
from .models import Order

PAGE_ROWS = 100
CSV_COLUMNS = ("id", "item", "quantity", "price_cents", "status", "created_at")
POLL_INTERVAL_S = 0.5
HEARTBEAT_POLLS = 30  # a comment every 15 s keeps proxies from closing a silent stream
MAX_STREAM_POLLS = 600  # after 5 min the client connects again, to a newer worker perhaps


def csv_chunks(database: Database) -> Iterator[bytes]:
    """All orders as CSV: the header, then PAGE_ROWS rows at a time.

    Each page is a query of its own that starts behind the last id, so that neither memory nor a database
    transaction lasts as long as the slowest reader.
    """
    yield csv_bytes([CSV_COLUMNS])
    columns = [getattr(Order, name) for name in CSV_COLUMNS]
    last_id = 0
    while True:
        with database.session() as db:
            page = select(*columns).where(Order.id > last_id).order_by(Order.id).limit(PAGE_ROWS)
            rows = db.execute(page).all()
        if not rows:
            return
        last_id = rows[-1][0]
        yield csv_bytes(rows)


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


async def order_events(database: Database, after: int | None, limit: int) -> AsyncIterator[str]:
    """Orders behind the id `after` as they come, at most `limit`; ends by itself after 5 minutes."""
    last_id = after if after is not None else await run_in_threadpool(latest_id, database)
    yield "retry: 1000\n\n"
    for poll in range(MAX_STREAM_POLLS):
        for order in await run_in_threadpool(orders_behind, database, last_id, min(limit, PAGE_ROWS)):
            yield f"id: {order['id']}\nevent: order\ndata: {json.dumps(order)}\n\n"
            last_id, limit = order["id"], limit - 1
        if limit <= 0:
            return
        if poll % HEARTBEAT_POLLS == HEARTBEAT_POLLS - 1:
            yield ": still here\n\n"
        await asyncio.sleep(POLL_INTERVAL_S)


def latest_id(database: Database) -> int:
    with database.session() as db:
        return db.scalar(select(func.max(Order.id))) or 0


def orders_behind(database: Database, last_id: int, limit: int) -> list[dict[str, Any]]:
    """The next orders behind an id, oldest first."""
    with database.session() as db:
        page = select(Order).where(Order.id > last_id).order_by(Order.id).limit(limit)
        return [order.as_json() for order in db.scalars(page)]
