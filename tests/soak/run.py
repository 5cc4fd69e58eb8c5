"""Starts the shops, has them visited and faults planted, and tells what was found beside those."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.shops import SHOPS, Shop, get, running

from .plants import SEED, SEEDED_ITEM, SEEDED_ORDERS, Planted, plant
from .visitors import VISITS, make_visit

THREADS = 5
MIN_REQUESTS = 1_000
MAX_SHOWN = 20
# As the README of each shop runs it: gunicorn with threads keeps connections alive, which its sync worker does not.
SHOPS_SOAKED = (
    dataclasses.replace(
        next(shop for shop in SHOPS if shop.name == "django-wsgi"), server="gunicorn-gthread"
    ),
    next(shop for shop in SHOPS if shop.name == "flask"),
    next(shop for shop in SHOPS if shop.name == "fastapi"),
)
_SAMPLE = re.compile(r"^(obskit_\w+)(?:\{(.*)\})? (\S+)$", re.M)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclasses.dataclass
class Soaked:
    """What was done to one shop, and what its log lines and its metrics say of that."""

    framework: str
    server: str
    seconds: float
    visits: Counter[str]
    answered: int
    planted: list[Planted]
    lines: int
    found: dict[str, list[dict[str, Any]]]
    """The canonical lines with findings, by request id."""
    counted: Counter[str]
    """Findings by name, as the metrics count them."""
    problems: list[str]

    @property
    def unanswered(self) -> int:
        return sum(one.unanswered for one in self.planted)

    def in_lines(self) -> Counter[str]:
        every = itertools.chain.from_iterable(self.found.values())
        return Counter(name for line in every for name in line["findings"])


def soak(shop: Shop, requests: int, rounds: int, seed: int, directory: Path) -> Soaked:
    """Visit one shop until it has answered so many requests, with each fault planted once in every round."""
    framework = shop.directory
    state, folder = directory / "state", directory / framework
    for each in (state, folder):
        each.mkdir(parents=True, exist_ok=True)
    visits: Counter[str] = Counter()
    planted: list[Planted] = []
    problems: list[str] = []
    answered = 0
    numbers = itertools.count()
    # The shops renew their workers after so many requests, and with them the counters we compare at the end.
    env = {"OBSKIT_STATE_DIR": str(state), "GUNICORN_CMD_ARGS": "--max-requests 0"}
    with running(shop, folder, env) as (server, _):
        begun = time.monotonic()
        for number in range(rounds):
            more, made = _visited(
                server.port, framework, requests * (number + 1) // rounds - answered, numbers, seed
            )
            answered += more
            for name, failure in made:
                visits[name] += 1
                if failure:
                    problems.append(failure)
            if number == 0:
                _seed(framework, folder / "shop.sqlite3")
            new, more = plant(server.port, framework, number, seed)
            planted += new
            answered += more
        seconds = time.monotonic() - begun
        page = get(server.port, "/metrics")[2]
        server.stop()
        lines, found = read_lines(server.stdout_path)
    metrics = samples(page)
    counted = Counter({name: int(value) for name, value in _by(metrics, "obskit_findings_total", "finding")})
    return Soaked(
        framework,
        shop.server,
        seconds,
        visits,
        answered,
        planted,
        lines,
        found,
        counted,
        problems + list(_lost(metrics, lines)),
    )


def _visited(
    port: int, framework: str, requests: int, numbers: Iterator[int], seed: int
) -> tuple[int, list[tuple[str, str]]]:
    """Visits by a few clients at once until `requests` were answered: how many were, and what became of each visit."""
    made: list[tuple[str, str]] = []
    answered = [0] * THREADS
    lock = threading.Lock()

    def visit(worker: int) -> None:
        while sum(answered) < requests:
            with lock:
                number = next(numbers)
            try:
                name, more = make_visit(port, framework, number, seed)
                answered[worker] += more
                made.append((name, ""))
            except Exception as failure:  # whatever went wrong: the visit's name and what was seen are in it
                made.append(("failed", f"visit {number} of {framework}: {failure!r:.500}"))
                if sum(name == "failed" for name, _ in made) >= MAX_SHOWN:
                    return

    threads = [threading.Thread(target=visit, args=(worker,)) for worker in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered), made


def _seed(framework: str, path: Path) -> None:
    """So many orders that an export of them is no matter of a few packets."""
    with sqlite3.connect(path, timeout=30) as database:
        database.executemany(SEED[framework], [(SEEDED_ITEM,)] * SEEDED_ORDERS)
    database.close()


def read_lines(path: Path) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """How many canonical lines there are, and those with findings by request id, findings outside requests too."""
    lines = 0
    found: dict[str, list[dict[str, Any]]] = {}
    with path.open("rb") as out:
        for raw in out:
            if not raw.startswith(b"{"):
                continue
            line = json.loads(raw)
            if line.get("event") == "http.request":
                lines += 1
                if line["findings"]:
                    found.setdefault(line["request_id"], []).append(line)
            elif line.get("event") == "obskit.finding":
                found.setdefault("no request", []).append({**line, "findings": [line["finding"]]})
    return lines, found


def samples(page: str) -> list[tuple[str, dict[str, str], float]]:
    return [(m[1], dict(_LABEL.findall(m[2] or "")), float(m[3])) for m in _SAMPLE.finditer(page)]


def _by(
    metrics: list[tuple[str, dict[str, str], float]], name: str, label: str
) -> Iterator[tuple[str, float]]:
    total: Counter[str] = Counter()
    for sample, labels, value in metrics:
        if sample == name:
            total[labels[label]] += int(value)
    yield from total.items()


def _lost(metrics: list[tuple[str, dict[str, str], float]], lines: int) -> Iterator[str]:
    """What must not have been lost on the way, or gone wrong in obskit itself."""
    outcomes = int(sum(value for _, value in _by(metrics, "obskit_http_server_outcomes_total", "outcome")))
    if outcomes != lines:
        yield f"{outcomes} outcomes in the metrics, {lines} canonical lines"
    for name, label in (
        ("obskit_internal_errors_total", "stage"),
        ("obskit_telemetry_dropped_total", "reason"),
    ):
        for what, value in _by(metrics, name, label):
            if value:
                yield f"{name}{{{label}={what!r}}} is {value:g}"


# -- the verdict ------------------------------------------------------------------------------------------


def verdict(soaked: Soaked) -> list[str]:
    """What is not as it must be, as sentences; empty when only the planted was found, each exactly once."""
    problems = list(soaked.problems)
    left = dict(soaked.found)
    for fault in soaked.planted:
        seen = [tuple(line["findings"]) for request in fault.requests for line in left.pop(request, [])]
        if seen != [fault.findings]:
            problems.append(
                f"planted {fault.name} ({', '.join(fault.requests)}): found {seen}, not {fault.findings}"
            )
    for lines in left.values():
        problems += [f"nobody planted this: {json.dumps(line, ensure_ascii=False)}" for line in lines]
    if soaked.counted != soaked.in_lines():
        problems.append(f"metrics count {dict(soaked.counted)}, lines have {dict(soaked.in_lines())}")
    expected = soaked.answered + soaked.unanswered
    if soaked.lines != expected:
        problems.append(f"{soaked.lines} canonical lines for {expected} requests")
    return [f"{soaked.framework}: {problem}" for problem in problems]


def report(results: list[Soaked]) -> str:
    """The table of a run."""
    findings = sorted({name for one in results for name in one.in_lines()})
    heads = ["shop", "server", "requests", "per second", "planted", "found", *findings]
    rows = [heads]
    for one in results:
        found = one.in_lines()
        rows.append(
            [
                one.framework,
                one.server,
                f"{one.lines:,}",
                f"{one.lines / one.seconds:,.0f}",
                str(len(one.planted)),
                str(found.total()),
                *(str(found[name]) for name in findings),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    visits: Counter[str] = sum((one.visits for one in results), Counter())
    made = ", ".join(f"{name} {count:,}" for name, count in visits.most_common())
    return "\n".join([*table, "", f"visits: {made}"])


def run(requests: int, *, rounds: int, seed: int, directory: Path) -> list[Soaked]:
    """Soak the three shops side by side; `requests` is the sum over all of them."""
    share = -(-requests // len(SHOPS_SOAKED))
    with ProcessPoolExecutor(len(SHOPS_SOAKED)) as pool:
        jobs = [
            pool.submit(soak, shop, share, rounds, seed, directory / shop.directory) for shop in SHOPS_SOAKED
        ]
        return [job.result() for job in jobs]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000, help="over all three shops (default 200000)")
    parser.add_argument("--rounds", type=int, default=10, help="how often each fault is planted (default 10)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same visits")
    parser.add_argument("--keep", type=Path, help="folder for the logs; default: a temporary one")
    options = parser.parse_args(arguments)
    if options.requests < MIN_REQUESTS or options.rounds < 1:
        parser.error(f"at least {MIN_REQUESTS} requests and one round")
    with tempfile.TemporaryDirectory() as temporary:
        results = run(
            options.requests,
            rounds=options.rounds,
            seed=options.seed,
            directory=options.keep or Path(temporary),
        )
    sys.stdout.write(report(results) + "\n")
    problems = [problem for one in results for problem in verdict(one)]
    for problem in problems[:MAX_SHOWN]:
        sys.stdout.write(problem + "\n")
    if problems[MAX_SHOWN:]:
        sys.stdout.write(f"and {len(problems) - MAX_SHOWN} more\n")
    total = sum(one.lines for one in results)
    missing = sorted(
        visit.__name__ for visit in VISITS if not any(one.visits[visit.__name__] for one in results)
    )
    if missing:
        problems.append(f"never made: {', '.join(missing)}")
    sys.stdout.write(f"{total:,} requests, {len(problems)} problems\n")
    return 1 if problems else 0
