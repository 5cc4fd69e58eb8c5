"""That nothing is reported of a service that is well: no request as stuck, no loop as blocked.

    python benchmarks/healthy.py [--minutes N] [--hogs N]

Three servers (uvicorn on asyncio and on uvloop, gunicorn gthread) answer a steady mix for ten minutes: small JSON,
work of 5 to 60 ms on the loop, a query in a thread, awaited waits, streams, uploads that trickle in, a stream of
events and a background task that outlive every threshold, each with its own pace. `--hogs` processes that do nothing
but compute take the processor away meanwhile: a worker that has to wait for one blocks nobody. Thresholds are the
defaults (10 s, 0.25 s). Exit status 1 if anything was reported.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from idle import START_S, free_port

COMMON = """
import asyncio, random, sqlite3, time
import obskit

def computes(ms):
    end = time.thread_time() + ms / 1000
    n = 0
    while time.thread_time() < end:
        n += 1
    return n

def queries():
    database = sqlite3.connect(":memory:")
    return database.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT max(i) FROM n"
    ).fetchone()[0]
"""
ASGI = (
    COMMON
    + """
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

async def small(request):
    return JSONResponse({"ok": True})

async def work(request):
    return JSONResponse(computes(random.uniform(5, 60)))

def query(request):
    return JSONResponse(queries())

async def wait(request):
    await asyncio.sleep(random.uniform(0, 3))
    return JSONResponse({"ok": True})

async def stream(request):
    async def parts():
        for _ in range(15):
            await asyncio.sleep(1)
            yield b"part"
    return StreamingResponse(parts())

async def events(request):
    async def parts():
        yield b": hello\\n\\n"
        await asyncio.sleep(25)
        yield b"data: 1\\n\\n"
    return StreamingResponse(parts(), media_type="text/event-stream")

async def upload(request):
    return JSONResponse(len(await request.body()))

async def background(request):
    return JSONResponse({"ok": True}, background=BackgroundTask(asyncio.sleep, 25))

app = Starlette(routes=[
    Route("/small", small), Route("/work", work), Route("/query", query), Route("/wait", wait),
    Route("/stream", stream), Route("/events", events), Route("/background", background),
    Route("/upload", upload, methods=["POST"]),
])
obskit.install(app, service="healthy", instrumentation=False)
"""
)
WSGI = (
    COMMON
    + """
from flask import Flask, Response, request

app = Flask(__name__)

@app.get("/small")
def small():
    return {"ok": True}

@app.get("/work")
def work():
    return str(computes(random.uniform(5, 60)))

@app.get("/query")
def query():
    return str(queries())

@app.get("/wait")
def wait():
    time.sleep(random.uniform(0, 3))
    return "ok"

@app.get("/stream")
def stream():
    def parts():
        for _ in range(15):
            time.sleep(1)
            yield b"part"
    return Response(parts())

@app.post("/upload")
def upload():
    return str(len(request.get_data()))

obskit.install(app, service="healthy", instrumentation=False)
"""
)
SERVERS = {
    "uvicorn, asyncio": (
        "healthy_asgi",
        "uvicorn --port {port} --loop asyncio --no-access-log healthy_asgi:app",
    ),
    "uvicorn, uvloop": (
        "healthy_asgi",
        "uvicorn --port {port} --loop uvloop --no-access-log healthy_asgi:app",
    ),
    "gunicorn gthread": (
        "healthy_wsgi",
        "gunicorn -k gthread --threads 16 -b 127.0.0.1:{port} healthy_wsgi:app",
    ),
}
# Seconds between two requests of the client that asks for it.
PACES = {"/small": 0.02, "/work": 0.4, "/query": 0.2, "/wait": 0.1, "/stream": 1, "/upload": 2}
PACES_ASGI = {**PACES, "/events": 1, "/background": 5}
HOG = "while True: pass"


def visit(port: int, path: str, pace_s: float, ends: float, seen: collections.Counter[str]) -> None:
    while time.monotonic() < ends:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            if path == "/upload":
                trickle(connection)
            else:
                connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            seen[f"{response.status}"] += 1
        except OSError as error:
            seen[type(error).__name__] += 1
        finally:
            connection.close()
        time.sleep(random.uniform(0.5, 1.5) * pace_s)


def trickle(connection: http.client.HTTPConnection) -> None:
    """An upload that takes longer than any threshold, and never stands still for long."""
    connection.putrequest("POST", "/upload")
    connection.putheader("Content-Length", "1200")
    connection.endheaders()
    for _ in range(12):
        connection.send(b"x" * 100)
        time.sleep(1)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/small")
            connection.getresponse().read()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--hogs", type=int, default=os.cpu_count() or 1, help="default: as many as cores")
    options = parser.parse_args()
    reported = 0
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "healthy_asgi.py").write_text(ASGI)
        Path(folder, "healthy_wsgi.py").write_text(WSGI)
        processes: list[subprocess.Popen[bytes]] = []
        seen: dict[str, collections.Counter[str]] = {}
        try:
            ports = {}
            for name, (_, words) in SERVERS.items():
                ports[name] = free_port()
                with (
                    Path(folder, f"{name}.out").open("wb") as out,
                    Path(folder, f"{name}.err").open("wb") as err,
                ):
                    command = [sys.executable, "-m", *words.format(port=ports[name]).split()]
                    env = {**os.environ, "OBSKIT_STATE_DIR": folder}
                    processes.append(subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=err))
            for port in ports.values():
                wait_for(port)
            processes += [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(options.hogs)]
            ends = time.monotonic() + 60 * options.minutes
            clients = []
            for name, (app, _) in SERVERS.items():
                seen[name] = collections.Counter()
                for path, pace_s in (PACES_ASGI if app == "healthy_asgi" else PACES).items():
                    arguments = (ports[name], path, pace_s, ends, seen[name])
                    clients.append(threading.Thread(target=visit, args=arguments))
            for client in clients:
                client.start()
            for client in clients:
                client.join()
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(40)
                except subprocess.TimeoutExpired:
                    process.kill()
        for name in SERVERS:
            lines = [json.loads(line) for line in Path(folder, f"{name}.out").read_text().splitlines()]
            found = [line for line in lines if line.get("finding") in ("request_stuck", "event_loop_blocked")]
            errors = [line for line in lines if line.get("event") == "obskit.internal_error"]
            reported += len(found) + len(errors)
            print(
                f"{name:18} answered {dict(seen[name])}   reported {len(found)}   errors of ours {len(errors)}"
            )
            for line in [*found, *errors][:20]:
                kept = {key: value for key, value in line.items() if key not in ("stack", "why", "exception")}
                print(f"  {json.dumps(kept)}")
    print(f"{options.minutes:g} minutes with {options.hogs} processes that take the processor away")
    return 1 if reported else 0


if __name__ == "__main__":
    sys.exit(main())
