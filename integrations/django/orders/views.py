"""The shop's endpoints."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.http import require_POST, require_safe

from orders import csv_export, payments
from orders.api import error, json_api
from orders.inputs import json_object, order_fields
from orders.models import Order

LIST_LENGTH = 50
UPLOAD_CHUNK_BYTES = 64 * 1024

log = logging.getLogger(__name__)


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


@method_decorator(json_api, name="dispatch")
class OrderCollection(View):
    """GET the latest orders, newest first; POST a new one."""

    def get(self, request: HttpRequest) -> JsonResponse:
        latest = Order.objects.order_by("-id")[:LIST_LENGTH]
        return JsonResponse([order.as_json() for order in latest], safe=False)

    def post(self, request: HttpRequest) -> JsonResponse:
        order = Order.objects.create(**order_fields(json_object(request)))
        log.info("order created", extra={"order_id": order.pk, "amount_cents": order.amount_cents})
        location = f"{request.path}/{order.pk}"
        return JsonResponse(order.as_json(), status=201, headers={"Location": location})


@require_safe
def order_detail(request: HttpRequest, order_id: int) -> JsonResponse:
    order = Order.objects.filter(pk=order_id).first()
    return JsonResponse(order.as_json()) if order else error(404, "no such order")


@json_api
@require_POST
def pay(request: HttpRequest, order_id: int) -> JsonResponse:
    order = Order.objects.filter(pk=order_id).first()
    if order is None:
        return error(404, "no such order")
    if order.status == Order.Status.PAID:
        return error(409, "already paid")
    facts: dict[str, Any] = {"order_id": order.pk, "amount_cents": order.amount_cents}
    try:
        # No transaction is open here: a slow gateway must not hold a lock or a connection's snapshot.
        charge_id = payments.charge(f"django-order-{order.pk}", order.amount_cents)
    except payments.Declined:
        log.warning("payment declined", extra=facts)
        return JsonResponse({"status": "declined"}, status=402)
    except payments.GatewayUnavailable:
        log.exception("payment gateway unreachable", extra=facts)
        return error(502, "payment gateway unreachable")
    # Two clients may pay at once. The gateway charged them once, for both sent the same reference; here the
    # condition in the UPDATE lets one of them win.
    unpaid = Order.objects.filter(pk=order.pk).exclude(status=Order.Status.PAID)
    if not unpaid.update(status=Order.Status.PAID, charge_id=charge_id):
        return error(409, "already paid")
    log.info("order paid", extra={**facts, "charge_id": charge_id})
    return JsonResponse({"status": "paid"})


@require_safe
def export(request: HttpRequest) -> StreamingHttpResponse:
    # Under ASGI Django would read a synchronous iterator to its end before it sent the first byte.
    chunks = csv_export.achunks() if isinstance(request, ASGIRequest) else csv_export.chunks()
    headers = {"Content-Disposition": 'attachment; filename="orders.csv"'}
    return StreamingHttpResponse(chunks, content_type="text/csv; charset=utf-8", headers=headers)


@json_api
@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    if "HTTP_TRANSFER_ENCODING" in request.META and not isinstance(request, ASGIRequest):
        # Under WSGI Django takes a body of unknown length for an empty one.
        return error(411, "send Content-Length")
    try:
        declared = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return error(400, "Content-Length is no number")
    digest, received = hashlib.sha256(), 0
    if declared <= settings.MAX_UPLOAD_BYTES:
        while received <= settings.MAX_UPLOAD_BYTES and (chunk := request.read(UPLOAD_CHUNK_BYTES)):
            digest.update(chunk)
            received += len(chunk)
    if max(declared, received) > settings.MAX_UPLOAD_BYTES:
        return error(413, "upload too large", max_bytes=settings.MAX_UPLOAD_BYTES)
    if received < declared:
        # Django does not say so: a client that leaves half-way looks like one that had no more to send.
        return error(400, "upload incomplete", bytes=received)
    log.info("upload received", extra={"upload_bytes": received})
    return JsonResponse({"bytes": received, "sha256": digest.hexdigest()}, status=201)


@require_safe
def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("the warehouse does not answer")
