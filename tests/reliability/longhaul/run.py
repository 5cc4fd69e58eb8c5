"""Starts the servers, bare and with obskit, keeps them under load, and says which claims held."""

from __future__ import annotations

import argparse
import asyncio
import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability import results
from tests.reliability.longhaul import INSTALL
from tests.reliability.longhaul.clock import FILE, Clock
from tests.reliability.longhaul.measures import (
    MIB,
    Lines,
    Sample,
    half,
    look,
    percentile,
    quarters,
    slope_mib_per_hour,
)
from tests.reliability.longhaul.sink import MODES, Sink
from tests.reliability.longhaul.visitors import Pair
from tests.support.servers import Server, ServerError
from tests.torture.books import Claim
from tests.torture.scraper import cumulative, fell, samples, scrape, total

ROOT = Path(__file__).resolve().parents[3]
ASGI = ("uvicorn", "hypercorn", "granian", "gunicorn-uvicorn")
WSGI = ("gunicorn-sync", "gunicorn-gthread", "gunicorn-gevent", "waitress")
KINDS = ASGI + WSGI
SOCKETS = frozenset(ASGI)
ALONE = frozenset({"waitress"})
"""Servers of one process."""
WORKERS = 2
SCRAPE_S = 5.0
STUCK_S = 1.0
HANG_MS = 2600
SETTLE_S = 30.0
JUMP_S = 3600.0

MEMORY_MIB_PER_HOUR = 1.0
"""By how much the memory of a worker may grow beyond that of the bare one, in the last half."""
MEMORY_MIN_S = 1200.0
"""Shorter runs tell nothing of that: allocators fill their pools for minutes."""
DRIFT_S = 0.000_150
"""By how much the cost of a request may differ between the first and the last quarter."""
DRIFT_MIN = 500
"""In each quarter: fewer quick requests tell nothing."""

DURATIONS = "http_server_request_duration_seconds_count"
OUTCOMES = "obskit_http_server_outcomes_total"
DROPPED = "obskit_telemetry_dropped_total"
EXPECTED = frozenset({"client_disconnect", "request_stuck", "event_loop_blocked"})
"""What may be found: what was planted, and a loop that a busy machine keeps waiting."""


@dataclass
class Hauled:
    """What became of one kind of server."""

    kind: str
    claims: list[Claim]
    figures: dict[str, str] = field(default_factory=dict)


