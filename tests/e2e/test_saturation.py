"""How full a server is, as real servers tell it: what it can do at once, and what waits before it answers."""

from __future__ import annotations

import http.client
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.exposition import Samples, labels, parse
from tests.support.servers import Server
from tests.support.shops import get

pytestmark = pytest.mark.e2e

DEADLINE_S = 15.0
CAPACITY = "obskit_http_server_request_capacity"
QUEUE = "obskit_http_server_queue_duration_seconds"
BACKLOG = "obskit_http_server_backlog_connections"
BACKLOG_LIMIT = "obskit_http_server_backlog_limit_connections"
SETTINGS = {"OBSKIT_INSTRUMENTATION": "false", "OBSKIT_LOG_FORMAT": "json"}
NOTHING = labels()

WSGI = f"""
import time
import obskit

def shop(environ, start_response):
    seen = 0
    if environ["PATH_INFO"] == "/hold":  # until the kernel keeps others waiting
        end = time.monotonic() + {DEADLINE_S}
        while not seen and time.monotonic() < end:
            time.sleep(0.01)
            seen = app.pipeline._metrics.store.look()["{BACKLOG}"][()].numbers[0]
    body = f"{{seen:g}}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

app = obskit.install(shop, interface="wsgi")
"""
ASGI = """
import time
from pathlib import Path
import anyio.to_thread
import obskit
from fastapi import FastAPI

app = FastAPI()

@app.get("/")
async def shop():
    anyio.to_thread.current_default_thread_limiter().total_tokens = 3

@app.get("/hold")
def hold():
    while not Path("free").exists():
        time.sleep(0.01)

obskit.install(app)
"""

# The test is the proxy that says since when a request has waited.
PROXY = {"OBSKIT_TRUSTED_PROXIES": "loopback"}

SERVERS = [
    pytest.param("gunicorn-sync", WSGI, (), 2, 2, id="gunicorn-sync"),
    pytest.param("gunicorn-gthread", WSGI, (), 2, 8, id="gunicorn-gthread"),
    pytest.param("waitress", WSGI, ("--threads=6",), 1, 6, id="waitress"),
    pytest.param("gunicorn-uvicorn", ASGI, (), 1, None, id="gunicorn-uvicorn"),
    # It refuses the request that reaches the limit.
    pytest.param("uvicorn", ASGI, ("--limit-concurrency", "21"), 1, 20, id="uvicorn"),
    pytest.param("granian", ASGI, ("--backlog", "128", "--backpressure", "16"), 1, 16, id="granian"),
    pytest.param("hypercorn", ASGI, (), 1, None, id="hypercorn"),
]


def serve(
    tmp_path: Path, server: str, code: str, arguments: tuple[str, ...] = (), workers: int = 1
) -> Server:
    (tmp_path / "shop.py").write_text(code)
    made = Server(
        server, "shop:app", cwd=tmp_path, log_dir=tmp_path / "logs", env=SETTINGS | PROXY, workers=workers
    )
    # granian and waitress want their options before the application, gunicorn and uvicorn do not mind.
    made.command[3:3] = arguments
    return made


def page(server: Server) -> Samples:
    return parse(get(server.port, "/metrics")[2])


def ask(server: Server, path: str = "/", **headers: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(
            "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(("name", "code", "arguments", "workers", "capacity"), SERVERS)
def test_a_server_tells_what_it_can_do_at_once_and_what_waited_in_front_of_it(
    name: str, code: str, arguments: tuple[str, ...], workers: int, capacity: int | None, tmp_path: Path
) -> None:
    with serve(tmp_path, name, code, arguments, workers) as server:
        ask(server, X_Request_Start=f"t={time.time() - 2:.3f}")
        ask(server, X_Queue_Start=f"{(time.time() - 3) * 1000:.0f}")
        ask(server, X_Request_Start="yesterday")
        deadline = time.monotonic() + DEADLINE_S
        while True:  # a worker is one of them from its first request on
            seen = page(server)
            if seen["obskit_workers"][NOTHING] == workers and seen[f"{QUEUE}_count"][NOTHING] == 2:
                break
            assert time.monotonic() < deadline, seen["obskit_workers"]
        assert seen.get(CAPACITY, {}).get(NOTHING) == capacity
        assert 4.99 <= seen[f"{QUEUE}_sum"][NOTHING] < 5 + DEADLINE_S
        assert seen[f"{QUEUE}_bucket"][labels(le="1.0")] == 0
        assert seen[BACKLOG][NOTHING] >= 0
        assert seen[BACKLOG_LIMIT][NOTHING] >= 1


def test_connections_that_no_worker_takes_are_seen_in_the_second_they_wait(tmp_path: Path) -> None:
    with serve(tmp_path, "gunicorn-sync", WSGI) as server, ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor())
        held = executor.submit(ask, server, "/hold")
        deadline = time.monotonic() + DEADLINE_S
        while not held.done():
            waits = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            waits.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert float(held.result()) >= 1
        server.stop()
        with pytest.raises(ConnectionRefusedError):  # nothing of ours keeps it open
            socket.create_connection(("127.0.0.1", server.port))


def test_calls_that_wait_for_a_thread_are_seen_while_they_wait(tmp_path: Path) -> None:
    with serve(tmp_path, "uvicorn", ASGI) as server, ThreadPoolExecutor(5) as executor:
        ask(server)
        for _ in range(5):
            executor.submit(ask, server, "/hold")
        deadline = time.monotonic() + DEADLINE_S
        wanted = {
            "obskit_threadpool_threads": 3,
            "obskit_threadpool_threads_max": 3,
            "obskit_threadpool_queue_depth": 2,
        }
        while True:
            seen = page(server)
            found = {name: seen.get(name, {}).get(NOTHING) for name in wanted}
            if found == wanted:
                break
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        (tmp_path / "free").touch()
        while page(server)["obskit_threadpool_threads"][NOTHING] != 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
