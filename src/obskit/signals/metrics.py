"""The metrics view: RED histograms, outcomes, in-flight. One lookup per request finds all its cells."""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from obskit import names
from obskit.exchange import Exchange, Finding, Outcome
from obskit.names import Metric
from obskit.signals import app_metrics, merge
from obskit.signals.app_metrics import AppMetrics
from obskit.signals.cells import UNDIVIDED, Histogram, HistogramFamily, Number, NumberFamily, Store
from obskit.signals.page import ExemplarFacts, Page, Series
from obskit.signals.process import PROCESS, OwnProcess
from obskit.version import __version__
from obskit.workers import EXIT_REASONS, Member, Workers

# What the watch tells; a histogram of these is there from the start, a gauge when it is known.
OUTSIDE_REQUESTS = (
    names.REQUESTS_LOST,
    names.WORKER_EXITS,
    names.WORKERS,
    names.OLDEST_REQUEST_AGE,
    names.REQUEST_CAPACITY,
    names.QUEUE_DURATION,
    names.LISTEN_BACKLOG,
    names.LISTEN_BACKLOG_LIMIT,
    names.EVENT_LOOP_LAG,
    names.THREADPOOL_THREADS,
    names.THREADPOOL_THREADS_MAX,
    names.THREADPOOL_QUEUE,
    names.GC_PAUSE,
    names.TELEMETRY_QUEUE_SIZE,
    names.TELEMETRY_QUEUE_CAPACITY,
)


class Server(Protocol):
    """What answers scrapes beside the application."""

    def begin(self) -> None: ...
    def shutdown(self) -> None: ...


class _Cells:
    """All cells in which a request that ended in one way is counted."""

    __slots__ = ("duration", "first_byte", "outcome", "request_size", "response_size")

    def __init__(
        self,
        outcome: Number,
        duration: Histogram,
        first_byte: Histogram,
        request_size: Histogram,
        response_size: Histogram,
    ) -> None:
        self.outcome = outcome
        self.duration = duration
        self.first_byte = first_byte
        self.request_size = request_size
        self.response_size = response_size


def _add(
    active: Number,
    cells: _Cells,
    request_bytes: int,
    request_bucket: int,
    response_bytes: int,
    response_bucket: int,
    first_byte: float | None,
    first_byte_bucket: int,
    duration: float,
    duration_bucket: int,
    exemplar: ExemplarFacts | None,
) -> None:
    """Count one request that has ended. Calls, makes and repeats nothing: with or without a lock, it is undivided."""
    active.view[active.at] -= 1.0
    cell = cells.request_size
    cell.view[cell.at + request_bucket] += 1.0
    if request_bytes:
        cell.view[cell.sum_at] += request_bytes
    cell = cells.response_size
    cell.view[cell.at + response_bucket] += 1.0
    cell.view[cell.sum_at] += response_bytes
    if first_byte is not None:
        cell = cells.first_byte
        cell.view[cell.at + first_byte_bucket] += 1.0
        cell.view[cell.sum_at] += first_byte
    # Last, and together: when the worker is killed here, a request is in both or in neither.
    outcome, cell = cells.outcome, cells.duration
    outcome.view[outcome.at] += 1.0
    cell.view[cell.at + duration_bucket] += 1.0
    cell.view[cell.sum_at] += duration
    if exemplar is not None:
        cell.exemplars[duration_bucket] = exemplar
        cell.changed = True


