"""The same over ASGI. A module of its own: two installs in a process share what becomes of their spans."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import obskit


async def ok(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


app = obskit.install(ok, interface="asgi", service="outages", instrumentation=False)
