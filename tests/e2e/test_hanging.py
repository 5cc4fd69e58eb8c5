"""Requests that hang, and code that blocks the loop: told while it lasts, with the line of the application."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from obskit.cli import main
from tests.support.exposition import parse
from tests.support.servers import Line, Server
from tests.support.shops import get

pytestmark = pytest.mark.e2e

DEADLINE_S = 15.0
HOLD_S = 2.5
BLOCK_S = 1.0
SETTINGS = {"OBSKIT_STUCK_REQUEST_S": "0.4", "OBSKIT_INSTRUMENTATION": "false"}

# Each line that a request hangs in says whose it is.
SYNC = f"""
import asyncio, socket, sqlite3, threading, time
import obskit

HOLD_S, BLOCK_S = {HOLD_S}, {BLOCK_S}

def in_c():
    time.sleep(HOLD_S)  # at in_c

def in_python():
    end = time.monotonic() + HOLD_S
    while time.monotonic() < end:  # at in_python
        pass  # at in_python

def in_a_lock():
    lock = threading.Lock()
    with lock:
        lock.acquire(timeout=HOLD_S)  # at in_a_lock

def in_a_socket():
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(HOLD_S)
        try:
            one.recv(1)  # at in_a_socket
        except TimeoutError:
            pass

def rests():
    time.sleep(HOLD_S)  # at to_thread executor
"""
ASYNC = """
async def in_a_lock_of_the_loop():
    lock = asyncio.Lock()
    await lock.acquire()
    try:
        async with asyncio.timeout(HOLD_S):
            async with lock:  # at in_a_lock_of_the_loop
                pass
    except TimeoutError:
        pass

async def in_an_awaited_socket():
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        try:
            async with asyncio.timeout(HOLD_S):
                await asyncio.get_running_loop().sock_recv(one, 1)  # at in_an_awaited_socket
        except TimeoutError:
            pass

async def to_thread():
    await asyncio.to_thread(rests)

async def executor():
    await asyncio.get_running_loop().run_in_executor(None, rests)

async def part():
    await asyncio.sleep(HOLD_S)  # at group

async def group():
    async with asyncio.TaskGroup() as parts:
        parts.create_task(part())

async def block_cpu():
    end = time.thread_time() + BLOCK_S
    while time.thread_time() < end:  # at block_cpu
        sum(range(100))  # at block_cpu

async def block_sleep():
    time.sleep(BLOCK_S)  # at block_sleep

async def block_database():
    import tempfile
    with tempfile.NamedTemporaryFile() as file:
        holds = sqlite3.connect(file.name)
        holds.execute("BEGIN EXCLUSIVE")
        waits = sqlite3.connect(file.name, timeout=BLOCK_S)
        try:
            waits.execute("BEGIN IMMEDIATE")  # at block_database
        except sqlite3.OperationalError:
            pass

async def blocks():
    time.sleep(BLOCK_S)  # at block_in_a_task

async def block_in_a_task():
    await asyncio.create_task(blocks())
"""
IN_THREADS = ("in_c", "in_python", "in_a_lock", "in_a_socket")
IN_THE_LOOP = ("in_a_lock_of_the_loop", "in_an_awaited_socket", "to_thread", "executor", "group")
BLOCKING = ("block_cpu", "block_sleep", "block_database", "block_in_a_task")

STARLETTE = f"""{SYNC}{ASYNC}
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

def called(function):
    if asyncio.iscoroutinefunction(function):
        async def view(request):
            await function()
            return PlainTextResponse("done")
    else:
        def view(request):
            function()
            return PlainTextResponse("done")
    return view

async def streaming(request):
    async def parts():
        yield b"first"
        await asyncio.sleep(HOLD_S)  # at streaming
        yield b"second"
    return StreamingResponse(parts())

async def moving(request):
    async def parts():
        for _ in range(20):
            yield b"part"
            await asyncio.sleep(HOLD_S / 20)
    return StreamingResponse(parts())

async def allowed(request):
    obskit.current().may_take(60)
    await asyncio.sleep(HOLD_S)
    return PlainTextResponse("done")

