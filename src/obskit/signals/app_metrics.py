"""The application's own prometheus_client metrics, of all workers of a server as one.

They are in the process-wide default registry and know nothing of other processes. So each worker lays a snapshot of
them beside its own numbers, about once a second and whenever it is scraped, and who is scraped adds them up:
counters, histograms and summaries with what the dead have left, gauges of the living under the label `worker`, or
as their `multiprocess_mode` says. What a killed worker counted since its last snapshot is lost.

Left as they are, of the worker that answers alone: collectors the application wrote itself, gauges that call a
function (neither may be asked more often than there are scrapes), Info and Enum. If the application has switched on
prometheus_client's multiprocess mode, that is the one truth, and is shown.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Lock

from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.core import Metric as ExposedMetric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MutexValue, ValueClass

from obskit.signals import app_sums, process, shelf
from obskit.signals.app_sums import SUMMED, Family, Part
from obskit.signals.page import let_go
from obskit.workers import Member, Workers

KIND = "app"
ARCHIVE = "archive-app"
FOLDED_KEPT = 256
# Label sets an archive keeps of one family: those that name a process would grow for ever.
MAX_KEPT = 10_000
# A snapshot that took a millisecond is not made again for 400.
_SHARE_OF_TIME = 1 / 400
_LAST_TIMEOUT_S = 1.0
_Parsed = tuple[bytes, list[str], list[Part]]


class AppMetrics(Collector):
    """A registry, the default one, on the page of one install."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.failed: Callable[[str], None] = lambda stage: None
        self._registry = registry
        self._workers: Workers | None = None
        self._lock = Lock()
        self._written = b""
        self._due = 0.0
        self._parsed: dict[str, _Parsed] = {}

    def join(self, workers: Workers) -> None:
        """Count with these from now on."""
        # All anew: this process may be the child of one in which another thread held the lock.
        self._lock, self._written, self._due, self._parsed = Lock(), b"", 0.0, {}
        self._workers = workers if workers.shared and not multiprocess() else None

    def leave(self) -> None:
        """Leave the last snapshot to the others."""
        self.publish(last=True)
        self._workers = None

    def publish(self, *, last: bool = False) -> None:
        """Write a snapshot if it is time for one, or it is the last. Never raises."""
        workers = self._workers
        if workers is None or not workers.shared or (not last and time.monotonic() < self._due):
            return
        began = time.thread_time()
        try:
            if self._lock.acquire(timeout=_LAST_TIMEOUT_S if last else 0):
                try:
                    self._lay(workers, self._parts())
                finally:
                    self._lock.release()
        except Exception:  # a full disk, or a metric of the application that cannot be asked
            self.failed("metrics.app")
        self._due = time.monotonic() + (time.thread_time() - began) / _SHARE_OF_TIME

    def _parts(self) -> list[Part]:
        """What this process has."""
        parts = []
        for collector in _counted(self._registry):
            mode = getattr(collector, "_multiprocess_mode", "")
            parts += [app_sums.part(family, mode) for family in collector.collect()]
            let_go()
        return parts

    def _lay(self, workers: Workers, parts: list[Part]) -> None:
        """Put it where the others see it. Raises OSError."""
        data = app_sums.written(parts) if parts else b""
        if data != self._written:
            _write(workers.path(KIND), data)
            self._written = data

    def collect(self) -> Iterator[ExposedMetric]:
        """The page's part. What the application's collectors raise is raised."""
        workers = self._workers
        if multiprocess():
            yield from _multiprocess_page(self._registry)
        elif workers is None or not workers.shared:
            yield from _without_process(self._registry)
        else:
            yield from self._of_all(workers)

    def _of_all(self, workers: Workers) -> Iterator[ExposedMetric]:
        families: dict[str, Family] = {}
        with self._lock:
            own = self._parts()
            # Before others can read it nothing is shown: it would be more here than it is there, later.
            try:
                self._lay(workers, own)
            except OSError:
                self.failed("metrics.app")
            app_sums.merge(families, own, str(workers.number), alive=True)
            self._add_others(families, workers)
        mine = {part.name for part in own}
        for shown in _without_process(self._registry):
            family = families.pop(shown.name, None)
            yield family.exposed() if family is not None and shown.name in mine else shown
        for family in families.values():  # what only others have
            yield family.exposed()

    def _add_others(self, families: dict[str, Family], workers: Workers) -> None:
        # The archive last, and without whom it names: see obskit.signals.merge.
        others = [member for member in workers.members() if member.token != workers.token]
        found = [(member, self._read(member.token, member.path(KIND))) for member in others]
        folded, archive = self._read("", os.path.join(workers.folder, ARCHIVE))
        app_sums.merge(families, archive, "", alive=False)
        for member, (_, parts) in found:
            if member.token not in folded:
                app_sums.merge(families, parts, str(member.number), alive=member.alive)
                let_go()
        for token in self._parsed.keys() - {"", *(member.token for member in others)}:
            del self._parsed[token]

    def _read(self, token: str, path: str) -> tuple[list[str], list[Part]]:
        try:
            data = shelf.read(path)
            known = self._parsed.get(token)
            if known is None or known[0] != data:
                known = self._parsed[token] = (data, *(app_sums.read(data) if data else ([], [])))
            return known[1:]
        except FileNotFoundError:
            return [], []
        except (OSError, ValueError):
            self.failed("metrics.app")
            return [], []


