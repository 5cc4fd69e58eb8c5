"""Work that comes in faster than it is done, before latency says so."""

from __future__ import annotations

from obskit.export.rules.model import Alert
from obskit.export.rules.series import Series, ours

ACTIVE = "http_server_active_requests{<job>}"
CAPACITY = "obskit_http_server_request_capacity{<job>}"
QUEUE = "obskit_http_server_queue_duration_seconds"
BACKLOG = "obskit_http_server_backlog_connections{<job>}"
BACKLOG_LIMIT = "obskit_http_server_backlog_limit_connections{<job>}"
THREADS, THREADS_MAX = "obskit_threadpool_threads{<job>}", "obskit_threadpool_threads_max{<job>}"
WAITING = "obskit_threadpool_queue_depth{<job>}"
PAUSES = "obskit_gc_pause_seconds_sum{<job>}"


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
            expr="max by (job, instance) (rate(process_cpu_seconds_total{<job>}[5m])) > 0.95 "
            + ours("job", "instance"),
            severity="warning",
            summary="{{ $labels.instance }} of {{ $labels.job }} has no CPU time left",
            description="A process of it uses {{ $value | humanize }} cores, and Python runs on one at a time.",
            dashboard="runtime",
            by=("job", "instance"),
            hold="10m",
            keep_firing="5m",
        ),
        Alert(
            name="ObskitCapacityExhausted",
            expr=f"{by} ({ACTIVE}) / {by} ({CAPACITY}) > 0.9",
            severity="warning",
            summary="{{ $labels.instance }} of {{ $labels.job }} has no room for more requests",
            description="{{ $value | humanizePercentage }} of what its workers can do at once is in flight: what "
            "comes now waits in front of them.",
            dashboard="runtime",
            by=("job", "instance"),
            hold="5m",
            keep_firing="5m",
        ),
        Alert(
            name="ObskitRequestsQueue",
            expr=f"histogram_quantile(0.95, sum by (job, instance, le) (rate({QUEUE}_bucket{{<job>}}[5m]))) > 0.5 "
            f"and {by} (increase({QUEUE}_count{{<job>}}[5m])) >= 10",
            severity="warning",
            summary="Requests wait in front of {{ $labels.instance }} of {{ $labels.job }}",
            description="One in twenty waits longer than {{ $value | humanizeDuration }} between the proxy and the "
            "application, which no latency of the application shows.",
            dashboard="runtime",
            by=("job", "instance"),
            hold="5m",
            keep_firing="5m",
        ),
        Alert(
            name="ObskitBacklogFull",
            # A moment's burst is what a backlog is for; half of it at every look for minutes is no moment.
            expr=f"max by (job, instance) ({BACKLOG}) / (max by (job, instance) ({BACKLOG_LIMIT}) > 0) > 0.5",
            severity="critical",
            summary="{{ $labels.instance }} of {{ $labels.job }} is about to refuse connections",
            description="{{ $value | humanizePercentage }} of the connections that the kernel keeps waiting are "
            "there: no worker takes them.",
            dashboard="runtime",
            by=("job", "instance"),
            hold="2m",
            keep_firing="5m",
        ),
        Alert(
            name="ObskitThreadpoolExhausted",
            expr=f"{by} ({WAITING}) > 0 and {by} ({THREADS}) >= {by} ({THREADS_MAX})",
            severity="warning",
            summary="Calls wait for a thread in {{ $labels.instance }} of {{ $labels.job }}",
            description="{{ $value | humanize }} calls of synchronous code wait, and every thread of the pool is at "
            "work.",
            dashboard="runtime",
            by=("job", "instance"),
            hold="2m",
            keep_firing="5m",
        ),
        Alert(
            name="ObskitGcPauses",
            expr=f"{by} (rate({PAUSES}[5m])) / {by} (obskit_workers{{<job>}}) > 0.05",
            severity="warning",
            summary="The garbage collector takes much of the time of {{ $labels.instance }} of {{ $labels.job }}",
            description="For {{ $value | humanizePercentage }} of the time it stops the interpreter.",
            dashboard="runtime",
            by=("job", "instance"),
            hold="10m",
            keep_firing="5m",
        ),
    )
