"""What is served in the long form over WSGI: one span a request, and nothing that could be slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import obskit


def ok(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


app = obskit.install(ok, interface="wsgi", service="outages", instrumentation=False)
