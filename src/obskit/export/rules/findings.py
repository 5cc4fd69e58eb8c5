"""What the detectors found: an alert for each that names a runbook, written from its declaration.

The alerts of `silent.py` stay over the outcomes they have always read: a detector whose runbook is one of those has
its alert there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from obskit import names
from obskit.detectors import shipped
from obskit.export.rules import silent
from obskit.export.rules.model import Alert
from obskit.export.rules.series import OUTCOMES, Series, rare
from obskit.findings import Detector

FOUND, LOST, CHECKED = names.FINDINGS.name, names.SESSIONS_LOST.name, names.INVARIANT_CHECKS.name
OWN = "ObskitOwnFindings"

_BY_ROUTE = "sum by (job, http_route)"
# What is found outside a request has no route.
_ON_ROUTE = "{{ with $labels.http_route }} on {{ . }}{{ end }}"


def alerts(series: Series) -> tuple[Alert, ...]:
    elsewhere = {alert.name for alert in silent.alerts(series)}
    written = [
        _FORMS.get(detector.name, _seldom)(detector)
        for detector in shipped()
        if detector.runbook and detector.runbook not in elsewhere
    ]
    return (*written, _own())


def _seldom(detector: Detector) -> Alert:
    """Something that should not happen at all: the first one is news."""
    return Alert(
        name=detector.runbook,
        expr=rare(FOUND, "job", "http_route", matchers=f'finding="{detector.name}"'),
        severity=detector.severity,
        summary=f"{detector.name} in {{{{ $labels.job }}}}{_ON_ROUTE}",
        description=f"{{{{ $value | humanize }}}} in 10 minutes. {detector.help} {detector.why}",
        dashboard="silent-failures",
        by=("job", "http_route"),
        keep_firing="15m",
    )


@dataclass(frozen=True, slots=True)
class _Often:
    """Something that happens everywhere now and then: news is that it happens often.

    In `window` at least `least` times and to more than `share` of the requests of its route, and unless `anew` is
    false more than twice the share of the day before (of its own day, for a route that had none then).
    """

    window: str
    least: int
    share: float
    anew: bool = True

    def __call__(self, detector: Detector) -> Alert:
        found = f'{FOUND}{{<job>,finding="{detector.name}"}}'
        minutes = self.window.removesuffix("m")
        now = _share(found, self.window)
        expr = f"{now} > {self.share:g} and {_BY_ROUTE} (increase({found}[{self.window}])) >= {self.least}"
        than_before = ""
        if self.anew:
            before = f"({_share(found, '1d', ' offset 1d')} or {_share(found, '1d')})"
            expr += f" unless on (job, http_route) ({now} <= 2 * {before})"
            than_before = ", more than twice the share of the day before"
        return Alert(
            name=detector.runbook,
            expr=expr,
            severity=detector.severity,
            summary=f"{detector.name} in {{{{ $labels.job }}}}{_ON_ROUTE}",
            description=f"{{{{ $value | humanizePercentage }}}} of its requests in {minutes} minutes"
            f"{than_before}. {detector.help} {detector.why}",
            dashboard="silent-failures",
            by=("job", "http_route"),
            hold="2m",
            keep_firing="15m",
        )


def _share(found: str, window: str, offset: str = "") -> str:
    every = f"{OUTCOMES}{{<job>}}"
    return (
        f"{_BY_ROUTE} (rate({found}[{window}]{offset})) / ({_BY_ROUTE} (rate({every}[{window}]{offset})) > 0)"
    )


def _broken_invariants(detector: Detector) -> Alert:
    # By name and not by route: the name says what is wrong, wherever it was noticed.
    return Alert(
        name=detector.runbook,
        expr=rare(CHECKED, "job", "invariant", matchers='result="failed"'),
        severity=detector.severity,
        summary="The invariant {{ $labels.invariant }} of {{ $labels.job }} does not hold",
        description=f"{{{{ $value | humanize }}}} in 10 minutes. {detector.help} {detector.why}",
        dashboard="silent-failures",
        keep_firing="15m",
    )


def _lost_sessions(detector: Detector) -> Alert:
    # Sessions expire every morning, and a store forgets one now and then: news is far more of them than is usual at
    # this time of the week. A signature that is wrong is never usual, but one of them may be somebody's forgery.
    unreadable = f'sum by (job, reason) (increase({LOST}{{<job>,reason="bad_signature"}}[30m]))'
    gone = f'sum by (job, reason) (increase({LOST}{{<job>,reason!="bad_signature"}}[30m]%s))'
    usual = f"({gone % ' offset 1w'} or {gone % ' offset 1d'})"
    return Alert(
        name=detector.runbook,
        expr=f"{unreadable} >= 5 or {gone % ''} >= 20 and {gone % ''} > 5 * {usual}",
        severity=detector.severity,
        summary="{{ $labels.job }} loses sessions ({{ $labels.reason }})",
        description="{{ $value | humanize }} in 30 minutes. " + f"{detector.help} {detector.why}",
        dashboard="silent-failures",
        keep_firing="15m",
    )


def _own() -> Alert:
    """One for all detectors that a user wrote: which they are, no export can know."""
    ours = "|".join(detector.name for detector in shipped())
    return Alert(
        name=OWN,
        expr=rare(FOUND, "job", "finding", "http_route", matchers=f'finding!~"{ours}"'),
        severity="warning",
        summary=f"{{{{ $labels.finding }}}} in {{{{ $labels.job }}}}{_ON_ROUTE}",
        description="{{ $value | humanize }} in 10 minutes, found by a detector of the application's own.",
        dashboard="silent-failures",
        by=("job", "http_route"),
        keep_firing="15m",
    )


# Where the first event is not news. A double click, an upload that a phone lost in a tunnel: every service has them.
# Some interfaces answer errors with 200 by design (GraphQL); `empty_success` is judged against what was learned, and
# that allows one in a thousand.
_FORMS: dict[str, Callable[[Detector], Alert]] = {
    "duplicate_request": _Often("30m", 10, 0.01),
    "soft_error": _Often("10m", 3, 0.01),
    "truncated_request": _Often("10m", 3, 0.01),
    "empty_success": _Often("10m", 3, 0.01, anew=False),
    "invariant_failed": _broken_invariants,
    "session_lost": _lost_sessions,
}
