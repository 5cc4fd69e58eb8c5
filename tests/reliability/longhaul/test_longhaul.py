"""A short haul of two kinds of server, and that its verdict misses nothing."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from .clock import Clock
from .measures import Lines, Sample, quarters, slope_mib_per_hour
from .run import report, run

SECONDS = 9.0
MIB = 2**20


@pytest.mark.e2e
def test_what_was_counted_written_and_sent_agrees_while_clock_and_collector_come_and_go(
    tmp_path: Path,
) -> None:
    hauled = run(SECONDS, tmp_path, ("uvicorn", "gunicorn-gthread"), seed=7)
    assert [claim.what for one in hauled for claim in one.claims if not claim.held] == [], report(hauled)
    assert [one.kind for one in hauled] == ["uvicorn", "gunicorn-gthread"]


def grows(mib_per_hour: float, workers: int = 2) -> list[Sample]:
    """An hour of samples; one of them is far off."""
    samples = [
        Sample(at, workers, int((60 + mib_per_hour * at / 3600) * MIB) * workers, 10, 10)
        for at in range(0, 3600, 60)
    ]
    samples[7] = samples[7]._replace(resident=200 * MIB)
    return samples


def test_the_slope_of_memory_is_per_worker_and_hour_and_no_single_sample_decides_it() -> None:
    assert slope_mib_per_hour(grows(0.0)) == 0.0
    assert slope_mib_per_hour(grows(3.0)) == pytest.approx(3.0, rel=0.05)
    assert slope_mib_per_hour([]) == 0.0


def test_the_cost_is_the_difference_within_each_pair_of_requests() -> None:
    took = [(at, 0.001 * at, 0.001 * at + (0.0002 if at > 50 else 0.0001)) for at in range(100)]
    first, last = quarters(took)
    assert first == pytest.approx([0.0001] * 25)
    assert last == pytest.approx([0.0002] * 25)
    assert quarters([]) == ([], [])


def test_a_timestamp_follows_the_clock_as_it_was_set_when_its_line_was_written(tmp_path: Path) -> None:
    clock = Clock(str(tmp_path / "clock"))
    assert struct.unpack("d", Path(clock.path).read_bytes()) == (0.0,)
    clock.settings = [(0.0, 0.0), (100.0, 3600.0), (200.0, -3600.0)]
    assert clock.follows(50.0, 49.0, 51.0)
    assert not clock.follows(3650.0, 49.0, 51.0)
    assert clock.follows(3750.0, 149.0, 151.0)
    assert not clock.follows(150.0, 149.0, 151.0)
    assert clock.follows(3800.0, 199.5, 200.5), "just before it was set back"
    assert clock.follows(-3400.0, 199.5, 200.5), "and just behind"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('"duration_s":-0.1,"ttfb_s":null', "negative"),
        ('"duration_s":3600.2,"ttfb_s":0.1', "negative"),
        ('"duration_s":0.2,"ttfb_s":0.3', "negative"),
        ('"duration_s":0.2,"ttfb_s":-0.1', "negative"),
        ('"duration_s":0.2,"ttfb_s":0.1,"timestamp":"1970-01-01T01:00:50Z"', "astray"),
        ('"duration_s":0.2,"ttfb_s":0.1,"timestamp":"1970-01-01T00:00:50Z"', None),
    ],
)
def test_a_line_that_a_jump_of_the_clock_has_bent_is_seen(
    line: str, said: str | None, tmp_path: Path
) -> None:
    clock = Clock(str(tmp_path / "clock"))
    clock.settings = [(0.0, 0.0)]
    log = tmp_path / "log"
    log.write_text(f'no JSON\n{{"event":"http.request","http_route":"/quick",{line}}}\n{{"event":"half')
    lines = Lines(log, clock, since=49.0)
    lines.read(51.0)
    assert lines.events == {"http.request": 1}
    assert [name for name in ("negative", "astray") if getattr(lines, name)] == ([said] if said else [])
