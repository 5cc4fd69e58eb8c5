"""What a flood of scrapes takes from the application, beside the same load without one.

    python benchmarks/scrape_flood.py [--seconds 6] [--rounds 3] [--lead 10] [--flooders 8] [--quick] [--json FILE]

A small application with two thousand series serves eight clients that ask as fast as they are answered, on uvicorn
and on gunicorn's gthread worker; then others ask for the page of metrics as fast as they are answered, beside them,
from an address that may look and from one that may not. `ping` is the same flood on a path of the application that
does nothing: what any flood of requests takes from a server, whatever it asks for. `other port` floods `metrics_port`.
Rates are medians over the rounds; clients and server share this machine's processors.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

APP = """
import os
import obskit

PING = b"pong"

def work():
    return sum(i * i for i in range(2000))

def wsgi_app(environ, start_response):
    path = environ["PATH_INFO"]
    body = PING if path == "/ping" else str(work()).encode()
    obskit.current() and obskit.current().name_route(path if path.startswith("/r") else "/ping")
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi_app(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    body = PING if path == "/ping" else str(work()).encode()
    obskit.current() and obskit.current().name_route(path if path.startswith("/r") else "/ping")
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

wsgi = obskit.install(wsgi_app, interface="wsgi", service="flooded")
asgi = obskit.install(asgi_app, interface="asgi", service="flooded")
"""
SERVERS = {
    "uvicorn": ["uvicorn", "--host", "0.0.0.0", "--port", "{port}", "--no-access-log", "app:asgi"],
    "gunicorn gthread": ["gunicorn", "-k", "gthread", "--threads", "8", "-b", "0.0.0.0:{port}", "app:wsgi"],
}
ROUTES = 60
# One process per crowd: a thread would share the other's interpreter lock. A client speaks HTTP with a socket alone,
# so that the crowd costs as little as can be.
CROWD = """
import selectors, socket, sys, time
host, port, path, clients, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
rate = float(sys.argv[6])  # of the whole crowd; 0: as fast as they are answered
raw = f"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode()
selector = selectors.DefaultSelector()
took, failed = [], 0

class Client:
    def __init__(self):
        self.connection = None
    def ask(self):
        if self.connection is None:
            self.connection = socket.create_connection((host, port), 10)
            selector.register(self.connection, selectors.EVENT_READ, self)
        self.began, self.got, self.length = time.perf_counter(), b"", None
        self.connection.sendall(raw)
    def drop(self):
        selector.unregister(self.connection)
        self.connection.close()
        self.connection = None
    def read(self):
        global failed
        try:
            more = self.connection.recv(1 << 20)
        except OSError:
            more = b""
        self.got += more
        head, end, body = self.got.partition(b"\\r\\n\\r\\n")
        if end and self.length is None:
            lower = head.lower()
            at = lower.find(b"content-length:")
            self.length = int(lower[at + 15:].split(b"\\r\\n")[0]) if at >= 0 else -1
        done = end and self.length is not None and 0 <= self.length <= len(body)
        if done or not more:
            if done:
                took.append((time.perf_counter() - self.began, head[9:12]))
            else:
                failed += 1
            if not more or b"connection: close" in head.lower():
                self.drop()
            return True
        return False

crowd = [Client() for _ in range(clients)]
for one in crowd:
    one.ask()
began = time.perf_counter()
asked, idle = clients, []
while time.perf_counter() - began < seconds:
    for key, _ in selector.select(0.002 if idle else 0.1):
        if key.data.read():
            idle.append(key.data)
    while idle and (not rate or asked < rate * (time.perf_counter() - began)):
        one = idle.pop()
        asked += 1
        try:
            one.ask()
        except OSError:
            failed += 1
            one.connection = None
            idle.append(one)
            break
times = sorted(t for t, _ in took)
p99 = times[int(len(times) * 0.99)] if times else 0.0
ok = sum(status == b"200" for _, status in took)
print(len(took) / seconds, p99 * 1e3, ok, failed)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_address() -> str | None:
    """This machine's address on a network: a peer that may not look."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return None if found.startswith("127.") else found


def crowd(
    host: str, port: int, path: str, clients: int, seconds: float, rate: float = 0.0
) -> subprocess.Popen[str]:
    words = [host, str(port), path, str(clients), str(seconds), str(rate)]
    return subprocess.Popen([sys.executable, "-c", CROWD, *words], stdout=subprocess.PIPE, text=True)


def read(process: subprocess.Popen[str]) -> tuple[float, float, int, int]:
    out, _ = process.communicate(timeout=120)
    if process.returncode:
        raise SystemExit("a crowd failed; its error stands above")
    rate, p99, ok, failed = out.split()
    return float(rate), float(p99), int(ok), int(failed)


def started(stack: ExitStack, server: str, folder: Path, env: dict[str, str]) -> int:
    port = free_port()
    words = [word.format(port=port) for word in SERVERS[server]]
    log = stack.enter_context((folder / "log").open("ab"))
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=folder, env={**os.environ, **env}, stdout=log, stderr=log
    )

    def stop() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()

    stack.callback(stop)
    if not listens(port):
        raise SystemExit((folder / "log").read_text())
    return port


def listens(port: int) -> bool:
    """Whether somebody listens there, soon."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return True
        except OSError:
            time.sleep(0.05)
    return False


def fill(port: int) -> None:
    """Give the application as many series as a service has."""
    for number in range(ROUTES):
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(f"GET /r{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            while connection.recv(65_536):
                continue


def measure(server: str, seconds: float, rounds: int, flooders: int, lead: float) -> dict[str, Any]:
    here = "127.0.0.1"
    floods: dict[str, tuple[str, str, float] | None] = {"none": None}
    floods["page, 100 a second"] = (here, "/metrics", 100.0)
    floods["page"] = (here, "/metrics", 0.0)
    floods["page, other port"] = (here, "/metrics", 0.0)
    stranger = own_address()
    if stranger is not None:
        floods["page, by a stranger"] = (stranger, "/metrics", 0.0)
    floods["ping"] = (here, "/ping", 0.0)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in floods}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "app.py").write_text(textwrap.dedent(APP))
        port = started(stack, server, folder, {"OBSKIT_SHARE_WORKERS": "false"})
        scrapes = free_port()
        apart = started(
            stack, server, folder, {"OBSKIT_SHARE_WORKERS": "false", "OBSKIT_METRICS_PORT": str(scrapes)}
        )
        for one in (port, apart):
            fill(one)
        if not listens(scrapes):
            raise SystemExit("nobody listens on metrics_port")
        for _ in range(rounds):
            for what, flood in floods.items():
                other = what == "page, other port"
                served = apart if other else port
                # What may be taken at once is over before we look.
                flooding = flood and crowd(
                    flood[0], scrapes if other else served, flood[1], flooders, seconds + lead, flood[2]
                )
                if flooding:
                    time.sleep(lead)
                load = crowd("127.0.0.1", served, "/r1", 8, seconds)
                rate, p99, _, _ = read(load)
                flooded = read(flooding)[0] if flooding else 0.0
                found[what].append((rate, p99, flooded))
    figures: dict[str, Any] = {}
    base = statistics.median(one[0] for one in found["none"])
    for what, several in found.items():
        rate, p99, flooded = (statistics.median(column) for column in zip(*several, strict=True))
        figures[what] = {
            "requests_per_s": round(rate, 1),
            "of_bare": round(rate / base, 3),
            "p99_ms": round(p99, 2),
            "flood_per_s": round(flooded, 1),
        }
    return figures


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/scrape_flood.py", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each flood lasts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--lead", type=float, default=10.0, help="seconds of flood before the load is looked at"
    )
    parser.add_argument("--flooders", type=int, default=8, help="connections that flood")
    parser.add_argument("--servers", nargs="*", choices=sorted(SERVERS), default=sorted(SERVERS))
    parser.add_argument("--quick", action="store_true", help="one short round: whether it runs")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.rounds, options.lead = 1.0, 1, 0.5
    figures = {}
    for server in options.servers:
        figures[server] = measure(server, options.seconds, options.rounds, options.flooders, options.lead)
        print(f"{server}: a load of 8 clients, and {options.flooders} that flood")
        print(f"  {'flood':22}{'load/s':>10}{'of bare':>10}{'p99 ms':>10}{'flood/s':>10}")
        for what, one in figures[server].items():
            print(
                f"  {what:22}{one['requests_per_s']:>10.0f}{one['of_bare']:>10.0%}{one['p99_ms']:>10.1f}"
                f"{one['flood_per_s']:>10.0f}",
                flush=True,
            )
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
