"""The metrics view: RED histograms, outcomes, in-flight. One lookup per request finds all its cells."""

from __future__ import annotations

import platform

from prometheus_client import CollectorRegistry

from obskit import names
from obskit.exchange import Exchange, Finding
from obskit.signals.cells import Histogram, HistogramFamily, Number, NumberFamily, Store
from obskit.version import __version__


class _RouteCells:
    """The cells of one (method, route): what does not depend on the status."""

    __slots__ = ("first_byte", "request_size", "response_size")

    def __init__(self, first_byte: Histogram, request_size: Histogram, response_size: Histogram) -> None:
        self.first_byte = first_byte
        self.request_size = request_size
        self.response_size = response_size


class Metrics:
    """A pipeline signal, and the reporter of our own errors and losses."""

    name = "metrics"

    def __init__(self, max_series: int) -> None:
        self.store = Store(max_series)
        self.registry = CollectorRegistry(auto_describe=False)
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
        self._cells: dict[tuple[str, str, int | None, str], tuple[Histogram, _RouteCells]] = {}
        self._route_cells: dict[tuple[str, str], _RouteCells] = {}
        self._outcome_cells: dict[tuple[str, str], Number] = {}
        self._invariant_cells: dict[str, tuple[Number, Number]] = {}
        self.registry.register(self.store)

    def describe_app(self, service: str, version: str, environment: str, framework: str) -> None:
        """Set obskit_app_info."""
        labels = (service, version, environment, framework, __version__, platform.python_version())
        self._app_info.child(*labels).value = 1.0

    def begin(self) -> None:
        """Nothing to start."""

    def opened(self, exchange: Exchange) -> None:
        if exchange.protocol == "http":
            cell = self._active_cells[exchange.method]
            with self.store.lock:
                cell.value += 1

    def closed(self, exchange: Exchange) -> None:
        route = exchange.http_route or names.UNMATCHED_ROUTE
        exception = exchange.exception
        outcome = self._outcome_cell(route, str(exchange.outcome))
        if exchange.protocol != "http":
            # A connection of hours is no request latency: WebSockets are counted by outcome alone.
            with self.store.lock:
                outcome.value += 1
        else:
            duration_cell, cells = self._resolve(exchange.method, route, exchange.status, exchange.error_type)
            duration, first_byte = exchange.duration, exchange.time_to_first_byte
            exemplar = None
            if exchange.sampled:
                ended = exchange.started_unix_ns * 1e-9 + duration
                exemplar = (exchange.trace_id, duration, ended)
            active = self._active_cells[exchange.method]
            with self.store.lock:
                active.value -= 1
                outcome.value += 1
                duration_cell.observe(duration, exemplar)
                cells.request_size.observe(exchange.request_bytes)
                cells.response_size.observe(exchange.response_bytes)
                if first_byte is not None:
                    cells.first_byte.observe(first_byte)
        if exception is not None and isinstance(exception, Exception):
            handled = "true" if exchange.exception_handled else "false"
            self._exceptions.add(1, route, type(exception).__name__, handled)
        for finding in exchange.findings:
            self.count_finding(finding)

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
            cell.value += 1

    def _resolve(
        self, method: str, route: str, status: int | None, error_type: str
    ) -> tuple[Histogram, _RouteCells]:
        key = (method, route, status, error_type)
        found = self._cells.get(key)
        if found is None:
            status_label = "" if status is None else str(status)
            found = (
                self._duration.child(method, route, status_label, error_type),
                self._of_route(method, route),
            )
            if len(self._cells) < self._duration.limit:
                self._cells[key] = found
        return found

    def _of_route(self, method: str, route: str) -> _RouteCells:
        found = self._route_cells.get((method, route))
        if found is None:
            found = _RouteCells(
                self._first_byte.child(method, route),
                self._request_size.child(method, route),
                self._response_size.child(method, route),
            )
            if len(self._route_cells) < self._first_byte.limit:
                self._route_cells[method, route] = found
        return found

    def _outcome_cell(self, route: str, outcome: str) -> Number:
        found = self._outcome_cells.get((route, outcome))
        if found is None:
            found = self._outcomes.child(route, outcome)
            if len(self._outcome_cells) < self._outcomes.limit:
                self._outcome_cells[route, outcome] = found
        return found

    def log_record(self, level: str) -> None:
        """Count one log line."""
        cell = self._log_cells[level]
        with self.store.lock:
            cell.value += 1

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
        self.registry.unregister(self.store)
