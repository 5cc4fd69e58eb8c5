"""Spans of many workers, loaded before the fork or after it, and what becomes of them when the server is stopped."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.conformance.targets import APPS
from tests.support.otlp import SERVER, OtlpSink
from tests.support.ports import free_port
from tests.support.receiver import Receiver
from tests.support.servers import Server

pytestmark = pytest.mark.e2e

CONFORMANCE_APPS = Path(__file__).parents[1] / "conformance" / "apps"
WORKERS = 4
CLIENTS = 8
ASKED_BEFORE = 300
# Flushing may take 2 s, and a worker of a busy machine its time to end.
EXIT_S = 2.0 + 3.0


class Traffic:
    """Clients that ask until the server is gone; a context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        self._changed = threading.Condition()
        self.answered = 0

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)

    def wait_for(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.answered >= number, timeout=30), self.answered

    def _run(self) -> None:
        while not self._stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.request("GET", "/items/")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                self._stopping.wait(0.02)
                continue
            finally:
                connection.close()
            with self._changed:
                self.answered += 1
                self._changed.notify_all()


@contextmanager
def serving(
    name: str, kind: str, endpoint: str, log_dir: Path, extra: tuple[str, ...] = (), workers: int = WORKERS
) -> Iterator[Server]:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "CONFORMANCE_KIND": kind,
        "CONFORMANCE_INSTALL": "once",
    }
    with Server(
        name, APPS[kind], cwd=CONFORMANCE_APPS, log_dir=log_dir, env=env, extra_args=extra, workers=workers
    ) as server:
        yield server


def wait_for_workers(server: Server, number: int) -> None:
    """Until so many have answered: they start one after the other."""
    deadline = time.monotonic() + 30
    while len({line["worker_pid"] for line in server.lines if line["event"] == "http.request"}) < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "kind", "extra"),
    [
        ("gunicorn-sync", "django-wsgi", ("--preload",)),
        ("gunicorn-gthread", "flask", ("--preload",)),
        ("gunicorn-gthread", "flask", ()),
        ("gunicorn-uvicorn", "fastapi", ("--preload",)),
        ("uvicorn", "fastapi", ()),
    ],
)
def test_every_span_of_every_worker_arrives_also_when_the_server_is_stopped_in_mid_traffic(
    name: str, kind: str, extra: tuple[str, ...], tmp_path: Path
) -> None:
    with OtlpSink() as sink:
        with serving(name, kind, sink.url, tmp_path, extra) as server, Traffic(server.port) as traffic:
            traffic.wait_for(ASKED_BEFORE)
            wait_for_workers(server, WORKERS)
            os.kill(server.pid, signal.SIGTERM)
            server.wait_for_exit()
        lines = [line for line in server.lines if line["event"] == "http.request"]
        received = sink.spans(kind=SERVER)
        assert sink.errors == []
    assert len(lines) >= traffic.answered >= ASKED_BEFORE
    # What was not yet sent at the signal was in a queue: by default a batch leaves every 5 s.
    assert {line["span_id"] for line in lines} - {span.span_id for span in received} == set()
    assert len(received) == len({span.span_id for span in received}) == len(lines)


class Silent(Receiver):
    """A collector that takes every request and never answers. A context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._over = threading.Event()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        self._over.wait(60)

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        super().__exit__(None, None, None)


@pytest.mark.parametrize("collector", ["refuses", "hangs"])
@pytest.mark.parametrize(
    ("name", "kind", "extra"),
    [
        ("gunicorn-gthread", "flask", ("--preload",)),
        ("uvicorn", "fastapi", ()),
    ],
)
def test_a_collector_that_is_away_holds_up_neither_the_answers_nor_the_end(
    name: str, kind: str, extra: tuple[str, ...], collector: str, tmp_path: Path
) -> None:
    with Silent() as silent:
        endpoint = silent.url if collector == "hangs" else f"http://127.0.0.1:{free_port()}"
        with serving(name, kind, endpoint, tmp_path, extra, workers=2) as server:
            with Traffic(server.port) as traffic:
                traffic.wait_for(40)
                # gunicorn's worker takes a SIGTERM for its parent's until it has set up its own signals.
                wait_for_workers(server, 2 if name.startswith("gunicorn") else 1)
            asked = time.monotonic()
            os.kill(server.pid, signal.SIGTERM)
            server.wait_for_exit()
            took = time.monotonic() - asked
        assert took < EXIT_S
        assert [line for line in server.lines if line["event"] == "http.request"]
