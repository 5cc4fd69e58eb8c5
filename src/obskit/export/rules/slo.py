"""Objectives as rules: recorded error ratios, burn-rate alerts over two windows each, and the budget that is left.

A burn rate of 1 spends exactly the budget of 30 days in 30 days. Pages for 2 % of it in an hour or 5 % in six,
tickets for 10 % in a day or three (Google SRE workbook, chapter 5). The short window makes an alert end soon
after the cause; the volume gate keeps one failure at night from paging anybody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from obskit.export.objectives import Objective
from obskit.export.rules.model import Alert, Group, Recording, Rule, Severity, quoted
from obskit.export.rules.series import OUTCOMES, PROBES, REQUESTS, ours, recordings

INTERVAL = "1m"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
LEAST_BAD_REQUESTS = 10

# A 200 that was cut off is no success. `raised` and `no_response` are answered with 500 and counted by status.
CUT_OFF = 'outcome=~"truncated|raised_after_headers|timeout"'


@dataclass(frozen=True, slots=True)
class _Burn:
    """One urgency: (long window, short window, burn rate) pairs, any of which is enough."""

    severity: Severity
    pairs: tuple[tuple[str, str, float], ...]
    hold: str
    keep_firing: str


BURNS = (
    _Burn("critical", (("1h", "5m", 14.4), ("6h", "30m", 6)), hold="2m", keep_firing="10m"),
    _Burn("warning", (("1d", "2h", 3), ("3d", "6h", 1)), hold="15m", keep_firing="1h"),
)
_NAMES = {"availability": "ObskitAvailabilityBudgetBurn", "latency": "ObskitLatencyBudgetBurn"}


# ---- what is counted --------------------------------------------------------------------------------


def _total(objective: Objective, window: str) -> str:
    return _rate(
        OUTCOMES if objective.threshold_s is None else REQUESTS, objective, window, _answered(objective)
    )


def _bad(objective: Objective, window: str) -> str:
    if objective.threshold_s is None:
        failed = _rate(REQUESTS, objective, window, 'http_response_status_code=~"5.."')
        cut_off = _rate(OUTCOMES, objective, window, CUT_OFF)
        # "No 5xx yet" is no series at all: each term falls back to zero, or the sum would have none either.
        return f"({_or_zero(failed, objective, window)}) + ({_or_zero(cut_off, objective, window)})"
    bucket = REQUESTS.replace("_count", "_bucket")
    within = f'{_answered(objective)},le="{objective.threshold_s}"'
    return f"{_total(objective, window)} - {_rate(bucket, objective, window, within)}"


def _answered(objective: Objective) -> str:
    # How fast an error came is no news: latency is judged among the rest.
    return "" if objective.threshold_s is None else 'http_response_status_code!~"5.."'


def _or_zero(rate: str, objective: Objective, window: str) -> str:
    return f"{rate} or 0 * {_total(objective, window)}"


def _rate(metric: str, objective: Objective, window: str, matchers: str) -> str:
    route = PROBES if objective.route is None else f"http_route={quoted(objective.route)}"
    inside = ",".join(part for part in ("<job>", route, matchers) if part)
    # The route stays a label: messages name it.
    by = "job" if objective.route is None else "job, http_route"
    return f"sum by ({by}) (rate({metric}{{{inside}}}[{window}]))"


# ---- recordings -------------------------------------------------------------------------------------


def _labels(objective: Objective) -> dict[str, str]:
    labels = {"slo": objective.slo}
    if objective.route is not None:
        labels["http_route"] = objective.route
    return labels


def _recorded(objective: Objective, series: str) -> str:
    # http_route="" matches the series without that label: the objective of the whole service.
    return f'{series}{{<job>,slo="{objective.slo}",http_route={quoted(objective.route or "")}}}'


def recording_groups(objectives: Iterable[Objective]) -> tuple[Group, ...]:
    """What the burn-rate alerts and the SLO dashboard read."""
    rules: list[Rule] = [*recordings()]
    for objective in objectives:
        labels = _labels(objective)
        rules += [
            Recording("obskit:slo_total:rate5m", f"{_total(objective, '5m')} {ours()}", labels),
            Recording("obskit:slo_bad:rate5m", f"({_bad(objective, '5m')}) {ours()}", labels),
            # With a job label, and for a day after the last sign of life: services may differ in their objectives.
            Recording(
                "obskit:slo_objective:ratio",
                f"{objective.target} * group by (job) (last_over_time(obskit_app_info{{<job>}}[1d]))",
                labels,
            ),
        ]
    rules += [_ratio(window, "rate5m", window) for window in WINDOWS]
    # A month of samples of every minute is too much to read every minute: half-hour means of them, which the
    # group below records, say the same.
    rules.append(_ratio("30d", "avg30m", "30d"))
    rules.append(
        Recording(
            "obskit:slo_error_budget:remaining_ratio",
            "1 - obskit:slo_error:ratio_rate30d{<job>} / on (job, slo, http_route) "
            "(1 - obskit:slo_objective:ratio{<job>})",
        )
    )
    means = tuple(
        Recording(f"obskit:slo_{what}:avg30m", f"avg_over_time(obskit:slo_{what}:rate5m{{<job>}}[30m])")
        for what in ("bad", "total")
    )
    return (
        Group("obskit-slo-recordings", INTERVAL, tuple(rules)),
        Group("obskit-slo-means", "30m", means),
    )


def _ratio(name: str, series: str, window: str) -> Recording:
    if window == "5m":
        bad, total = (f"obskit:slo_{what}:rate5m{{<job>}}" for what in ("bad", "total"))
    else:
        bad, total = (
            f"avg_over_time(obskit:slo_{what}:{series}{{<job>}}[{window}])" for what in ("bad", "total")
        )
    # Without traffic there is no ratio; 0 / 0 would be NaN, which no alert and no panel can read.
    return Recording(f"obskit:slo_error:ratio_rate{name}", f"{bad} / ({total} > 0)")


# ---- alerts -----------------------------------------------------------------------------------------


class _RecordedRatios:
    """Error ratios and bad requests of a window, as recorded above."""

    def ratio(self, objective: Objective, window: str) -> str:
        return _recorded(objective, f"obskit:slo_error:ratio_rate{window}")

    def bad_requests(self, objective: Objective, window: str) -> str:
        # A sum and no mean: the mean of a service that started ten minutes ago, times an hour, is six times what
        # there was, and one error of it would pass for the ten that the gate asks for.
        return (
            f"sum_over_time({_recorded(objective, 'obskit:slo_bad:rate5m')}[{window}]) * seconds({INTERVAL})"
        )


class _CountedRatios:
    """The same from the counters, for rules that cannot record."""

    def ratio(self, objective: Objective, window: str) -> str:
        return f"(({_bad(objective, window)}) / ({_total(objective, window)} > 0) {ours()})"

    def bad_requests(self, objective: Objective, window: str) -> str:
        return f"({_bad(objective, window)}) * seconds({window})"


def alert_group(objectives: Iterable[Objective], *, recorded: bool) -> Group:
    """Burn-rate alerts of each objective, and the alert for a service that fails almost every request."""
    source = _RecordedRatios() if recorded else _CountedRatios()
    alerts: list[Rule] = []
    for objective in objectives:
        alerts += [_burn_alert(objective, burn, source) for burn in BURNS]
        if objective.threshold_s is None and objective.route is None:
            alerts.append(_all_failing(objective, source))
    return Group("obskit-slo", INTERVAL, tuple(alerts))


def _burn_alert(objective: Objective, burn: _Burn, source: _RecordedRatios | _CountedRatios) -> Alert:
    conditions = [
        f"({source.ratio(objective, long)} > {rate:g} * {objective.budget}"
        f" and {source.ratio(objective, short)} > {rate:g} * {objective.budget}"
        f" and {source.bad_requests(objective, long)} >= {LEAST_BAD_REQUESTS})"
        for long, short, rate in burn.pairs
    ]
    what = "{{ $labels.job }}" if objective.route is None else f"{objective.route} of {{{{ $labels.job }}}}"
    bad = "failed" if objective.threshold_s is None else f"took longer than {objective.threshold_s:g} s"
    # The value is that of the long window: in the first minutes it is far below what is happening right now.
    over = " or ".join(long for long, _, _ in burn.pairs)
    return Alert(
        name=_NAMES[objective.slo],
        expr=" or ".join(conditions),
        severity=burn.severity,
        summary=f"{what} is burning its {objective.slo} error budget",
        description=f"Over {over}, {{{{ $value | humanizePercentage }}}} of requests {bad}; "
        f"the objective is that {objective.text}.",
        dashboard="slo",
        by=("job",) if objective.route is None else ("job", "http_route"),
        hold=burn.hold,
        keep_firing=burn.keep_firing,
        labels={"category": "slo", **_labels(objective)},
    )


def _all_failing(objective: Objective, source: _RecordedRatios | _CountedRatios) -> Alert:
    return Alert(
        name="ObskitAllRequestsFailing",
        expr=f"{source.ratio(objective, '5m')} > 0.9 and {source.bad_requests(objective, '10m')} >= 3",
        severity="critical",
        summary="{{ $labels.job }} fails almost every request",
        description="{{ $value | humanizePercentage }} of requests failed in the last 5 minutes, however few they are.",
        dashboard="slo",
        hold="5m",
        keep_firing="10m",
        labels={"category": "slo", **_labels(objective)},
    )
