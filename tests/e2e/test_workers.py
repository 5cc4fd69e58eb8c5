"""Several workers of one server: any of them tells of all, the dead among them, and of each that lives."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.exposition import Samples, labels, parse
from tests.support.servers import Server
from tests.support.shops import get

pytestmark = pytest.mark.e2e

WORKERS = 2
DEADLINE_S = 15.0
SCRAPES = 8

WSGI = """
import os, time
import obskit
from flask import Flask, Response

app = Flask("shop")


@app.get("/pid")
def pid():
    return str(os.getpid())


@app.get("/hold")
def hold():
    def parts():
        yield f"{os.getpid()}\\n"
        time.sleep(60)
    return Response(parts())


obskit.install(app, instrumentation=False)
"""
ASGI = """
import asyncio, os
import obskit
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse

app = FastAPI()


@app.get("/pid", response_class=PlainTextResponse)
async def pid():
    return str(os.getpid())


@app.get("/hold")
async def hold():
    async def parts():
        yield f"{os.getpid()}\\n"
        await asyncio.sleep(60)
    return StreamingResponse(parts())


obskit.install(app, instrumentation=False)
"""

SERVERS = [
    pytest.param("gunicorn-sync", WSGI, (), id="gunicorn-sync"),
    pytest.param("gunicorn-gthread", WSGI, (), id="gunicorn-gthread"),
    pytest.param("gunicorn-gthread", WSGI, ("--preload",), id="gunicorn-gthread-preload"),
    pytest.param("gunicorn-uvicorn", ASGI, (), id="gunicorn-uvicorn"),
    pytest.param("gunicorn-uvicorn", ASGI, ("--preload",), id="gunicorn-uvicorn-preload"),
    pytest.param("uvicorn", ASGI, (), id="uvicorn"),
    pytest.param("granian", ASGI, ("--respawn-failed-workers",), id="granian"),
]


def page(server: Server) -> Samples:
    """What whichever worker takes the next connection has to tell."""
    status, _, text = get(server.port, "/metrics", accept="text/plain;version=0.0.4")
    assert status == 200, text
    return parse(text)


def counted(samples: Samples) -> float:
    return sum(
        value
        for key, value in samples.get("http_server_request_duration_seconds_count", {}).items()
        if ("http_route", "/pid") in key
    )


def until(what: Callable[[], Any]) -> Any:
    """The first true answer; the last one when it is too late."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            answer = what()
        except OSError:  # the worker that took the connection is gone
            answer = None
        if answer or time.monotonic() > deadline:
            return answer
        time.sleep(0.05)


def ask_all(server: Server, workers: int, without: int = 0) -> tuple[set[int], int]:
    """Ask until so many workers, none of them `without`, have answered; their pids and how often it was answered."""
    pids: set[int] = set()
    answers = 0

    def all_answered() -> bool:
        nonlocal answers
        status, _, text = get(server.port, "/pid")
        assert status == 200
        answers += 1
        pids.add(int(text))
        return len(pids - {without}) >= workers

    assert until(all_answered), pids
    return pids, answers


def each_scrape(server: Server, what: Callable[[Samples], Any]) -> list[Any]:
    return [what(page(server)) for _ in range(SCRAPES)]


def hold(server: Server) -> tuple[socket.socket, int]:
    """A request that is being answered, and the worker that answers it."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)
    client.sendall(b"GET /hold HTTP/1.1\r\nHost: shop\r\nX-Request-ID: held\r\n\r\n")
    answer = b""
    while not (parts := answer.partition(b"\r\n\r\n")[2].split()):
        answer += client.recv(4096)
    while len(parts) < 2:  # the chunk's length, and the pid
        answer += client.recv(4096)
        parts = answer.partition(b"\r\n\r\n")[2].split()
    return client, int(parts[1])


@pytest.mark.parametrize(("name", "source", "extra"), SERVERS)
def test_any_worker_tells_of_all_of_them_and_of_the_dead(
    name: str, source: str, extra: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "shop_app.py").write_text(source)
    with Server(
        name, "shop_app:app", cwd=tmp_path, log_dir=tmp_path / "log", extra_args=extra, workers=WORKERS
    ) as server:
        pids, answers = ask_all(server, WORKERS)
        # A record closes a moment after its client has the last byte.
        assert until(lambda: counted(page(server)) == answers)
        assert each_scrape(server, counted) == [answers] * SCRAPES
        assert each_scrape(server, lambda found: found["obskit_workers"][labels()]) == [WORKERS] * SCRAPES
        memory = page(server)["process_resident_memory_bytes"]
        assert set(memory) == {labels(worker=0), labels(worker=1)}
        assert min(memory.values()) > 2**20
        _, _, text = get(server.port, "/metrics", accept="application/openmetrics-text")
        assert '# {trace_id="' in text

        client, victim = hold(server)
        assert victim in pids
        active = labels(http_request_method="GET")
        assert until(lambda: page(server)["http_server_active_requests"][active] == 1)
        os.kill(victim, signal.SIGKILL)
        client.close()

        def lost() -> dict[Any, float]:
            found = page(server).get("obskit_requests_lost_total", {})
            return {key: value for key, value in found.items() if value}

        assert until(lost) == {labels(http_route="/hold", reason="died"): 1}
        line = server.wait_for_line(lambda line: line.get("finding") == "worker_died")
        assert (line["request_id"], line["http_route"], len(line["trace_id"])) == ("held", "/hold", 32)
        assert each_scrape(server, counted) == [answers] * SCRAPES
        assert page(server)["http_server_active_requests"][active] == 0

        successors, more = ask_all(server, WORKERS, without=victim)
        assert victim not in successors
        assert until(lambda: counted(page(server)) == answers + more)
        assert each_scrape(server, counted) == [answers + more] * SCRAPES
        assert set(page(server)["process_resident_memory_bytes"]) == {labels(worker=0), labels(worker=1)}


@pytest.mark.parametrize(("name", "source", "workers"), [("hypercorn", ASGI, WORKERS), ("uvicorn", ASGI, 1)])
def test_what_a_server_lost_that_died_as_a_whole_is_told_by_the_next_one(
    name: str, source: str, workers: int, tmp_path: Path
) -> None:
    (tmp_path / "shop_app.py").write_text(source)

    def server() -> Server:
        return Server(name, "shop_app:app", cwd=tmp_path, log_dir=tmp_path / "log", workers=workers)

    with server() as first:
        _, answers = ask_all(first, workers)
        assert until(lambda: counted(page(first)) == answers)
        assert each_scrape(first, counted) == [answers] * SCRAPES
        client, victim = hold(first)
        os.kill(victim, signal.SIGKILL)
        client.close()
        first.wait_for_exit()  # hypercorn ends when one of its workers does
    with server() as second:
        ask_all(second, workers)
    # hypercorn's other worker may have had the time to tell it.
    told = [line for line in [*first.lines, *second.lines] if line.get("finding") == "worker_died"]
    assert [(line["request_id"], line["http_route"]) for line in told] == [("held", "/hold")]
