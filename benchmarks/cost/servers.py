"""What a request costs under a real server, and what it waits longer: the same variants, interleaved.

The server has one core, the load and the receiver the other. What counts is CPU time of the server's processes, all
threads, from before a stretch of load until what it had to send has arrived; and, at a fixed rate, the time from when
a request was due until its answer was there.
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from time import clock_gettime_ns, monotonic, sleep
from typing import Any, NamedTuple

from benchmarks.cost import environments, load
from benchmarks.cost.environments import ROOT
from benchmarks.cost.processes import Places, Sink, cores
from benchmarks.cost.variants import BY_NAME, SPANS, bare_key


class Kind(NamedTuple):
    framework: str
    command: tuple[str, ...]
    rate: float
    """Requests a second while waiting is measured: a third of what the slowest variant can do."""


_GUNICORN = ("gunicorn", "-w", "1", "--log-level", "error", "-b", "127.0.0.1:{port}", "--timeout", "120")
KINDS = {
    "uvicorn": Kind(
        "fastapi",
        ("uvicorn", "--port", "{port}", "--no-access-log", "--log-level", "error", "--loop", "uvloop"),
        300,
    ),
    "gunicorn gthread": Kind("flask", (*_GUNICORN, "-k", "gthread", "--threads", "8"), 300),
    "gunicorn sync": Kind("flask", (*_GUNICORN, "-k", "sync"), 200),
}
NAMES = ("assembled", "careful", "signals", "obskit")
SETTLE_S = 0.5


class Server:
    def __init__(self, kind: Kind, name: str, environment: str, sink: Sink, places: Places) -> None:
        self.number, lines, variables = places.variables(environment, name, sink.address)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        words = [word.format(port=self.port) for word in kind.command]
        with lines.open("wb") as out, lines.with_suffix(".errors").open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    *("taskset", "-c", str(cores()[0])),
                    *(str(environments.python_of(environment)), "-m", *words, "benchmarks.cost.served:app"),
                ],
                cwd=ROOT,
                # Sent soon: what a stretch of load leaves waiting is waited for.
                env={
                    **variables,
                    "BENCH_FRAMEWORK": kind.framework,
                    "BENCH_VARIANT": name,
                    "OTEL_BSP_SCHEDULE_DELAY": "200",
                },
                stdout=out,
                stderr=errors,
            )
        self.sends = name in BY_NAME and SPANS in BY_NAME[name].proves
        self.sink = sink

    def cpu_ns(self) -> int:
        """CPU time of all threads, ended ones too, of the server and its workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        # The clock of a process that Linux makes from its number (clock_getcpuclockid), for which Python has no name.
        return sum(clock_gettime_ns(~int(pid) << 3 | 2) for pid in [self.process.pid, *children])

    def stretch(self, seconds: float, rate: float | None = None) -> tuple[float, float, list[float]]:
        """CPU microseconds per request, requests a second, and what each waited."""
        before, began = self.cpu_ns(), monotonic()
        answered = load.drive(self.port, seconds, rate=rate)
        took = monotonic() - began
        if self.sends:
            self._settle()
        return (
            (self.cpu_ns() - before) / answered.requests / 1e3,
            answered.requests / took,
            answered.latencies_s,
        )

    def _settle(self) -> None:
        """Until nothing has arrived for a while."""
        count, since = -1, monotonic()
        while monotonic() - since < SETTLE_S:
            now = self.sink.counts().get(str(self.number), 0)
            if now != count:
                count, since = now, monotonic()
            sleep(0.05)

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(name: str, rounds: int, seconds: float, folder: Path, seed: int) -> dict[str, Any]:
    """Per variant: added CPU, requests a second as a share of the bare server's, p50 and p99 of waiting, and rows."""
    kind = KINDS[name]
    folder.mkdir()
    sink, places = Sink(), Places(folder)
    servers: dict[str, Server] = {}
    os.sched_setaffinity(0, {cores()[1]})
    try:
        for variant in NAMES:
            environment = BY_NAME[variant].environment
            environments.ensure(environment)
            for key, one in ((bare_key(environment, 0), "bare"), (variant, variant)):
                if key not in servers:
                    servers[key] = Server(kind, one, environment, sink, places)
        for server in servers.values():
            load.wait_for(server.port)
            server.stretch(0.3)
        order, chance = list(NAMES), random.Random(seed)
        rows: dict[str, list[dict[str, float]]] = {variant: [] for variant in NAMES}
        waited: dict[str, list[float]] = {key: [] for key in servers}
        for done in range(1, rounds + 1):
            chance.shuffle(order)
            for variant in order:
                bare = servers[BY_NAME[variant].bare]
                before, own, after = (
                    bare.stretch(seconds / 2),
                    servers[variant].stretch(seconds),
                    bare.stretch(seconds / 2),
                )
                rows[variant].append(
                    {
                        "cpu": own[0],
                        "bare_cpu": (before[0] + after[0]) / 2,
                        "rate": own[1],
                        "bare_rate": (before[1] + after[1]) / 2,
                    }
                )
            for key in chance.sample(sorted(servers), len(servers)):
                waited[key] += servers[key].stretch(seconds, kind.rate)[2]
            print(f"\r{name}: round {done} of {rounds} ", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return {
            "framework": kind.framework,
            "rate": kind.rate,
            "rows": rows,
            "waited": {key: _percentiles(seconds_waited) for key, seconds_waited in waited.items()},
        }
    finally:
        for server in servers.values():
            server.close()
        sink.close()
        os.sched_setaffinity(0, set(cores()))


def _percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_us": cuts[49] * 1e6, "p99_us": cuts[98] * 1e6}
