"""The WSGI app of the torture run."""

from __future__ import annotations

import time
from collections.abc import Iterator

from flask import Flask, Response, request

import obskit
from tests.torture import ledger

app = Flask("torture")


def came_in() -> str | None:
    request_id = request.headers.get("X-Request-ID")
    ledger.enter(request_id)
    return request_id


@app.get("/quick")
def quick() -> str:
    return f"{came_in()} quick"


@app.get("/slow/<int:ms>")
def slow(ms: int) -> str:
    request_id = came_in()
    time.sleep(ms / 1000)
    return f"{request_id} slow"


@app.get("/stream")
def stream() -> Response:
    request_id = came_in()

    def parts() -> Iterator[bytes]:
        for number in range(ledger.PARTS):
            time.sleep(ledger.PART_PAUSE_S)
            yield ledger.part(request_id, number)

    return Response(parts())


@app.post("/echo")
def echo() -> bytes:
    came_in()
    return request.get_data()


@app.get("/fail")
def fail() -> str:
    came_in()
    raise RuntimeError("as it was asked to")


@app.get("/die")
def die() -> str:
    came_in()
    ledger.die()
    return ""


@app.get("/crash")
def crash() -> str:
    came_in()
    ledger.crash()
    return ""


@app.get("/hang")
def hang() -> str:
    came_in()
    ledger.hang()
    return ""


obskit.install(app, service="torture", instrumentation=False)
