"""The WSGI application of the long haul."""

# ruff: noqa: E402 -- what imports the functions of the clock by name is to get ours

from __future__ import annotations

from tests.reliability.longhaul import clock

clock.follow()

import logging
import os
import time
from collections.abc import Iterator

from flask import Flask, Response, request

import obskit
from tests.reliability.longhaul import INSTALL, PART, PARTS, SLOW_S

app = Flask("longhaul")
log = logging.getLogger("shop")


@app.get("/quick/<int:number>")
def quick(number: int) -> dict[str, object]:
    return {"number": number, "items": [{"id": one, "name": "tea"} for one in range(10)]}


@app.get("/slow")
def slow() -> str:
    time.sleep(SLOW_S)
    return "slow"


@app.get("/hang/<int:ms>")
def hang(ms: int) -> str:
    time.sleep(ms / 1000)
    return "hung"


@app.get("/stream")
def stream() -> Response:
    return Response(PART for _ in range(PARTS))


@app.get("/endless")
def endless() -> Response:
    def parts() -> Iterator[bytes]:
        for _ in range(2000):
            yield PART * 16
            time.sleep(0.002)

    return Response(parts())


@app.post("/echo")
def echo() -> bytes:
    return request.get_data()


@app.get("/talk")
def talk() -> str:
    for number in range(5):
        log.warning("stock is low", extra={"item": "tea", "left": number})
    return "said"


@app.get("/fail")
def fail() -> str:
    raise RuntimeError("as it was asked to")


if os.environ.get(INSTALL):
    obskit.install(app, service=os.environ[INSTALL])
