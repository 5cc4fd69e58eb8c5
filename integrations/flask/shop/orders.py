"""The blueprint of /api/v1/orders."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from flask import Blueprint, Response, request
from sqlalchemy import select, update

from . import payments
from .database import Database, get_database
from .inputs import json_object, order_fields
from .models import PAID, Order, get_order

LIST_LENGTH = 50
PAGE_ROWS = 100
CSV_COLUMNS = ("id", "item", "quantity", "price_cents", "status", "created_at")

orders = Blueprint("orders", __name__, url_prefix="/orders")
log = logging.getLogger(__name__)

Answer = tuple[dict[str, Any], int] | tuple[dict[str, Any], int, dict[str, str]]


@orders.get("")
def list_orders() -> list[dict[str, Any]]:
    with get_database().session() as db:
        latest = db.scalars(select(Order).order_by(Order.id.desc()).limit(LIST_LENGTH))
        return [order.as_json() for order in latest]


@orders.post("")
def create_order() -> Answer:
    order = Order(**order_fields(json_object()))
    with get_database().session.begin() as db:
        db.add(order)
    log.info("order created", extra={"order_id": order.id, "amount_cents": order.amount_cents})
    return order.as_json(), 201, {"Location": f"{request.path}/{order.id}"}


@orders.get("/<int:order_id>")
def show_order(order_id: int) -> Answer:
    with get_database().session() as db:
        order = get_order(db, order_id)
    return (order.as_json(), 200) if order else ({"error": "no such order"}, 404)


@orders.post("/<int:order_id>/pay")
def pay(order_id: int) -> Answer:
    database = get_database()
    with database.session() as db:
        order = get_order(db, order_id)
    if order is None:
        return {"error": "no such order"}, 404
    if order.status == PAID:
        return {"error": "already paid"}, 409
    facts = {"order_id": order.id, "amount_cents": order.amount_cents}
    try:
        # No session is open here: a slow gateway must not hold a database connection.
        charge_id = payments.charge(f"flask-order-{order.id}", order.amount_cents)
    except payments.Declined:
        log.warning("payment declined", extra=facts)
        return {"status": "declined"}, 402
    except payments.GatewayUnavailable:
        log.exception("payment gateway unreachable", extra=facts)
        return {"error": "payment gateway unreachable"}, 502
    # Two clients may pay at once. The gateway charged them once, for both sent the same reference; here the
    # condition in the UPDATE lets one of them win.
    with database.session.begin() as db:
        mark_paid = update(Order).where(Order.id == order.id, Order.status != PAID)
        won = db.execute(mark_paid.values(status=PAID, charge_id=charge_id)).rowcount == 1
    if not won:
        return {"error": "already paid"}, 409
    log.info("order paid", extra={**facts, "charge_id": charge_id})
    return {"status": "paid"}, 200


@orders.get("/export")
def export() -> Response:
    headers = {"Content-Disposition": 'attachment; filename="orders.csv"'}
    return Response(csv_chunks(get_database()), headers=headers, content_type="text/csv; charset=utf-8")


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
