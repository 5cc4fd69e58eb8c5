"""Errors that status codes and exceptions show."""

from __future__ import annotations

from obskit.export.rules.model import Alert
from obskit.export.rules.series import PROBES, REQUESTS, ROUTED, Series, ours

_ROUTED = f"{REQUESTS}{{<job>,{ROUTED}}}"
_REFUSED = f'{REQUESTS}{{<job>,{ROUTED},http_response_status_code=~"4.."}}'


def alerts(series: Series) -> tuple[Alert, ...]:
    # A readiness probe answers 503 whenever a process starts or stops: that is what it is for.
    asked = f"{REQUESTS}{{<job>,{PROBES}}}"
    failed = f'{REQUESTS}{{<job>,{PROBES},http_response_status_code=~"5.."}}'
    exceptions = "obskit_exceptions_total{<job>}"
    return (
        Alert(
            name="ObskitRouteErrors",
            expr=f"sum by (job, http_route) (rate({failed}[10m])) "
            f"/ sum by (job, http_route) (rate({asked}[10m])) > 0.05 "
            f"and sum by (job, http_route) (increase({failed}[10m])) >= 5 {ours()}",
            severity="warning",
            summary="{{ $labels.http_route }} of {{ $labels.job }} fails",
            description="{{ $value | humanizePercentage }} of its requests end in a 5xx.",
            dashboard="routes",
            by=("job", "http_route"),
            hold="5m",
            keep_firing="10m",
        ),
        Alert(
            name="ObskitClientErrorSpike",
            # Shares, because on Monday everything is more than three times what it was on Sunday.
            expr=f"{_refused_share()} > 0.01 and {_refused_share()} > 3 * {_refused_share(' offset 1d')} "
            f"and sum by (job) (increase({_REFUSED}[15m])) >= 50 {ours()}",
            severity="warning",
            summary="4xx responses of {{ $labels.job }} tripled",
            description="{{ $value | humanizePercentage }} of requests to routes of the application are refused, "
            "more than three times the share of the same time yesterday.",
            dashboard="routes",
            hold="10m",
        ),
        Alert(
            name="ObskitNewExceptionType",
            # Only of services watched before the last hour: at first everything is new. Not longer ago than the
            # exceptions themselves are remembered, or all of them would be news after a gap of a day.
            expr=f"sum by (job, exception_type) ({exceptions}) > 0 unless on (job, exception_type) "
            f"last_over_time({exceptions}[1d] offset 15m) "
            "and on (job) group by (job) (last_over_time(obskit_app_info{<job>}[23h] offset 1h))",
            severity="info",
            summary="New exception {{ $labels.exception_type }} in {{ $labels.job }}",
            description="Raised {{ $value | humanize }} times in the last 15 minutes, and not once in the day before.",
            dashboard="silent-failures",
            by=("job",),
        ),
    )


def _refused_share(offset: str = "") -> str:
    # "No 4xx yet" is no series at all, and no reason to be silent about the first flood of them.
    total = f"sum by (job) (rate({_ROUTED}[15m]{offset}))"
    return f"(sum by (job) (rate({_REFUSED}[15m]{offset})) or 0 * {total}) / ({total} > 0)"
