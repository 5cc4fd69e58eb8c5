"""Starts the servers and all that works on them, ends it, and says which claims held."""

from __future__ import annotations

import argparse
import http.client
import math
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from obskit import workers
from tests.support.prometheus import PrometheusServer
from tests.support.servers import Server
from tests.torture import books, ledger
from tests.torture.books import Claim
from tests.torture.faults import KINDS, Faults, children, lives
from tests.torture.scraper import DURATION_COUNT, Scraper, lag_s, samples, scrape, total
from tests.torture.visitors import Visitors

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 4
SETTLE_S = 20.0
MAX_SCRAPE_S = 0.050
LAST_SCRAPES = 11
# In each third of a run: workers that have only just begun make single samples small.
MIN_SAMPLES = 10
MAX_LAG_S = 10.0
"""Only an heir counts what a worker had answered when it died; one that hangs dies when its server gives up on it."""


@dataclass(frozen=True)
class Target:
    """A server, and what it is told so that it recycles its workers and gives up on those that hang."""

    name: str
    server: str
    app: str
    arguments: tuple[str, ...]
    upgrades: bool
    """Whether it knows USR2, and a script of its own that can be started anew."""
    hang_s: float
    threaded: bool = False


TARGETS = (
    Target(
        "gunicorn",
        "gunicorn-gthread",
        "tests.torture.served_flask:app",
        (
            "--timeout", "4", "--graceful-timeout", "4",
            "--max-requests", "{recycle}", "--max-requests-jitter", "{jitter}", "--no-control-socket",
        ),
        upgrades=True,
        hang_s=6.0,
    ),
    Target(
        "uvicorn",
        "uvicorn",
        "tests.torture.served_starlette:app",
        (
            "--timeout-worker-healthcheck", "3", "--timeout-graceful-shutdown", "4",
            "--limit-max-requests", "{recycle}", "--limit-max-requests-jitter", "{jitter}",
        ),
        upgrades=False,
        hang_s=4.0,
        threaded=True,
    ),
)  # fmt: skip


@dataclass
class Tortured:
    """What one server went through, and what became of the claims."""

    target: Target
    seconds: float
    done: Counter[str]
    claims: list[Claim]
    notes: list[str] = field(default_factory=list)


def run(
    seconds: float,
    directory: Path,
    targets: Sequence[Target] = TARGETS,
    *,
    every_s: float = 1.5,
    recycle: int = 400,
    visitors: int = 12,
    seed: int = 1,
    only: Collection[str] = (),
) -> list[Tortured]:
    """Torture the targets for `seconds`, all at the same time; `every_s` is the mean pause between two faults.

    `only` these kinds of faults; all when empty.
    """
    with ExitStack() as stack:
        rooms = [
            _Room(target, directory / target.name, recycle, visitors, every_s, seed, only)
            for target in targets
        ]
        for room in rooms:
            stack.enter_context(room.server)
        prometheus = stack.enter_context(
            PrometheusServer(
                directory / "prometheus",
                {room.target.name: f"127.0.0.1:{room.server.port}" for room in rooms},
            )
        )
        for room in rooms:
            prometheus.wait_for_scrape_after(0, room.target.name)
        began = time.time()
        for room in rooms:
            room.begin()
        stopping = threading.Event()
        stopping.wait(seconds)
        for room in rooms:
            room.end()
        return [room.settle(prometheus, began) for room in rooms]