class Metrics:
    """A pipeline signal, and the reporter of our own errors and losses."""

    name = "metrics"

    def __init__(self, max_series: int) -> None:
        self.store = Store(max_series)
        self.store.failed = self.internal_error
        self.registry = CollectorRegistry(auto_describe=False)
        self.server: Server | None = None
        """Answers scrapes on a port of its own; set by the composition root."""
        self.app = AppMetrics()
        """The application's own metrics."""
        self.app.failed = self.internal_error
        self.queue_of: Callable[[], tuple[int, int] | None] = lambda: None
        """How many spans wait, and how many may; set by the composition root."""
        numbers, histograms = self.store.numbers, self.store.histograms
        self._duration: HistogramFamily = histograms(names.REQUEST_DURATION)
        self._first_byte = histograms(names.TIME_TO_FIRST_BYTE)
        self._request_size = histograms(names.REQUEST_BODY_SIZE)
        self._response_size = histograms(names.RESPONSE_BODY_SIZE)
        self._add: Callable[..., None] = _add if UNDIVIDED else self._add_locked
        self._active: NumberFamily = numbers(names.ACTIVE_REQUESTS)
        self._outcomes = numbers(names.OUTCOMES)
        self._exceptions = numbers(names.EXCEPTIONS)
        self._findings = numbers(names.FINDINGS)
        self._invariant_checks = numbers(names.INVARIANT_CHECKS)
        # The counters that findings have of their own, by name.
        self._counted_too = {
            metric.name: numbers(metric)
            for metric in (names.DUPLICATE_REQUESTS, names.SESSIONS_LOST, names.PARTIAL_WRITES)
        }
        self._log_records = numbers(names.LOG_RECORDS)
        self._exports = numbers(names.TELEMETRY_EXPORTS)
        self._dropped = numbers(names.TELEMETRY_DROPPED)
        self._internal_errors = numbers(names.INTERNAL_ERRORS)
        self._app_info = numbers(names.APP_INFO)
        self._active_cells = {method: self._active.child(method) for method in sorted(names.HTTP_METHODS)}
        self._active_cells[names.OTHER_METHOD] = self._active.child(names.OTHER_METHOD)
        self._log_cells = {
            level: self._log_records.child(level)
            for level in ("debug", "info", "warning", "error", "critical")
        }
        for reason in ("expired", "bad_signature", "missing"):
            self._counted_too[names.SESSIONS_LOST.name].child(reason)
        for outcome in ("success", "failure"):
            self._exports.child("traces", outcome)
        for metric in (*OUTSIDE_REQUESTS, *PROCESS):
            (histograms if metric.kind == "histogram" else numbers)(metric)
        for reason in EXIT_REASONS:
            self.count(names.WORKER_EXITS, 0, reason)
        for family in self.store.families.values():
            if isinstance(family, HistogramFamily) and not family.metric.labels:
                family.child()
        queue = self.store.families[names.QUEUE_DURATION.name]
        assert isinstance(queue, HistogramFamily)
        self._queue = queue.child()
        self._process = OwnProcess()
        # Of a whole record the first four tell the type of the error; only with an exception it is asked for.
        self._cells: dict[tuple[str, str | None, int | None, Outcome | None, str], _Cells] = {}
        self._invariant_cells: dict[str, tuple[Number, Number]] = {}
        self._look = self.store.page
        self.store.look = self._page
        self.registry.register(self.store)

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge, or a counter that somebody else counts (CPU seconds)."""
        self._number(metric).put(value, *labels)

    def forget(self, metric: Metric) -> None:
        """What a gauge told is not known any more."""
        self._number(metric).forget()

    def count(self, metric: Metric, amount: float, *labels: str) -> None:
        """Count what belongs to no request, or is seen from outside of it."""
        self._number(metric).add(amount, *labels)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Add to a histogram."""
        if metric is names.QUEUE_DURATION:  # once a request, where a proxy tells
            with self.store.lock:
                self._queue.observe(value)
            return
        family = self.store.families[metric.name]
        assert isinstance(family, HistogramFamily)
        family.add(value, *labels)

    def _number(self, metric: Metric) -> NumberFamily:
        family = self.store.families[metric.name]
        assert isinstance(family, NumberFamily)
        return family

    def join(self, workers: Workers) -> None:
        """From now on the workers of this server count as one: they read each other's numbers.

        Raises OSError where there is no room for them; they are this worker's alone then.
        """
        self.app.join(workers)
        if workers.shared:
            self.store.move(workers.path(merge.KIND))
            merger = merge.Merger(self.store, workers)
            self._look = merger.page
            merger.page()  # hear which series the others have: all of them together have one limit

    def publish(self, *, last: bool = False) -> None:
        """Show the other workers what is not shown at once; all of it if this is the last time."""
        self._tell(fresh=last)
        self.app.publish(last=last)

    def _tell(self, *, fresh: bool) -> None:
        self._process.tell(self.set, fresh=fresh)
        queue = self.queue_of()
        if queue is not None:
            self.set(names.TELEMETRY_QUEUE_SIZE, queue[0], "traces")
            self.set(names.TELEMETRY_QUEUE_CAPACITY, queue[1], "traces")
        self.store.publish()

    def inherit(self, member: Member) -> None:
        """Take over what a dead worker has counted. Raises OSError and ValueError for what cannot be read."""
        try:
            merge.fold(member, self.store.max_series)
        finally:
            app_metrics.fold(member)

    def leave(self) -> None:
        """Leave what was counted to the others, and count in memory of this process."""
        self._tell(fresh=True)
        self.app.leave()
        self._look = self.store.page
        self.store.move(None)

    def _page(self) -> Page:
        self._tell(fresh=True)  # what is shown of this worker is never newer than what the others can read
        page = self._look()
        if not page[names.WORKERS.name]:
            page[names.WORKERS.name] = {(): Series([1.0])}
        return page

    def describe_app(self, service: str, version: str, environment: str, framework: str) -> None:
        """Set obskit_app_info."""
        labels = (service, version, environment, framework, __version__, platform.python_version())
        self._app_info.child(*labels).value = 1.0

    def begin(self) -> None:
        """Open the port of their own, where one is asked for."""
        if self.server is not None:
            self.server.begin()

    def opened(self, exchange: Exchange) -> None:
        if exchange.protocol == "http":
            cell = self._active_cells[exchange.method]
            if UNDIVIDED:
                cell.view[cell.at] += 1.0
            else:
                with self.store.lock:
                    cell.view[cell.at] += 1.0

    def closed(self, exchange: Exchange) -> None:
        exception = exchange.exception
        if exchange.protocol != "http":
            # A connection of hours is no request latency: WebSockets are counted by outcome alone.
            self._outcomes.add(1.0, exchange.http_route or names.UNMATCHED_ROUTE, str(exchange.outcome))
        else:
            active = self._active_cells[exchange.method]
            try:
                error_type = "" if exception is None else exchange.error_type
                key = (exchange.method, exchange.http_route, exchange.status, exchange.outcome, error_type)
                cells = self._cells.get(key) or self._resolve(key, exchange.error_type)
                request_bytes, response_bytes = exchange.request_bytes, exchange.response_bytes
                request_bucket = bisect_left(cells.request_size.bounds, request_bytes) if request_bytes else 0
                response_bucket = bisect_left(cells.response_size.bounds, response_bytes)
                duration, first_byte = exchange.duration_s, exchange.first_byte_s
                duration_bucket = bisect_left(cells.duration.bounds, duration)
                # The first byte comes before the last: of a request in the first bucket, it is in the first, too.
                first_byte_bucket = duration_bucket and bisect_left(
                    cells.first_byte.bounds, first_byte or 0.0
                )
                exemplar = None
                if exchange.sampled or exchange.kept:
                    exemplar = (exchange.trace_id, duration, exchange.started_unix_ns * 1e-9 + duration)
            except BaseException:  # a record that is not whole: whatever it was, it is not in flight any more
                with self.store.lock:
                    active.view[active.at] -= 1.0
                raise
            self._add(
                active,
                cells,
                request_bytes,
                request_bucket,
                response_bytes,
                response_bucket,
                first_byte,
                first_byte_bucket,
                duration,
                duration_bucket,
                exemplar,
            )
        if exception is not None and isinstance(exception, Exception):
            handled = "true" if exchange.exception_handled else "false"
            route = exchange.http_route or names.UNMATCHED_ROUTE
            self._exceptions.add(1, route, type(exception).__name__, handled)
        for finding in exchange.findings:
            if not finding.told:
                self.count_finding(finding)

    def _add_locked(self, *facts: Any) -> None:
        with self.store.lock:
            _add(*facts)

    def count_answer(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count a request whose answer was on its way when its worker died: what its client saw, nobody knows."""
        error_type = str(status) if status >= 500 else ""
        cells = self._resolve((method, route, status or None, Outcome.UNKNOWN, error_type), error_type)
        outcome = cells.outcome
        with self.store.lock:
            outcome.view[outcome.at] += 1.0
            cells.duration.observe(duration_s)

    def count_finding(self, finding: Finding) -> None:
        """Count one finding, in a request or outside of all."""
        self._findings.add(1, finding.finding, finding.http_route)
        family = self._counted_too.get(finding.metric)
        if family is not None:
            facts = {**finding.evidence, "http_route": finding.http_route}
            family.add(1, *(str(facts.get(label, "")) for label in family.metric.labels))

    def count_invariant(self, name: str, *, held: bool) -> None:
        """Count one checked assumption; both results of a name are there from its first check."""
        cells = self._invariant_cells.get(name)
        if cells is None:
            cells = (self._invariant_checks.child(name, "failed"), self._invariant_checks.child(name, "held"))
            if len(self._invariant_cells) < self._invariant_checks.limit:
                self._invariant_cells[name] = cells
        cell = cells[held]
        with self.store.lock:
            cell.view[cell.at] += 1.0

    def _resolve(
        self, key: tuple[str, str | None, int | None, Outcome | None, str], error_type: str
    ) -> _Cells:
        method, route, status, outcome, _ = key
        route = route or names.UNMATCHED_ROUTE
        found = _Cells(
            self._outcomes.child(route, str(outcome)),
            self._duration.child(method, route, "" if status is None else str(status), error_type),
            self._first_byte.child(method, route),
            self._request_size.child(method, route),
            self._response_size.child(method, route),
        )
        if len(self._cells) < self._duration.limit:
            self._cells[key] = found
        return found

    def log_record(self, level: str, count: int = 1) -> None:
        """Count log lines of one level."""
        cell = self._log_cells[level]
        if UNDIVIDED:
            cell.view[cell.at] += count
        else:
            with self.store.lock:
                cell.view[cell.at] += count

    def export(self, signal: str, outcome: str) -> None:
        """Count one export call."""
        self._exports.add(1, signal, outcome)

    def dropped(self, signal: str, reason: str, count: int = 1) -> None:
        """Count telemetry that was lost."""
        self._dropped.add(count, signal, reason)

    def internal_error(self, stage: str) -> None:
        """Count an error of our own."""
        self._internal_errors.add(1, stage)

    def flush(self, timeout_s: float) -> None:
        """Metrics are pulled: nothing is buffered."""

    def shutdown(self, timeout_s: float) -> None:
        """Leave the registry; a scrape after this shows nothing of this install."""
        if self.server is not None:
            self.server.shutdown()
        self.registry.unregister(self.store)
