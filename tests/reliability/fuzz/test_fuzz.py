"""The bounded form of `make fuzz`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import obskit
from tests.reliability.fuzz import bounds, damage, growth, run, slope
from tests.reliability.fuzz.draw import Draw

QUICK = [name for name in run.ALL if name != "archive of the dead"]


@pytest.fixture(autouse=True)
def _uninstalled() -> Iterator[None]:
    yield
    obskit.shutdown(0)


@pytest.mark.parametrize("name", QUICK)
def test_what_a_stranger_sends_breaks_no_answer_no_line_and_no_reader(name: str) -> None:
    target = run.ALL[name]()

    @settings(
        max_examples=120,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(st.binary(max_size=run.SIZE))
    def fed(data: bytes) -> None:
        target(Draw(data))

    fed()


@pytest.mark.parametrize("name", run.ALL)
def test_a_random_row_of_inputs_breaks_nothing_either(name: str) -> None:
    seen = run.feed(name, 50 if name not in QUICK else 600, seed=6)
    assert [(one.data.hex(), repr(one.error)) for one in seen.failed] == []


def test_new_names_with_every_request_leave_series_and_memory_where_they_were() -> None:
    bomb = bounds.Bomb(seed=6, max_series=100)
    bomb.send(2_000)
    before = bomb.look()
    bomb.send(1_000)
    after = bomb.look()
    assert bounds.check(before, after, 100) + bomb.lies() == []
    assert max(after.series.values()) > 100, "the limit was not reached: the test proves nothing"
    assert bomb.wsgi.failed_stages() | bomb.asgi.failed_stages() == {}


# Longer ones, and all of the doublings, are for the long form: what backtracks is seen here, too.
_SIZES = (8_192, 16_384, 32_768)


@pytest.mark.parametrize("name", growth.readers())
def test_a_reader_takes_a_time_that_grows_with_its_input_and_not_faster(name: str) -> None:
    read = growth.readers()[name]
    seen = growth.surely(lambda: growth.of_reader(name, read, _SIZES))
    assert seen.ratio <= 1.25 * growth.ALLOWED, seen


def test_every_pattern_takes_a_time_that_grows_with_its_input_and_not_faster() -> None:
    known = growth.patterns()
    assert len(known) > 20
    found = [
        growth.surely(lambda name=name, pattern=pattern: growth.of_pattern(name, pattern, _SIZES))
        for name, pattern in known.items()
    ]
    assert [one for one in found if one.ratio > 1.25 * growth.ALLOWED] == []


def test_a_pattern_that_backtracks_is_found() -> None:
    import re

    seen = growth.of_pattern("bad", re.compile(r"(a+)b"), [2_048, 4_096, 8_192, 16_384])
    assert seen.ratio > 3


_QUICK_CASES = (
    "each file random bytes",
    "a link in the place of each file",
    "a link in the place of the group's folder",
    "a file in the place of obskit's folder",
    "everything removed while it serves",
)


@pytest.mark.e2e
@pytest.mark.parametrize("name", _QUICK_CASES)
def test_damage_to_the_shared_files_changes_no_answer(name: str) -> None:
    (case,) = (one for one in damage.CASES if one.name == name)
    seen = damage.run(case, seconds=1.1)
    assert seen.faults == []
    assert seen.asked > 50


@pytest.mark.e2e
def test_a_full_disk_changes_no_answer() -> None:
    seen = damage.run_full(65_536, seconds=1.1)
    assert seen is None or (seen.faults == [] and seen.asked > 50)


@pytest.mark.parametrize("kind", slope.KINDS)
def test_when_requests_are_over_no_record_of_one_is_left(kind: str) -> None:
    seen = slope.measure(kind, 2_000)
    assert seen.alive == 0
    assert seen.blocks_per_request < 1
