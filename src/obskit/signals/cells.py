"""Metric storage behind prometheus_client's collector interface: plain number cells, resolved once per label set.

prometheus_client's own children cost 0.5 to 1.1 µs per observation and 1.2 to 1.8 µs per `labels()` call; a cell
costs 0.1. The registry, the exposition formats and the process collectors stay prometheus_client's.

A cell is a place on a shelf (`obskit.signals.shelf`): of this process until it is known with whom it serves, then of
a file that the other workers read. What is written there is counted, also if the next thing is SIGKILL.
"""

from __future__ import annotations

import os
import struct
import sys
import weakref
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator
from json import dumps as _dumps  # ours: an application may put another into the module, and count its calls
from threading import RLock
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric as ExposedMetric

from obskit import names
from obskit.names import OVERFLOW, Metric
from obskit.signals.page import ExemplarFacts, Labels, Page, Series, exposed
from obskit.signals.shelf import Shelf

if TYPE_CHECKING:
    from obskit.signals.shelf import View

# Labels whose values come from code we do not own: at the series limit they are counted under 'other'. The rest
# (method, status, outcome, level ...) is mostly few values, which stay apart, though of a status an application may
# send any number: past this many sets of them all is counted in one more, with 'other' for everything.
OVERFLOW_SETS = 64
MAX_LABEL = 255
_OPEN_LABELS = frozenset(
    {
        "http_route",
        "exception_type",
        "error_type",
        "stage",
        "reason",
        "metric",
        "invariant",
    }
)
# CPython with its one lock stops a thread (for another one, a signal, the garbage collector) only where something is
# called, made or repeated: a run of statements that do nothing of this is done as a whole, and no lock is needed, which
# costs as much as four sums. Where that is not known it is taken.
UNDIVIDED = (
    sys.implementation.name == "cpython"
    and sys.version_info < (3, 15)
    and getattr(sys, "_is_gil_enabled", lambda: True)()
)
_EXEMPLAR = struct.Struct("<16sdd")  # trace id, value, unix seconds
EXEMPLAR_NUMBERS = _EXEMPLAR.size // 8


def overflown(metric: Metric, values: Labels) -> Labels:
    """The label set under which one is counted that a full metric has no room for."""
    # An empty value says that there is nothing to name: no error must not become some error.
    return tuple(
        OVERFLOW if value and label in _OPEN_LABELS else value
        for label, value in zip(metric.labels, values, strict=True)
    )


def placed(metric: Metric, values: Labels, count: int, limit: int, *known: Container[Labels]) -> Labels:
    """The label set under which one is counted when `count` of `limit` sets are there, of which all are `known`."""
    if count >= limit and not any(values in sets for sets in known):
        values = overflown(metric, values)
        if count >= limit + OVERFLOW_SETS and not any(values in sets for sets in known):
            return (OVERFLOW,) * len(values)
    return values


def shortened(value: str) -> str:
    """A label value that can be shown: of bounded length, and one that UTF-8 can hold."""
    if len(value) > MAX_LABEL:
        value = value[: MAX_LABEL - 1] + "…"
    # One value that no encoding holds would make every scrape fail.
    return value.encode("utf-8", "replace").decode("utf-8")


def key_of(name: str, values: Labels) -> bytes:
    """The key of a series in a file."""
    return _dumps([name, *values], separators=(",", ":"), ensure_ascii=False).encode()


class Number:
    """The cell of one counter or gauge series; the caller holds the store's lock, or changes it undivided."""

    __slots__ = ("own",)

    def __init__(self, view: View, at: int) -> None:
        self.own = view[at : at + 1]
        """Its number alone."""

    @property
    def value(self) -> float:
        return self.own[0]

    @value.setter
    def value(self, value: float) -> None:
        self.own[0] = value

    def numbers(self) -> list[float]:
        """All that is kept of this series."""
        return [self.own[0]]

    def move(self, view: View, at: int) -> None:
        """Lie somewhere else from now on, with the same values."""
        there = view[at : at + 1]
        # From here on undivided: who counts without the lock counts before this, or there.
        there[0] = self.own[0]
        self.own = there


