"""Workers of real servers that die in all the ways they do: who tells of it, of which requests, and for what reason."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from obskit.watch import slots
from obskit.workers import groups
from tests.support.exposition import parse
from tests.support.servers import Line, Server
from tests.support.shops import get

pytestmark = pytest.mark.e2e

DEADLINE_S = 15.0
# A worker that lives looks once a second.
SOON_S = 4.0

FAULTS = """
import ctypes, os, time


def exit():
    os._exit(7)  # 3 is how a worker tells its server that it cannot start


def crash():
    ctypes.string_at(0)


def hang_in_c():
    # Locked twice: the second call waits for ever, where no handler of a signal in Python can run.
    lock = ctypes.create_string_buffer(64)
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)


def hang_in_python():
    while True:
        time.sleep(0.01)


def hold():
    time.sleep(60)


def answer_and_die_before_the_line():
    from obskit.signals.lines import LineFormat

    LineFormat.canonical = lambda self, exchange: os.kill(os.getpid(), 9)


FAULTS = {
    f.__name__: f for f in (exit, crash, hang_in_c, hang_in_python, hold, answer_and_die_before_the_line)
}
"""
WSGI = """
import os
import obskit
from faults import FAULTS
from flask import Flask

app = Flask("shop")


@app.get("/pid")
def pid():
    return str(os.getpid())


@app.get("/do/<what>")
def do(what):
    FAULTS[what]()
    return ""


obskit.install(app, instrumentation=False)
"""
ASGI = """
import asyncio, os
import obskit
from faults import FAULTS
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()


@app.get("/pid", response_class=PlainTextResponse)
async def pid():
    return str(os.getpid())


@app.get("/do/{what}")
async def do(what: str):
    FAULTS[what]()


@app.get("/wait")
async def wait():
    await asyncio.sleep(60)


obskit.install(app, instrumentation=False)
"""


def serve(name: str, source: str, tmp_path: Path, *extra: str, **options: Any) -> Server:
    (tmp_path / "faults.py").write_text(FAULTS)
    (tmp_path / "shop_app.py").write_text(source)
    options.setdefault("log_dir", tmp_path / "log")
    return Server(name, "shop_app:app", cwd=tmp_path, extra_args=extra, **options)


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
        time.sleep(0.02)


def ask(server: Server, path: str, request_id: str) -> socket.socket:
    """A request on its way, whose answer nobody waits for."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\nX-Request-ID: {request_id}\r\n\r\n".encode())
    return client


def ended(client: socket.socket) -> bytes:
    """Everything that came until the connection ended."""
    answer = b""
    try:
        while data := client.recv(4096):
            answer += data
    except ConnectionResetError:
        pass
    client.close()
    return answer


def pids(server: Server, number: int, without: int = 0) -> set[int]:
    found: set[int] = set()

    def all_there() -> bool:
        _, _, text = get(server.port, "/pid")
        found.add(int(text))
        return len(found - {without}) >= number

    assert until(all_there), found
    return found - {without}


def told(server: Server, request_id: str, since: int = 0) -> Line:
    return server.wait_for_line(
        lambda line: line.get("finding") == "worker_died" and line["request_id"] == request_id,
        DEADLINE_S,
        since=since,
    )


def end_of(server: Server, pid: int) -> Line:
    return server.wait_for_line(
        lambda line: line.get("event") == "worker.ended" and line["worker_pid"] == pid, DEADLINE_S
    )


def counts(server: Server, metric: str, label: str) -> dict[str, float]:
    _, _, text = get(server.port, "/metrics", accept="text/plain;version=0.0.4")
    series = parse(text).get(metric, {})
    found: dict[str, float] = {}
    for key, value in series.items():
        if value:
            found[dict(key)[label]] = found.get(dict(key)[label], 0) + value
    return found


