"""Work that comes in faster than it is done, before latency says so."""

from __future__ import annotations

from obskit.export.rules.model import Alert
from obskit.export.rules.series import Series, ours

ACTIVE = "http_server_active_requests{<job>}"


def alerts(series: Series) -> tuple[Alert, ...]:
    by = "sum by (job, instance)"
    return (
        Alert(
            name="ObskitRequestsPileUp",
            # Against the mean of all instances: one that a deploy has just started has no hour before.
            expr=f"{by} ({ACTIVE}) > on (job) group_left () "
            f"4 * sum by (job) (sum_over_time({ACTIVE}[1h] offset 10m)) "
            "/ sum by (job) (count_over_time(obskit_app_info{<job>}[1h] offset 10m)) "
            f"and {by} ({ACTIVE}) >= 10",
            severity="warning",
            summary="Requests pile up in {{ $labels.instance }} of {{ $labels.job }}",
            description="{{ $value | humanize }} requests are in flight, for 5 minutes more than four times what "
            "an instance had in the hour before: they arrive faster than they are answered.",
            dashboard="runtime",
            by=("job", "instance"),
            # A burst drains.
            hold="5m",
            keep_firing="5m",
        ),
        Alert(
            name="ObskitCpuSaturated",
            # One interpreter runs Python on one core at a time, however many the machine has.
            expr=f"rate(process_cpu_seconds_total{{<job>}}[5m]) > 0.95 {ours('job', 'instance')}",
            severity="warning",
            summary="{{ $labels.instance }} of {{ $labels.job }} has no CPU time left",
            description="The process uses {{ $value | humanize }} cores, and Python runs on one at a time.",
            dashboard="runtime",
            by=("job", "instance"),
            hold="10m",
            keep_firing="5m",
        ),
    )
