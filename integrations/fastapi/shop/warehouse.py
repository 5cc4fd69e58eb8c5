"""A small application of its own, mounted at /warehouse."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from sqlalchemy import func, select

from .database import Database, DatabaseDependency
from .models import Order


def create_app(database: Database) -> FastAPI:
    app = FastAPI(title="Warehouse", docs_url=None, redoc_url=None)
    app.state.database = database

    @app.get("/stock/{item}")
    def reserved(item: str, database: DatabaseDependency) -> dict[str, Any]:
        """How many of an item are ordered."""
        quantity = select(func.sum(Order.quantity)).where(Order.item == item)
        with database.session() as db:
            found = db.scalar(quantity) if item.isprintable() else 0
        return {"item": item, "reserved": int(found or 0)}

    return app
