"""One suite, bare and installed, test by test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from tests.reliability.transparency.fetch import INSIDE, Ready

TIMEOUT_S = 3600.0
AGAIN = 2


@dataclass
class Run:
    """What one run of a suite showed."""

    outcomes: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    """What the process that was run counted: installs, requests, and what obskit's guard caught."""
    output: str = ""
    took_s: float = 0.0

    @property
    def passed(self) -> set[str]:
        return {test for test, outcome in self.outcomes.items() if outcome == "passed"}


@dataclass
class Verdict:
    """A suite, bare against installed."""

    bare: Run
    installed: Run
    new_failures: list[str]
    """Passed bare each time, and failed installed, and again when it was run again."""
    unsteady: list[str]
    """Failed installed once and never again, though it passed bare."""
    flaky: list[str]
    """Failed bare as well, when it was run again."""
    taken: dict[str, str]
    """Fails installed for what obskit openly takes over, and why; passes where that is switched off, if it can be."""

    @property
    def caught(self) -> dict[str, int]:
        """What obskit's guard swallowed: no test sees it, and it is a fault of ours all the same.

        But for the wait of a first request, which is given up after a second: on a machine that is busy that is the
        machine, and it is what the wait has its bound for.
        """
        found = {key: count for key, count in self.installed.seen.items() if key.startswith("caught ")}
        return {key: count for key, count in found.items() if not _GIVEN_UP.match(key)}


_GIVEN_UP = re.compile(r"caught (begin|watch\.begin|watch\.housekeeping): TimeoutError: ")


def run(
    ready: Ready,
    *,
    installed: bool,
    tests: Iterable[str] = (),
    arguments: Iterable[str] = (),
    broken: str = "",
    switched: Iterable[tuple[str, str]] = (),
    control: str = "",
    timeout_s: float = TIMEOUT_S,
) -> Run:
    """Run a suite, or the given parts of it."""
    suite = ready.suite
    with tempfile.TemporaryDirectory(prefix="obskit-transparency-") as place:
        results, facts = Path(place, "results"), Path(place, "facts")
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("OBSKIT_", "OTEL_"))},
            "OBSKIT_TRANSPARENCY": "installed" if installed else "bare",
            "OBSKIT_TRANSPARENCY_BROKEN": broken,
            "OBSKIT_TRANSPARENCY_CONTROL": control,
            "OBSKIT_TRANSPARENCY_RESULTS": str(results),
            "OBSKIT_TRANSPARENCY_FACTS": str(facts),
            "PYTHONPATH": str(INSIDE),
            "PYTHONDONTWRITEBYTECODE": "1",
            **dict(switched),
        }
        if suite.uses_pytest:
            command = [ready.python, "-m", "pytest", "-q", "-p", "no:obskit", "-p", "no:cacheprovider"]
            command += ["-p", "obskit_recorder", "--tb=short", "--continue-on-collection-errors"]
        else:
            command = [ready.python, str(INSIDE / "django_runtests.py")]
        command += [*suite.arguments, *arguments, *(tests or suite.tests)]
        began = monotonic()
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            try:
                subprocess.run(
                    command,
                    cwd=ready.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=timeout_s,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                pass  # the tests that did not run are missing, and a missing test has not passed
            output.seek(0)
            found = Run(output=output.read(), took_s=monotonic() - began)
        for line in _lines(results):
            found.outcomes[line["test"]] = line["outcome"]
            found.why[line["test"]] = line["why"]
        for line in _lines(facts):
            found.seen.update(line)
        return found


def _lines(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def compare(ready: Ready, *, tests: Iterable[str] = (), broken: str = "", again: int = AGAIN) -> Verdict:
    """Run the suite bare and installed; what fails only installed is run again, both ways, before it counts."""
    bare = run(ready, installed=False, tests=tests)
    installed = run(ready, installed=True, tests=tests, broken=broken)
    if not bare.passed:
        raise RuntimeError(f"no test of {ready.suite.name} passes bare:\n{bare.output[-4000:]}")
    if not installed.seen["requests"]:
        raise RuntimeError(f"no request of {ready.suite.name} met obskit:\n{installed.output[-4000:]}")
    suspects = bare.passed - installed.passed
    taken = {} if broken else _known_by_design(ready, suspects)
    suspects -= taken.keys()
    failed: dict[bool, set[str]] = {True: set(), False: set()}
    for _ in range(again if suspects else 0):
        for how, failures in failed.items():
            repeated = run(ready, installed=how, tests=_places(ready, suspects), broken=broken if how else "")
            failures.update(suspects - repeated.passed)
            for test in suspects if how else ():
                installed.why[test] = repeated.why.get(test) or installed.why.get(test, "")
    if not again:
        failed[True] = set(suspects)
    new = failed[True] - failed[False]
    if new and not broken:
        taken |= _switched_off(ready, new)
    return Verdict(
        bare,
        installed,
        new_failures=sorted(new - taken.keys()),
        unsteady=sorted(suspects - failed[True] - failed[False]),
        flaky=sorted(failed[False]),
        taken=dict(sorted(taken.items())),
    )


def _known_by_design(ready: Ready, failures: set[str]) -> dict[str, str]:
    """Those that fail for what obskit openly takes over, and what no option switches off."""
    taken: dict[str, str] = {}
    for one in ready.suite.taken:
        matching = {test for test in failures if re.fullmatch(one.tests, test)}
        if not matching or one.switch:
            continue
        if one.control:
            control = run(ready, installed=False, tests=_places(ready, matching), control=one.control)
            matching -= control.passed
        taken.update(dict.fromkeys(matching, one.why))
    return taken


def _switched_off(ready: Ready, failures: set[str]) -> dict[str, str]:
    """Those that fail for what obskit openly takes over, and pass where that is switched off."""
    taken: dict[str, str] = {}
    for one in ready.suite.taken:
        matching = {test for test in failures if re.fullmatch(one.tests, test)}
        if matching and one.switch:
            off = run(ready, installed=True, tests=_places(ready, matching), switched=one.switch)
            taken.update(dict.fromkeys(matching & off.passed, one.why))
    return taken


def _places(ready: Ready, tests: Iterable[str]) -> list[str]:
    return sorted({_place(test, uses_pytest=ready.suite.uses_pytest) for test in tests})


def _place(test: str, *, uses_pytest: bool) -> str:
    """What to run again for a test: its whole file (a test may fail for what another one left behind)."""
    return test.partition("::")[0] if uses_pytest else test.partition(".")[0]
