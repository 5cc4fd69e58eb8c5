"""Reports on the orders."""

from __future__ import annotations

import time
from typing import Any

from django.db.models import Count, F, QuerySet, Sum
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from orders.api import json_api
from orders.inputs import sleep_seconds
from orders.models import Order


def totals(orders: QuerySet[Order]) -> dict[str, Any]:
    """Number of orders and their sum in cents."""
    found = orders.aggregate(orders=Count("pk"), amount_cents=Sum(F("quantity") * F("price_cents")))
    return {"orders": found["orders"], "amount_cents": found["amount_cents"] or 0}


@json_api
@require_safe
def slow_report(request: HttpRequest) -> JsonResponse:
    """A report that takes its time: one query, then `seconds` of waiting, bounded."""
    seconds = sleep_seconds(request.GET.get("seconds", "0.5"))
    found = totals(Order.objects.all())
    time.sleep(seconds)
    return JsonResponse({**found, "seconds": seconds})


@require_safe
def year_report(request: HttpRequest, year: str) -> JsonResponse:
    return JsonResponse({"year": int(year), **totals(Order.objects.filter(created_at__year=int(year)))})
