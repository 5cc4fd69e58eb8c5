"""What an ASGI server of tests/e2e/test_same_bytes.py serves: each kind of application below a prefix of its own.

With SAME_BYTES=bare nothing is installed; else each application is, by itself, as a team would.
"""

from __future__ import annotations

import os
from typing import Any

import odd_asgi
import shared

os.environ["CONFORMANCE_KIND"] = "django-asgi"
if os.environ["SAME_BYTES"] == "bare":
    shared.install = lambda app, wrap: app

import django_app
import fastapi_app
import plain_asgi
import starlette_app

KINDS = {
    "plain": plain_asgi.app,
    "starlette": starlette_app.app,
    "fastapi": fastapi_app.app,
    "django": django_app.asgi,
    "odd": shared.install(odd_asgi.app, shared.wrap_asgi),
}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await KINDS["plain"](scope, receive, send)
        return
    kind, _, rest = scope["path"].removeprefix("/").partition("/")
    raw = scope.get("raw_path")
    inner = {**scope, "path": f"/{rest}", "raw_path": raw and raw[len(kind) + 1 :]}
    await KINDS.get(kind, KINDS["odd"])(inner, receive, send)
