"""What Prometheus would know of the past, had it watched the services for a week: written as real blocks.

Rules compare with yesterday and last week. Divided by the factor of time these are 24 minutes and 168 minutes ago,
dashboards look back a real week; a test can wait for none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.prometheus import backfill

DAY_S = 86_400
_BEFORE_S, _AFTER_S = 90, 480


@dataclass(frozen=True)
class Past:
    """A series of the past: a constant, or a counter that grows by `per_s` every second."""

    name: str
    labels: Mapping[str, str]
    value: float = 0.0
    per_s: float | None = None

    def at(self, moment: int, start: int) -> float:
        return self.value if self.per_s is None else self.per_s * (moment - start)


def write_history(directory: Path, series: list[Past], began: float, time_factor: int) -> None:
    """Blocks with `series` yesterday and last week, from a little before `began` for as long as a run may take."""
    # All of it well before the first scrape: Prometheus takes no sample that is older than its blocks.
    ends = int(began) - 600
    moments: list[tuple[int, int]] = []
    for ago, step in ((7 * DAY_S, 5), (7 * DAY_S // time_factor, 1), (DAY_S // time_factor, 1)):
        start = int(began) - ago - _BEFORE_S
        stop = min(start + _BEFORE_S + _AFTER_S, ends)
        moments += [(moment, start) for moment in range(start, stop, step)]
    backfill(directory, "\n".join(_lines(series, moments)))


def _lines(series: list[Past], moments: list[tuple[int, int]]) -> Iterator[str]:
    for one in series:
        labels = ",".join(f'{name}="{value}"' for name, value in one.labels.items())
        for moment, start in moments:
            yield f"{one.name}{{{labels}}} {one.at(moment, start):g} {moment}"
    yield "# EOF\n"
