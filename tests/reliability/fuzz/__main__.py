"""`python -m tests.reliability.fuzz`: the long form. Exit status 1 if anything broke."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import sys
import time
from collections.abc import Callable

from tests.reliability import results
from tests.reliability.fuzz import bounds, damage, growth, guided, run, slope

Rows = list[tuple[str, str]]
PARTS = ("inputs", "guided", "names", "time", "storage", "memory")
# Of the inputs: what reads files on disk, or goes through a whole framework, takes longer.
_SHARES = {
    "WSGI app": 3,
    "ASGI app": 3,
    "Starlette": 2,
    "Flask": 1,
    "whole lines": 1,
    "archive of the dead": 0.1,
}
_CHUNK = 25_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=5_000_000, help="hostile inputs in all")
    parser.add_argument(
        "--guided", type=int, default=100_000, help="further inputs per target that atheris chooses; 0: none"
    )
    parser.add_argument("--names", type=int, default=1_000_000, help="requests that bring new names")
    parser.add_argument(
        "--requests", type=int, default=1_000_000, help="requests per kind while memory is watched"
    )
    parser.add_argument(
        "--largest", type=int, default=2**20, help="longest text that parsers are timed with, in bytes"
    )
    parser.add_argument("--seconds", type=float, default=2.5, help="how long each damaged worker serves")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts alone")
    parser.add_argument("--keep", action="store_true", help="write the figures for docs/reliability.md")
    options = parser.parse_args()
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    began = time.monotonic()
    rows: Rows = []
    broken: list[str] = []
    parts: dict[str, Callable[[argparse.Namespace, Rows], list[str]]] = {
        "inputs": _inputs,
        "guided": _guided,
        "names": _names,
        "time": _time,
        "storage": _storage,
        "memory": _memory,
    }
    for name in options.only or PARTS:
        _say(f"-- {name} (seed {options.seed})")
        broken += parts[name](options, rows)
    for what, came in rows:
        _say(f"{what}: {came}")
    for one in broken:
        _say(f"BROKEN {one}")
    if options.keep and not broken:
        results.keep(
            "fuzz",
            title="Hostile input and bounds",
            command="make fuzz",
            rows=rows,
            took_s=time.monotonic() - began,
        )
    return bool(broken)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _inputs(options: argparse.Namespace, rows: Rows) -> list[str]:
    whole = sum(_SHARES.get(name, 2) for name in run.ALL)
    jobs = []
    for name in run.ALL:
        left = round(options.inputs * _SHARES.get(name, 2) / whole) + 1
        while left > 0:
            jobs.append((name, min(left, _CHUNK), options.seed + len(jobs)))
            left -= _CHUNK
    random.Random(options.seed).shuffle(jobs)
    inputs: dict[str, int] = dict.fromkeys(run.ALL, 0)
    broken = []
    # Each chunk in a new process: what one install keeps, the next does not see.
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=4) as pool:
        for seen in pool.imap_unordered(run.chunk, jobs):
            inputs[seen.target] += seen.inputs
            broken += [f"{one.target} by {one.data.hex()}: {one.error}" for one in seen.failed]
    doors = sum(inputs[name] for name in run.DOORS)
    readers = sum(inputs.values()) - doors
    each = ", ".join(f"{name} {inputs[name]:,}" for name in run.DOORS)
    answered = (
        f"{doors:,} ({each}): every answer equal to the bare app's; one JSON line of at most 16 KiB each; "
        f"{_broken(broken, run.DOORS)} failures"
    )
    rows.append(
        (
            "Requests with hostile headers, paths, methods, queries, and environs or scopes of wrong types",
            answered,
        )
    )
    what = f"Inputs to {len(run.ALL) - len(run.DOORS)} readers by themselves: headers, options, bodies, files"
    rows.append((what, f"{readers:,}; {len(broken) - _broken(broken, run.DOORS)} failures"))
    return broken


def _broken(broken: list[str], names: object) -> int:
    return sum(one.startswith(tuple(names)) for one in broken)  # type: ignore[arg-type]


def _guided(options: argparse.Namespace, rows: Rows) -> list[str]:
    if not options.guided:
        return []
    python = guided.environment()
    if python is None:
        rows.append(
            ("Inputs chosen by coverage (atheris)", "none: there is no atheris for this Python or machine")
        )
        return []
    inputs, broken = 0, []
    for name in run.ALL:
        share = options.guided // (20 if name == "archive of the dead" else 4 if name in run.DOORS else 1)
        seen, broke = guided.run(python, name, share)
        inputs += seen
        if broke:
            broken.append(f"{name} (guided): {broke}")
    came = f"{inputs:,} to {len(run.ALL)} targets; {len(broken)} failures"
    rows.append(("Inputs chosen by which lines of obskit they reach (atheris)", came))
    return broken


def _names(options: argparse.Namespace, rows: Rows) -> list[str]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before, after, broken = pool.apply(bounds.blow_up, (options.seed, options.names))
    grown = (after.rss - before.rss) / 2**20
    if grown > 16:
        broken.append(f"memory grew by {grown:.1f} MiB")
    what = (
        f"{after.requests:,} requests, each with its own path, host, method, user agent, request id, exception class, "
        "invariant, bound key"
    )
    came = (
        f"at most {max(after.series.values()):,} series per metric (max_series {bounds.MAX_SERIES:,}, and of the "
        f"overflow at most {bounds.OVERFLOW_SETS + 1}), {sum(before.series.values()):,} in all after "
        f"{before.requests:,} and {sum(after.series.values()):,} at the end; memory {grown:+.1f} MiB in between; "
        f"of {len(after.containers):,} containers none grew"
    )
    rows.append((what, came))
    return broken


def _time(options: argparse.Namespace, rows: Rows) -> list[str]:
    sizes = []
    size = 8_192
    while size <= options.largest:
        sizes.append(size)
        size *= 2
    seen = growth.everything(sizes)
    worst = seen[0]
    what = (
        f"{len(growth.patterns())} regular expressions and {len(growth.readers())} readers, "
        f"8 KiB to {sizes[-1] >> 10:,} KiB of near misses"
    )
    rows.append((what, f"for twice the input at most {worst.ratio:.2f} times the time ({worst.name})"))
    return [
        f"{one.name}: {one.ratio:.2f} times as long for twice the input"
        for one in seen
        if one.ratio > growth.ALLOWED
    ]


def _storage(options: argparse.Namespace, rows: Rows) -> list[str]:
    outcomes = [damage.run(case, options.seconds) for case in damage.CASES]
    full = [one for size in damage.FULL if (one := damage.run_full(size, options.seconds)) is not None]
    outcomes += full
    asked = sum(one.asked for one in outcomes)
    broken = [f"{one.name}: {fault}" for one in outcomes for fault in one.faults]
    what = (
        f"{len(outcomes)} kinds of damage to the shared files ({len(full)} of them a full disk), before a worker "
        "starts and while it serves"
    )
    came = f"{asked:,} requests answered, {len(broken)} faults; scrapes answered 200 or 503; no link followed"
    rows.append((what, came))
    return broken


def _memory(options: argparse.Namespace, rows: Rows) -> list[str]:
    broken = []
    for kind in slope.KINDS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seen = pool.apply(slope.measure, (kind, options.requests))
        came = (
            f"memory {seen.rss_per_request:+.2f} bytes and {seen.blocks_per_request:+.4f} objects a request; "
            f"{seen.alive} records alive at the end"
        )
        rows.append((f"{seen.requests:,} {kind} requests, over the last half", came))
        if seen.rss_per_request > 1 or seen.alive:
            broken.append(f"{kind}: {seen}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
