"""Spans of two workers, forked before or after the application was loaded, with threads and with greenlets."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conformance.targets import APPS
from tests.support.otlp import SERVER, OtlpSink
from tests.support.servers import Server

pytestmark = pytest.mark.e2e

CONFORMANCE_APPS = Path(__file__).parents[1] / "conformance" / "apps"
REQUESTS = 1_000
CLIENTS = 8
# Flushing may take 2 s, and a worker of a busy machine its time to end.
EXIT_S = 2.0 + 5.0


def ask(port: int, number: int) -> int:
    """From several clients at once, also the very first ones; how many were answered."""
    answered = Counter[int]()

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for _ in range(number // CLIENTS):
            connection.request("GET", "/items/")
            response = connection.getresponse()
            response.read()
            answered[response.status] += 1
            connection.close()  # or one worker would have them all

    clients = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return answered[200]


def workers(server: Server) -> set[int]:
    """Who has answered."""
    return {line["worker_pid"] for line in server.lines if line["event"] == "http.request"}


@pytest.mark.parametrize("extra", [(), ("--preload",)], ids=["loaded by each worker", "preloaded"])
@pytest.mark.parametrize("name", ["gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent"])
def test_as_many_spans_arrive_as_requests_were_answered(
    name: str, extra: tuple[str, ...], tmp_path: Path
) -> None:
    with OtlpSink() as sink:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "CONFORMANCE_KIND": "flask",
            "CONFORMANCE_INSTALL": "once",
        }
        server = Server(
            name,
            APPS["flask"],
            cwd=CONFORMANCE_APPS,
            log_dir=tmp_path,
            env=env,
            extra_args=(*extra, "--no-control-socket"),
            workers=2,
        )
        with server:
            answered = asked = 0
            deadline = time.monotonic() + 30
            while asked < REQUESTS or len(workers(server)) < 2:  # they start one after the other
                assert time.monotonic() < deadline
                answered += ask(server.port, CLIENTS * 25)
                asked += CLIENTS * 25
            began = time.monotonic()
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait_for_exit() == 0
            assert time.monotonic() - began < EXIT_S
        received = sink.spans(kind=SERVER)
        assert sink.errors == []
    lines = [line for line in server.lines if line["event"] == "http.request"]
    assert answered == asked == len(lines) == len(received) == len({span.span_id for span in received})
    wrong = ("obskit.internal_error", "telemetry.flush_timeout")
    assert [line for line in server.lines if line["event"] in wrong] == []
