"""What the record shows that HTTP status does not: detectors are asked, and what they find is kept and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

from obskit.answering import Answering
from obskit.context import _current
from obskit.exchange import Exchange
from obskit.findings import Detector, Judge, Verdict
from obskit.names import FINDING_EVENT, UNMATCHED_ROUTE
from obskit.parts import LogSignal, MetricSignal, Observer

MAX_FINDINGS = 16


class Judging(Answering):
    """The detectors of one install, asked under its guard."""

    logs: LogSignal
    _metrics: MetricSignal
    _observers: tuple[Observer, ...]
    _findings_lock: Lock
    route_for: Callable[[str, str], str | None] | None

    def dropped(self, signal: str, reason: str) -> None:
        """Count telemetry that was lost."""
        raise NotImplementedError

    def ask(
        self, detectors: Sequence[tuple[Detector, Judge | None]]
    ) -> Sequence[tuple[Detector, Judge | None]]:
        """Ask these from now on. Returns those asked until now, which keep what they have begun."""
        before, self._asked = getattr(self, "_asked", ()), tuple(detectors)
        self.detectors = {detector.name: detector for detector, _ in detectors}
        self._judges = tuple(judge for _, judge in detectors if judge is not None)
        self._watchers = tuple(
            (f"detectors.{detector.name}", opened)
            for detector, judge in detectors
            if (opened := getattr(judge, "opened", None)) is not None
        )
        asked: list[tuple[str, Detector, Verdict]] = [
            (detector.about, detector, verdict)
            for detector, judge in detectors
            if (verdict := detector.judge if judge is None else judge.closed) is not None
        ]
        self._verdicts = tuple(asked)
        self._verdicts_when_completed = tuple(one for one in asked if one[1].always)
        self.digested: frozenset[str] = frozenset().union(*(detector.digests for detector, _ in detectors))
        """The methods whose bodies somebody compares."""
        return before

    def _each_judge(self, step: str) -> None:
        for judge in self._judges:
            try:
                do = getattr(judge, step, None)
                if do is not None:
                    do()
            except Exception as error:
                self.failed(f"detectors.{step}", error)

    def _detect(self, exchange: Exchange, uneventful: bool) -> None:
        """Ask the detectors, and complete what was found while the request ran. Never raises.

        `uneventful` says that it completed, and met no exception.
        """
        if exchange.findings:
            # Reported before the route was known.
            route = exchange.http_route or ""
            exchange.findings = tuple(replace(one, http_route=route) for one in exchange.findings)
        for about, detector, verdict in self._verdicts_when_completed if uneventful else self._verdicts:
            if about and not getattr(exchange, about):
                continue
            try:
                evidence = verdict(exchange)
                if evidence is not None:
                    self._found(exchange, detector, evidence)
            except Exception as error:
                self.failed(f"detectors.{detector.name}", error)

    def report(self, name: str, exchange: Exchange | None, evidence: Mapping[str, Any]) -> None:
        """A silent failure was seen while it happened; `exchange` is None outside a request. Never raises.

        Does nothing when the detector of that name is switched off.
        """
        try:
            detector = self.detectors.get(name)
            if detector is None:
                return
            if exchange is not None and not exchange.closed:
                self._found(exchange, detector, evidence)
                return
            finding = detector.finding(None, evidence)
            self._metrics.count_finding(finding)
            said = {"finding": name, "severity": finding.severity, "why": finding.why, **finding.evidence}
            self.logs.emit("warning", FINDING_EVENT, "obskit.findings", said)
            for observer in self._observers:
                observer.found(finding)
        except Exception as error:
            self.failed(f"detectors.{name}", error)

    def tell(self, name: str, exchange: Exchange, evidence: Mapping[str, Any]) -> None:
        """A request is in trouble now: count it and write a line at once, for it may never end. Never raises.

        May be called from any thread. The canonical line and the span show the last of it again, without counting.
        """
        try:
            detector = self.detectors.get(name)
            if detector is None or exchange.closed:
                return
            found = detector.finding(exchange, evidence)
            finding = replace(found, http_route=self.route_now(exchange), told=True)
            with self._findings_lock:
                before = [one for one in exchange.findings if one.finding == name]
                others = tuple(one for one in exchange.findings if one.finding != name)
                finding = replace(finding, times=1 + sum(one.times for one in before))
                exchange.findings = (*others, finding)
            self._metrics.count_finding(finding)
            said = {"finding": name, "severity": finding.severity, "why": finding.why, **finding.evidence}
            token = _current.set(exchange)  # the line is to carry the ids of that request
            try:
                self.logs.emit("warning", FINDING_EVENT, "obskit.findings", said)
            finally:
                _current.reset(token)
        except Exception as error:
            self.failed(f"detectors.{name}", error)

    def route_now(self, exchange: Exchange) -> str:
        """The route of a request that still runs: as named until now, else as its framework would route it."""
        route = exchange.http_route
        if route is None and self.route_for is not None:
            method, path = exchange.method_original or exchange.method, exchange.url_path
            route = self.route_for(method, path[len(exchange.path_prefix) :])
        return route or UNMATCHED_ROUTE

    def session_ended(self, exchange: Exchange) -> None:
        """The application ends the session of this request (`exchange.session`) on purpose. Never raises."""
        for judge in self._judges:
            try:
                hear = getattr(judge, "session_ended", None)
                if hear is not None:
                    hear(exchange)
            except Exception as error:
                self.failed("adapter.session", error)

    def invariant(self, name: str, exchange: Exchange | None, held: bool, facts: Mapping[str, Any]) -> None:
        """Count a checked assumption, and report it where it did not hold. Never raises."""
        try:
            self._metrics.count_invariant(name, held=held)
        except Exception as error:
            self.failed("metrics.invariant", error)
        if held:
            return
        try:
            # Its name comes first, where evidence that is cut short still has it, and no fact takes its place.
            self.report("invariant_failed", exchange, {"invariant": name, **facts} | {"invariant": name})
        except Exception as error:
            self.failed("invariant", error)

    def _found(self, exchange: Exchange, detector: Detector, evidence: Mapping[str, Any]) -> None:
        finding = detector.finding(exchange, evidence)
        with self._findings_lock:
            for index, known in enumerate(exchange.findings):
                if known.finding == finding.finding and known.evidence == finding.evidence:
                    again = (replace(known, times=known.times + 1),)
                    exchange.findings = exchange.findings[:index] + again + exchange.findings[index + 1 :]
                    return
            if len(exchange.findings) < MAX_FINDINGS:
                exchange.findings += (finding,)
                return
        self.dropped("findings", "too_many")
