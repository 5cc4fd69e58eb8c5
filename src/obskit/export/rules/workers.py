"""Workers that die, are missing, or hang: what takes requests along without a status."""

from __future__ import annotations

from obskit.export.rules.model import Alert
from obskit.export.rules.series import Series, rare

EXITS = "obskit_worker_exits_total"
WORKERS = "obskit_workers{<job>}"
OLDEST = "obskit_http_server_oldest_request_age_seconds{<job>}"
LAG = "obskit_event_loop_lag_seconds"


def alerts(series: Series) -> tuple[Alert, ...]:
    return (_dying(), _missing(), _oldest_request(), _loop_lag())


def _dying() -> Alert:
    return Alert(
        name="ObskitWorkersDying",
        expr=rare(EXITS, "job", "reason", matchers='reason=~"timeout|oom|died"'),
        severity="warning",
        summary="Workers of {{ $labels.job }} die ({{ $labels.reason }})",
        description="{{ $value | humanize }} in 10 minutes ended without having been asked to.",
        dashboard="runtime",
        keep_firing="15m",
    )


def _missing() -> Alert:
    by = "sum by (job, instance)"
    return Alert(
        name="ObskitWorkersMissing",
        # A worker shows itself with its first request; what was there for most of the hour is what is usual.
        expr=f"{by} ({WORKERS}) <= 0.5 * {by} (quantile_over_time(0.5, {WORKERS}[1h] offset 15m))",
        severity="warning",
        summary="{{ $labels.instance }} of {{ $labels.job }} has lost workers",
        description="{{ $value | humanize }} workers live, for 10 minutes half of what is usual or less.",
        dashboard="runtime",
        by=("job", "instance"),
        hold="10m",
        keep_firing="5m",
    )


def _oldest_request() -> Alert:
    return Alert(
        name="ObskitOldestRequest",
        expr=f"max by (job, instance) ({OLDEST}) > 60",
        severity="warning",
        summary="A request to {{ $labels.instance }} of {{ $labels.job }} does not end",
        description="The oldest one in flight is {{ $value | humanizeDuration }} old.",
        dashboard="runtime",
        by=("job", "instance"),
        hold="2m",
        keep_firing="5m",
    )


def _loop_lag() -> Alert:
    late = f"sum by (job, instance, le) (rate({LAG}_bucket{{<job>}}[5m]))"
    return Alert(
        name="ObskitEventLoopLag",
        expr=f"histogram_quantile(0.99, {late}) > 0.1",
        severity="warning",
        summary="The event loop of {{ $labels.instance }} of {{ $labels.job }} is late",
        description="One call in a hundred is later than {{ $value | humanizeDuration }}, for 10 minutes: every "
        "request of the worker waits that long again and again.",
        dashboard="runtime",
        by=("job", "instance"),
        hold="10m",
        keep_firing="5m",
    )