def multiprocess() -> bool:
    """Whether prometheus_client's own multiprocess mode is on (PROMETHEUS_MULTIPROC_DIR, when it was imported)."""
    return ValueClass is not MutexValue


def _counted(registry: CollectorRegistry) -> list[MetricWrapperBase]:
    """The metrics that are numbers in memory: they can be asked at any time."""
    with registry._lock:
        collectors = list(registry._collector_to_names)
    return [
        one
        for one in collectors
        if isinstance(one, MetricWrapperBase) and (one._type in SUMMED or isinstance(one, Gauge))
        # set_function puts this in the place of the method, on the gauge or on one of its children
        if not any("_child_samples" in vars(each) for each in (one, *_children(one)))
    ]


def _children(metric: MetricWrapperBase) -> list[MetricWrapperBase]:
    if not isinstance(metric, Gauge) or not metric._labelnames:
        return []
    with metric._lock:
        return list(metric._metrics.values())


def _without_process(registry: Collector) -> Iterator[ExposedMetric]:
    """What a registry has but for what our own page shows of each worker."""
    for family in registry.collect():
        if family.name not in process.NAMES:
            yield family


def _multiprocess_page(registry: CollectorRegistry) -> Iterator[ExposedMetric]:
    try:
        theirs = list(MultiProcessCollector(None).collect())  # type: ignore[no-untyped-call]
    except ValueError:  # the folder is gone
        theirs = []
    names = {family.name for family in theirs}
    yield from theirs
    for family in _without_process(registry):
        if family.name not in names:
            yield family


def fold(member: Member) -> None:
    """Add a dead worker's snapshot to the archive of its group; see `obskit.signals.merge.fold`."""
    path = os.path.join(member.folder, ARCHIVE)
    failure: ValueError | None = None
    folded: list[str] = []
    families: dict[str, Family] = {}
    try:
        folded, archive = app_sums.read(shelf.read(path))
        app_sums.merge(families, archive, "", alive=False)
    except FileNotFoundError:
        pass
    except ValueError as error:
        failure = error
    if member.token in folded:
        return
    try:
        data = shelf.read(member.path(KIND))
        parts = app_sums.read(data)[1] if data else []
    except FileNotFoundError:
        return
    except ValueError as error:
        failure, parts = error, []
    left_out = 0
    for part in parts:
        if part.type in SUMMED:
            family = families.setdefault(part.name, Family(part))
            if family.first.type == part.type:
                left_out += family.take(part, "", limit=MAX_KEPT)
    folded = [*folded, member.token][-FOLDED_KEPT:]
    _write(path, app_sums.written((family.part() for family in families.values()), folded))
    if left_out:
        failure = ValueError(f"no room for {left_out} label sets of worker {member.pid}")
    if failure is not None:
        raise failure


def _write(path: str, data: bytes) -> None:
    new = f"{path}.new"
    try:
        # No link in its place may lead us to write into another file.
        further = os.O_NOFOLLOW | os.O_CLOEXEC
        with open(new, "wb", opener=lambda name, flags: os.open(name, flags | further, 0o600)) as file:
            file.write(data)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
