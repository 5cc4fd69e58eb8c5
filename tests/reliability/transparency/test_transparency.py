"""The bounded form of `make transparency`: all of Flask's tests and part of Starlette's.

The suites are fetched once, from the package index, into the cache of whoever runs this.
"""

from __future__ import annotations

import functools
import sys

import pytest

from tests.reliability.transparency.compare import Verdict, compare
from tests.reliability.transparency.fetch import Ready, cache_folder, make_ready
from tests.reliability.transparency.suites import SUITES

STARLETTE = ["tests/test_applications.py", "tests/test_responses.py", "tests/test_websockets.py"]
STARLETTE += ["tests/test_requests.py", "tests/middleware/test_base.py", "tests/middleware/test_errors.py"]


@functools.cache
def ready(name: str) -> Ready:
    return make_ready(SUITES[name], cache_folder(), sys.executable)


def failures(verdict: Verdict) -> str:
    return "\n".join(f"{test}\n{verdict.installed.why.get(test, '')}" for test in verdict.new_failures)


@pytest.mark.parametrize(("name", "tests", "at_least"), [("flask", [], 480), ("starlette", STARLETTE, 400)])
def test_no_test_of_a_framework_fails_for_obskit_and_none_of_our_own_faults_is_hidden(
    name: str, tests: list[str], at_least: int
) -> None:
    verdict = compare(ready(name), tests=tests, again=1)
    assert verdict.new_failures == [], failures(verdict)
    assert verdict.caught == {}
    assert len(verdict.bare.passed) >= at_least
    assert verdict.installed.seen["installs"] >= at_least / 2


@pytest.mark.parametrize("broken", ["header", "swallow"])
def test_a_wrapper_that_changes_what_the_application_does_is_caught(broken: str) -> None:
    verdict = compare(ready("flask"), tests=["tests/test_basic.py"], broken=broken, again=0)
    assert verdict.new_failures
