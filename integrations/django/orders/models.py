"""The shop's one table."""

from __future__ import annotations

from typing import Any

from django.db import models


class Order(models.Model):
    """What somebody ordered, and whether it is paid. Money is whole cents."""

    class Status(models.TextChoices):
        NEW = "new"
        PAID = "paid"

    item = models.CharField(max_length=200)
    quantity = models.PositiveIntegerField()
    # 64 bits, so that PostgreSQL multiplies and adds up amounts in 64 bits too.
    price_cents = models.PositiveBigIntegerField()
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.NEW)
    charge_id = models.CharField(max_length=64, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(quantity__gte=1), name="order_quantity_at_least_one"),
        ]

    def __str__(self) -> str:
        return f"order {self.pk}: {self.quantity} × {self.item}"

    @property
    def amount_cents(self) -> int:
        return self.quantity * self.price_cents

    def as_json(self) -> dict[str, Any]:
        """The order as the API shows it."""
        return {
            "id": self.pk,
            "item": self.item,
            "quantity": self.quantity,
            "price_cents": self.price_cents,
            "status": self.status,
            "created_at": self.created_at.isoformat(),
        }
