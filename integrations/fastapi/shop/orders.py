"""The router of /api/v1/orders."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import select, update

import obskit

from .database import Database, DatabaseDependency
from .models import PAID, Order, get_order, now_utc
from .payments import Declined, GatewayUnavailable
from .schemas import NewOrder
from .streams import csv_chunks, order_events

LIST_LENGTH = 50

router = APIRouter()
log = obskit.get_logger(__name__)


@router.get("")
def list_orders(database: DatabaseDependency) -> list[dict[str, Any]]:
    with database.session() as db:
        latest = db.scalars(select(Order).order_by(Order.id.desc()).limit(LIST_LENGTH))
        return [order.as_json() for order in latest]


@router.post("", status_code=201)
def create_order(
    request: Request, response: Response, new: NewOrder, database: DatabaseDependency
) -> dict[str, Any]:
    order = Order(**new.model_dump())
    with database.session.begin() as db:
        db.add(order)
    obskit.bind(order_id=order.id)
    log.info("order.created", order_id=order.id, amount_cents=order.amount_cents)
    response.headers["Location"] = f"{request.url.path}/{order.id}"
    return order.as_json()


@router.get("/export")
def export(database: DatabaseDependency) -> StreamingResponse:
    headers = {"Content-Disposition": 'attachment; filename="orders.csv"'}
    return StreamingResponse(csv_chunks(database), media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/events")
async def events(
    database: DatabaseDependency,
    after: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
) -> StreamingResponse:
    """Orders as server-sent events: those behind the id `after` (default: from now on), at most `limit`."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = order_events(database, after, limit)
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


# {order_id:int} and not just a type: /orders/abc is then no such page (404), not bad input (422).
@router.get("/{order_id:int}")
def show_order(order_id: int, database: DatabaseDependency) -> dict[str, Any]:
    obskit.bind(order_id=order_id)
    return load(database, order_id).as_json()


@router.post("/{order_id:int}/pay")
async def pay(request: Request, order_id: int, database: DatabaseDependency, tasks: BackgroundTasks) -> Any:
    obskit.bind(order_id=order_id)
    order = await run_in_threadpool(load, database, order_id)
    if order.status == PAID:
        raise HTTPException(409, "already paid")
    # A charge without a paid order is the customer's money for nothing: whenever that happens, it is a finding.
    with obskit.unit_of_work("payment", steps=["charge", "mark_paid"]) as work:
        try:
            # No session is open here: a slow gateway must not hold a database connection.
            reference = f"fastapi-order-{order.id}"
            charge_id = await request.app.state.gateway.charge(reference, order.amount_cents)
        except Declined:
            log.warning("payment.declined", amount_cents=order.amount_cents)
            return JSONResponse({"status": "declined"}, 402)
        except GatewayUnavailable:
            log.exception("payment.gateway_unreachable", amount_cents=order.amount_cents)
            raise HTTPException(502, "payment gateway unreachable") from None
        work.done("charge")
        won = await run_in_threadpool(mark_paid, database, order.id, charge_id)
        work.done("mark_paid")
    if not won:
        raise HTTPException(409, "already paid")
    log.info("order.paid", amount_cents=order.amount_cents, charge_id=charge_id)
    tasks.add_task(send_receipt, database, order.id)
    return {"status": "paid"}


def load(database: Database, order_id: int) -> Order:
    """The order. Raises HTTPException 404 when there is none."""
    with database.session() as db:
        order = get_order(db, order_id)
    if order is None:
        raise HTTPException(404, "no such order")
    return order


def mark_paid(database: Database, order_id: int, charge_id: str) -> bool:
    """Whether this call made the order a paid one.

    Two clients may pay at once. The gateway charged them once, for both sent the same reference; here the
    condition in the UPDATE lets one of them win.
    """
    with database.session.begin() as db:
        unpaid = update(Order).where(Order.id == order_id, Order.status != PAID)
        return db.execute(unpaid.values(status=PAID, charge_id=charge_id)).rowcount == 1


def send_receipt(database: Database, order_id: int) -> None:
    """Runs behind the response, in the thread pool: the customer need not wait for the mail."""
    with database.session.begin() as db:
        db.execute(update(Order).where(Order.id == order_id).values(receipt_sent_at=now_utc()))
    log.info("receipt.sent", order_id=order_id)
