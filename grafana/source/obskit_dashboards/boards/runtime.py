"""Runtime: is the process itself in trouble?"""

from __future__ import annotations

from pathlib import Path

from obskit_dashboards.board import Board, Row
from obskit_dashboards.panels import Column, Panel, heatmap, stat, table, timeseries
from obskit_dashboards.queries import (
    METHOD,
    NOW,
    REQUESTS,
    ROUTE_METHOD,
    SERVICE,
    Query,
    events,
    quantile,
    rate,
)
from obskit_dashboards.style import FILLED

_INSTANCE = "{{job}} {{instance}}"
_WORKER = "{{job}} {{instance}} worker {{worker}}"
_BY = "job, instance"
QUEUE = "obskit_http_server_queue_duration_seconds"
LAG = "obskit_event_loop_lag_seconds"
PAUSES = "obskit_gc_pause_seconds"
_NO_PROCESS = "no process metrics"
_VERSIONS = "service_name, service_version, deployment_environment, framework, obskit_version, python_version"


def board(grafana: Path) -> Board:
    """Work in flight, CPU, memory, descriptors, garbage collection, restarts."""
    return Board(
        slug="runtime",
        title="Runtime and saturation",
        description="What the processes themselves use, and whether work piles up in them.",
        rows=(
            Row("Work", _work()),
            Row("Workers", _workers()),
            Row("What waits", _waiting()),
            Row("Event loop", _event_loop()),
            Row("CPU, memory, descriptors", _resources()),
            Row("Garbage collection", _collection()),
            Row("Restarts and versions", _restarts()),
        ),
    )


def _work() -> list[Panel]:
    return [
        timeseries(
            "Requests in flight by instance",
            "One instance above the others: it is stuck, or the load balancer favours it. All rising while "
            "the rate does not: they wait for the same thing.",
            Query(f"sum by (job, instance) (http_server_active_requests{{{SERVICE},{METHOD}}})", _INSTANCE),
            "short",
            empty="no data",
        ),
        timeseries(
            "Work against time",
            "Requests in flight, and the rate times the mean duration: what should be in flight. In flight "
            "far above: some requests do not end and are in no duration yet.",
            [
                Query(f"sum(http_server_active_requests{{{SERVICE},{METHOD}}})", "in flight"),
                Query(rate(f"{REQUESTS}_sum", ROUTE_METHOD), "rate times mean duration"),
            ],
            "short",
            empty="no data",
            dashed=("/^rate times/",),
        ),
        timeseries(
            "Requests by instance",
            "Uneven: look at the load balancer. One at zero while it is up: it takes no work.",
            Query(rate(f"{REQUESTS}_count", ROUTE_METHOD, "job, instance"), _INSTANCE),
            "reqps",
            width=24,
        ),
    ]


def _workers() -> list[Panel]:
    return [
        timeseries(
            "Workers by instance",
            "Workers of each address that live and have had a request. Fewer than usual: they die faster than they "
            "are replaced, or a reload got stuck.",
            Query(f"sum by ({_BY}) (obskit_workers{{{SERVICE}}})", _INSTANCE),
            "short",
            empty="no data",
            width=8,
        ),
        timeseries(
            "Ends of workers",
            "By why they ended. exited is in good order: a reload, max_requests. oom: the kernel took it for memory. "
            "timeout: its server gave up on it. died: a signal, a crash in C, os._exit.",
            Query(events("obskit_worker_exits_total", SERVICE, "reason", NOW), "{{reason}}"),
            "short",
            empty="none",
            bars=True,
            width=8,
        ),
        timeseries(
            "Requests lost with their worker",
            "In flight when it ended: their clients got a broken connection. Each has a log line of its own with its "
            "trace id, see Silent failures.",
            Query(
                events("obskit_requests_lost_total", SERVICE, "http_route, reason", NOW),
                "{{http_route}} {{reason}}",
            ),
            "short",
            empty="none",
            bars=True,
            width=8,
        ),
    ]


