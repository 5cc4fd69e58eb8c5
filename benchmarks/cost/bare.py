"""The application that every variant looks at: one route with a parameter, in four frameworks, and its request.

Runs in each environment. A framework is imported where its application is made: a process holds one of them.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

PATH = "/items/42"
BODY_HAS = b"Darjeeling"
ITEM = {"name": "Darjeeling", "price_cents": 1250, "in_stock": True}
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

HEADERS = {
    "host": "127.0.0.1:8000",
    "user-agent": AGENT,
    "accept": "application/json, text/plain, */*",
    "accept-language": "en-GB,en;q=0.8",
    "accept-encoding": "gzip, deflate, br",
    "referer": "http://127.0.0.1:8000/shop",
    "connection": "keep-alive",
}


def scope(path: str = PATH) -> dict[str, Any]:
    """What uvicorn would hand over for one request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 54321),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in HEADERS.items()],
    }


def environ(path: str = PATH) -> dict[str, Any]:
    """What gunicorn would hand over for one request, but for `wsgi.input`."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "RAW_URI": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "gunicorn",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "54321",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input": io.BytesIO(),
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HEADERS.items()},
    }


def fastapi_app(routes: int, **options: Any) -> Any:
    from fastapi import FastAPI  # noqa: PLC0415

    app = FastAPI(**options)

    async def other(number: int) -> dict[str, Any]:
        return {"number": number}

    for number in range(routes):
        app.get(f"/other{number}/{{number}}")(other)

    @app.get("/items/{item_id}")
    async def show(item_id: int) -> dict[str, Any]:
        return {"id": item_id, **ITEM}

    return app


def starlette_app(routes: int) -> Any:
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.responses import JSONResponse  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    async def show(request: Any) -> Any:
        return JSONResponse({"id": request.path_params["item_id"], **ITEM})

    before = [Route(f"/other{number}/{{item_id:int}}", show) for number in range(routes)]
    return Starlette(routes=[*before, Route("/items/{item_id:int}", show)])


def flask_app(routes: int) -> Any:
    from flask import Flask, jsonify  # noqa: PLC0415

    app = Flask("shop")

    def show(item_id: int) -> Any:
        return jsonify(id=item_id, **ITEM)

    for number in range(routes):
        app.add_url_rule(f"/other{number}/<int:item_id>", f"other{number}", show)
    app.add_url_rule("/items/<int:item_id>", "show", show)
    return app


def django_app(routes: int, middleware: Sequence[str] = (), apps: Sequence[str] = ()) -> Any:
    """The handler; call it last: Django's middleware is named in its settings."""
    django_settings(routes, middleware, apps)
    return django_handler()


def django_settings(routes: int, middleware: Sequence[str] = (), apps: Sequence[str] = ()) -> None:
    from django.conf import settings  # noqa: PLC0415

    settings.configure(
        DEBUG=False,
        SECRET_KEY="not-a-secret",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.cost.bare_urls",
        MIDDLEWARE=list(middleware),
        INSTALLED_APPS=list(apps),
        DATABASES={},
        LOGGING_CONFIG=None,
        USE_TZ=True,
        BENCH_ROUTES=routes,
    )


def django_handler() -> Any:
    import django  # noqa: PLC0415
    from django.core.wsgi import get_wsgi_application  # noqa: PLC0415

    django.setup()
    return get_wsgi_application()


def application(framework: str, routes: int) -> Any:
    """The application of a framework with nothing around it."""
    if framework == "fastapi":
        # One application in all variants: a user's, whose own spans are off where obskit or contrib make theirs. Its
        # metrics and logs are asleep without a provider; to find that out takes it 3 µs a request.
        return fastapi_app(routes, telemetry={"tracing": False})
    makers = {"starlette": starlette_app, "flask": flask_app, "django": django_app}
    return makers[framework](routes)
