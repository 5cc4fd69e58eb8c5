"""`python -m tests.reliability.transparency`: fetch the suites, run each bare and installed, compare test by test."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from time import monotonic

from tests.reliability import results
from tests.reliability.transparency.compare import AGAIN, Verdict, compare
from tests.reliability.transparency.fetch import cache_folder, make_ready
from tests.reliability.transparency.suites import SUITES, Suite


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.transparency", description=__doc__)
    parser.add_argument(
        "--suites", default=",".join(SUITES), help="which, separated by commas (default: %(default)s)"
    )
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="default: %(default)s")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of their environments")
    parser.add_argument("--tests", default="", help="run these parts of the suite alone, separated by spaces")
    parser.add_argument("--details", action="store_true", help="show how new failures fail")
    parser.add_argument("--keep", action="store_true", help="write the figures for docs/reliability.md")
    options = parser.parse_args()
    began = monotonic()
    rows: list[tuple[str, str]] = []
    good = True
    for name in options.suites.split(","):
        suite = SUITES[name]
        say(f"{name} {suite.version} ...")
        ready = make_ready(suite, options.cache, options.python)
        verdict = compare(ready, tests=options.tests.split())
        good &= not verdict.new_failures and not verdict.caught
        rows.append(row(suite, verdict))
        say(f"  {rows[-1][1]} ({verdict.bare.took_s:.0f} s bare, {verdict.installed.took_s:.0f} s installed)")
        show(verdict, details=options.details)
    if options.keep and not options.tests:
        results.keep(
            "transparency",
            title="The frameworks' own test suites, with obskit on every application they make",
            command="make transparency",
            rows=with_rows_kept_before(rows),
            took_s=monotonic() - began,
        )
    return 0 if good else 1


def with_rows_kept_before(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A run of one suite keeps what an earlier run has written of the others, at the versions of today."""
    path = results.FOLDER / "transparency.json"
    before = dict(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else {}
    now = dict(rows)
    titles = [title(suite) for suite in SUITES.values()]
    return [(name, now.get(name) or before[name]) for name in titles if name in now or name in before]


def title(suite: Suite) -> str:
    return f"{'FastAPI' if suite.name == 'fastapi' else suite.name.capitalize()} {suite.version}"


def row(suite: Suite, verdict: Verdict) -> tuple[str, str]:
    """What came of a suite, for people."""
    bare, installed = verdict.bare, verdict.installed
    requests = installed.seen["requests"] + installed.seen["requests of servers"]
    said = [
        f"{len(bare.outcomes):,} tests, {len(bare.passed):,} pass bare, new failures {len(verdict.new_failures)}",
        f"{installed.seen['installs']:,} installs, {requests:,} requests recorded",
    ]
    for why, count in Counter(verdict.taken.values()).items():
        said.append(f"{count} more look at what obskit openly takes over: {why}")
    if verdict.flaky:
        said.append(f"{len(verdict.flaky)} fail bare, too, now and then")
    if verdict.unsteady:
        said.append(f"{len(verdict.unsteady)} failed once installed, and passed {AGAIN} times after")
    faults = sum(verdict.caught.values())
    said.append(f"errors of our own {faults}")
    return title(suite), "; ".join(said)


def show(verdict: Verdict, *, details: bool) -> None:
    for kind in ("new_failures", "unsteady", "flaky"):
        for test in getattr(verdict, kind):
            say(f"  {kind.replace('_', ' ').removesuffix('s')}: {test}")
            if details and kind != "flaky":
                say(*("      " + line for line in verdict.installed.why.get(test, "").splitlines()))
    for test, why in verdict.taken.items():
        say(f"  taken over: {test}: {why}")
    for what, count in sorted(verdict.caught.items()):
        say(f"  {what} ({count} times)")


def say(*lines: str) -> None:
    sys.stdout.write("".join(line + "\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
