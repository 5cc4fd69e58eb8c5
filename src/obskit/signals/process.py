"""What the operating system and the garbage collector say of this process, as prometheus_client reads and names it.

prometheus_client's own collectors tell of the process that answers the scrape. Here each worker lays its numbers
beside the rest, for whichever answers.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from prometheus_client import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from obskit import names
from obskit.names import Metric

_PROCESS = {
    metric.name: metric
    for metric in (
        names.PROCESS_VIRTUAL_MEMORY,
        names.PROCESS_RESIDENT_MEMORY,
        names.PROCESS_START_TIME,
        names.PROCESS_CPU,
        names.PROCESS_OPEN_FDS,
        names.PROCESS_MAX_FDS,
    )
}
PROCESS = (
    *_PROCESS.values(),
    names.GC_OBJECTS_COLLECTED,
    names.GC_OBJECTS_UNCOLLECTABLE,
    names.GC_COLLECTIONS,
)
NAMES = frozenset(metric.name.removesuffix("_total") for metric in PROCESS)
"""As prometheus_client calls the families."""
# To count ten thousand open files takes milliseconds: what took one is not asked again for 400.
_SHARE_OF_TIME = 1 / 400


class OwnProcess:
    """The numbers of the process that asks."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=CollectorRegistry())
        self._due = 0.0

    def tell(self, tell: Callable[..., None], *, fresh: bool) -> None:
        """Call `tell(metric, value, *labels)` for each number that this system gives.

        If they need not be fresh, this may do nothing when the last time took long.
        """
        if not fresh and time.monotonic() < self._due:
            return
        began = time.thread_time()
        for family in self._collector.collect():
            for sample in family.samples:
                metric: Metric | None = _PROCESS.get(sample.name)
                if metric is not None:
                    tell(metric, sample.value)
        for generation, stats in enumerate(gc.get_stats()):
            tell(names.GC_OBJECTS_COLLECTED, stats["collected"], str(generation))
            tell(names.GC_OBJECTS_UNCOLLECTABLE, stats["uncollectable"], str(generation))
            tell(names.GC_COLLECTIONS, stats["collections"], str(generation))
        self._due = time.monotonic() + (time.thread_time() - began) / _SHARE_OF_TIME
