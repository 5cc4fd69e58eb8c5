"""In the process that runs a framework's own tests: what became of each, one JSON line at a time.

A pytest plugin (`-p obskit_recorder`), and the same for unittest. Lines are written as tests end, so that a run that
dies half-way does not look like a short one.
"""

from __future__ import annotations

import functools
import json
import os
import unittest
from collections.abc import Iterator
from typing import Any

import obskit_everywhere as everywhere

RESULTS = os.environ["OBSKIT_TRANSPARENCY_RESULTS"]

everywhere.recording = True
_phases: dict[str, dict[str, tuple[str, str]]] = {}


def record(test: str, outcome: str, why: str = "") -> None:
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"test": test, "outcome": outcome, "why": why[-4000:]}) + "\n")


# ---- pytest ----


def pytest_runtest_logstart(nodeid: str, location: Any) -> None:
    everywhere.test_begins()


def pytest_runtest_logreport(report: Any) -> None:
    outcome = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    text = "" if outcome == "passed" else str(report.longrepr)
    _phases.setdefault(report.nodeid, {})[report.when] = (outcome, text)


def pytest_runtest_logfinish(nodeid: str, location: Any) -> None:
    phases = _phases.pop(nodeid, {})
    others = [one for one in phases.values() if one[0] != "passed"]
    outcome, why = others[0] if others else ("passed" if "call" in phases else "missing", "")
    record(nodeid, outcome, why)
    everywhere.test_ends()
    everywhere.tell()


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        record(report.nodeid, "not collected", str(report.longrepr))


# ---- unittest ----


def watch_unittest() -> None:
    run = unittest.TestCase.run

    @functools.wraps(run)
    def recorded(self: unittest.TestCase, result: Any = None) -> Any:
        if result is None:
            return run(self, result)
        kinds = ("failures", "errors", "skipped", "expectedFailures", "unexpectedSuccesses")
        before = {kind: len(getattr(result, kind)) for kind in kinds}
        everywhere.test_begins()
        try:
            return run(self, result)
        finally:
            new = list(_new(result, before))
            record(self.id(), new[0][0] if new else "passed", new[0][1] if new else "")
            everywhere.test_ends()
            everywhere.tell()

    unittest.TestCase.run = recorded  # type: ignore[method-assign]


def _new(result: Any, before: dict[str, int]) -> Iterator[tuple[str, str]]:
    for kind, count in before.items():
        for entry in getattr(result, kind)[count:]:
            yield kind, str(entry[1]) if isinstance(entry, tuple) else ""