def test_gunicorn_sync_workers_that_exit_crash_or_hang_are_told_of_by_the_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    extra = ("--timeout", "2", "--graceful-timeout", "1")
    with serve("gunicorn-sync", WSGI, tmp_path, *extra, workers=2) as server:
        pids(server, 2)
        for fault, reason in (("exit", "died"), ("crash", "died"), ("hang_in_c", "timeout")):
            client = ask(server, f"/do/{fault}?secret=1", f"cut-by-{fault}")
            assert ended(client) == b""
            gone = time.monotonic()
            line = told(server, f"cut-by-{fault}")
            assert time.monotonic() - gone < SOON_S
            assert (line["reason"], line["phase"], line["http_route"]) == (reason, "open", "/do/<what>")
            assert (line["url_path"], line["http_request_method"]) == (f"/do/{fault}", "GET")
            assert len(line["trace_id"]) == 32
            end = end_of(server, line["worker_pid"])
            assert (end["reason"], end["requests_lost"], end["level"]) == (reason, 1, "warning")
            pids(server, 2, without=line["worker_pid"])
        # Here a handler of its server's runs, in the midst of the view: the request ends with a line of its own.
        client = ask(server, "/do/hang_in_python", "timed-out")
        line = server.wait_for_line(
            lambda line: line.get("event") == "http.request" and line["request_id"] == "timed-out", DEADLINE_S
        )
        assert line["outcome"] == "timeout"
        client.close()
        end = end_of(server, line["worker_pid"])
        assert (end["reason"], end["requests_lost"]) == ("timeout", 0)
        pids(server, 2)
        lost = {"died": 2.0, "timeout": 1.0}
        assert until(lambda: counts(server, "obskit_requests_lost_total", "reason") == lost)
        assert counts(server, "obskit_worker_exits_total", "reason") == {"died": 2.0, "timeout": 2.0}
        # Its server gives it a second more, and then no more.
        client = ask(server, "/do/hold", "held")
        assert until(lambda: b"held" in b"".join(file.read_bytes() for file in records(log)))
        os.kill(server.pid, signal.SIGTERM)
        server.wait_for_exit()
        assert ended(client) == b""
    with serve("gunicorn-sync", WSGI, tmp_path, *extra, workers=2, log_dir=log) as after:
        pids(after, 1)
        line = told(after, "held")
        assert (line["reason"], line["http_route"]) == ("died", "/do/<what>")
        pids(after, 2)
    lines = [
        line["request_id"] for line in [*server.lines, *after.lines] if line.get("finding") == "worker_died"
    ]
    assert sorted(lines) == ["cut-by-crash", "cut-by-exit", "cut-by-hang_in_c", "held"]


def records(log: Path) -> list[Path]:
    return list(log.rglob("*.flight"))


def test_all_requests_of_a_worker_with_threads_are_told_and_that_one_is_recycled_is_no_event(
    tmp_path: Path,
) -> None:
    with serve("gunicorn-gthread", WSGI, tmp_path, "--max-requests", "60", workers=2) as server:
        pids(server, 2)
        clients = [ask(server, "/do/hold", f"held-{number}") for number in range(4)]

        def in_flight() -> dict[int, int]:
            return {
                one.pid: slots.count(one) for _, members in groups(str(tmp_path / "log")) for one in members
            }

        assert until(lambda: sum(in_flight().values()) == 4), in_flight()
        victim, number = max(in_flight().items(), key=lambda item: item[1])
        os.kill(victim, signal.SIGKILL)
        end = end_of(server, victim)
        lost = [line for line in server.lines if line.get("finding") == "worker_died"]
        assert len({line["request_id"] for line in lost}) == len(lost) == end["requests_lost"] == number >= 2
        assert {(line["reason"], line["worker_pid"]) for line in lost} == {("died", victim)}
        for client in clients:
            client.close()
        for _ in range(130):
            get(server.port, "/pid")
        assert until(lambda: counts(server, "obskit_worker_exits_total", "reason").get("exited"))
        assert [line for line in server.lines if line.get("event") == "worker.ended"] == [end]


def test_an_asgi_worker_that_exits_or_crashes_is_told_of_by_the_other(tmp_path: Path) -> None:
    with serve("uvicorn", ASGI, tmp_path, workers=2) as server:
        pids(server, 2)
        for fault in ("exit", "crash"):
            assert ended(ask(server, f"/do/{fault}", f"cut-by-{fault}")) == b""
            gone = time.monotonic()
            line = told(server, f"cut-by-{fault}")
            assert time.monotonic() - gone < SOON_S
            assert (line["reason"], line["http_route"]) == ("died", "/do/{what}")
            pids(server, 2, without=line["worker_pid"])
        lost = {"/do/{what}": 2.0}
        assert until(lambda: counts(server, "obskit_requests_lost_total", "http_route") == lost)


