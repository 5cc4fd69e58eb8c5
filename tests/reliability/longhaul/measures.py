"""What is measured of a server from outside while it runs, and what the figures of an hour say."""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from tests.reliability.longhaul.clock import Clock
from tests.torture.faults import children, resident_bytes

MIB = 2**20


class Sample(NamedTuple):
    """One look at all processes of a server."""

    at: float
    """Monotonic clock."""
    workers: int
    resident: int
    """Bytes, of all its workers."""
    descriptors: int
    threads: int


def workers_of(master: int) -> list[int]:
    """The processes that answer: the children of a server that has some, else itself."""
    return children(master) or [master]


def look(master: int, at: float) -> Sample:
    pids = workers_of(master)
    return Sample(
        at,
        len(pids),
        sum(resident_bytes(pid) for pid in pids),
        sum(_entries(f"/proc/{pid}/fd") for pid in pids),
        sum(_entries(f"/proc/{pid}/task") for pid in pids),
    )


def _entries(path: str) -> int:
    try:
        return len(os.listdir(path))
    except OSError:  # gone
        return 0


def half(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The last half."""
    return samples[len(samples) // 2 :]


def slope_mib_per_hour(samples: Sequence[Sample]) -> float:
    """How fast the memory of one worker grows, by the median of the slopes of all pairs of samples (Theil and Sen)."""
    slopes = [
        (b.resident / b.workers - a.resident / a.workers) / MIB / (b.at - a.at) * 3600
        for index, a in enumerate(samples)
        for b in samples[index + 1 :]
        if b.at > a.at
    ]
    return statistics.median(slopes) if slopes else 0.0


def quarters(took: Sequence[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
    """Seconds that obskit costs more than bare, request by request: those of the first and of the last quarter."""
    if not took:
        return [], []
    begin, end = took[0][0], took[-1][0]
    quarter = (end - begin) / 4
    first = [with_it - bare for at, bare, with_it in took if at <= begin + quarter]
    last = [with_it - bare for at, bare, with_it in took if at >= end - quarter]
    return first, last


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass
class Lines:
    """What a server has written to its log, read as it comes."""

    path: Path
    clock: Clock
    since: float
    """What is not older than this has not been read."""
    events: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    """Canonical lines by route."""
    findings: Counter[str] = field(default_factory=Counter)
    """Of canonical lines, and lines that tell of a finding at once, by name."""
    negative: list[str] = field(default_factory=list)
    astray: list[str] = field(default_factory=list)
    """Timestamps that do not follow the clock."""
    slowest_s: float = 0.0
    _offset: int = 0

    def read(self, now: float) -> None:
        """Take in what has come until `now` (real seconds since the epoch)."""
        since, self.since = self.since, now
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        for line in _objects(data[:end]):
            self._take(line, since, now)

    def _take(self, line: dict[str, object], since: float, now: float) -> None:
        event = str(line.get("event"))
        self.events[event] += 1
        stamp = line.get("timestamp")
        if isinstance(stamp, str):
            written = datetime.fromisoformat(stamp).timestamp()
            if not self.clock.follows(written, since, now):
                self.astray.append(f"{event} {stamp}")
        if event == "obskit.finding":
            self.findings[str(line.get("finding"))] += 1
        if event != "http.request":
            return
        self.routes[str(line.get("http_route"))] += 1
        for name in line.get("findings") or ():  # type: ignore[attr-defined]
            self.findings[f"{name} (line)"] += 1
        duration, first = line.get("duration_s"), line.get("ttfb_s")
        if isinstance(duration, float):
            self.slowest_s = max(self.slowest_s, duration)
        if not (
            isinstance(duration, int | float) and 0 <= duration < 60 and 0 <= float(first or 0) <= duration
        ):  # type: ignore[arg-type]
            self.negative.append(f"{line.get('url_path')}: duration {duration}, first byte {first}")


def _objects(data: bytes) -> Iterator[dict[str, object]]:
    for raw in data.split(b"\n"):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line
