"""A page of metrics on its way to a scrape: what each series has, and how prometheus_client is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from math import floor
from operator import add
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as ExposedMetric

from obskit import names
from obskit.names import Metric

Labels = tuple[str, ...]
ExemplarFacts = tuple[str, float, float]
"""Trace id, value, unix seconds."""


# A histogram's sum is cut to 60 ns. What lies on this grid is added without rounding (up to 2**29 s, 17 years of work),
# in whatever order: with plain floats a sum falls in its last digit when a dead worker moves into the archive.
GRID = 2.0**24
_LARGEST = 2.0**900
# The threads that serve have a turn after so many samples, about half a millisecond: a scrape must not hold them up.
BREATH_EVERY = 64


def let_go() -> None:
    """Give another thread of this process a turn."""
    time.sleep(1e-6)  # with 0 this thread often has the interpreter again before the other has woken up


class Breathing(list[Any]):
    """A list of samples whose reader lets go of the interpreter now and then."""

    def __iter__(self) -> Iterator[Any]:
        for number, one in enumerate(super().__iter__(), 1):
            if number % BREATH_EVERY == 0:
                let_go()
            yield one


class Series:
    """One series of a page: counts per bucket and the sum, or one number; exemplars by bucket."""

    __slots__ = ("exemplars", "numbers")

    def __init__(self, numbers: list[float], exemplars: list[ExemplarFacts | None] | None = None) -> None:
        if len(numbers) > 1 and abs(numbers[-1]) < _LARGEST:
            numbers[-1] = floor(numbers[-1] * GRID) / GRID
        self.numbers = numbers
        self.exemplars = exemplars

    def add(self, other: Series) -> None:
        """Count the other one, too; of two exemplars the newer stays."""
        self.numbers = list(map(add, self.numbers, other.numbers))
        if self.exemplars is None or other.exemplars is None:
            self.exemplars = self.exemplars or other.exemplars
        else:
            self.exemplars = [_newer(*two) for two in zip(self.exemplars, other.exemplars, strict=True)]


def _newer(one: ExemplarFacts | None, other: ExemplarFacts | None) -> ExemplarFacts | None:
    if one is None or other is None:
        return one or other
    return one if one[2] >= other[2] else other


Page = dict[str, dict[Labels, Series]]


def exposed(page: Page, metrics: Iterable[Metric], limit: int) -> Iterator[ExposedMetric]:
    """The page as prometheus_client shows it, and how many series each metric with labels has of its `limit`."""
    used = GaugeMetricFamily(
        names.METRIC_SERIES.name, names.METRIC_SERIES.help, labels=names.METRIC_SERIES.labels
    )
    allowed = GaugeMetricFamily(
        names.METRIC_SERIES_LIMIT.name,
        names.METRIC_SERIES_LIMIT.help,
        labels=names.METRIC_SERIES_LIMIT.labels,
    )
    for metric in metrics:
        series = page.get(metric.name, {})
        yield _histograms(metric, series) if metric.kind == "histogram" else _numbers(metric, series)
        if metric.labels:
            used.add_metric((metric.name,), len(series))
            allowed.add_metric((metric.name,), limit)
    yield used
    yield allowed


def _numbers(metric: Metric, series: dict[Labels, Series]) -> ExposedMetric:
    labels = (*metric.labels, names.WORKER) if metric.across == "each" else metric.labels
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = make(metric.name, metric.help, labels=labels)
    for values, one in series.items():
        family.add_metric(values, one.numbers[0])
    family.samples = Breathing(family.samples)
    return family


def _histograms(metric: Metric, series: dict[Labels, Series]) -> ExposedMetric:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    # Written as floats ("1.0"): Prometheus 3 renames integer bounds.
    les = [str(float(bound)) for bound in metric.buckets] + ["+Inf"]
    nothing: list[ExemplarFacts | None] = [None] * len(les)
    for values, one in series.items():
        running = 0.0
        buckets: list[Any] = []
        for le, count, seen in zip(les, one.numbers, one.exemplars or nothing, strict=False):
            running += count
            buckets.append((le, running, Exemplar({"trace_id": seen[0]}, seen[1], seen[2]) if seen else None))
        family.add_metric(values, buckets, one.numbers[-1])
    family.samples = Breathing(family.samples)
    return family
