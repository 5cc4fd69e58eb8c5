"""All orders as CSV, a page at a time, for a response that streams.

Each page is a query of its own that starts behind the last id, so that neither memory nor a database
transaction lasts as long as the slowest reader.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator

from asgiref.sync import sync_to_async

from orders.models import Order

PAGE_ROWS = 100
COLUMNS = ("id", "item", "quantity", "price_cents", "status", "created_at")


def chunks() -> Iterator[bytes]:
    """The header, then PAGE_ROWS rows at a time."""
    yield csv_bytes([COLUMNS])
    last_id = 0
    while rows := page_after(last_id):
        last_id = rows[-1][0]
        yield csv_bytes(rows)


async def achunks() -> AsyncIterator[bytes]:
    """The same under ASGI."""
    yield csv_bytes([COLUMNS])
    last_id = 0
    while rows := await sync_to_async(page_after)(last_id):
        last_id = rows[-1][0]
        yield csv_bytes(rows)


def page_after(last_id: int) -> list[tuple]:
    return list(Order.objects.filter(pk__gt=last_id).order_by("pk").values_list(*COLUMNS)[:PAGE_ROWS])


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
