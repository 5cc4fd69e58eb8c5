"""What several processes have counted in metrics of prometheus_client, added up, and how it is written down.

Sums are exact: a number is kept as a list of floats whose sum it is, and rounded when it is shown. Plain additions
depend on their order in the last digit, and a counter would fall by it when a dead worker moves into the archive.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from json import dumps as _dumps
from typing import NamedTuple

from prometheus_client.core import Exemplar
from prometheus_client.core import Metric as ExposedMetric

from obskit.names import WORKER
from obskit.signals.page import Breathing

Labels = tuple[tuple[str, str], ...]
Facts = tuple[str, str, list[float], Exemplar | None]
"""One sample: its name, its `le` if it is a bucket, numbers whose sum it is, exemplar."""
SUMMED = ("counter", "histogram", "summary")
EACH = "each"
_MODES = {"sum": "sum", "livesum": "sum", "max": "max", "livemax": "max", "min": "min", "livemin": "min"}
# What reading a snapshot can raise that somebody else has written.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError)


class Part(NamedTuple):
    """One family as one process has it."""

    name: str
    help: str
    type: str
    unit: str
    mode: str
    groups: dict[Labels, list[Facts]]


def part(family: ExposedMetric, multiprocess_mode: str = "") -> Part:
    """A family as prometheus_client collects it; a gauge with the mode it was made with."""
    groups: dict[Labels, list[Facts]] = {}
    for sample in family.samples:
        labels = tuple(sorted(pair for pair in sample.labels.items() if pair[0] != "le"))
        le = sample.labels.get("le", "")
        if le and family.type != "histogram":
            labels, le = tuple(sorted(sample.labels.items())), ""
        groups.setdefault(labels, []).append((sample.name, le, [float(sample.value)], sample.exemplar))
    mode = _MODES.get(multiprocess_mode, EACH) if family.type == "gauge" else "sum"
    return Part(family.name, family.documentation, family.type, family.unit, mode, groups)


def written(parts: Iterable[Part], folded: Iterable[str] = ()) -> bytes:
    """A snapshot, with the workers that are folded into it."""
    families = [
        [
            *one[:5],
            [
                [labels, [[*facts[:3], list(facts[3]) if facts[3] else None] for facts in found]]
                for labels, found in one.groups.items()
            ],
        ]
        for one in parts
    ]
    return _dumps([list(folded), families], separators=(",", ":")).encode()


def read(data: bytes) -> tuple[list[str], list[Part]]:
    """The workers folded into a snapshot, and what it holds. Raises ValueError for what is none."""
    try:
        folded, families = json.loads(data)
        parts = []
        for name, documentation, kind, unit, mode, groups in families:
            ExposedMetric(name, documentation, kind, unit)  # raises for what cannot be shown
            parts.append(Part(name, documentation, kind, unit, mode, dict(map(_group, groups))))
        return [str(token) for token in folded], parts
    except DAMAGE as error:
        raise ValueError(f"no snapshot of metrics: {error}") from error


def _group(group: tuple[list[list[str]], list[list[object]]]) -> tuple[Labels, list[Facts]]:
    labels, found = group
    return tuple((str(key), str(value)) for key, value in labels), list(map(_facts, found))


def _facts(found: list[object]) -> Facts:
    name, le, numbers, seen = found
    if not isinstance(name, str) or not isinstance(le, str) or not isinstance(numbers, list):
        raise ValueError(f"no sample: {found!r:.80}")
    if le:
        float(le)
    exemplar = None
    if isinstance(seen, list):
        of, value, at = seen
        exemplar = Exemplar({str(key): str(text) for key, text in of.items()}, float(value), at)
    return name, le, [float(number) for number in numbers], exemplar


def exact(numbers: list[float]) -> list[float]:
    """As few floats as have the same sum."""
    if len(numbers) < 2:
        return numbers
    few: list[float] = []
    # Each turn takes what the turns before have left; 40 are enough for the whole range of a float.
    while len(few) < 40 and (rest := total([*numbers, *(-one for one in few)])):
        few.append(rest)
        if not math.isfinite(rest):
            return [rest]
    return few or [0.0]


def total(numbers: list[float]) -> float:
    """The sum, rounded once."""
    if len(numbers) == 1:
        return numbers[0]
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # infinities
        return sum(numbers)


class Family:
    """One family of several processes."""

    def __init__(self, first: Part) -> None:
        self.first = first
        self.groups: dict[Labels, dict[tuple[str, str], list[float]]] = {}
        self.exemplars: dict[tuple[Labels, str, str], Exemplar] = {}

    def take(self, other: Part, number: str, limit: float = math.inf) -> int:
        """Add what a worker of this number has. Returns for how many label sets there was no room."""
        first, left_out = self.first, 0
        for labels, found in other.groups.items():
            if first.mode == EACH:
                taken = any(label == WORKER for label, _ in labels)
                labels = (*labels, (f"obskit_{WORKER}" if taken else WORKER, number))
            group = self.groups.get(labels)
            if group is None:
                if len(self.groups) >= limit:
                    left_out += 1
                    continue
                group = self.groups[labels] = {}
            below = 0.0
            for name, le, numbers, exemplar in found:
                if le:  # buckets hold those below them: workers of two versions may have other bounds
                    up_to = total(numbers)
                    numbers, below = [up_to - below], up_to
                known = group.get((name, le))
                group[name, le] = numbers if known is None else known + numbers
                if exemplar is not None:
                    seen = self.exemplars.get((labels, name, le))
                    if seen is None or float(exemplar.timestamp or 0) >= float(seen.timestamp or 0):
                        self.exemplars[labels, name, le] = exemplar
        return left_out

    def part(self) -> Part:
        """The same as of one process."""
        return self.first._replace(groups={labels: list(self._samples(labels)) for labels in self.groups})

    def exposed(self) -> ExposedMetric:
        """The same for prometheus_client."""
        first = self.first
        family = ExposedMetric(first.name, first.help, first.type, first.unit)
        for labels in self.groups:
            for name, le, numbers, exemplar in self._samples(labels):
                of = dict(labels, le=le) if le else dict(labels)
                family.add_sample(name, of, total(numbers), None, exemplar)
        family.samples = Breathing(family.samples)
        return family

    def _samples(self, labels: Labels) -> Iterator[Facts]:
        group = self.groups[labels]
        running: list[float] = []
        for name, le in sorted((key for key in group if key[1]), key=lambda key: float(key[1])):
            running = exact(running + group[name, le])
            yield name, le, running, self.exemplars.get((labels, name, le))
        for (name, le), numbers in group.items():
            if not le:
                yield name, le, self._combined(name, numbers), self.exemplars.get((labels, name, le))

    def _combined(self, name: str, numbers: list[float]) -> list[float]:
        first = self.first
        if first.mode == "max":
            return [max(numbers)]
        if first.mode == "min" or (first.type != "gauge" and name == f"{first.name}_created"):
            return [min(numbers)]
        return exact(numbers)


def merge(families: dict[str, Family], parts: Iterable[Part], number: str, *, alive: bool) -> None:
    """Add what a worker has to the page; of the dead what is counted."""
    for one in parts:
        if alive or one.type in SUMMED:
            family = families.setdefault(one.name, Family(one))
            if family.first.type == one.type:
                family.take(one, number)
