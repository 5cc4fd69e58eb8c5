"""Reading what clients send. Whatever is wrong with it is their error: 422, never 500."""

from __future__ import annotations

import json
import math
from typing import Any

from django.http import HttpRequest

MAX_ITEM_CHARS = 200
MAX_QUANTITY = 1_000
MAX_PRICE_CENTS = 10_000_000
MAX_SLEEP_S = 5.0


class InvalidInput(Exception):
    """The request body or query cannot be used; `fields` names the ones at fault, empty when all of it is."""

    def __init__(self, *fields: str) -> None:
        super().__init__(", ".join(fields) or "body")
        self.fields = list(fields)


def json_object(request: HttpRequest) -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidInput for anything else."""
    if request.content_type != "application/json":
        raise InvalidInput
    try:
        value = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput from error
    if not isinstance(value, dict):
        raise InvalidInput
    return value


def order_fields(value: dict[str, Any]) -> dict[str, Any]:
    """item, quantity and price_cents of a new order. Raises InvalidInput with the names of the bad ones."""
    item = value.get("item")
    bad = []
    if not is_text(item) or not 0 < len(item.strip()) <= MAX_ITEM_CHARS:
        bad.append("item")
    for name, lowest, highest in (("quantity", 1, MAX_QUANTITY), ("price_cents", 0, MAX_PRICE_CENTS)):
        number = value.get(name)
        # type() and not isinstance(): True is an int to Python and a mistake to a shop.
        if type(number) is not int or not lowest <= number <= highest:
            bad.append(name)
    if bad:
        raise InvalidInput(*bad)
    return {"item": item.strip(), "quantity": value["quantity"], "price_cents": value["price_cents"]}


def credentials(value: dict[str, Any]) -> tuple[str, str]:
    """User name and password. Raises InvalidInput unless both are strings of printable characters."""
    bad = [name for name in ("username", "password") if not is_text(value.get(name))]
    if bad:
        raise InvalidInput(*bad)
    return value["username"], value["password"]


def is_text(value: object) -> bool:
    """Whether it is a string without control characters and lone surrogates, which no database stores."""
    return isinstance(value, str) and value.isprintable()


def sleep_seconds(raw: str) -> float:
    """Seconds to sleep, at most MAX_SLEEP_S. Raises InvalidInput unless `raw` is a finite number >= 0."""
    try:
        seconds = float(raw)
    except ValueError as error:
        raise InvalidInput("seconds") from error
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidInput("seconds")
    return min(seconds, MAX_SLEEP_S)
