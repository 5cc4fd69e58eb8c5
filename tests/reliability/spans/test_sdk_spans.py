"""The SDK's own tests of spans, on ours: none of them sees a difference.

They are fetched once, from the package index, into the cache of whoever runs this.
"""

from __future__ import annotations

from tests.reliability.spans.suite import run


def test_no_test_of_the_sdk_fails_for_a_span_that_was_asleep() -> None:
    bare, ours = run(asleep=False), run(asleep=True)
    assert ours.failed <= bare.failed, ours.said[-4000:]
    assert ours.passed == bare.passed
    assert len(bare.passed) >= 250
    assert bare.asleep == 0
    assert ours.asleep >= 70
    assert ours.woken >= 60


def test_a_span_that_wakes_without_its_parent_is_caught() -> None:
    spoilt = run(asleep=True, broken="parent", tests=("tests/trace/test_trace.py",))
    assert spoilt.failed
