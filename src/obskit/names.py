"""Every name users, dashboards and alerts rely on: metrics with labels, unit and help; log keys; span attributes.

Nothing else lives here and nothing here computes. HTTP names follow the OpenTelemetry semantic conventions
(HTTP, 1.30 and later) in Prometheus form; names of our own start with ``obskit_``. See docs/signals.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MetricKind = Literal["counter", "gauge", "histogram"]
Across = Literal["sum", "max", "each"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family: its Prometheus name, kind, label names, help and, for a histogram, bucket bounds.

    `across` says what a page shows of the workers of one server: the sum of their values, the highest, or each value
    under a label `worker` of its own, a number from 0 that a worker's successor takes over. Counters and histograms
    that are summed keep what the dead have counted; everything else is of the living.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    across: Across = "sum"


# Semantic conventions' advice for http.server.request.duration, in seconds. Written as floats so that `le` is
# "1.0" and not "1": Prometheus 3 renames integer bounds, and a renamed series is a hole in every dashboard.
DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
SIZE_BUCKETS: Final = (128.0, 1024.0, 8192.0, 65536.0, 524288.0, 4194304.0, 33554432.0, 268435456.0)

HTTP_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)
OTHER_METHOD: Final = "_OTHER"
UNMATCHED_ROUTE: Final = "unmatched"
OVERFLOW: Final = "other"

REQUEST_DURATION: Final = Metric(
    "http_server_request_duration_seconds",
    "histogram",
    "Seconds from the first byte of a request to the last byte of its response.",
    ("http_request_method", "http_route", "http_response_status_code", "error_type"),
    DURATION_BUCKETS,
)
TIME_TO_FIRST_BYTE: Final = Metric(
    "http_server_time_to_first_byte_seconds",
    "histogram",
    "Seconds from the first byte of a request to the first byte of its response body.",
    ("http_request_method", "http_route"),
    DURATION_BUCKETS,
)
REQUEST_BODY_SIZE: Final = Metric(
    "http_server_request_body_size_bytes",
    "histogram",
    "Bytes of request body that reached the application.",
    ("http_request_method", "http_route"),
    SIZE_BUCKETS,
)
RESPONSE_BODY_SIZE: Final = Metric(
    "http_server_response_body_size_bytes",
    "histogram",
    "Bytes of response body that the application handed to the server.",
    ("http_request_method", "http_route"),
    SIZE_BUCKETS,
)
ACTIVE_REQUESTS: Final = Metric(
    "http_server_active_requests", "gauge", "Requests in flight now.", ("http_request_method",)
)
OUTCOMES: Final = Metric(
    "obskit_http_server_outcomes_total",
    "counter",
    "Requests and WebSocket connections by how they really ended, whatever their status said.",
    ("http_route", "outcome"),
)
EXCEPTIONS: Final = Metric(
    "obskit_exceptions_total",
    "counter",
    "Exceptions that ended a request or its background work; handled says whether the client still got an answer.",
    ("http_route", "exception_type", "handled"),
)
FINDINGS: Final = Metric(
    "obskit_findings_total",
    "counter",
    "Silent failures: findings of the detectors, one per request and evidence.",
    ("finding", "http_route"),
)
INVARIANT_CHECKS: Final = Metric(
    "obskit_invariant_checks_total",
    "counter",
    "Assumptions checked with obskit.invariant, by result (held or failed).",
    ("invariant", "result"),
)
DUPLICATE_REQUESTS: Final = Metric(
    "obskit_duplicate_requests_total",
    "counter",
    "Requests that repeat an earlier one of the same client, by kind.",
    ("http_route", "kind"),
)
SESSIONS_LOST: Final = Metric(
    "obskit_sessions_lost_total",
    "counter",
    "Sessions whose cookie came and that the framework did not find, by reason.",
    ("reason",),
)
PARTIAL_WRITES: Final = Metric(
    "obskit_partial_writes_total",
    "counter",
    "Units of work of which one part was done and another not, by kind.",
    ("http_route", "kind"),
)
LOG_RECORDS: Final = Metric("obskit_log_records_total", "counter", "Log lines written, by level.", ("level",))
TELEMETRY_EXPORTS: Final = Metric(
    "obskit_telemetry_exports_total",
    "counter",
    "Export calls of each signal, by outcome (success or failure).",
    ("signal", "outcome"),
)
TELEMETRY_DROPPED: Final = Metric(
    "obskit_telemetry_dropped_total",
    "counter",
    "Log lines and spans that were lost, by reason.",
    ("signal", "reason"),
)
TELEMETRY_QUEUE_SIZE: Final = Metric(
    "obskit_telemetry_queue_size", "gauge", "Ended spans that wait to be exported.", ("signal",)
)
TELEMETRY_QUEUE_CAPACITY: Final = Metric(
    "obskit_telemetry_queue_capacity",
    "gauge",
    "How many may wait before the oldest are lost.",
    ("signal",),
)
INTERNAL_ERRORS: Final = Metric(
    "obskit_internal_errors_total",
    "counter",
    "Errors of obskit itself that were kept from the application, by stage.",
    ("stage",),
)
APP_INFO: Final = Metric(
    "obskit_app_info",
    "gauge",
    "Always 1; its labels say what runs here.",
    (
        "service_name",
        "service_version",
        "deployment_environment",
        "framework",
        "obskit_version",
        "python_version",
    ),
    across="max",
)
# ---- several workers, and what is seen from outside a request ----
WORKER: Final = "worker"
REQUESTS_LOST: Final = Metric(
    "obskit_requests_lost_total",
    "counter",
    "Requests that were in flight when their worker ended, by why it did.",
    ("http_route", "reason"),
)
WORKER_EXITS: Final = Metric(
    "obskit_worker_exits_total",
    "counter",
    "Workers that have ended, by why: exited (in good order), timeout, oom, died (a signal or os._exit), unknown.",
    ("reason",),
)
WORKERS: Final = Metric("obskit_workers", "gauge", "Workers of this server that live now.")
OLDEST_REQUEST_AGE: Final = Metric(
    "obskit_http_server_oldest_request_age_seconds",
    "gauge",
    "Age of the oldest request in flight in any worker (seconds); 0 without one.",
    across="max",
)
REQUEST_CAPACITY: Final = Metric(
    "obskit_http_server_request_capacity",
    "gauge",
    "Requests that all workers together can work on at once; absent where a server sets no limit.",
)
QUEUE_DURATION: Final = Metric(
    "obskit_http_server_queue_duration_seconds",
    "histogram",
    "Seconds a request waited between the proxy in front (X-Request-Start, X-Queue-Start) and the application.",
    buckets=DURATION_BUCKETS,
)
LISTEN_BACKLOG: Final = Metric(
    "obskit_http_server_backlog_connections",
    "gauge",
    "Connections that the kernel has accepted and no worker has taken yet.",
    across="max",
)
LISTEN_BACKLOG_LIMIT: Final = Metric(
    "obskit_http_server_backlog_limit_connections",
    "gauge",
    "Connections the kernel keeps waiting before it refuses more.",
    across="max",
)
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
EVENT_LOOP_LAG: Final = Metric(
    "obskit_event_loop_lag_seconds",
    "histogram",
    "Seconds by which the event loop was late for a call it had been asked for.",
    buckets=LAG_BUCKETS,
)
THREADPOOL_THREADS: Final = Metric(
    "obskit_threadpool_threads", "gauge", "Threads of the pool for synchronous code that are at work."
)
THREADPOOL_THREADS_MAX: Final = Metric(
    "obskit_threadpool_threads_max", "gauge", "Threads the pool for synchronous code may have."
)
THREADPOOL_QUEUE: Final = Metric(
    "obskit_threadpool_queue_depth", "gauge", "Calls that wait for a thread of the pool for synchronous code."
)
GC_PAUSE: Final = Metric(
    "obskit_gc_pause_seconds",
    "histogram",
    "Seconds for which a run of the garbage collector stopped the interpreter.",
    buckets=LAG_BUCKETS,
)
# What prometheus_client tells of a process and its garbage collector, here once per worker.
PROCESS_VIRTUAL_MEMORY: Final = Metric(
    "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", across="each"
)
PROCESS_RESIDENT_MEMORY: Final = Metric(
    "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", across="each"
)
PROCESS_START_TIME: Final = Metric(
    "process_start_time_seconds",
    "gauge",
    "Start time of the process since unix epoch in seconds.",
    across="each",
)
PROCESS_CPU: Final = Metric(
    "process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", across="each"
)
PROCESS_OPEN_FDS: Final = Metric(
    "process_open_fds", "gauge", "Number of open file descriptors.", across="each"
)
PROCESS_MAX_FDS: Final = Metric(
    "process_max_fds", "gauge", "Maximum number of open file descriptors.", across="each"
)
GC_OBJECTS_COLLECTED: Final = Metric(
    "python_gc_objects_collected_total",
    "counter",
    "Objects collected during gc.",
    ("generation",),
    across="each",
)
GC_OBJECTS_UNCOLLECTABLE: Final = Metric(
    "python_gc_objects_uncollectable_total",
    "counter",
    "Uncollectable objects found during GC.",
    ("generation",),
    across="each",
)
GC_COLLECTIONS: Final = Metric(
    "python_gc_collections_total",
    "counter",
    "Number of times this generation was collected.",
    ("generation",),
    across="each",
)
METRIC_SERIES: Final = Metric("obskit_metric_series", "gauge", "Label sets in use, by metric.", ("metric",))
METRIC_SERIES_LIMIT: Final = Metric(
    "obskit_metric_series_limit",
    "gauge",
    "Label sets a metric may have before new ones are counted under 'other'.",
    ("metric",),
)

METRICS: Final[tuple[Metric, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)

# The canonical line: event and keys, in the order they are written.
CANONICAL_EVENT: Final = "http.request"
CANONICAL_KEYS: Final[dict[str, str]] = {
    "timestamp": "RFC 3339 UTC time with microseconds: when the request ended, or when any other line was written",
    "level": "error for a 5xx or an exception, warning for any finding or outcome but completed, else info",
    "event": "always http.request",
    "logger": "always obskit.http",
    "service_name": "resource attribute service.name",
    "service_version": "resource attribute service.version",
    "deployment_environment": "resource attribute deployment.environment.name",
    "trace_id": "32 hex digits (W3C Trace Context)",
    "span_id": "16 hex digits of this request's SERVER span",
    "request_id": "a well-formed X-Request-ID, else the trace id",
    "http_request_method": "a known method, else _OTHER",
    "http_route": "the framework's template, 'unmatched' if no route matched",
    "url_path": "decoded path, without query",
    "http_response_status_code": "status sent; null when none was",
    "outcome": "how the request really ended",
    "duration_s": "seconds to the last byte",
    "ttfb_s": "seconds to the first body byte; null when none was sent",
    "request_bytes": "bytes of request body that reached the application",
    "response_bytes": "bytes of response body handed to the server; null when the server sends a file itself",
    "client_address": "address of the peer as the server gives it; null when unknown",
    "user_agent": "User-Agent; null when absent",
    "worker_pid": "process id of the worker",
    "findings": "names of the silent failures seen, an empty list for none",
    "queue_s": "seconds between the proxy in front and this server (X-Request-Start); absent where nobody tells",
    "evidence": "by finding: severity, why no status told, and the facts that show it; absent without one",
    "exception": "type, message and frames of the exception that ended the request; absent without one",
}

# Span attributes: OpenTelemetry HTTP semantic conventions (stable), ours under obskit.
ATTR_METHOD: Final = "http.request.method"
ATTR_METHOD_ORIGINAL: Final = "http.request.method_original"
ATTR_ROUTE: Final = "http.route"
ATTR_STATUS: Final = "http.response.status_code"
ATTR_ERROR_TYPE: Final = "error.type"
ATTR_URL_PATH: Final = "url.path"
ATTR_URL_SCHEME: Final = "url.scheme"
ATTR_PROTOCOL_VERSION: Final = "network.protocol.version"
ATTR_SERVER_ADDRESS: Final = "server.address"
ATTR_SERVER_PORT: Final = "server.port"
ATTR_CLIENT_ADDRESS: Final = "client.address"
ATTR_USER_AGENT: Final = "user_agent.original"
ATTR_REQUEST_SIZE: Final = "http.request.body.size"
ATTR_RESPONSE_SIZE: Final = "http.response.body.size"
ATTR_OUTCOME: Final = "obskit.outcome"
ATTR_REQUEST_ID: Final = "obskit.request_id"
# Why a request was recorded that nobody sampled: error, finding, slow.
ATTR_KEPT: Final = "obskit.kept"
ATTR_FACT_PREFIX: Final = "obskit.fact."
ATTR_FINDINGS: Final = "obskit.findings"
# One event per finding on the span, and a log line of the same kind for what is found outside a request.
FINDING_EVENT: Final = "obskit.finding"
ATTR_FINDING: Final = "obskit.finding.name"
ATTR_FINDING_SEVERITY: Final = "obskit.finding.severity"
ATTR_FINDING_WHY: Final = "obskit.finding.why"
ATTR_FINDING_TIMES: Final = "obskit.finding.times"
ATTR_EVIDENCE_PREFIX: Final = "obskit.finding.evidence."
