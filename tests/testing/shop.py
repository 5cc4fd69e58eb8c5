"""Two applications with the same routes for what the chaos client does to them, and the strings that hold them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from flask import Flask, request

PART = b"x" * 65_536
PARTS = 400


@dataclass
class Strings:
    """What a test knows of the inside, and holds it with."""

    started: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    together: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=10))
    bodies: list[bytes] = field(default_factory=list)
    fail: bool = True

    def held(self) -> dict[str, Any]:
        """The first request stays until somebody says go on; a second one says so itself."""
        if self.started.is_set():
            self.go_on.set()
        self.started.set()
        self.go_on.wait(10)
        return {"done": True}

    def flaky(self) -> bool:
        """Whether this one fails: the first one does."""
        failed, self.fail = self.fail, False
        return failed


def stream() -> Iterator[bytes]:
    for _ in range(PARTS):
        yield PART


def make_flask(strings: Strings) -> Flask:
    app = Flask("shop")

    @app.post("/upload")
    def upload() -> dict[str, Any]:
        body = request.get_data()
        strings.bodies.append(body)
        return {"bytes": len(body)}

    @app.post("/held")
    def held() -> dict[str, Any]:
        return strings.held()

    @app.post("/together")
    def together() -> dict[str, Any]:
        return {"place": strings.together.wait()}

    @app.post("/flaky")
    def flaky() -> Any:
        return ({"ok": False}, 503) if strings.flaky() else {"fine": True}

    @app.get("/stream")
    def streamed() -> Any:
        return app.response_class(stream())

    @app.get("/small")
    def small() -> str:
        return "small"

    return app


def make_fastapi(strings: Strings) -> FastAPI:
    app = FastAPI()

    @app.post("/upload")
    async def upload(request: Request) -> dict[str, Any]:
        body = await request.body()
        strings.bodies.append(body)
        return {"bytes": len(body)}

    @app.post("/held")
    def held() -> dict[str, Any]:
        return strings.held()

    @app.post("/together")
    def together() -> dict[str, Any]:
        return {"place": strings.together.wait()}

    @app.post("/flaky")
    def flaky() -> JSONResponse:
        return JSONResponse({"ok": False}, 503) if strings.flaky() else JSONResponse({"fine": True})

    @app.get("/stream")
    def streamed() -> StreamingResponse:
        return StreamingResponse(stream())

    @app.get("/small")
    def small() -> str:
        return "small"

    return app


MAKERS = {"flask": make_flask, "fastapi": make_fastapi}
