"""An application on trio: no event loop of asyncio anywhere."""

from __future__ import annotations

import http.client
import os
import signal
import threading
from pathlib import Path

import pytest

from tests.conformance.targets import APPS
from tests.support.exposition import parse
from tests.support.otlp import SERVER, OtlpSink
from tests.support.servers import Server

pytestmark = pytest.mark.e2e

CONFORMANCE_APPS = Path(__file__).parents[1] / "conformance" / "apps"
CLIENTS, EACH = 8, 12


def ask(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def test_what_is_served_under_trio_is_counted_written_and_sent_from_the_first_request_on(
    tmp_path: Path,
) -> None:
    answers: list[int] = []
    with OtlpSink() as sink:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "CONFORMANCE_KIND": "starlette",
            "CONFORMANCE_INSTALL": "once",
        }
        server = Server("hypercorn-trio", APPS["starlette"], cwd=CONFORMANCE_APPS, log_dir=tmp_path, env=env)
        server.start(
            "/items/"
        )  # no scrape: what begins to watch is a request, and there are several first ones

        def visit() -> None:
            for _ in range(EACH):
                answers.append(ask(server.port, "/items/")[0])

        try:
            clients = [threading.Thread(target=visit) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            status, page = ask(server.port, "/metrics")
            assert status == 200
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait_for_exit() == 0
        finally:
            server.stop()
        received = sink.spans(kind=SERVER)
    number = CLIENTS * EACH + 1
    assert answers == [200] * CLIENTS * EACH
    lines = [line for line in server.lines if line["event"] == "http.request"]
    counted = sum(parse(page.decode())["http_server_request_duration_seconds_count"].values())
    assert len(lines) == len(received) == number == counted
    assert [line for line in server.lines if line["event"] == "obskit.internal_error"] == []
