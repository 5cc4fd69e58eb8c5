"""Dependencies: what does the service wait for, and what fails in it?"""

from __future__ import annotations

from pathlib import Path

from obskit_dashboards.board import Board, Row
from obskit_dashboards.panels import Panel, text, traces
from obskit_dashboards.queries import SPANS
from obskit_dashboards.variables import Variable

# Both names each: opentelemetry-instrumentation-* still writes the older ones unless told otherwise.
_OUTBOUND = f"{SPANS} && kind=client && (span.http.request.method!=nil || span.http.method!=nil)"
_DATABASE = f"{SPANS} && (span.db.system.name!=nil || span.db.system!=nil)"
_FAILED_ANSWER = "(status=error || span.http.response.status_code>=500 || span.http.status_code>=500)"
_MANY_CALLS = 20

_NOTE = """\
These panels read **traces**: spans of the installed `opentelemetry-instrumentation-*` packages, as far as they are
sampled. They show single calls. Rate, error ratio and p95 of outbound calls and database operations come with their
metrics, which obskit does not produce yet.

Empty tables: no Tempo is chosen above, no exporter is set (`OTEL_EXPORTER_OTLP_ENDPOINT`), or the client library in
use has no instrumentation installed.
"""


def board(grafana: Path) -> Board:
    """Outbound HTTP and database spans, from traces."""
    return Board(
        slug="dependencies",
        title="Dependencies",
        description="Outbound HTTP calls and database operations: the slow, the failed, and too many of them.",
        rows=(
            Row("About this dashboard", [_note()]),
            Row("Outbound HTTP", _outbound()),
            Row("Databases", _databases()),
        ),
        hidden=frozenset({"instance", "http_route", "http_request_method"}),
        extra=(
            Variable(
                "slower_than",
                "Slower than",
                "The least duration of what the slow tables show.",
                choices=("100ms", "10ms", "50ms", "250ms", "500ms", "1s", "5s"),
            ),
        ),
    )


def _note() -> Panel:
    return text(
        "What is shown here", "Where these figures come from, and what to do when there are none.", _NOTE
    )


def _outbound() -> list[Panel]:
    return [
        traces(
            "Slow outbound calls",
            "Calls of this service to others that took longer than chosen above, longest first. Open one: is "
            "it the only slow part of its request? Then ask the owner of that service, and check that the "
            "call has a timeout.",
            f"{{{_OUTBOUND} && duration>$slower_than}}",
            empty="none",
        ),
        traces(
            "Failed outbound calls",
            "Calls that raised or were answered with 5xx. Open one to see what its request made of it: a "
            "retry, an error, or a success with something missing.",
            f"{{{_OUTBOUND} && {_FAILED_ANSWER}}}",
            empty="none",
        ),
    ]


def _databases() -> list[Panel]:
    return [
        traces(
            "Slow database operations",
            "Operations that took longer than chosen above, longest first. The same statement again and "
            "again: an index is missing. All of them at once: locks, or the database itself.",
            f"{{{_DATABASE} && duration>$slower_than}}",
            empty="none",
        ),
        traces(
            "Failed database operations",
            "Operations that ended in an error. Timeouts and refused connections: the pool or the server is "
            "full. Conflicts: two requests for the same rows.",
            f"{{{_DATABASE} && status=error}}",
            empty="none",
        ),
        traces(
            "Requests with many database operations",
            f"Traces with more than {_MANY_CALLS}. Usually a query for each line of a list: load them together.",
            f"{{{_DATABASE}}} | count()>{_MANY_CALLS}",
            empty="none",
            spans=False,
            width=24,
        ),
    ]
