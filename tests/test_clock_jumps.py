"""The host's clock is set while a request runs: by an hour ahead, or back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.otlp import SERVER, OtlpSink

SOURCE = Path(__file__).parents[1] / "src"
APP = """
import time

offset_s, real, real_ns = 0, time.time, time.time_ns
time.time = lambda: real() + offset_s  # before anything has it under a name of its own
time.time_ns = lambda: real_ns() + offset_s * 10**9

import asyncio, logging, sys
import flask, obskit
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

log = logging.getLogger("shop")

def jump():
    global offset_s
    log.warning("before")
    time.sleep(0.02)
    offset_s += int(sys.argv[2])
    log.warning("behind")

if sys.argv[1] == "wsgi":
    app = flask.Flask("shop")

    @app.get("/set")
    def set_clock():
        def parts():
            yield b"one"
            jump()
            yield b"two"
        return flask.Response(parts())

    obskit.install(app, service="shop", stuck_request_s=5)
    with app.test_client() as client:
        assert client.get("/set").data == b"onetwo"
else:
    async def set_clock(request):
        async def parts():
            yield b"one"
            jump()
            yield b"two"
        return StreamingResponse(parts())

    app = Starlette(routes=[Route("/set", set_clock)])
    obskit.install(app, service="shop", stuck_request_s=5)
    sent, left = [], [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive():
        if left:
            return left.pop()
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/set", "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    assert b"".join(message.get("body", b"") for message in sent) == b"onetwo"
obskit.shutdown(5)
"""


@pytest.mark.parametrize("jump_s", [3600, -3600])
@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_a_clock_that_jumps_in_a_request_bends_no_duration_and_each_line_has_the_time_it_was_then(
    interface: str, jump_s: int, tmp_path: Path
) -> None:
    script = tmp_path / "shop.py"
    script.write_text(APP)
    with OtlpSink() as sink:
        env = {
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "OBSKIT_STATE_DIR": str(tmp_path),
            "PYTHONPATH": str(SOURCE),
        }
        command = [sys.executable, script, interface, str(jump_s)]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
        assert ended.returncode == 0, ended.stderr
        (span,) = sink.spans(kind=SERVER)
    lines = {line["event"]: line for line in map(json.loads, ended.stdout.splitlines())}
    canonical = lines["http.request"]
    assert 0 <= canonical["ttfb_s"] <= canonical["duration_s"]
    assert 0.02 <= canonical["duration_s"] < 10
    assert 0.02 <= span.duration_s < 10
    moved_s = seconds(lines["behind"]["timestamp"]) - seconds(lines["before"]["timestamp"])
    assert moved_s == pytest.approx(jump_s, abs=10)
    assert canonical["findings"] == []
    assert "obskit.internal_error" not in lines


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
