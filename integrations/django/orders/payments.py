"""The shop's side of the payment gateway."""

from __future__ import annotations

import requests
from django.conf import settings

TIMEOUT_S = (1.0, 5.0)  # to connect, to wait for the answer


class Declined(Exception):
    """The gateway refused the charge."""


class GatewayUnavailable(Exception):
    """No answer from the gateway, or none that makes sense."""


def charge(reference: str, amount_cents: int) -> str:
    """Charges `amount_cents` once per reference, however often it is called; returns the charge id.

    Raises Declined, or GatewayUnavailable when the outcome is not known.
    """
    try:
        response = requests.post(
            f"{settings.PAYMENTS_URL}/charge",
            json={"reference": reference, "amount_cents": amount_cents},
            timeout=TIMEOUT_S,
        )
        if response.status_code == 402:
            raise Declined(reference)
        response.raise_for_status()
        return str(response.json()["charge_id"])
    except (requests.RequestException, KeyError, TypeError) as failure:
        raise GatewayUnavailable(f"charging {reference}: {failure!r}") from failure
