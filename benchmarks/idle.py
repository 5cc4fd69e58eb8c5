"""What obskit costs a worker that has nothing to do: its heartbeat, the watching thread, the span exporter.

    python benchmarks/idle.py [--seconds N] [--limit PERCENT]

A uvicorn worker (asyncio and uvloop) and a gunicorn gthread worker, each bare and with obskit, get one request and
are then left alone. What counts is the CPU time of the worker, all threads, in nanoseconds as the scheduler counts it
(/proc/PID/task/*/schedstat), as a share of one core. Exit status 1 if obskit adds more than the limit to any of them.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START_S = 30.0
APP = """
import os
from {module} import {kind}
app = {kind}({arguments})
if os.environ.get("INSTALLED"):
    import obskit
    obskit.install(app, service="idle", instrumentation=False)
"""
SERVERS = {
    "uvicorn, asyncio": ("uvicorn", "--port", "{port}", "--loop", "asyncio", "--log-level", "warning", "idle_asgi:app"),
    "uvicorn, uvloop": ("uvicorn", "--port", "{port}", "--loop", "uvloop", "--log-level", "warning", "idle_asgi:app"),
    "gunicorn gthread": ("gunicorn", "-k", "gthread", "--threads", "4", "-b", "127.0.0.1:{port}", "idle_wsgi:app"),
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: tuple[str, ...], folder: str, *, installed: bool) -> tuple[subprocess.Popen[bytes], int]:
    """The server, and the process that has answered one request."""
    port = free_port()
    env = {**os.environ, "OBSKIT_STATE_DIR": folder, **({"INSTALLED": "1"} if installed else {})}
    words = [word.format(port=port) for word in command]
    server = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + START_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/nothing")
            connection.getresponse().read()
            break
        except OSError:
            if time.monotonic() > deadline:
                server.kill()
                raise
            time.sleep(0.05)
        finally:
            connection.close()
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return server, int(children[0]) if children else server.pid


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process that live."""
    return sum(
        int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they are left alone")
    parser.add_argument("--limit", type=float, default=0.5, help="percent of a core that obskit may add")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = {
            "idle_asgi": APP.format(module="starlette.applications", kind="Starlette", arguments=""),
            "idle_wsgi": APP.format(module="flask", kind="Flask", arguments="__name__"),
        }
        for name, text in source.items():
            Path(folder, f"{name}.py").write_text(text)
        running = []
        try:
            for name, command in SERVERS.items():
                for installed in (False, True):
                    running.append((name, installed, *start(command, folder, installed=installed)))
            time.sleep(2)  # what is done once is no rest
            before = [cpu_ns(pid) for *_, pid in running]
            began = time.monotonic()
            time.sleep(options.seconds)
            used = [cpu_ns(pid) - ns for (*_, pid), ns in zip(running, before, strict=True)]
            elapsed = time.monotonic() - began
        finally:
            for _, _, server, _ in running:
                server.terminate()
            for _, _, server, _ in running:
                try:
                    server.wait(10)
                except subprocess.TimeoutExpired:
                    server.kill()
    shares = {
        (name, installed): ns / elapsed / 1e7 for (name, installed, *_), ns in zip(running, used, strict=True)
    }
    worst = 0.0
    print(f"CPU of a worker at rest over {elapsed:.0f} s, percent of one core")
    for name in SERVERS:
        bare, ours = shares[name, False], shares[name, True]
        worst = max(worst, ours - bare)
        print(f"  {name:18} bare {bare:6.3f}   with obskit {ours:6.3f}   added {ours - bare:6.3f}")
    return 1 if worst > options.limit else 0


if __name__ == "__main__":
    sys.exit(main())