def test_a_loop_that_is_blocked_until_its_server_gives_up_on_it_is_a_timeout(tmp_path: Path) -> None:
    with serve("gunicorn-uvicorn", ASGI, tmp_path, "--timeout", "3", workers=2) as server:
        pids(server, 2)
        assert ended(ask(server, "/do/hold", "blocking")) == b""
        line = told(server, "blocking")
        assert (line["reason"], line["http_route"]) == ("timeout", "/do/{what}")
        assert line["age_s"] >= 2
        end = end_of(server, line["worker_pid"])
        assert (end["reason"], end["requests_lost"]) == ("timeout", 1)


def test_one_that_was_counted_when_its_worker_was_killed_and_has_no_line_is_told_of(tmp_path: Path) -> None:
    with serve("gunicorn-sync", WSGI, tmp_path, workers=2) as server:
        pids(server, 2)
        assert ended(ask(server, "/do/answer_and_die_before_the_line", "no-line")).startswith(b"HTTP/1.1 200")
        line = told(server, "no-line")
        assert (line["phase"], line["http_route"], line["reason"]) == ("ended", "/do/<what>", "died")
        pids(server, 2, without=line["worker_pid"])
        assert until(
            lambda: counts(server, "http_server_request_duration_seconds_count", "http_route").get(
                "/do/<what>"
            )
        )
        assert counts(server, "http_server_request_duration_seconds_count", "http_route")["/do/<what>"] == 1
        assert counts(server, "obskit_requests_lost_total", "http_route") == {"/do/<what>": 1}
        assert counts(server, "obskit_http_server_outcomes_total", "outcome").keys() == {"completed"}
        assert not [one for one in server.lines if one.get("event") == "http.request"
                    and one["request_id"] == "no-line"]  # fmt: skip


def test_what_a_worker_had_ended_under_load_and_not_shown_is_shown_by_its_heir(tmp_path: Path) -> None:
    # Each answer that a client has seen is counted once and has one line; two if the worker was killed right behind it.
    with serve("gunicorn-sync", WSGI, tmp_path, workers=2) as server:
        pids(server, 2)
        for round_ in range(8):
            victim = min(pids(server, 2))
            answered = under_load(server, round_, victim)
            end = end_of(server, victim)
            assert end["reason"] == "died"
            lines = server.lines
            shown = Counter(line["request_id"] for line in lines if line.get("event") == "http.request")
            told_of = {line["request_id"] for line in lines if line.get("finding") == "worker_died"}
            assert answered <= shown.keys() | told_of, sorted(answered - shown.keys())[:3]
            inherited = [
                line for line in lines[lines.index(end) :] if line.get("event") == "http.request"
                and line["worker_pid"] == victim
            ]  # fmt: skip
            pids(server, 2, without=victim)
            seen = [
                line for line in lines if line.get("worker_pid") == victim and line.get("user_agent") is None
            ]
            if inherited or seen:
                break
        else:
            raise AssertionError("no worker had anything to leave to its heir")
        one = (inherited or seen)[0]
        assert (one["http_route"], one["http_response_status_code"], one["outcome"]) == (
            "/pid",
            200,
            "completed",
        )
        assert one["response_bytes"] == len(str(victim))
        assert one["duration_s"] > 0
        assert until(lambda: counted(server) == len(known(server))), (counted(server), len(known(server)))


def under_load(server: Server, round_: int, victim: int) -> set[str]:
    """The ids of the requests that were answered while a worker was killed under load."""
    answered: set[str] = set()
    over = threading.Event()

    def ask_on(name: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            request_id = f"load-{round_}-{name}-{number}"
            try:
                answer = ended(ask(server, "/pid", request_id))
            except OSError:
                continue
            if answer.startswith(b"HTTP/1.1 200") and answer.rpartition(b"\r\n\r\n")[2].isdigit():
                answered.add(request_id)

    clients = [threading.Thread(target=ask_on, args=(name,)) for name in range(4)]
    for client in clients:
        client.start()
    until(lambda: len(answered) > 500)
    os.kill(victim, signal.SIGKILL)
    over.set()
    for client in clients:
        client.join()
    return answered


def counted(server: Server) -> float:
    return counts(server, "http_server_request_duration_seconds_count", "http_route").get("/pid", 0.0)


def known(server: Server) -> set[str]:
    """The ids of the requests that have ended, or whose answer was on its way when their worker was killed."""
    return {
        line["request_id"] for line in server.lines if line.get("http_route") == "/pid"
        and (line.get("event") == "http.request" or line.get("phase") in ("answering", "ended"))
    }  # fmt: skip
