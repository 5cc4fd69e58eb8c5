"""A server that is stopped while a client waits, or while spans do: what becomes of them, and how long it takes."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.conformance.targets import APPS
from tests.reliability.outages.collector import Collector
from tests.support.otlp import SERVER, OtlpSink
from tests.support.servers import Line, Server

pytestmark = pytest.mark.e2e

CONFORMANCE_APPS = Path(__file__).parents[1] / "conformance" / "apps"
ASKED = "asked-while-stopping"
IMPATIENT = ("--timeout-graceful-shutdown", "1")

# The server, what it is started with, and the signal on which it does not wait for the last request.
ASGI = [
    (kind, "uvicorn", IMPATIENT, signal.SIGTERM)
    for kind in ("fastapi", "starlette", "django-asgi", "plain-asgi")
]
WSGI = [(kind, "gunicorn-sync", (), signal.SIGQUIT) for kind in ("flask", "django-wsgi", "plain-wsgi")]


def asked_and_stopped(
    kind: str,
    name: str,
    extra: tuple[str, ...],
    how: signal.Signals,
    slow_ms: int,
    sink: OtlpSink,
    log_dir: Path,
) -> Line:
    """The canonical line of a request of `slow_ms` that runs while its server gets the signal `how`."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "CONFORMANCE_KIND": kind,
        "CONFORMANCE_INSTALL": "once",
    }
    server = Server(name, APPS[kind], cwd=CONFORMANCE_APPS, log_dir=log_dir, env=env, extra_args=extra)
    with server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(f"GET /slow/{slow_ms} HTTP/1.1\r\nHost: x\r\nX-Request-ID: {ASKED}\r\n\r\n".encode())
        server.wait_for_line(lambda line: line.get("event") == f"note.before.stdlib {ASKED}")
        os.kill(server.pid, how)
        while client.recv(65536):  # until the server is done with us
            pass
        server.wait_for_exit()
    (line,) = [
        line for line in server.lines if line["event"] == "http.request" and line["request_id"] == ASKED
    ]
    return line


@pytest.mark.parametrize(("kind", "name", "extra", "how"), [*ASGI, *WSGI])
def test_a_request_that_its_server_does_not_wait_for_is_found_cancelled(
    kind: str, name: str, extra: tuple[str, ...], how: signal.Signals, tmp_path: Path
) -> None:
    with OtlpSink() as sink:
        line = asked_and_stopped(kind, name, extra, how, 5_000, sink, tmp_path)
        assert (line["outcome"], line["findings"], line["level"]) == ("cancelled", ["cancelled"], "warning")
        assert line["evidence"]["cancelled"]["by"] in ("CancelledError", "SystemExit")
        assert 0 < line["evidence"]["cancelled"]["after_s"] < 5
        span = sink.wait_for(trace_id=line["trace_id"], kind=SERVER)
        assert [event.name for event in span.events] == ["obskit.finding"]


@pytest.mark.parametrize(
    ("kind", "name", "extra"), [(*one[:3],) for one in (ASGI[0], ASGI[3], WSGI[0], WSGI[2])]
)
def test_a_request_that_its_server_waits_for_is_no_finding(
    kind: str, name: str, extra: tuple[str, ...], tmp_path: Path
) -> None:
    with OtlpSink() as sink:
        line = asked_and_stopped(kind, name, extra, signal.SIGTERM, 300, sink, tmp_path)
        assert (line["outcome"], line["findings"]) == ("completed", [])


# ---- spans that wait -----------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
WAITING = 20
OVER_THE_SERVERS_OWN_S = 2.0


def stopped_with_spans_waiting(
    name: str, workers: int, how: signal.Signals, mode: str, log_dir: Path
) -> tuple[float, int, int]:
    """Seconds it took, spans the collector took, and how many were told as lost."""
    interface = "asgi" if name in ("uvicorn", "hypercorn") else "wsgi"
    app = f"tests.reliability.outages.served_{interface}:app"
    with Collector(mode) as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        server = Server(name, app, cwd=ROOT, log_dir=log_dir / mode, env=env, workers=workers)
        with server:
            for _ in range(WAITING):
                with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
                    client.sendall(b"GET /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    while client.recv(65536):
                        pass
            assert collector.taken == 0
            began = time.monotonic()
            os.kill(server.pid, how)
            server.wait_for_exit()
            took_s = time.monotonic() - began
        told = [line for line in server.lines if line["event"] == "telemetry.spans_lost"]
        assert len(told) <= workers
        return took_s, collector.taken, sum(line["spans_lost"] for line in told)


@pytest.mark.parametrize(
    ("name", "workers", "how"),
    [
        ("gunicorn-gthread", 1, signal.SIGTERM),
        ("uvicorn", 1, signal.SIGTERM),
        ("uvicorn", 2, signal.SIGTERM),
        ("hypercorn", 1, signal.SIGTERM),
        # On SIGTERM it is just gone, and runs no code of anybody.
        ("wsgiref", 1, signal.SIGINT),
    ],
)
def test_spans_that_wait_when_a_server_is_stopped_arrive_or_are_told_as_lost_within_two_seconds(
    name: str, workers: int, how: signal.Signals, tmp_path: Path
) -> None:
    own_s, taken, lost = stopped_with_spans_waiting(name, workers, how, "ok", tmp_path)
    assert (taken, lost) == (WAITING, 0)
    took_s, taken, lost = stopped_with_spans_waiting(name, workers, how, "hang", tmp_path)
    assert (taken, lost) == (0, WAITING)
    assert took_s < own_s + OVER_THE_SERVERS_OWN_S + 0.5  # of noise