class Histogram:
    """The cells of one histogram series: a count per bucket, the sum, and the last exemplar of each bucket."""

    __slots__ = ("at", "bounds", "changed", "exemplars", "own", "sum_at", "view")

    def __init__(self, bounds: tuple[float, ...], view: View, at: int) -> None:
        self.bounds = bounds
        self.exemplars: list[ExemplarFacts | None] = [None] * (len(bounds) + 1)
        self.changed = False
        """Whether an exemplar is newer than what other workers can see of it."""
        self._lie(view, at)

    def _lie(self, view: View, at: int) -> None:
        self.view, self.at, self.sum_at = view, at, at + len(self.bounds) + 1
        self.own = view[at : self.sum_at + 1]
        """Its counts and, as the last number, the sum."""

    def observe(self, value: float, exemplar: ExemplarFacts | None = None) -> None:
        """Count `value` (base unit of the metric), with an exemplar (trace id, value, unix seconds) if there is one.

        The caller holds the store's lock.
        """
        own = self.own
        index = bisect_left(self.bounds, value)
        own[index] += 1.0
        own[-1] += value
        if exemplar is not None:
            self.exemplars[index] = exemplar
            self.changed = True

    @property
    def counts(self) -> list[float]:
        """Observations per bucket."""
        return self.own[:-1].tolist()  # type: ignore[return-value]

    @property
    def total(self) -> float:
        """The sum of all observations."""
        return self.own[-1]

    def numbers(self) -> list[float]:
        """Counts, then the sum."""
        return self.own.tolist()  # type: ignore[return-value]

    def move(self, view: View, at: int) -> None:
        """Lie somewhere else from now on, with the same values."""
        sum_at = at + len(self.bounds) + 1
        there = view[at : sum_at + 1]
        # From here on undivided: who counts without the lock counts before this, or there.
        there[:] = self.own
        self.own = there
        self.view, self.at, self.sum_at = view, at, sum_at
        self.changed = True

    def publish(self) -> None:
        """Lay the exemplars beside the numbers, where other workers see them."""
        self.changed = False
        raw = self.view.cast("B")
        at = 8 * (self.sum_at + 1)
        for index, seen in enumerate(self.exemplars):
            if seen is not None:
                _EXEMPLAR.pack_into(
                    raw, at + index * _EXEMPLAR.size, bytes.fromhex(seen[0]), seen[1], seen[2]
                )


def exemplars_in(data: bytes, place: int, buckets: int) -> list[ExemplarFacts | None]:
    """What `publish` laid at this place of a file."""
    found: list[ExemplarFacts | None] = []
    for index in range(buckets):
        trace_id, value, at = _EXEMPLAR.unpack_from(data, place + index * _EXEMPLAR.size)
        found.append((trace_id.hex(), value, at) if at else None)
    return found


class _Family:
    """All series of one metric, by label values in the metric's order: `limit` of them, and those of the overflow."""

    def __init__(self, metric: Metric, limit: int, store: Store) -> None:
        self.metric = metric
        self.limit = limit
        self._store = store
        self.series: dict[Labels, Any] = {}
        self.elsewhere: frozenset[Labels] = frozenset()
        """What the other workers had when their numbers were last looked at: they share one limit."""
        self._foreign = 0

    def _child(self, values: Labels) -> Any:
        """The cell of one label set; past the limit that of the set in which it is counted then."""
        found = self.series.get(values)
        if found is not None:
            return found
        values = tuple(map(shortened, values))
        with self._store.lock:
            count = len(self.series) + self._foreign
            values = placed(self.metric, values, count, self.limit, self.series, self.elsewhere)
            if values not in self.series:
                self.series[values] = self._new_cell(*self._store.take(self.metric, values, self.numbers))
                self._foreign -= values in self.elsewhere
            return self.series[values]

    def meet(self, elsewhere: frozenset[Labels]) -> None:
        """Hear which label sets other workers have."""
        with self._store.lock:
            self.elsewhere = elsewhere
            self._foreign = len(elsewhere - self.series.keys())

    @property
    def numbers(self) -> int:
        """How many numbers one series takes."""
        return 1

    def _new_cell(self, view: View, at: int) -> Any:
        raise NotImplementedError


class NumberFamily(_Family):
    """Counters or gauges of one metric."""

    def child(self, *values: str) -> Number:
        return self._child(values)  # type: ignore[no-any-return]

    def add(self, amount: float, *values: str) -> None:
        """Add `amount` to one series, taking the lock: for what happens seldom."""
        cell = self.child(*values)
        with self._store.lock:
            cell.own[0] += amount

    def put(self, value: float, *values: str) -> None:
        """Set one series, taking the lock."""
        cell = self.child(*values)
        with self._store.lock:
            cell.own[0] = value

    def forget(self) -> None:
        """Let all series go: what they told is not known any more. For metrics whose cells nobody keeps."""
        with self._store.lock:
            for cell in self.series.values():
                cell.own[0] = float("nan")  # how other workers hear of it
            self.series.clear()

    def _new_cell(self, view: View, at: int) -> Number:
        return Number(view, at)


