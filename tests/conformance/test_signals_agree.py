"""Every case on every kind of app and server: log line, metrics and span say the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import all_cases
from .model import Case
from .runner import Running
from .targets import NESTED_TARGETS, TARGETS, Target

pytestmark = pytest.mark.conformance

CASES = all_cases()
NESTED_CASES = ("ok", "included_router", "raise", "stream", "app_log_lines", "file")
PAIRS = [(target, case) for target in TARGETS for case in CASES if case.applies_to(target)]
NESTED_PAIRS = [(target, case) for target in NESTED_TARGETS for case in CASES if case.name in NESTED_CASES]


def _ids(pairs: list[tuple[Target, Case]]) -> list[str]:
    return [f"{target.id}-{case.name}" for target, case in pairs]


@pytest.mark.parametrize(("target", "case"), PAIRS, ids=_ids(PAIRS))
def test_line_metrics_and_span_agree(target: Target, case: Case, serve: Callable[[Target], Running]) -> None:
    serve(target).play(case)


@pytest.mark.parametrize(("target", "case"), NESTED_PAIRS, ids=_ids(NESTED_PAIRS))
def test_nested_installs_make_one_record(
    target: Target, case: Case, serve: Callable[[Target], Running]
) -> None:
    serve(target).play(case)