class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)

names = {IN_THREADS + IN_THE_LOOP + BLOCKING}
app = Starlette(routes=[
    Route("/streaming", streaming), Route("/moving", moving), Route("/allowed", allowed),
    *(Route("/" + name, called(globals()[name])) for name in names),
])
app.add_middleware(Passing)
obskit.install(app)
"""
DJANGO = f"""{SYNC}{ASYNC}
import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="none", MIDDLEWARE=[
    "django.middleware.common.CommonMiddleware"])

def threaded(request):
    in_c()
    return HttpResponse("done")

async def awaited(request):
    await in_an_awaited_socket()
    return HttpResponse("done")

async def blocking(request):
    await block_sleep()
    return HttpResponse("done")

urlpatterns = [path("in_c", threaded), path("in_an_awaited_socket", awaited), path("block_sleep", blocking)]
app = obskit.install(get_asgi_application())
"""
FLASK = f"""{SYNC}
from flask import Flask

app = Flask(__name__)
for name in {IN_THREADS}:
    def view(function=globals()[name]):
        function()
        return "done"
    app.add_url_rule("/" + name, name, view)
obskit.install(app)
"""


def lines_of(source: str) -> dict[str, set[int]]:
    """By name of the request: the lines it may be seen in."""
    found: dict[str, set[int]] = {}
    for number, line in enumerate(source.splitlines(), 1):
        for name in line.partition("# at ")[2].split():
            found.setdefault(name, set()).add(number)
    return found


def all_at_once(server: Server, names: Iterable[str]) -> list[int]:
    """Ask for all of them at the same time; their statuses."""
    with ThreadPoolExecutor(16) as clients:
        return list(clients.map(partial(ask, server), names))


def ask(server: Server, name: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
    try:
        connection.request("GET", f"/{name}", headers={"X-Request-ID": name})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def told(lines: Iterable[Line], finding: str) -> dict[str, list[Line]]:
    """By request id: the lines of a finding that were written before that of the request itself."""
    found: dict[str, list[Line]] = {}
    ended: set[str] = set()
    for line in lines:
        if line["event"] == "http.request":
            ended.add(line["request_id"])
        elif line.get("finding") == finding and line.get("request_id") not in ended:
            found.setdefault(line.get("request_id", ""), []).append(line)
    return found


def is_seen_in(line: Line, expected: set[int]) -> bool:
    """Whether a finding names one of these lines of the application."""
    place, _, function = line["where"].partition(" in ")
    file, _, number = place.rpartition(":")
    return file == "hanging_app.py" and bool(function) and int(number) in expected


@pytest.fixture
def serve(tmp_path: Path) -> Callable[[str, str], Server]:
    def start(name: str, source: str) -> Server:
        (tmp_path / "hanging_app.py").write_text(source)
        return Server(name, "hanging_app:app", cwd=tmp_path, log_dir=tmp_path / "log", env=SETTINGS)

    return start


def ended(server: Server, names: Iterable[str]) -> None:
    for name in names:
        server.wait_for_line(lambda line, name=name: _ended(line, name), DEADLINE_S)  # type: ignore[misc]


def lag(server: Server, what: str) -> float:
    samples = parse(get(server.port, "/metrics", accept="text/plain")[2])
    (number,) = samples[f"obskit_event_loop_lag_seconds_{what}"].values()
    return number


def beaten(server: Server) -> None:
    """Wait until the loop has been asked for something, and has come to it."""
    before, deadline = lag(server, "count"), time.monotonic() + DEADLINE_S
    while lag(server, "count") < before + 2:
        assert time.monotonic() < deadline, "the loop does not beat"
        time.sleep(0.02)


def _ended(line: Line, name: str) -> bool:
    return line["event"] == "http.request" and line["request_id"] == name


@pytest.mark.parametrize(
    ("name", "source", "hanging", "blocking"),
    [
        pytest.param("uvicorn", STARLETTE, (*IN_THREADS, *IN_THE_LOOP, "streaming"), BLOCKING, id="asyncio"),
        pytest.param(
            "uvicorn-uvloop", STARLETTE, (*IN_THREADS, *IN_THE_LOOP, "streaming"), BLOCKING, id="uvloop"
        ),
        pytest.param("uvicorn", DJANGO, ("in_c", "in_an_awaited_socket"), ("block_sleep",), id="django"),
    ],
)
def test_what_hangs_in_a_loop_or_its_threads_and_what_blocks_it(
    serve: Callable[[str, str], Server],
    name: str,
    source: str,
    hanging: tuple[str, ...],
    blocking: tuple[str, ...],
) -> None:
    expected = lines_of(source)
    with serve(name, source) as server:
        well = ("moving", "allowed") if source is STARLETTE else ()
        assert set(all_at_once(server, (*hanging, *well))) == {200}
        ended(server, hanging)
        stuck = told(server.lines, "request_stuck")
        assert set(stuck) == set(hanging), "each of them, and none that makes progress or may take its time"
        for request_id, lines in stuck.items():
            # Where it hangs, seen once at least: on a busy machine the first look may come before it has got there,
            # and the last one when it has just gone on.
            assert any(is_seen_in(line, expected[request_id]) for line in lines), [
                dict(line) for line in lines
            ]
            assert all(line["http_route"] == f"/{request_id}" for line in lines), lines
            assert lines[0]["waited_s"] >= 0.4
            for before, after in pairwise(lines):
                assert after["waited_s"] >= 1.9 * before["waited_s"] - 0.1  # both are rounded
        assert not told(server.lines, "event_loop_blocked"), "nothing has blocked it"

        for one in blocking:
            assert set(all_at_once(server, [one])) == {200}
            ended(server, [one])
            beaten(server)  # a block right behind a block would be one long one
        blocked = told(server.lines, "event_loop_blocked")
        assert set(blocked) == set(blocking)
        for request_id, lines in blocked.items():
            assert any(is_seen_in(line, expected[request_id]) for line in lines), [
                dict(line) for line in lines
            ]
            assert 0.25 <= lines[0]["blocked_s"] <= BLOCK_S + 0.1
        assert lag(server, "sum") > 0.8 * BLOCK_S * len(blocking)


def test_what_hangs_in_every_thread_of_a_wsgi_server_is_told_by_it_and_by_the_doctor(
    serve: Callable[[str, str], Server],
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = lines_of(FLASK)
    with serve("gunicorn-gthread", FLASK) as server, ThreadPoolExecutor(1) as clients:
        answers = clients.submit(all_at_once, server, IN_THREADS)
        for name in IN_THREADS:
            server.wait_for_line(lambda line, name=name: line.get("request_id") == name, DEADLINE_S)  # type: ignore[misc]
        report = doctor(server, capsys)
        assert set(answers.result()) == {200}
        ended(server, IN_THREADS)
        stuck = told(server.lines, "request_stuck")
        assert set(stuck) == set(IN_THREADS)
        for request_id, lines in stuck.items():
            assert any(is_seen_in(line, expected[request_id]) for line in lines), [
                dict(line) for line in lines
            ]
        assert {one["doing"] for lines in stuck.values() for one in lines} >= {
            "in time.sleep",
            "in lock.acquire",
            "in one.recv",
        }
    assert {request["request_id"] for request in report["requests"]} == set(IN_THREADS)
    for request in report["requests"]:
        assert is_seen_in(request, expected[request["request_id"]]), request
        assert request["runs_in"].startswith("thread ")
        assert request["stack"][-1].startswith("hanging_app.py")


def doctor(server: Server, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the only worker of a server tells the doctor of all it has in flight."""
    arguments = ["doctor", "--json", "--state-dir", server.env["OBSKIT_STATE_DIR"]]
    assert main(arguments) == 0
    (service,) = json.loads(capsys.readouterr().out)["services"]
    (worker,) = service["workers"]
    assert worker["in_flight"] == len(IN_THREADS)
    assert main([*arguments, "--stacks", str(worker["pid"])]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report
