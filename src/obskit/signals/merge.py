"""The numbers of all workers of a server as one: of those that live, of the dead, and of those long folded in.

A dead worker's file is folded into an archive, which is written anew and put in the old one's place; it names the
workers it has folded last. Nobody who reads takes a lock. He reads the workers first and the archive after them, and
leaves out whom the archive names: so each number is taken once, whenever a worker dies and is folded meanwhile. A
count can only be higher the next time.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from json import dumps as _dumps
from threading import Lock

from obskit import names
from obskit.names import Metric
from obskit.signals import shelf
from obskit.signals.cells import Histogram, Store, exemplars_in, key_of, placed
from obskit.signals.page import BREATH_EVERY, Labels, Page, Series, let_go
from obskit.workers import Member, Workers

ARCHIVE = "archive"
KIND = "metrics"
_FOLDED_KEPT = 256
_KNOWN = {metric.name: metric for metric in names.METRICS}
_FOLDED = ""
# What reading a file can raise that somebody else has written into.
DAMAGE = (ValueError, KeyError, TypeError, IndexError, struct.error)


class _Reading:
    """Where the series of one file lie: they stay there, so a file that grew is read on from where it ended."""

    def __init__(self) -> None:
        self.end = 0
        self.places: list[tuple[Metric, Labels, int, int]] = []

    def read_on(self, data: bytes) -> None:
        """Take in the entries that are new. Raises ValueError for what is no file of ours."""
        for end, key, place, count in shelf.entries(data, self.end):
            words = json.loads(key)
            metric = _KNOWN.get(words[0])
            labels = tuple(str(word) for word in words[1:])
            # What another version of obskit counts is its own.
            if metric is not None and len(labels) == len(metric.labels) and count >= _summed(metric):
                self.places.append((metric, labels, place, count))
            self.end = end


def _summed(metric: Metric) -> int:
    return len(metric.buckets) + 2 if metric.buckets else 1


class Merger:
    """Reads along with the workers of one group, for the page of one install."""

    def __init__(self, store: Store, workers: Workers) -> None:
        self._store = store
        self._workers = workers
        self._readings: dict[str, _Reading] = {}
        self._archive_read = (b"", _Reading())
        self._lock = Lock()

    def page(self) -> Page:
        """Everything that is to be shown. Never raises for what other processes have written."""
        if not self._workers.shared:  # a child of a worker, perhaps, in which another thread held the lock
            return self._store.page()
        with self._lock:
            return self._page()

    def _page(self) -> Page:
        own_number = str(self._workers.number)
        members = self._workers.members()
        others = [member for member in members if member.token != self._workers.token]
        parts = [(member, data) for member in others if (data := self._read(member)) is not None]
        folded, archive = self._archive()
        page: Page = {}
        for name, family in self._store.families.items():
            page[name] = {}
            for labels, cell in list(family.series.items()):
                self._put(page, self._store.series(cell), family.metric, labels, own_number, alive=True)
        for one in _pause_between(_series(archive, self._archive_read[1])):
            self._put(page, *one, "", alive=False)
        for member, data in parts:
            if member.token not in folded:
                for one in _pause_between(_series(data, self._reading(member.token, data))):
                    self._put(page, *one, str(member.number), alive=member.alive)
        self._meet(page)
        living = sum(member.alive for member in members) or 1
        page[names.WORKERS.name] = {(): Series([float(living)])}
        for token in self._readings.keys() - {member.token for member in members}:
            del self._readings[token]
        return page

    def _put(
        self,
        page: Page,
        series: Series,
        metric: Metric,
        labels: Labels,
        number: str,
        *,
        alive: bool,
    ) -> None:
        if not alive and (metric.kind == "gauge" or metric.across != "sum"):
            return
        if metric.kind == "gauge" and math.isnan(series.numbers[0]):
            return  # not known any more
        family = page.setdefault(metric.name, {})
        if metric.across == "each":
            labels = (*labels, number)
        known = family.get(labels)
        if known is None:
            family[labels] = series
        elif metric.across == "max":
            known.numbers = [max(known.numbers[0], series.numbers[0])]
        else:
            known.add(series)

    def _meet(self, page: Page) -> None:
        """Tell the families which label sets there are elsewhere."""
        for name, family in self._store.families.items():
            if family.metric.across == "sum" and family.metric.labels:
                family.meet(frozenset(page[name].keys() - family.series.keys()))

    def _read(self, member: Member) -> bytes | None:
        try:
            return shelf.read(member.path(KIND))
        except FileNotFoundError:  # it has nothing yet; or it is folded by now, and in the archive
            return None
        except (OSError, ValueError):
            self._store.failed("metrics.merge")
            return None

    def _archive(self) -> tuple[list[str], bytes]:
        try:
            data = shelf.read(os.path.join(self._workers.folder, ARCHIVE))
            if data != self._archive_read[0]:
                self._archive_read = (data, self._read_on(_Reading(), data))
            return _folded(data), data
        except FileNotFoundError:
            pass
        except (OSError, *DAMAGE):
            self._store.failed("metrics.merge")
        self._archive_read = (b"", _Reading())
        return [], b""

    def _reading(self, token: str, data: bytes) -> _Reading:
        return self._read_on(self._readings.setdefault(token, _Reading()), data)

    def _read_on(self, reading: _Reading, data: bytes) -> _Reading:
        try:
            reading.read_on(data)
        except DAMAGE:
            self._store.failed("metrics.merge")
        return reading


def _series(data: bytes, reading: _Reading) -> Iterator[tuple[Series, Metric, Labels]]:
    numbers = memoryview(data)[: len(data) // 8 * 8].cast("d")
    for metric, labels, place, count in reading.places:
        summed = _summed(metric)
        at = place // 8
        exemplars = None
        if count > summed and any(data[place + 8 * summed : place + 8 * count]):
            exemplars = exemplars_in(data, place + 8 * summed, summed - 1)
        yield Series(numbers[at : at + summed].tolist(), exemplars), metric, labels  # type: ignore[arg-type]


def _pause_between(
    found: Iterator[tuple[Series, Metric, Labels]],
) -> Iterator[tuple[Series, Metric, Labels]]:
    for number, one in enumerate(found, 1):
        if number % BREATH_EVERY == 0:
            let_go()
        yield one


def _folded(data: bytes) -> list[str]:
    """The tokens of the workers that an archive holds, those folded last at the end."""
    for _, key, _, _ in shelf.entries(data):
        words = json.loads(key)
        return [str(word) for word in words[1:]] if words[0] == _FOLDED else []
    return []


def fold(member: Member, max_series: int) -> None:
    """Add what a dead worker has counted to the archive of its group. The caller is alone with the folder.

    A worker that the archive names is not folded again. Raises OSError and ValueError for files that cannot be read;
    of a file that is damaged from some place on, what lies before it is kept.
    """
    path = os.path.join(member.folder, ARCHIVE)
    names_of: list[str] = []
    kept: dict[str, dict[Labels, Series]] = {}
    failure: Exception | None = None

    def take(data: bytes) -> None:
        nonlocal failure
        reading = _Reading()
        try:
            reading.read_on(data)
        except DAMAGE as error:
            failure = ValueError(f"numbers of worker {member.pid}: {error}")
        for series, metric, labels in _pause_between(_series(data, reading)):
            if metric.kind == "gauge" or metric.across != "sum":
                continue
            family = kept.setdefault(metric.name, {})
            labels = placed(metric, labels, len(family), max_series, family)
            known = family.get(labels)
            if known is not None:
                known.add(series)
            else:
                family[labels] = series

    try:
        archive = shelf.read(path)
        names_of = _folded(archive)
        if member.token in names_of:
            return
        take(archive)
    except FileNotFoundError:
        pass
    except DAMAGE as error:
        failure = ValueError(f"the archive: {error}")
    try:
        take(shelf.read(member.path(KIND)))
    except FileNotFoundError:
        return  # it has never counted
    _write(path, [*names_of, member.token][-_FOLDED_KEPT:], kept)
    if failure is not None:
        raise failure


def _write(path: str, folded: list[str], kept: dict[str, dict[Labels, Series]]) -> None:
    new = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)  # of one that was killed in these lines
    room = shelf.Shelf(new)
    try:
        room.take(_dumps([_FOLDED, *folded]).encode(), 0)
        for name, labels, series in ((name, *one) for name, family in kept.items() for one in family.items()):
            metric = _KNOWN[name]
            key = key_of(name, labels)
            if metric.buckets:
                cell = Histogram(
                    metric.buckets, *room.take(key, _summed(metric) + (len(metric.buckets) + 1) * 4)
                )
                for index, number in enumerate(series.numbers):
                    cell.view[cell.at + index] = number
                cell.exemplars = series.exemplars or cell.exemplars
                cell.publish()
            else:
                view, at = room.take(key, 1)
                view[at] = series.numbers[0]
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
    finally:
        room.close()
