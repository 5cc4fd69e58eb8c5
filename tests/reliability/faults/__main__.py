"""Every call that obskit makes for a request, made to fail, over every kind of application."""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.reliability import results

KINDS = (
    "wsgi",
    "asgi",
    "wsgi, ids echoed",
    "asgi, ids echoed",
    "wsgi, under load",
    "asgi, under load",
    "flask",
    "starlette",
    "fastapi",
    "django wsgi",
    "django asgi",
)
PLAIN = ("wsgi", "asgi")
ROOT = Path(__file__).resolve().parents[3]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def one_kind(kind: str, options: list[str]) -> dict[str, Any]:
    """What the process of one kind has found; raises if that process broke down."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "tests.reliability.faults.inject", kind, str(out), *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not out.exists():
            raise RuntimeError(f"{kind}: exit status {done.returncode}\n{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.faults", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the calls that are made to fail (1: all)"
    )
    parser.add_argument(
        "--asks", type=int, default=3, help="kinds of request per call, of those that reach it"
    )
    parser.add_argument("--pairs", type=int, default=60_000, help="pairs per plain kind, at most")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--minutes", type=float, default=15.0, help="per kind: nothing new is begun after that"
    )
    parser.add_argument("--keep", action="store_true", help="write the figures for docs/reliability.md")
    given = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    say(f"seed {seed}")
    common = [
        f"--share={given.share}",
        f"--asks={given.asks}",
        f"--seed={seed}",
        f"--seconds={given.minutes * 60}",
    ]

    def run(kind: str) -> dict[str, Any]:
        pairs = given.pairs if kind in PLAIN else given.pairs // 12
        found = one_kind(kind, [*common, f"--pairs={pairs}"])
        say(_line(found))
        return found

    began = time.monotonic()
    with ThreadPoolExecutor(given.jobs) as pool:
        found = list(pool.map(run, given.kinds))
    effects = [f"{one['kind']}: {effect}" for one in found for effect in one["effects"]]
    for effect in effects:
        say(effect)
    totals: Counter[str] = Counter()
    for one in found:
        totals.update(one["totals"])
    hit = set().union(*(one["hit"] for one in found))
    rows = _rows(found, totals, len(hit), len(effects))
    for what, came in rows:
        say(f"{what}: {came}")
    if given.keep:
        results.keep(
            "faults",
            title="Calls of our own that fail",
            command="make faults",
            rows=rows,
            took_s=time.monotonic() - began,
        )
    late = [one["kind"] for one in found if not one["in_time"]]
    if late:
        say(f"not all was tried in the time given: {', '.join(late)}")
    return 1 if effects else 0


def _line(found: dict[str, Any]) -> str:
    totals = found["totals"]
    return (
        f"{found['kind']}: {len(found['hit'])} calls, {totals.get('injected', 0)} faults, "
        f"{totals.get('pairs reached', 0)} pairs, {len(found['effects'])} effects, {found['took_s']} s"
    )


def _rows(found: list[dict[str, Any]], totals: Counter[str], hit: int, effects: int) -> list[tuple[str, str]]:
    kinds = f"calls in obskit that a request to one of {len(found)} kinds of application reaches"
    faults = (
        "faults put into one of them (an exception, ENOSPC, EBADF, EPIPE, MemoryError, RecursionError, an exception "
        "when it is done; None, NaN, bytes, -1, a huge number, an object whose every use raises)"
    )
    came = (
        f"{totals['injected']:,} (counted {totals['counted']:,}; met where they arose {totals['quiet']:,}; "
        f"garbage that did no harm {totals['accepted']:,})"
    )
    endings = (
        "KeyboardInterrupt, SystemExit, CancelledError, GeneratorExit in one of them: the same object comes out, "
        "each body of a WSGI application is closed once"
    )
    return [
        (kinds, f"{hit:,} of {found[0]['sites']:,}, those of a first request among them"),
        (faults, came),
        (
            "calls into the operating system that hang (not: a line written to a file on a disk), the answer in time",
            f"{totals['hung']:,}",
        ),
        ("faults in two of them at once, in one request", f"{totals['pairs reached']:,}"),
        (endings, f"{totals['endings']:,}"),
        ("answers, exceptions, tracebacks, messages unlike those of the bare application", str(effects)),
    ]


if __name__ == "__main__":
    sys.exit(main())
