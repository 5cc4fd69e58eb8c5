"""Runtime: is the process itself in trouble?"""

from __future__ import annotations

from pathlib import Path

from obskit_dashboards.board import Board, Row
from obskit_dashboards.panels import Column, Panel, stat, table, timeseries
from obskit_dashboards.queries import METHOD, NOW, REQUESTS, ROUTE_METHOD, SERVICE, Query, rate
from obskit_dashboards.style import FILLED

_INSTANCE = "{{job}} {{instance}}"
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


def _resources() -> list[Panel]:
    return [
        timeseries(
            "CPU",
            "Cores used by each process. Python runs one thread at a time: near 1 means saturated, however "
            "many cores there are. Add processes, or look for the work that should not be in a request.",
            Query(f"rate(process_cpu_seconds_total{{{SERVICE}}}[{NOW}])", _INSTANCE),
            "short",
            empty=_NO_PROCESS,
            thresholds=FILLED,
        ),
        timeseries(
            "Memory",
            "Resident memory. A line that only rises between restarts is a leak; a step at a deploy is its "
            "price. Compare with the limit of the container.",
            Query(f"process_resident_memory_bytes{{{SERVICE}}}", _INSTANCE),
            "bytes",
            empty=_NO_PROCESS,
        ),
        timeseries(
            "Virtual memory",
            "Address space. Rising alone, without resident memory, is rarely a trouble: threads and mapped "
            "files.",
            Query(f"process_virtual_memory_bytes{{{SERVICE}}}", _INSTANCE),
            "bytes",
            empty=_NO_PROCESS,
        ),
        timeseries(
            "File descriptors in use",
            "Share of the allowed ones. At 1 nothing can be opened or accepted any more. Rising steadily: "
            "connections or files are not closed.",
            Query(
                f"process_open_fds{{{SERVICE}}} / (process_max_fds{{{SERVICE}}} > 0)",
                _INSTANCE,
            ),
            "percentunit",
            empty=_NO_PROCESS,
            thresholds=FILLED,
        ),
    ]


def _collection() -> list[Panel]:
    return [
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
            Query(f"changes(process_start_time_seconds{{{SERVICE}}}[{NOW}])", _INSTANCE),
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