def _waiting() -> list[Panel]:
    return [
        timeseries(
            "Capacity in use",
            "Requests in flight as a share of what all workers can do at once. At 1 what comes waits in front of "
            "them. Nothing: the server sets no limit, or does not tell.",
            Query(
                f"sum by ({_BY}) (http_server_active_requests{{{SERVICE}}}) "
                f"/ (sum by ({_BY}) (obskit_http_server_request_capacity{{{SERVICE}}}) > 0)",
                _INSTANCE,
            ),
            "percentunit",
            empty="no limit known",
            thresholds=FILLED,
        ),
        timeseries(
            "Queue time in front",
            "Between the proxy and the application, by the header X-Request-Start that the proxy sets. It rises "
            "before any latency of the application does. A constant step: the clocks differ.",
            [
                Query(quantile(0.5, SERVICE, metric=QUEUE), "p50"),
                Query(quantile(0.95, SERVICE, metric=QUEUE), "p95"),
            ],
            "s",
            empty="no proxy tells",
        ),
        timeseries(
            "Oldest request in flight",
            "A line that rises by one second a second is a request that hangs.",
            Query(
                f"max by ({_BY}) (obskit_http_server_oldest_request_age_seconds{{{SERVICE}}})",
                _INSTANCE,
            ),
            "s",
            empty="no data",
        ),
        timeseries(
            "Connections that nobody has taken yet",
            "They wait in the kernel, as a share of how many it keeps; at 1 it refuses more. Above 0 for long: no "
            "worker accepts.",
            Query(
                f"max by ({_BY}) (obskit_http_server_backlog_connections{{{SERVICE}}}) "
                f"/ (max by ({_BY}) (obskit_http_server_backlog_limit_connections{{{SERVICE}}}) > 0)",
                _INSTANCE,
            ),
            "percentunit",
            empty="not told here",
            thresholds=FILLED,
        ),
        timeseries(
            "Threads for synchronous code",
            "At work, how many there may be, and calls that wait for one. All at work and calls waiting: `def` "
            "endpoints wait for each other, and latency is queueing.",
            [
                Query(f"sum(obskit_threadpool_threads{{{SERVICE}}})", "at work"),
                Query(f"sum(obskit_threadpool_threads_max{{{SERVICE}}})", "there may be"),
                Query(f"sum(obskit_threadpool_queue_depth{{{SERVICE}}})", "calls waiting"),
            ],
            "short",
            empty="no pool",
            dashed=("/^there may be/",),
        ),
    ]


def _event_loop() -> list[Panel]:
    return [
        timeseries(
            "How late the event loop is",
            "By how much later than asked it calls back. Every request of the worker waits as long. Spikes: code "
            "that blocks, named by event_loop_blocked on Silent failures. All of it raised: too much work.",
            [
                Query(quantile(0.5, SERVICE, metric=LAG), "p50"),
                Query(quantile(0.99, SERVICE, metric=LAG), "p99"),
            ],
            "s",
            empty="no event loop",
        ),
        heatmap(
            "Lag of the event loop",
            "Few and far above the rest: one piece of code. A band that is broad: load.",
            Query(f"sum by (le) (increase({LAG}_bucket{{{SERVICE}}}[{NOW}]))", "{{le}}"),
            "s",
        ),
    ]


def _resources() -> list[Panel]:
    return [
        timeseries(
            "CPU",
            "Cores used by each process. Python runs one thread at a time: near 1 means saturated, however "
            "many cores there are. Add processes, or look for the work that should not be in a request.",
            Query(f"rate(process_cpu_seconds_total{{{SERVICE}}}[{NOW}])", _WORKER),
            "short",
            empty=_NO_PROCESS,
            thresholds=FILLED,
        ),
        timeseries(
            "Memory",
            "Resident memory. A line that only rises between restarts is a leak; a step at a deploy is its "
            "price. Compare with the limit of the container.",
            Query(f"process_resident_memory_bytes{{{SERVICE}}}", _WORKER),
            "bytes",
            empty=_NO_PROCESS,
        ),
        timeseries(
            "Virtual memory",
            "Address space. Rising alone, without resident memory, is rarely a trouble: threads and mapped "
            "files.",
            Query(f"process_virtual_memory_bytes{{{SERVICE}}}", _WORKER),
            "bytes",
            empty=_NO_PROCESS,
        ),
        timeseries(
            "File descriptors in use",
            "Share of the allowed ones. At 1 nothing can be opened or accepted any more. Rising steadily: "
            "connections or files are not closed.",
            Query(
                f"process_open_fds{{{SERVICE}}} / (process_max_fds{{{SERVICE}}} > 0)",
                _WORKER,
            ),
            "percentunit",
            empty=_NO_PROCESS,
            thresholds=FILLED,
        ),
    ]


