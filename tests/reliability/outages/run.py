"""The long form: real servers under constant load while their collectors misbehave, beside the same with good ones.

Two servers of each kind run at the same time, are asked in turns, and differ in their collector alone: so what is
compared was measured in the same seconds of the same machine.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.reliability import results
from tests.support.exposition import parse
from tests.support.servers import Server

ROOT = Path(__file__).resolve().parents[3]
KINDS = {"gunicorn-gthread": "wsgi", "uvicorn": "asgi"}
# The habits below TLS and DNS are met by services of their own, whose address has them.
HABITS = (
    "refused", "hang", "deaf", "slow", "drip", "endless", "400", "401", "404", "500", "503", "429", "503-later",
    "html", "redirect", "garbage", "partial", "reset", "early-reset", "noise",
)  # fmt: skip
SETTLE_S = 40.0
MB = 1 << 20
MAX_RSS_GROWTH = 32 * MB
FLAT = 3 * MB
STOP_BEYOND_S = 2.0
MAX_RATIO = 1.1
QUEUED = 40


class CollectorProcess:
    """A collector in a process of its own, told on stdin how to behave. A context manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.outages.collector"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def tell(self, mode: str = "") -> dict[str, Any]:
        """Behave like this from now on; what was taken until now."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(mode + "\n")
            self._process.stdin.flush()
            found: dict[str, Any] = json.loads(self._read())
            return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


@dataclass
class Times:
    """Seconds that requests took, by what the collector did meanwhile."""

    by_mode: dict[str, array[float]] = field(default_factory=dict)

    def add(self, mode: str, seconds: float) -> None:
        self.by_mode.setdefault(mode, array("d")).append(seconds)

    def of(self, mode: str, q: float) -> float:
        return quantile(sorted(self.by_mode.get(mode, ())), q)

    def all(self, *, but: str = "") -> list[float]:
        return sorted(one for mode, found in self.by_mode.items() if mode != but for one in found)


def quantile(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))] if ordered else 0.0


class Visitor(threading.Thread):
    """Asks one server at a steady pace over one connection."""

    def __init__(self, port: int, per_s: float, offset_s: float) -> None:
        super().__init__(daemon=True)
        self.port, self.every_s, self.offset_s = port, 1 / per_s, offset_s
        self.mode = "before"
        self.times = Times()
        self.answered = self.failed = 0
        self.paused = threading.Event()
        self.stopped = threading.Event()

    def run(self) -> None:
        connection: socket.socket | None = None
        due = time.monotonic() + self.offset_s
        while not self.stopped.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self.every_s, time.monotonic() - 1.0)
            if self.paused.is_set():
                continue
            began = time.perf_counter()
            try:
                if connection is None:
                    connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ask(connection)
            except OSError:
                self.failed += 1
                connection = None
                continue
            self.times.add(self.mode, time.perf_counter() - began)
            self.answered += 1
        if connection is not None:
            connection.close()

    def _ask(self, connection: socket.socket) -> None:
        connection.sendall(b"GET /work HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while not data.endswith(b"\r\n\r\nok"):
            more = connection.recv(4096)
            if not more:
                raise OSError("no whole answer")
            data += more
        if not data.startswith(b"HTTP/1.1 200 "):
            raise OSError("not answered well")


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = [int(one) for one in children.read_text().split()]
    except OSError:
        return []
    return [pid] + [more for one in found for more in family(one)]


def rss(pid: int) -> int:
    total = 0
    for one in family(pid):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * 4096
        except (OSError, IndexError):
            continue
    return total


class Arm:
    """One server, its collector, and who asks it."""

    def __init__(
        self,
        kind: str,
        endpoint: str,
        per_s: float,
        offset_s: float,
        directory: Path,
        collector: CollectorProcess,
    ):
        self.kind, self.collector = kind, collector
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.format(port=collector.port)}
        app = f"tests.reliability.outages.served_{KINDS[kind]}:app"
        self.server = Server(kind, app, cwd=ROOT, log_dir=directory, env=env)
        self.server.start()
        self.visitor = Visitor(self.server.port, per_s, offset_s)
        self.memory: list[int] = []

    def dropped(self) -> dict[str, int]:
        page = _get(self.server.port, "/metrics")
        found = parse(page).get("obskit_telemetry_dropped_total", {})
        return {
            dict(labels)["reason"]: int(value)
            for labels, value in found.items()
            if ("signal", "traces") in labels
        }

    def told(self) -> tuple[Counter[tuple[str, str]], int, int]:
        """What was said of it, by event and reason; how many lines others wrote; the spans lost at the end."""
        said: Counter[tuple[str, str]] = Counter()
        others = lost = 0
        for path in (self.server.stdout_path, self.server.stderr_path):
            with path.open("rb") as lines:
                for line in lines:
                    if b'"telemetry.' in line:
                        found = json.loads(line)
                        said[found["event"], found.get("reason", "")] += 1
                        if found["event"] == "telemetry.spans_lost":
                            lost += found["spans_lost"]
                    elif b"opentelemetry" in line or b"urllib3" in line or b"Traceback" in line:
                        others += 1
        return said, others, lost


def _get(port: int, path: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while more := connection.recv(65536):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
        body = whole
    return body.decode()


@dataclass
class Trial:
    """What was seen of one pair of servers of one kind."""

    name: str
    kind: str
    seconds: float
    produced: int
    taken: int
    dropped: dict[str, int]
    failed: int
    troubled: list[float]
    healthy: list[float]
    before: tuple[float, float]
    """p99.9 of both while both collectors were well."""
    rss_growth: int
    rss_late: int
    """What the last quarter added over the one before."""
    rss_well: tuple[int, int]
    """The same two of the server with a good collector."""
    recovered_s: float | None
    said: Counter[tuple[str, str]]
    other_lines: int
    stopped_s: float
    stopped_well_s: float
    lost_at_stop: int | None
    healthy_exact: bool
    by_mode: dict[str, tuple[int, float, float]]

    def problems(self) -> list[str]:
        minutes = self.seconds / 60 + 1
        found = []
        if self.produced != self.taken + sum(self.dropped.values()):
            found.append(f"{self.produced} spans made, {self.taken} taken, dropped {self.dropped}")
        if not self.healthy_exact:
            found.append("spans are missing where the collector was well")
        if self.failed:
            found.append(f"{self.failed} requests failed")
        if self.rss_growth > MAX_RSS_GROWTH:
            found.append(f"memory grew by {self.rss_growth // MB} MB")
        # It grows until the queue is full, which takes a quarter of a minute.
        if self.seconds >= 60 and self.rss_late - self.rss_well[1] > FLAT:
            found.append(f"memory still grew by {self.rss_late >> 10} KB at the end")
        if self.recovered_s is None:
            found.append("spans did not flow again")
        found += [
            f"{event} {reason} was said {count} times"
            for (event, reason), count in self.said.items()
            if count > minutes
        ]
        if self.other_lines:
            found.append(f"{self.other_lines} lines of the exporter itself")
        if self.stopped_s > self.stopped_well_s + STOP_BEYOND_S + 0.5:
            found.append(
                f"stopped in {self.stopped_s:.1f} s, {self.stopped_well_s:.1f} s with a good collector"
            )
        if self.lost_at_stop not in (None, QUEUED):
            found.append(f"{QUEUED} spans waited at the end, {self.lost_at_stop} were told as lost")
        return [f"{self.name}, {self.kind}: {one}" for one in found]

    @property
    def ratio(self) -> float:
        return quantile(self.troubled, 0.999) / max(1e-9, quantile(self.healthy, 0.999))


def trial(
    name: str, endpoint: str, habits: tuple[str, ...], seconds: float, per_s: float, directory: Path
) -> list[Trial]:
    """Servers of each kind for so many seconds, in which their collectors have these habits one after another."""
    collectors = [CollectorProcess() for _ in range(2 * len(KINDS))]
    pairs: list[tuple[Arm, Arm]] = []
    found = []
    try:
        each, step = per_s / len(collectors), 1 / per_s
        good_endpoint = "http://127.0.0.1:{port}"
        for number, kind in enumerate(KINDS):
            bad, good = collectors[2 * number : 2 * number + 2]
            offset_s = 2 * number * step
            well = Arm(kind, good_endpoint, each, offset_s + step, directory / f"{name}-good", good)
            pairs.append((Arm(kind, endpoint, each, offset_s, directory / f"{name}-bad", bad), well))
        reachable = endpoint == good_endpoint
        if not reachable:
            for arm, _ in pairs:
                arm.collector.tell(habits[0])
        arms = [arm for pair in pairs for arm in pair]
        for arm in arms:
            arm.visitor.start()
        _watch(arms, max(10.0, seconds / 10), "before")
        for arm in arms:
            arm.memory.clear()
            arm.memory.append(rss(arm.server.pid))
        for habit in habits:
            for arm, _ in pairs:
                arm.collector.tell(habit)
            _watch(arms, seconds / len(habits), habit)
        recovered: list[float | None] = [0.0 for _ in pairs]
        if reachable:
            recovered = _recovered(pairs, [arm.collector.tell("ok")["taken"] for arm, _ in pairs])
        _settled(arms)
        for number, (arm, well) in enumerate(pairs):
            found.append(_seen(name, arm, well, seconds, recovered[number], reachable))
    finally:
        for pair in pairs:
            for arm in pair:
                arm.visitor.stopped.set()
                arm.server.stop()
        for collector in collectors:
            collector.__exit__(None, None, None)
    return found


def _watch(arms: list[Arm], seconds: float, mode: str) -> None:
    for arm in arms:
        arm.visitor.mode = mode
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        for arm in arms:
            arm.server.check_alive()
            arm.memory.append(rss(arm.server.pid))


def _recovered(pairs: list[tuple[Arm, Arm]], before: list[int]) -> list[float | None]:
    began = time.monotonic()
    found: list[float | None] = [None for _ in pairs]
    for pair in pairs:
        for arm in pair:
            arm.visitor.mode = "recovering"
    while None in found and time.monotonic() - began < SETTLE_S:
        for number, (arm, _) in enumerate(pairs):
            if found[number] is None and arm.collector.tell()["taken"] > before[number]:
                found[number] = time.monotonic() - began
        time.sleep(0.05)
    return found


def _settled(arms: list[Arm]) -> None:
    """Nobody asks any more, and what waits has been sent, or cannot be."""
    for arm in arms:
        arm.visitor.paused.set()
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline and not all(
        arm.visitor.answered <= arm.collector.tell()["taken"] + sum(arm.dropped().values()) for arm in arms
    ):
        time.sleep(0.2)


def _late(memory: list[int]) -> int:
    """What the last quarter added over the one before."""
    quarter = max(1, len(memory) // 4)
    return int(statistics.median(memory[-quarter:]) - statistics.median(memory[-2 * quarter : -quarter]))


def _seen(
    name: str, arm: Arm, well: Arm, seconds: float, recovered_s: float | None, reachable: bool
) -> Trial:
    dropped, taken = arm.dropped(), arm.collector.tell()["taken"]
    exact = well.visitor.answered == well.collector.tell()["taken"] + sum(well.dropped().values())
    # The end: some spans wait, and the collector hangs.
    if reachable:
        arm.collector.tell("hang")
    stopped = []
    for one in (arm, well):
        one.visitor.stopped.set()
        one.visitor.join(5)
        for _ in range(QUEUED):
            _get(one.server.port, "/work")
        began = time.monotonic()
        one.server.stop(timeout_s=30.0)
        stopped.append(time.monotonic() - began)
    said, others, lost = arm.told()
    times, good = arm.visitor.times, well.visitor.times
    return Trial(
        name=name,
        kind=arm.kind,
        seconds=seconds,
        produced=arm.visitor.answered,
        taken=taken,
        dropped=dropped,
        failed=arm.visitor.failed + well.visitor.failed,
        troubled=times.all(but="before"),
        healthy=good.all(but="before"),
        before=(times.of("before", 0.999), good.of("before", 0.999)),
        rss_growth=max(arm.memory) - arm.memory[0],
        rss_late=_late(arm.memory),
        rss_well=(max(well.memory) - well.memory[0], _late(well.memory)),
        recovered_s=recovered_s,
        said=said,
        other_lines=others,
        stopped_s=stopped[0],
        stopped_well_s=stopped[1],
        # Where exports fail at once, some fail before the end comes.
        lost_at_stop=lost if reachable else None,
        healthy_exact=exact,
        by_mode={
            mode: (len(found), times.of(mode, 0.99), good.of(mode, 0.99))
            for mode, found in times.by_mode.items()
        },
    )


def report(trials: list[Trial]) -> list[tuple[str, str]]:
    """Each claim with its figures."""
    rows = []
    for one in trials:
        what = f"{one.name}, {one.kind}, {one.seconds / 60:.1f} minutes"
        lost = ", ".join(f"{count:,} {reason}" for reason, count in sorted(one.dropped.items())) or "none"
        missing = one.produced - one.taken - sum(one.dropped.values())
        bad, good = (
            " / ".join(f"{quantile(found, q) * 1000:.2f}" for q in (0.5, 0.99, 0.999))
            for found in (one.troubled, one.healthy)
        )
        told = "" if one.lost_at_stop is None else f", {one.lost_at_stop} told as lost"
        most = max(one.said.values(), default=0)
        times = f"p50 / p99 / p99.9 {bad} ms, with a good collector {good} ms at the same time"
        memory = f"{one.rss_growth / MB:+.1f} MB at most, {one.rss_late / MB:+.1f} MB at the end"
        memory_well = f"{one.rss_well[0] / MB:+.1f} and {one.rss_well[1] / MB:+.1f} MB"
        rows += [
            (
                f"{what}: spans",
                f"{one.produced:,} made = {one.taken:,} taken + lost ({lost}); unaccounted for: {missing}",
            ),
            (f"{what}: requests", f"{one.failed} failed; {times} (p99.9: {one.ratio:.2f} times)"),
            (f"{what}: memory", f"{memory}; with a good collector {memory_well}"),
            (
                f"{what}: log lines about it",
                f"{one.said.total()}, of a kind {most} at most; of the exporter's own {one.other_lines}",
            ),
            (
                f"{what}: SIGTERM with {QUEUED} spans waiting",
                f"{one.stopped_s:.1f} s{told}; with a good collector {one.stopped_well_s:.1f} s",
            ),
        ]
        if one.name == "http" and one.recovered_s is not None:
            rows.append(
                (f"{what}: collector back", f"spans flow after {one.recovered_s:.1f} s, without a restart")
            )
    return rows


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.outages", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of HTTP outages; a tenth more each of TLS and DNS"
    )
    parser.add_argument("--per-second", type=float, default=500.0, help="requests to all servers together")
    parser.add_argument(
        "--keep", action="store_true", help="write the figures to docs/reliability/outages.json"
    )
    options = parser.parse_args(arguments)
    began = time.monotonic()
    seconds = options.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        trials = []
        for name, endpoint, habits, share in (
            ("http", "http://127.0.0.1:{port}", HABITS, 1.0),
            ("tls", "https://127.0.0.1:{port}", ("noise",), 0.1),
            ("dns", "http://collector.invalid:{port}", ("ok",), 0.1),
        ):
            trials += trial(
                name, endpoint, habits, max(10.0, seconds * share), options.per_second, Path(folder)
            )
    rows = report(trials)
    text = [f"{what}: {came}" for what, came in rows]
    for one in trials:
        before = [f"{seconds * 1000:.2f}" for seconds in one.before]
        text.append(f"{one.name} {one.kind}: p99.9 before the trouble {before[0]} and {before[1]} ms")
        for mode, (count, bad, good) in one.by_mode.items():
            text.append(f"  {mode:12} {count:6} requests, p99 {bad * 1000:.2f} ms, {good * 1000:.2f} ms")
        text += [f"  said {count:3} x {event} {why}" for (event, why), count in sorted(one.said.items())]
    problems = [problem for one in trials for problem in one.problems()]
    # Told and no failure: on a machine that others use, the same two servers differ by more without any trouble.
    text += [
        f"NOTE: {one.name}, {one.kind}: p99.9 is {one.ratio:.2f} times that with a good collector"
        for one in trials
        if one.ratio > MAX_RATIO
    ]
    sys.stdout.write("\n".join([*text, *(f"PROBLEM: {one}" for one in problems), ""]))
    if options.keep:
        results.keep(
            "outages", title="Collectors that are away, hang, refuse and lie", command="make outages", rows=rows,
            took_s=time.monotonic() - began,
        )  # fmt: skip
    return 1 if problems else 0
