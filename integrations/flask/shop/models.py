"""The shop's tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Integer, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column
from werkzeug.security import generate_password_hash

from .database import Base

# SQLite numbers rows by itself only for a column that is declared INTEGER; its integers have 64 bits anyway.
BigId = BigInteger().with_variant(Integer, "sqlite")
MAX_ID = 2**63 - 1

NEW, PAID = "new", "paid"


def now_utc() -> str:
    """The time as RFC 3339 text, which both databases keep and sort alike."""
    return datetime.now(UTC).isoformat()


class Order(Base):
    """What somebody ordered, and whether it is paid. Money is whole cents."""

    __tablename__ = "orders"
    __table_args__ = (CheckConstraint("quantity >= 1", name="orders_quantity_at_least_one"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    item: Mapped[str] = mapped_column(String(200))
    quantity: Mapped[int]
    price_cents: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(10), default=NEW)
    charge_id: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[str] = mapped_column(String(40), default=now_utc)

    @property
    def amount_cents(self) -> int:
        return self.quantity * self.price_cents

    def as_json(self) -> dict[str, Any]:
        """The order as the API shows it."""
        return {
            "id": self.id,
            "item": self.item,
            "quantity": self.quantity,
            "price_cents": self.price_cents,
            "status": self.status,
            "created_at": self.created_at,
        }


class User(Base):
    """Who may log in."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    username: Mapped[str] = mapped_column(String(150), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))


def seed_demo_user(session: Session) -> None:
    """Adds the user demo/demo unless there is one."""
    if session.scalar(select(User.id).where(User.username == "demo")) is None:
        session.add(User(username="demo", password_hash=generate_password_hash("demo")))


def get_order(session: Session, order_id: int) -> Order | None:
    """The order, or None; a number too large for the column is no order either."""
    return session.get(Order, order_id) if order_id <= MAX_ID else None