def _collection() -> list[Panel]:
    return [
        timeseries(
            "Time the collector takes",
            "Share of the time of one worker for which the garbage collector stops it. Much: many objects live long; "
            "freeze them after start (gc.freeze), or collect less often.",
            Query(
                f"{rate(PAUSES + '_sum', SERVICE)} / (sum(obskit_workers{{{SERVICE}}}) > 0)",
                "share of the time",
            ),
            "percentunit",
            empty=_NO_PROCESS,
        ),
        timeseries(
            "Stops by the collector",
            "How long one of them lasts. Requests that meet one are as much slower.",
            [
                Query(quantile(0.5, SERVICE, metric=PAUSES), "p50"),
                Query(quantile(0.99, SERVICE, metric=PAUSES), "p99"),
            ],
            "s",
            empty="none",
        ),
        timeseries(
            "Collections by generation",
            "Runs of the garbage collector. Many of generation 2: objects live long in cycles, and each run "
            "stops everything.",
            Query(rate("python_gc_collections_total", SERVICE, "generation"), "generation {{generation}}"),
            "ops",
            empty=_NO_PROCESS,
        ),
        timeseries(
            "Objects collected",
            "Objects freed that were part of cycles. High: something makes cycles in every request, often "
            "exceptions kept with their frames.",
            Query(
                rate("python_gc_objects_collected_total", SERVICE, "generation"), "generation {{generation}}"
            ),
            "ops",
            empty=_NO_PROCESS,
        ),
        timeseries(
            "Uncollectable objects",
            "Objects that the collector found and could not free. Anything above 0 is a leak in a C "
            "extension.",
            Query(rate("python_gc_objects_uncollectable_total", SERVICE, "job, instance"), _INSTANCE),
            "ops",
            empty=_NO_PROCESS,
            width=24,
            height=6,
        ),
    ]


def _restarts() -> list[Panel]:
    return [
        stat(
            "Youngest process",
            "How long the process that was started last has been up. Always minutes: something restarts "
            "them, see the last lines before each start.",
            Query(f"time() - max(process_start_time_seconds{{{SERVICE}}})"),
            "s",
            empty=_NO_PROCESS,
            width=6,
            height=8,
        ),
        timeseries(
            "Restarts",
            "Starts seen at the same address. In containers a restart is often a new instance: count those "
            "in the annotations.",
            Query(f"changes(process_start_time_seconds{{{SERVICE}}}[{NOW}])", _WORKER),
            "short",
            empty=_NO_PROCESS,
            bars=True,
            width=18,
        ),
        table(
            "What runs here",
            "Each process with its versions. Two versions of a service: a deploy is under way, or got stuck.",
            [
                Column(
                    "processes",
                    f"count by (job, instance, {_VERSIONS}) (obskit_app_info{{{SERVICE}}})",
                    "short",
                )
            ],
            ("job", "instance", *_VERSIONS.split(", ")),
            empty="none",
            sort="job",
            descending=False,
            hide_values=True,
        ),
        table(
            "Python",
            "The interpreter of each process.",
            [
                Column(
                    "processes",
                    f"count by (job, instance, implementation, version) (python_info{{{SERVICE}}})",
                    "short",
                )
            ],
            ("job", "instance", "implementation", "version"),
            empty="none",
            sort="job",
            descending=False,
            height=6,
            hide_values=True,
        ),
    ]
