"""The order shop on Flask: an application factory and its blueprints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from flask import Flask
from werkzeug.exceptions import HTTPException

from .account import account
from .api import api
from .database import Database
from .inputs import InvalidInput
from .models import seed_demo_user


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The shop, with its tables made. `config` overrides what the environment says (see README.md)."""
    app = Flask(__name__)
    app.config.from_mapping(
        SECRET_KEY=os.environ.get("SECRET_KEY", "dev-only-change-me-in-production"),
        DATABASE_URL=os.environ.get("DATABASE_URL"),
        SHOP_DB_PATH=os.environ.get("SHOP_DB_PATH", "shop.sqlite3"),
        PAYMENTS_URL=os.environ.get("PAYMENTS_URL", "http://127.0.0.1:8900").rstrip("/"),
        # A log-in that everybody knows is for a laptop.
        SEED_DEMO_USER=os.environ.get("SEED_DEMO_USER", "1") == "1",
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=os.environ.get("SECURE_COOKIES") == "1",
        MAX_CONTENT_LENGTH=50 * 1024 * 1024,
    )
    app.config.update(config or {})

    database = Database(app.config["DATABASE_URL"], app.config["SHOP_DB_PATH"])
    database.create_tables(seed_demo_user if app.config["SEED_DEMO_USER"] else None)
    app.extensions["database"] = database

    app.register_blueprint(account)
    app.register_blueprint(api)
    app.register_error_handler(InvalidInput, invalid_input)
    app.register_error_handler(HTTPException, http_error)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def invalid_input(invalid: InvalidInput) -> tuple[dict[str, Any], int]:
    return {"error": "invalid input", "fields": invalid.fields}, 422


def http_error(error: HTTPException) -> Any:
    """Werkzeug's own errors (404, 405, 413 and the like) in the shape of the API's."""
    response = error.get_response()
    if error.code is not None and error.code >= 400:
        response.data = f'{{"error": "{error.name.lower()}"}}\n'
        response.content_type = "application/json"
    return response