class _Room:
    """One server with its visitors, its faults and its scraper."""

    def __init__(
        self,
        target: Target,
        directory: Path,
        recycle: int,
        visitors: int,
        every_s: float,
        seed: int,
        only: Collection[str],
    ) -> None:
        self.target = target
        directory.mkdir(parents=True)
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.state = directory / "state"
        self.state.mkdir()
        facts = {"recycle": recycle, "jitter": recycle // 2}
        self.server = Server(
            target.server,
            target.app,
            cwd=ROOT,
            log_dir=directory,
            env={
                ledger.LEDGER: str(self.ledger),
                "OBSKIT_STATE_DIR": str(self.state),
                "OTEL_TRACES_EXPORTER": "none",
            },
            extra_args=tuple(word.format(**facts) for word in target.arguments),
            workers=WORKERS,
        )
        if target.upgrades:  # USR2 starts argv anew, which `python -m` is not in
            script = Path(sys.executable).with_name(self.server.command[2])
            self.server.command[1:3] = [str(script)]
        self._visitors, self._every_s, self._seed, self._only = visitors, every_s, seed, only

    def begin(self) -> None:
        name, port = self.target.name, self.server.port
        self.visitors = Visitors(name, port, self._visitors, self._seed, self.target.threaded)
        self.faults = Faults(
            self.server.pid,
            self.visitors,
            self._every_s,
            self._seed,
            upgrades=self.target.upgrades,
            hang_s=self.target.hang_s,
            only=self._only,
        )
        self.scraper = Scraper(port)
        self.began = time.monotonic()
        for one in (self.visitors, self.scraper, self.faults):
            one.start()

    def end(self) -> None:
        self.faults.stop()
        self.visitors.stop()
        self.seconds = time.monotonic() - self.began

    def settle(self, prometheus: PrometheusServer, began: float) -> Tortured:
        """Wait until the dead are buried, compare the books, and end the server."""
        name, port = self.target.name, self.server.port
        if not lives(self.faults.master):
            raise RuntimeError(f"{name} has ended as a whole:\n{self.server.stderr()[-4000:]}")
        _wait_until(lambda: self._calm(port))
        self.scraper.stop()
        last = [scrape(port) for _ in range(LAST_SCRAPES)]
        text = last[-1][0]
        prometheus.wait_for_scrape_after(time.time(), name)
        claims = self._of_metrics(text, [seconds for _, seconds in last], prometheus, began)
        claims += self._of_files()
        claims.append(self._of_memory())
        os.kill(self.faults.master, signal.SIGTERM)
        _wait_until(lambda: not lives(self.faults.master))
        canonical, died = books.read_lines(self.server.stdout_path)
        account = books.Books(
            fates=self.visitors.fates,
            entered=ledger.read(self.ledger),
            lines=canonical,
            died=died,
            counted=total(text, DURATION_COUNT),
            lost=total(text, "obskit_requests_lost_total"),
            wrong=self.visitors.wrong,
        )
        exits = {
            series: value
            for series, value in samples(text).items()
            if series.startswith("obskit_worker_exits_total") and value
        }
        notes = [
            f"exits: {', '.join(f'{series[25:]} {value:.0f}' for series, value in exits.items())}",
            f"faults that failed: {self.faults.problems}" if self.faults.problems else "",
        ]
        return Tortured(
            self.target,
            self.seconds,
            self.faults.done,
            books.claims(account) + claims,
            [n for n in notes if n],
        )

    def _calm(self, port: int) -> bool:
        try:
            text, _ = scrape(port)
        except (OSError, http.client.HTTPException):
            return False
        return (
            total(text, "http_server_active_requests") == 0
            and len(children(self.faults.master)) == WORKERS
            and all(member.alive for _, members in workers.groups(str(self.state)) for member in members)
        )

    def _of_metrics(
        self, text: str, seconds: list[float], prometheus: PrometheusServer, began: float
    ) -> list[Claim]:
        fallen = self.scraper.fallen
        resets, scrapes, answered = _resets(prometheus, self.target.name, began)
        active = total(text, "http_server_active_requests")
        errors = {
            series: value
            for series, value in samples(text).items()
            if series.startswith("obskit_internal_errors_total") and value
        }
        middle = statistics.median(seconds)
        lag = lag_s(self.visitors.answered_at, self.scraper.counted)
        return [
            Claim(
                "no counter fell between two scrapes of ours",
                not fallen and self.scraper.pages > 0,
                f"{len(fallen)} falls in {self.scraper.pages} pages ({self.scraper.missed} without an answer) of up to "
                f"{self.scraper.most_series} series {fallen[:3] or ''}",
            ),
            Claim(
                "resets() of all counters is 0 in Prometheus",
                not resets and answered > 0,
                f"{sum(resets.values()):.0f} in {answered} of {scrapes} scrapes {resets or ''}",
            ),
            Claim(
                "every scrape counts what was answered",
                lag <= MAX_LAG_S,
                f"an answer was missing for {lag:.2f} s at most",
            ),
            Claim("nothing is in flight at the end", active == 0, f"{active:.0f}"),
            Claim("no error of our own", not errors, f"{errors or 0}"),
            Claim(
                "a scrape takes at most 50 ms at the end",
                middle <= MAX_SCRAPE_S,
                f"{middle * 1e3:.1f} ms, {len(text.splitlines())} lines",
            ),
        ]

    def _of_files(self) -> list[Claim]:
        living = children(self.faults.master)
        members = [member for _, group in workers.groups(str(self.state)) for member in group]
        files = [
            path
            for path in self.state.rglob("*")
            if path.is_file() and path.parent.name.startswith("workers-")
        ]
        tokens = {member.token for member in members}
        dead = [
            path.name
            for path in files
            if path.name.partition(".")[0] not in tokens and len(path.name.partition(".")[0]) == 16
        ]
        return [
            Claim(
                "all members live",  # a worker is one from its first request on
                {member.pid for member in members} <= set(living),
                f"{len(members)} members, {len(living)} workers",
            ),
            Claim(
                "no file of the dead is left",
                not dead and len(files) <= 4 * (len(living) + 2),
                f"{len(files)} files, {_size(files) // 1024} KiB, {len(dead)} of the dead",
            ),
        ]

    def _of_memory(self) -> Claim:
        """Bytes per worker over the second third of the run against the last, each by its median."""
        per_worker = [total / number for _, number, total in self.faults.resident if number]
        third = len(per_worker) // 3
        if third < MIN_SAMPLES:
            return Claim("memory is flat", True, "too short a run to tell")
        earlier, later = statistics.median(per_worker[third:-third]), statistics.median(per_worker[-third:])
        return Claim(
            "memory is flat",
            later <= earlier * 1.1 + 2**20,
            f"{earlier / 2**20:.1f} then {later / 2**20:.1f} MiB per worker",
        )


def _size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _resets(prometheus: PrometheusServer, job: str, began: float) -> tuple[dict[str, float], int, int]:
    """Resets by name of a counter, and how many scrapes there were, and how many with an answer."""
    end = time.time()
    window = f"[{math.ceil(end - began)}s]"
    names = prometheus.label_values("__name__", f'{{job="{job}"}}', began, end)
    found = {}
    for name in names:
        if name.endswith(("_total", "_bucket", "_count", "_sum")):
            value = prometheus.value(f'sum(resets({name}{{job="{job}",worker=""}}{window}))')
            if value > 0:  # NaN for what is only told of single workers
                found[name] = value
    scrapes = int(prometheus.value(f'count_over_time(up{{job="{job}"}}{window})'))
    return found, scrapes, int(prometheus.value(f'sum_over_time(up{{job="{job}"}}{window})'))


def _wait_until(true: Callable[[], bool], timeout_s: float = SETTLE_S) -> None:
    """Returns when it is true, or when it is too late: the claims will say what was not."""
    deadline = time.monotonic() + timeout_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)