class HistogramFamily(_Family):
    """Histograms of one metric."""

    def __init__(self, metric: Metric, limit: int, store: Store) -> None:
        super().__init__(metric, limit, store)
        bounds = metric.buckets
        # Counts (of bytes, of calls) are compared with whole numbers in half the time.
        self._bounds = tuple(map(int, bounds)) if all(bound % 1 == 0 for bound in bounds) else bounds

    def child(self, *values: str) -> Histogram:
        return self._child(values)  # type: ignore[no-any-return]

    def add(self, value: float, *values: str) -> None:
        """Observe `value` in one series, taking the lock: for what happens seldom."""
        cell = self.child(*values)
        with self._store.lock:
            cell.observe(value)

    @property
    def numbers(self) -> int:
        buckets = len(self.metric.buckets) + 1
        return buckets + 1 + buckets * EXEMPLAR_NUMBERS

    def _new_cell(self, view: View, at: int) -> Histogram:
        return Histogram(self._bounds, view, at)


class Store:
    """The families of one install: a prometheus_client collector.

    One re-entrant lock guards the arithmetic of all cells, where it is not undivided anyway, and nothing else.
    Re-entrant, because the garbage collector may run a response's finaliser, which closes its record, while this
    thread holds it.
    """

    def __init__(self, max_series: int) -> None:
        self.lock = RLock()
        self.max_series = max_series
        self.families: dict[str, NumberFamily | HistogramFamily] = {}
        self.look: Callable[[], Page] = self.page
        """Where what is to be shown comes from; a process that serves with others looks at all of them."""
        self.failed: Callable[[str], None] = lambda stage: None
        self._shelf = Shelf()
        self._failing = False
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    def _after_fork(self) -> None:
        # The lock may have been held by a thread that does not exist in the child, and the file is the parent's: what
        # it has counted stays there. The child counts from 0; only what the install said of itself is true of it too.
        self.lock = RLock()
        self._shelf.close()
        self._shelf = Shelf()
        for family in self.families.values():
            family.meet(frozenset())
            for values, cell in family.series.items():
                kept = cell.value if family.metric is names.APP_INFO else 0.0
                view, at = self.take(family.metric, values, family.numbers)
                if isinstance(cell, Histogram):
                    cell._lie(view, at)
                    cell.exemplars = [None] * len(cell.exemplars)
                    cell.changed = False
                else:
                    cell.own = view[at : at + 1]
                    cell.own[0] = kept
            if family.metric.kind == "gauge" and family.metric not in (names.APP_INFO, names.ACTIVE_REQUESTS):
                family.series.clear()

    def take(self, metric: Metric, values: Labels, count: int) -> tuple[View, int]:
        """Room for a new series, in memory of this process alone where the file has none. The lock is held."""
        try:
            return self._shelf.take(key_of(metric.name, values), count)
        except (OSError, ValueError):
            # The disk is full, or the labels are longer than sense: counted all the same, though here alone.
            if not self._failing:  # counting it may take room, too
                self._failing = True
                try:
                    self.failed("metrics.shelf")
                finally:
                    self._failing = False
            return memoryview(bytearray(8 * count)).cast("d"), 0

    def numbers(self, metric: Metric) -> NumberFamily:
        """A new family of counters or gauges."""
        family = self.families[metric.name] = NumberFamily(metric, self.max_series, self)
        return family

    def histograms(self, metric: Metric) -> HistogramFamily:
        """A new family of histograms."""
        family = self.families[metric.name] = HistogramFamily(metric, self.max_series, self)
        return family

    def move(self, path: str | None) -> None:
        """Lay all cells onto a new shelf: the file at `path`, or memory of this process. Raises OSError.

        Nothing that is counted meanwhile is lost: it waits for the lock.
        """
        shelf = Shelf(path)
        with self.lock:
            before, self._shelf = self._shelf, shelf
            for family in self.families.values():
                for values, cell in family.series.items():
                    cell.move(*self.take(family.metric, values, family.numbers))
        before.close()

    def publish(self) -> None:
        """Show other workers the exemplars that are new."""
        for family in self.families.values():
            if isinstance(family, HistogramFamily):
                for cell in list(family.series.values()):
                    if cell.changed:
                        with self.lock:
                            cell.publish()

    def describe(self) -> Iterable[ExposedMetric]:
        return ()

    def page(self) -> Page:
        """What this process has counted, by metric and label values; of one worker among none, its number is 0."""
        page: Page = {}
        for name, family in self.families.items():
            each = ("0",) if family.metric.across == "each" else ()
            page[name] = {(*labels, *each): self.series(cell) for labels, cell in list(family.series.items())}
        return page

    def series(self, cell: Number | Histogram) -> Series:
        """What one cell holds now."""
        with self.lock:
            numbers = cell.numbers()
            exemplars = list(cell.exemplars) if isinstance(cell, Histogram) else None
        return Series(numbers, exemplars)

    def collect(self) -> Iterator[ExposedMetric]:
        yield from exposed(self.look(), [family.metric for family in self.families.values()], self.max_series)