class Room:
    """One kind of server: bare and with obskit, their clients, and what is seen of them."""

    def __init__(self, kind: str, directory: Path, sink: Sink, clock: Clock, rate: float, seed: int) -> None:
        self.kind, self.sink, self.clock = kind, sink, clock
        self.service = f"haul-{kind}"
        self.state = directory / "state"
        self.state.mkdir(parents=True)
        self.workers = 1 if kind in ALONE else WORKERS
        self.bare = self._server(directory / "bare", {})
        self.installed = self._server(
            directory / "installed",
            {
                INSTALL: self.service,
                "OBSKIT_STATE_DIR": str(self.state),
                "OBSKIT_STUCK_REQUEST_S": str(STUCK_S),
                "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
                "OTEL_BSP_SCHEDULE_DELAY": "1000",
            },
        )
        self._rate, self._seed = rate, seed
        self.samples: tuple[list[Sample], list[Sample]] = ([], [])
        self.files: list[int] = []
        self.fallen: list[str] = []
        self.pages = self.missed = 0
        self.problems: list[str] = []
        self.hung = 0
        self._before: dict[str, float] = {}

    def _server(self, log_dir: Path, env: dict[str, str]) -> Server:
        app = "served_starlette" if self.kind in ASGI else "served_flask"
        return Server(
            self.kind,
            f"tests.reliability.longhaul.{app}:app",
            cwd=ROOT,
            log_dir=log_dir,
            env={FILE: self.clock.path, "OTEL_TRACES_EXPORTER": "otlp", **env},
            workers=self.workers,
        )

    def begin(self) -> None:
        self.lines = Lines(self.installed.stdout_path, self.clock, since=self.clock.settings[0][0])
        self.pair = Pair(
            self.bare.port, self.installed.port, self._rate, self._seed, sockets=self.kind in SOCKETS
        )

    def measure(self) -> None:
        now = time.monotonic()
        for server, found in zip((self.bare, self.installed), self.samples, strict=True):
            try:
                server.check_alive()
                found.append(look(server.pid, now))
            except (ServerError, OSError) as error:
                self.problems.append(str(error))
        self.files.append(sum(path.is_file() for path in self.state.rglob("*")))

    def progress(self) -> str:
        """One line on how it stands."""
        bare, installed = (found[-1] for found in self.samples)
        client = self.pair.installed
        return (
            f"{self.kind}: {client.asked.total()} asked, {len(client.wrong)} wrong, {len(self.fallen)} fallen, "
            f"{bare.resident / bare.workers / MIB:.1f} and {installed.resident / installed.workers / MIB:.1f} MiB, "
            f"{installed.descriptors} descriptors, {installed.threads} threads"
        )

    def page(self) -> str:
        """One scrape; its counters are held against the last one's. Empty when nobody answered."""
        try:
            text, _ = scrape(self.installed.port, 10.0)
        except (OSError, http.client.HTTPException):
            self.missed += 1
            return ""
        after = cumulative(text)
        self.fallen += fell(self._before, after)
        self._before = after
        self.pages += 1
        return text

    def hang(self) -> None:
        """One request that hangs for a while, on either side."""
        self.hung += 1
        self.pair.start(f"hang-{HANG_MS}")

    async def work(self, until: float) -> None:
        """The load, and a scrape now and then."""
        load = asyncio.create_task(self.pair.run(until))
        while not load.done():
            await asyncio.wait([load], timeout=SCRAPE_S)
            await asyncio.to_thread(self.page)
        await load

    # ---- the verdict -----------------------------------------------------------------------------

    def settle(self) -> Hauled:
        """Wait until everything has been counted, written and sent; compare; stop the servers."""
        sent = self.pair.installed.asked
        number = sent.total()
        text = _until(self.page, lambda page: bool(page) and total(page, OUTCOMES) >= number)
        text = _until(
            self.page,
            lambda page: bool(page) and self._gone(page) >= number,
            start=text,
        )
        spans, dropped = self.sink.count(self.service), self._dropped(text)
        self.measure()
        stopped = {server: _stopped(server) for server in (self.bare, self.installed)}
        self.lines.read(time.time())
        claims = [
            *self._of_answers(text, number, spans, dropped),
            *self._of_resources(),
            self._of_cost(),
            *self._of_clock(),
            *self._of_watching(text),
            Claim("both live to the end", not self.problems, f"{self.problems[:1] or 'they do'}"),
            Claim(
                "both end at SIGTERM",
                all(status is not None for status, _ in stopped.values()),
                ", ".join(f"{took:.1f} s" for _, took in stopped.values()) + " bare and with obskit",
            ),
        ]
        return Hauled(self.kind, claims, self._figures(spans, dropped))

    def _dropped(self, text: str) -> float:
        return sum(
            value
            for series, value in samples(text).items()
            if series.startswith(DROPPED) and 'signal="traces"' in series
        )

    def _gone(self, text: str) -> float:
        return self.sink.count(self.service) + self._dropped(text)

    def _of_answers(self, text: str, number: int, spans: int, dropped: float) -> list[Claim]:
        wrong = self.pair.bare.wrong + self.pair.installed.wrong
        counted, lines = total(text, OUTCOMES), self.lines.events["http.request"]
        timed = total(text, DURATIONS)
        sockets = self.pair.installed.asked["ws"]
        routes = {
            "/quick": self.pair.installed.asked["quick"],
            "unmatched": self.pair.installed.asked["missing"],
            "/fail": self.pair.installed.asked["fail"],
        }
        by_route = {
            name: sum(n for route, n in self.lines.routes.items() if route.startswith(name))
            for name in routes
        }
        return [
            Claim("every answer is right", not wrong, f"{number} each, {len(wrong)} wrong {wrong[:3] or ''}"),
            Claim(
                "counted, written and asked agree",
                counted == lines == number and timed == number - sockets and by_route == routes,
                f"asked {number}, counted {counted:.0f}, lines {lines}; "
                + ", ".join(f"{name} {by_route[name]} of {asked}" for name, asked in routes.items()),
            ),
            Claim(
                "every span has arrived or is counted as dropped",
                spans + dropped == number,
                f"{spans} arrived, {dropped:.0f} dropped, of {number}",
            ),
            Claim(
                "no counter fell",
                not self.fallen and self.pages > 0,
                f"{len(self.fallen)} falls in {self.pages} pages ({self.missed} without an answer) "
                f"{self.fallen[:3] or ''}",
            ),
        ]

    def _of_resources(self) -> list[Claim]:
        bare, installed = (half(found) for found in self.samples)
        span_s = self.samples[1][-1].at - self.samples[1][0].at
        slopes = [slope_mib_per_hour(found) for found in (bare, installed)]
        memory = f"{slopes[0]:+.2f} bare, {slopes[1]:+.2f} with obskit, in MiB per hour and worker"
        if span_s < MEMORY_MIN_S:
            grown = [(f[-1].resident - f[0].resident) / f[0].workers / MIB for f in (bare, installed)]
            memory = f"too short a run to tell ({grown[0]:+.1f} and {grown[1]:+.1f} MiB)"
        beyond = slopes[1] - max(0.0, slopes[0])
        flat = {}
        more = 1 if span_s >= MEMORY_MIN_S else 4 * self.workers  # a pool of threads is filled bit by bit
        for what in ("descriptors", "threads"):
            # Sockets of clients come and go: the least of each half is what stays.
            early, late = (
                min(getattr(one, what) for one in part)
                for part in (self.samples[1][1 : len(self.samples[1]) // 2 + 1], installed)
            )
            flat[what] = (early, late)
        return [
            Claim("memory is flat", span_s < MEMORY_MIN_S or beyond <= MEMORY_MIB_PER_HOUR, memory),
            Claim(
                "descriptors and threads are flat",
                all(late <= early + more for early, late in flat.values()),
                ", ".join(f"{what} {early} then {late}" for what, (early, late) in flat.items()),
            ),
            Claim(
                "files are as many as workers need",
                max(self.files) <= 4 * (self.workers + 2),
                f"at most {max(self.files)} for {self.workers}",
            ),
        ]

    def _of_cost(self) -> Claim:
        first, last = quarters(self.pair.took)
        if min(len(first), len(last)) < DRIFT_MIN:
            return Claim(
                "the cost of a request is flat", True, f"too few requests to tell ({len(first) + len(last)})"
            )
        early, late = statistics.median(first), statistics.median(last)
        # A machine that has more to do at the end makes everything slower, obskit's share with it.
        bare = [
            statistics.median(one) for one in quarters([(at, 0.0, took) for at, took, _ in self.pair.took])
        ]
        slower = max(1.0, bare[1] / bare[0])
        return Claim(
            "the cost of a request is flat",
            late <= early * slower + DRIFT_S,
            f"{early * 1e6:.0f} µs in the first quarter, {late * 1e6:.0f} µs in the last (a request without: "
            f"{bare[0] * 1e6:.0f} and {bare[1] * 1e6:.0f} µs)",
        )

    def _of_clock(self) -> list[Claim]:
        lines = self.lines
        jumps = len(self.clock.settings) - 1
        backwards = [one for one in self.sink.backwards if one.startswith(self.service)]
        return [
            Claim(
                "no duration is negative or lasts longer than it did",
                not lines.negative and not backwards,
                f"{lines.events['http.request']} lines, {len(lines.negative) + len(backwards)} of them so, "
                f"{jumps} jumps of the clock {(lines.negative + backwards)[:3] or ''}",
            ),
            Claim(
                "timestamps follow the clock",
                not lines.astray,
                f"{len(lines.astray)} of {lines.events.total()} lines do not {lines.astray[:3] or ''}",
            ),
        ]

    def _of_watching(self, text: str) -> list[Claim]:
        errors = {
            series: value
            for series, value in samples(text).items()
            if series.startswith("obskit_internal_errors_total") and value
        }
        found = {name.partition(" ")[0] for name in self.lines.findings}
        told = self.lines.findings["request_stuck"]
        living = total(text, "obskit_workers")
        return [
            Claim(
                "what hangs is told of",
                told >= self.hung,
                f"{told} lines of {self.hung} requests",
            ),
            Claim(
                "nothing else is found",
                found <= EXPECTED,
                f"{dict(self.lines.findings)}",
            ),
            Claim("no error of our own", not errors, f"{errors or 0}"),
            Claim(
                "nothing is in flight at the end, and all workers live",
                total(text, "http_server_active_requests") == 0 and living == self.workers,
                f"{total(text, 'http_server_active_requests'):.0f} in flight, {living:.0f} workers",
            ),
        ]

    def _figures(self, spans: int, dropped: float) -> dict[str, str]:
        bare = [one for _, one, _ in self.pair.took]
        installed = [one for _, _, one in self.pair.took]
        return {
            name: f"{percentile(bare, share) * 1e3:.2f} ms bare, {percentile(installed, share) * 1e3:.2f} with obskit"
            for name, share in (("p50", 0.5), ("p99", 0.99))
        } | {
            "memory per worker": " and ".join(
                f"{found[-1].resident / found[-1].workers / MIB:.1f}" for found in self.samples
            )
            + " MiB",
        }


def _until(ask: Callable[[], str], enough: Callable[[str], bool], start: str = "") -> str:
    """Ask until the answer will do, or it is too late: the claims will say what was missing."""
    deadline = time.monotonic() + SETTLE_S
    text = start
    while not (text and enough(text)) and time.monotonic() < deadline:
        time.sleep(0.2)
        text = ask() or text
    return text


def _stopped(server: Server) -> tuple[int | None, float]:
    """Exit status at SIGTERM (None: it had to be killed), and the seconds that took."""
    began = time.monotonic()
    status = server.stop(20.0)
    return (None if status == -9 else status), time.monotonic() - began


def run(
    seconds: float, directory: Path, kinds: Sequence[str] = KINDS, *, rate: float = 25.0, seed: int = 1
) -> list[Hauled]:
    """Keep the servers under load for `seconds`: `rate` pairs of requests per second and kind."""
    clock = Clock(str(directory / "clock"))
    with ExitStack() as stack:
        sink = stack.enter_context(Sink())
        rooms = [Room(kind, directory / kind, sink, clock, rate, seed) for kind in kinds]
        for room in rooms:
            stack.enter_context(room.bare)
            stack.enter_context(room.installed)
            room.begin()
        asyncio.run(_haul(rooms, sink, clock, seconds))
        clock.set(0.0)
        sink.set("takes")
        return [room.settle() for room in rooms]


async def _haul(rooms: Sequence[Room], sink: Sink, clock: Clock, seconds: float) -> None:
    began = time.monotonic()
    until = began + seconds
    loads = [asyncio.create_task(room.work(until)) for room in rooms]
    others = [
        asyncio.create_task(_again(until, max(1.0, seconds / 60), lambda _: _measure(rooms, seconds))),
        asyncio.create_task(_again(until, 1.0, lambda _: [r.lines.read(time.time()) for r in rooms])),
        # Ahead, back, an hour behind, and back again, over and over.
        asyncio.create_task(
            _again(until, max(2.0, seconds / 16), lambda n: clock.set((0.0, JUMP_S, 0.0, -JUMP_S)[n % 4]))
        ),
        asyncio.create_task(_again(until, 10.0 if seconds > 300 else 2.0, lambda n: _collector(sink, n))),
        asyncio.create_task(
            _again(until, max(4.0, seconds / 12), lambda n: [r.hang() for r in rooms if n and _left(until)])
        ),
    ]
    await asyncio.gather(*loads)
    for other in others:
        other.cancel()
    for outcome in await asyncio.gather(*others, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    for room in rooms:
        room.pair.bare.close()
        room.pair.installed.close()


def _measure(rooms: Sequence[Room], seconds: float) -> None:
    for room in rooms:
        room.measure()
    if seconds >= MEMORY_MIN_S:
        lines = [time.strftime("%H:%M:%S"), *(room.progress() for room in rooms)]
        sys.stderr.write("\n  ".join(lines) + "\n")


def _left(until: float) -> bool:
    """Whether there is time for a request that hangs."""
    return until - time.monotonic() > 2 * HANG_MS / 1000


def _collector(sink: Sink, number: int) -> None:
    sink.set(MODES[number % len(MODES)])


async def _again(until: float, every_s: float, do: Callable[[int], object]) -> None:
    number = 0
    while time.monotonic() < until + SETTLE_S:
        do(number)
        number += 1
        await asyncio.sleep(every_s)


def report(hauled: Sequence[Hauled]) -> str:
    """The table."""
    lines = []
    for one in hauled:
        lines.append(f"{one.kind}: " + "; ".join(f"{name} {said}" for name, said in one.figures.items()))
        lines += [
            f"  {'ok  ' if claim.held else 'FAIL'} {claim.what}: {claim.figures}" for claim in one.claims
        ]
    return "\n".join(lines)


def rows(hauled: Sequence[Hauled], minutes: float) -> list[tuple[str, str]]:
    """As docs/reliability.md shows them: what held for all, and the figures of each kind."""
    found = []
    for one in hauled:
        failed = [f"{claim.what}: {claim.figures}" for claim in one.claims if not claim.held]
        of = {claim.what: claim.figures for claim in one.claims}
        said = [
            of["every answer is right"].strip(),
            "memory " + of["memory is flat"],
            of["descriptors and threads are flat"],
            of["the cost of a request is flat"],
            *(f"{name} {figure}" for name, figure in one.figures.items()),
            of["every span has arrived or is counted as dropped"],
        ]
        verdict = f"{len(one.claims) - len(failed)} of {len(one.claims)} claims held"
        found.append((f"{one.kind}, {minutes:g} minutes", "; ".join([verdict, *failed, *said])))
    return found


def main(arguments: Sequence[str]) -> int:
    """The command: 0 when all claims held."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.longhaul", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long, 60 by default")
    parser.add_argument("--kind", action="append", choices=KINDS, help="a kind of server; all by default")
    parser.add_argument(
        "--rate", type=float, default=25.0, help="requests per second and server, 25 by default"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random choices")
    parser.add_argument("--logs", type=Path, help="an empty folder for what the servers write")
    parser.add_argument(
        "--keep", action="store_true", help="write the figures to docs/reliability/longhaul.json"
    )
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        hauled = run(
            options.minutes * 60,
            options.logs or Path(temporary),
            options.kind or KINDS,
            rate=options.rate,
            seed=options.seed,
        )
    sys.stdout.write(f"seed {options.seed}\n{report(hauled)}\n")
    if options.keep:
        results.keep(
            "longhaul",
            title="Long haul",
            command=f"python -m tests.reliability.longhaul --minutes {options.minutes:g} --rate {options.rate:g}",
            rows=rows(hauled, options.minutes),
            took_s=time.monotonic() - began,
        )
    return 0 if all(claim.held for one in hauled for claim in one.claims) else 1
