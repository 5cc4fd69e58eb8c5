"""The metrics view: RED histograms, outcomes, in-flight. One lookup per request finds all its cells."""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from obskit import names
from obskit.exchange import Exchange, Finding, Outcome
from obskit.names import Metric
from obskit.signals import app_metrics, merge
from obskit.signals.app_metrics import AppMetrics
from obskit.signals.cells import UNDIVIDED, Histogram, HistogramFamily, Number, NumberFamily, Store
from obskit.signals.page import Page, Series
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


# Compared as whole numbers, in half the time.
_SIZES: Final = tuple(map(int, names.SIZE_BUCKETS))
_SECONDS: Final = names.DURATION_BUCKETS
_SHORTEST: Final = _SECONDS[0]

# Of a whole record the first four tell the type of the error; only with an exception it is asked for.
_Kind = tuple[str, str | None, int | None, Outcome | None, str]


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


class _Kinds(dict[_Kind, _Cells]):
    """The cells of each kind of request; those of a new one are looked up."""

    def __init__(self, look_up: Callable[[_Kind], _Cells]) -> None:
        super().__init__()
        self._look_up = look_up

    def __missing__(self, kind: _Kind) -> _Cells:
        return self._look_up(kind)


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
        self.before_page: Callable[[], None] = lambda: None
        """Called before a page is made: what has ended and was not counted yet is to be on it."""
        numbers, histograms = self.store.numbers, self.store.histograms
        self._duration: HistogramFamily = histograms(names.REQUEST_DURATION)
        self._first_byte = histograms(names.TIME_TO_FIRST_BYTE)
        self._request_size = histograms(names.REQUEST_BODY_SIZE)
        self._response_size = histograms(names.RESPONSE_BODY_SIZE)
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
        self._cells = _Kinds(self._resolve)
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
        try:
            self.before_page()
        except Exception:
            self.internal_error(f"{self.name}.close")
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
        """It is in flight."""
        if exchange.protocol == "http":
            cell = self._active_cells[exchange.method]
            if UNDIVIDED:
                cell.own[0] += 1.0
            else:
                with self.store.lock:
                    cell.own[0] += 1.0

    def closed(self, exchange: Exchange) -> None:
        """It has ended: not in flight any more, and counted."""
        try:
            self.left(exchange)
        finally:
            self.counted(exchange)

    def left(self, exchange: Exchange) -> None:
        """It is not in flight any more; `counted` comes later."""
        if exchange.protocol == "http":
            cell = self._active_cells[exchange.method]
            if UNDIVIDED:
                cell.own[0] -= 1.0
            else:
                with self.store.lock:
                    cell.own[0] -= 1.0

    def counted(self, exchange: Exchange) -> None:
        """Count one that has ended and left."""
        if exchange.protocol != "http":
            # A connection of hours is no request latency: WebSockets are counted by outcome alone.
            self._outcomes.add(1.0, exchange.http_route or names.UNMATCHED_ROUTE, str(exchange.outcome))
            self._count_trouble(exchange)
            return
        # All is worked out before the first sum: of a record that is not whole nothing is counted.
        exception = exchange.exception
        cells = self._cells[
            exchange.method, exchange.http_route, exchange.status, exchange.outcome,
            "" if exception is None else exchange.error_type,
        ]  # fmt: skip
        request_bytes = exchange.request_bytes
        response_bytes = exchange.response_bytes
        request_bucket = bisect_left(_SIZES, request_bytes) if request_bytes else 0
        response_bucket = bisect_left(_SIZES, response_bytes)
        duration = exchange.duration_s
        first_byte = exchange.first_byte_s
        if duration <= _SHORTEST:  # and the first byte comes before the last
            duration_bucket = first_byte_bucket = 0
        else:
            duration_bucket = bisect_left(_SECONDS, duration)
            first_byte_bucket = bisect_left(_SECONDS, first_byte or 0.0)
        exemplar = None
        if exchange.sampled or exchange.kept:
            exemplar = exchange.trace_id, duration, exchange.started_unix_ns * 1e-9 + duration
        if not UNDIVIDED:
            self.store.lock.acquire()
        try:  # calls, makes and repeats nothing: with or without the lock, it is undivided
            # Sums are written out where there are many: `+=` takes two steps more.
            cells.request_size.own[request_bucket] += 1.0
            if request_bytes:
                cells.request_size.own[-1] += request_bytes
            own = cells.response_size.own
            own[response_bucket] = own[response_bucket] + 1.0
            own[-1] = own[-1] + response_bytes
            if first_byte is not None:
                own = cells.first_byte.own
                own[first_byte_bucket] = own[first_byte_bucket] + 1.0
                own[-1] = own[-1] + first_byte
            # Last, and together: when the worker is killed here, a request is in both or in neither.
            cells.outcome.own[0] += 1.0
            cell = cells.duration
            own = cell.own
            own[duration_bucket] = own[duration_bucket] + 1.0
            own[-1] = own[-1] + duration
            if exemplar is not None:
                cell.exemplars[duration_bucket] = exemplar
                cell.changed = True
        finally:
            if not UNDIVIDED:
                self.store.lock.release()
        if exception is not None or exchange.findings:
            self._count_trouble(exchange)

    def _count_trouble(self, exchange: Exchange) -> None:
        exception = exchange.exception
        if exception is not None and isinstance(exception, Exception):
            handled = "true" if exchange.exception_handled else "false"
            route = exchange.http_route or names.UNMATCHED_ROUTE
            self._exceptions.add(1, route, type(exception).__name__, handled)
        for finding in exchange.findings:
            if not finding.told:
                self.count_finding(finding)

    def count_answer(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count a request whose answer was on its way when its worker died: what its client saw, nobody knows."""
        error_type = str(status) if status >= 500 else ""
        cells = self._cells[method, route, status or None, Outcome.UNKNOWN, error_type]
        with self.store.lock:
            cells.outcome.own[0] += 1.0
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
            cell.own[0] += 1.0

    def _resolve(self, kind: _Kind) -> _Cells:
        method, route, status, outcome, error_type = kind
        if status is not None and status >= 500:
            error_type = str(status)
        route = route or names.UNMATCHED_ROUTE
        found = _Cells(
            self._outcomes.child(route, str(outcome)),
            self._duration.child(method, route, "" if status is None else str(status), error_type),
            self._first_byte.child(method, route),
            self._request_size.child(method, route),
            self._response_size.child(method, route),
        )
        if len(self._cells) < self._duration.limit:
            self._cells[kind] = found
        return found

    def log_record(self, level: str, count: int = 1) -> None:
        """Count log lines."""
        cell = self._log_cells[level]
        if UNDIVIDED:
            cell.own[0] += count
        else:
            with self.store.lock:
                cell.own[0] += count

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
