"""The shop's side of the payment gateway."""

from __future__ import annotations

import httpx

TIMEOUT = httpx.Timeout(5.0, connect=1.0)


class Declined(Exception):
    """The gateway refused the charge."""


class GatewayUnavailable(Exception):
    """No answer from the gateway, or none that makes sense."""


class Gateway:
    """Charges by way of an httpx client that knows the gateway's base URL."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def charge(self, reference: str, amount_cents: int) -> str:
        """Charges `amount_cents` once per reference, however often it is called; returns the charge id.

        Raises Declined, or GatewayUnavailable when the outcome is not known.
        """
        body = {"reference": reference, "amount_cents": amount_cents}
        try:
            response = await self.client.post("/charge", json=body)
            if response.status_code == 402:
                raise Declined(reference)
            response.raise_for_status()
            return str(response.json()["charge_id"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as failure:
            raise GatewayUnavailable(f"charging {reference}: {failure!r}") from failure
