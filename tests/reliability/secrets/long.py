"""The long form: the same secrets over real servers and sockets, with workers that hang and are killed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from tests.reliability.secrets import scenes
from tests.reliability.secrets.canaries import Canaries, found_in
from tests.reliability.secrets.hunt import ROOT, Hunt, Keeping
from tests.reliability.secrets.scene import request_of
from tests.support.servers import Server

SERVED = {
    "plain wsgi": "waitress",
    "flask": "gunicorn-gthread",
    "django wsgi": "gunicorn-sync",
    "plain asgi": "uvicorn",
    "fastapi": "gunicorn-uvicorn",
    "starlette": "hypercorn",
    "django asgi": "uvicorn",
}
KILLED = ("gunicorn-gthread", "gunicorn-sync", "gunicorn-uvicorn")
WAIT_S = 30.0


def serve(kind: str, log_format: str, out: Path, seed: str) -> Hunt:
    """One kind of application on its server, every scene asked for over a socket; then the search."""
    out.mkdir(parents=True)
    state, notes = out / "state", out / "notes"
    state.mkdir()
    notes.mkdir()
    make = Canaries(seed)
    with Keeping() as sink:
        host = sink.url.removeprefix("http://")
        environment = {
            "PYTHONPATH": str(ROOT),
            "SECRETS_KIND": kind,
            "SECRETS_SEED": seed,
            "SECRETS_NOTES": str(notes),
            "OBSKIT_LOG_FORMAT": log_format,
            "OBSKIT_STATE_DIR": str(state),
            "OBSKIT_STUCK_REQUEST_S": "1",
            "DATABASE_URL": make("the environment: DATABASE_URL", "dsn"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://app:{make('the userinfo of the OTLP endpoint')}@{host}",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={make('the environment: OTEL_EXPORTER_OTLP_HEADERS')}",
            "OTEL_RESOURCE_ATTRIBUTES": f"api_key={make('the environment: OTEL_RESOURCE_ATTRIBUTES')}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        server = Server(
            SERVED[kind],
            "tests.reliability.secrets.served:app",
            cwd=ROOT,
            log_dir=out / "logs",
            env=environment,
        )
        pages: list[bytes] = []
        with server:
            for name in scenes.SCENES:
                if name != "hangs":
                    _ask(server.port, request_of(make, kind, name))
            for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
                pages.append(_get(server.port, "/metrics", accept))
            _until(lambda: len(sink.spans()) > 20)
            _hang(server, kind, make, notes, state, pages)
            # The collector goes away: what is said of that names it, and its address has a password.
            sent = len(sink.spans())
            sink.__exit__(None, None, None)
            for name in ("quiet", "own-spans"):
                _ask(server.port, request_of(make, kind, name))
            time.sleep(3)
            for file in sorted(state.rglob("*")):
                if file.is_file():
                    pages.append(file.read_bytes())
            pages.append(_get(server.port, "/metrics", "text/plain"))
        exported = b"\n".join(sink.bodies)
    planted = dict(make.places)
    for line in (notes / "places").read_text(encoding="utf-8").splitlines():
        canary, _, place = line.partition(" ")
        planted[canary] = place
    outputs = {
        "stdout": server.stdout_path.read_bytes(),
        "stderr": server.stderr_path.read_bytes(),
        "pages": b"\n".join(pages),
        "otlp": exported,
        "arrived": (notes / "arrived").read_bytes(),
    }
    result = Hunt(sorted(set(planted.values())), set(), spans=sent, lines=outputs["stdout"].count(b"\n"))
    for name, data in outputs.items():
        (out / name).write_bytes(data)
        result.searched += len(data) if name != "arrived" else 0
        result.found[name] = sorted({planted.get(canary, f"unknown: {canary}") for canary in found_in(data)})
    if (
        "request.stuck" not in (told := outputs["stdout"].decode(errors="replace"))
        and "request_stuck" not in told
    ):
        raise AssertionError(f"{kind}: no line tells of the request that hangs")
    return result


def _hang(server: Server, kind: str, make: Canaries, notes: Path, state: Path, pages: list[bytes]) -> None:
    """A request that hangs: told as stuck, asked for its stack, and (where a worker is not all) lost with it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    _send(connection, request_of(make, kind, "hangs"))
    _until(lambda: list(notes.glob("hangs-*")))
    pid = int(next(notes.glob("hangs-*")).name.partition("-")[2])
    time.sleep(2.5)  # longer than stuck_request_s and the tick that looks
    for arguments in (["--stacks", str(pid)], ["--stacks", str(pid), "--json"], [], ["--json"]):
        command = [sys.executable, "-m", "obskit.cli", "doctor", "--state-dir", str(state), *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=WAIT_S)
        pages += [done.stdout, done.stderr]
        if "--stacks" in arguments and b"/scene/hangs/" not in done.stdout:
            raise AssertionError(f"{kind}: the doctor does not show the request that hangs: {done.stderr!r}")
    if server.name in KILLED:
        before = server.stdout_path.stat().st_size
        os.kill(pid, signal.SIGKILL)
        # Told by the worker that takes its place, out of the files that they share.
        _until(lambda: _answers(server.port) and b"worker_died" in server.stdout_path.read_bytes()[before:])
    else:
        (notes / "let-go").touch()
        connection.getresponse().read()
    connection.close()


def _send(connection: http.client.HTTPConnection, request: dict[str, object]) -> None:
    headers = dict(request["headers"])  # type: ignore[call-overload]
    target = f"{quote(str(request['path']), safe='/%=')}?{request['query']}"
    connection.request(str(request["method"]), target, request["body"], headers)  # type: ignore[arg-type]


def _ask(port: int, request: dict[str, object]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        _send(connection, request)
        connection.getresponse().read()
    except http.client.RemoteDisconnected:
        pass  # a server that answers an exception by closing
    finally:
        connection.close()


def _get(port: int, path: str, accept: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.request("GET", path, headers={"Accept": accept})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, answer.status
    return body


def _answers(port: int) -> bool:
    try:
        _get(port, "/metrics", "text/plain")
    except (OSError, AssertionError, http.client.HTTPException):
        return False
    return True


def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come true in time")
        time.sleep(0.05)


def report(result: Hunt) -> str:
    return json.dumps({"planted": len(result.places), "found": result.leaks, "bytes": result.searched})
