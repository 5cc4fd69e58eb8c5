"""The order shop on FastAPI: routers, a mounted sub-application and static files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.sessions import SessionMiddleware
from starlette.staticfiles import StaticFiles

from . import account, api, warehouse
from .database import Database
from .models import seed_demo_user
from .payments import TIMEOUT, Gateway
from .settings import Settings

SESSION_LIFETIME_S = 14 * 24 * 3600


def create_app(settings: Settings | None = None) -> FastAPI:
    """The shop. Tables are made and the payment client is opened when the server starts it."""
    settings = settings or Settings()
    database = Database(settings.database_url, settings.sqlite_path)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        seed = seed_demo_user if settings.seed_demo_user else None
        await run_in_threadpool(database.create_tables, seed)
        async with httpx.AsyncClient(base_url=settings.payments_url, timeout=TIMEOUT) as client:
            app.state.gateway = Gateway(client)
            yield
        database.engine.dispose()

    app = FastAPI(title="Order shop", lifespan=lifespan)
    app.state.settings = settings
    app.state.database = database
    app.add_middleware(
        SessionMiddleware,
        secret_key=settings.secret_key,
        max_age=SESSION_LIFETIME_S,
        https_only=settings.secure_cookies,
    )
    app.add_exception_handler(RequestValidationError, invalid_input)
    app.add_exception_handler(HTTPException, http_error)

    app.include_router(account.router)
    app.include_router(api.router, prefix="/api/v1")
    app.mount("/warehouse", warehouse.create_app(database))
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def invalid_input(request: Request, invalid: Any) -> JSONResponse:
    # FastAPI's own answer repeats the input, and fails on a lone surrogate in it.
    places = [error["loc"] for error in invalid.errors()]
    fields = {str(place[1]) for place in places if len(place) > 1 and isinstance(place[1], str)}
    return JSONResponse({"error": "invalid input", "fields": sorted(fields)}, 422)


async def http_error(request: Request, error: Any) -> JSONResponse:
    """Every error in the shape of the API's."""
    if error.status_code == 400:
        # FastAPI's word for a body that it could not even decode; the API says 422 for every bad body.
        return JSONResponse({"error": "invalid input", "fields": []}, 422)
    return JSONResponse({"error": str(error.detail).lower()}, error.status_code, headers=error.headers)
