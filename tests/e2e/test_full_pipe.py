"""A real server whose standard output nobody reads answers every request, and accounts for every line.

The pipe is full after some dozen requests. What is written by hand into such a pipe stops the server for good.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import urllib.request
from pathlib import Path
from time import monotonic

import pytest

from tests.support.servers import Server

pytestmark = pytest.mark.e2e

REQUESTS = 1_500
SOURCE = """
import obskit
from {framework} import {cls}

log = obskit.get_logger("shop")
app = {cls}({name})


@app.get("/")
def index():
    log.info("asked", note="n" * 2000, again=["m" * 2000] * 2)
    return "ok"


obskit.install(app, instrumentation=False)
"""
ASGI = SOURCE.format(framework="fastapi", cls="FastAPI", name="")
WSGI = SOURCE.format(framework="flask", cls="Flask", name="__name__")


class Unread(Server):
    """A server whose standard output is a pipe that this test reads when it wants to."""

    def __init__(self, server: str, tmp_path: Path, workers: int) -> None:
        super().__init__(server, "shop:app", cwd=tmp_path, log_dir=tmp_path, workers=workers)
        os.mkfifo(self.stdout_path)
        self.readable = os.open(self.stdout_path, os.O_RDONLY | os.O_NONBLOCK)
        self.taken = b""

    def read(self, wait_s: float) -> int:
        """Take what comes within this many seconds; how many bytes."""
        ready, _, _ = select.select([self.readable], [], [], wait_s)
        part = os.read(self.readable, 1 << 20) if ready else b""
        self.taken += part
        return len(part)

    def numbers(self, metric: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as page:
            text = page.read().decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(metric))


@pytest.mark.parametrize(
    ("server", "source", "workers"),
    [("uvicorn", ASGI, 1), ("gunicorn-gthread", WSGI, 1), ("gunicorn-sync", WSGI, 2)],
)
def test_every_request_is_answered_and_every_line_written_or_counted(
    server: str, source: str, workers: int, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(source)
    served = Unread(server, tmp_path, workers)
    with served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        for _ in range(REQUESTS):
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
        connection.close()
        lost = served.numbers('obskit_telemetry_dropped_total{reason="queue_full",signal="logs"}')
        assert lost > 0, "the test is to fill the backlog, too"
        # Somebody reads again: what was kept comes, and then lines come as they are written.
        while served.read(1.0):
            pass
        began = monotonic()
        urllib.request.urlopen(f"{served.url}/", timeout=10).read()
        while served.taken.count(b'"event":"asked"') + lost < REQUESTS + 1 and monotonic() - began < 5:
            served.read(0.1)
        assert monotonic() - began < 1.5
        while served.read(0.3):
            pass
        written = served.numbers("obskit_log_records_total")
        while served.read(0.3):
            pass
        lost = served.numbers('obskit_telemetry_dropped_total{reason="queue_full",signal="logs"}')
    lines = [json.loads(line) for line in served.taken.decode().splitlines() if line.startswith("{")]
    assert (
        sum(line["event"] == "http.request" for line in lines)
        + sum(line["event"] == "asked" for line in lines)
        >= 2 * (REQUESTS + 1) - lost
    )
    told = [line for line in lines if line["event"] == "obskit.lines_lost"]
    assert sum(line["lines"] for line in told) == lost, "whoever reads hears how many are missing"
    assert len(lines) + lost == written
    os.close(served.readable)