def report(results: Sequence[Tortured]) -> str:
    """The table."""
    lines = []
    for one in results:
        done = ", ".join(f"{kind} {number}" for kind, number in sorted(one.done.items()))
        lines += [
            f"{one.target.name}, {one.seconds:.0f} s; {done}",
            *(f"       {note}" for note in one.notes),
        ]
        lines += [
            f"  {'ok  ' if claim.held else 'FAIL'} {claim.what}: {claim.figures}" for claim in one.claims
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command: 0 when all claims held."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long, 3 by default")
    parser.add_argument(
        "--every", type=float, default=2.0, help="mean seconds between two faults, 2 by default"
    )
    parser.add_argument("--recycle", type=int, default=600, help="max_requests of a worker, 600 by default")
    parser.add_argument(
        "--visitors", type=int, default=12, help="clients at a time per server, 12 by default"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random choices")
    parser.add_argument("--fault", action="append", choices=KINDS, help="a kind of fault; all by default")
    parser.add_argument("--only", choices=[target.name for target in TARGETS], help="one server alone")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs, ledgers and Prometheus' data")
    options = parser.parse_args(arguments)
    targets = [target for target in TARGETS if options.only in (None, target.name)]
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.keep or Path(temporary)
        results = run(
            options.minutes * 60,
            directory,
            targets,
            every_s=options.every,
            recycle=options.recycle,
            visitors=options.visitors,
            seed=options.seed,
            only=options.fault or (),
        )
    sys.stdout.write(f"seed {options.seed}\n{report(results)}\n")
    return 0 if all(claim.held for one in results for claim in one.claims) else 1
