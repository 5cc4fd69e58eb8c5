"""Silent failures: what went wrong although the status code said otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from obskit.detectors import shipped
from obskit_dashboards.board import Board, Row
from obskit_dashboards.links import cell, series, to_board, to_logs
from obskit_dashboards.panels import NO_TRAFFIC, Column, Panel, logs, stat, table, text, timeseries, traces
from obskit_dashboards.queries import (
    CANONICAL,
    EXCEPTIONS,
    NOW,
    OUTCOMES,
    ROUTE,
    SERVICE,
    SPANS,
    Query,
    events,
    increase,
    or_zero,
    rate,
    share,
)
from obskit_dashboards.style import AMPLIFIED, ANY_IS_BAD, ERROR_RATIO
from obskit_dashboards.style import OUTCOMES as COLOURS

FOUND = "obskit_findings_total"
CHECKED = "obskit_invariant_checks_total"
DUPLICATES = "obskit_duplicate_requests_total"
LOST = "obskit_sessions_lost_total"
PARTIAL = "obskit_partial_writes_total"


@dataclass(frozen=True)
class SilentFailure:
    """One way to fail silently: the PromQL matcher and LogQL filter that find it, and what its row says."""

    name: str
    metric: str
    matcher: str
    log_filter: str
    what: str
    why: str
    do: str

    @property
    def matchers(self) -> str:
        """The chosen routes' failures of this kind."""
        return f"{ROUTE},{self.matcher}"


# What to do about each finding of a detector that ships with obskit. The rest of its row is its declaration.
DO: dict[str, str] = {
    "background_failure": "Read the exception in the log line and do again what was lost: nothing else remembers it. "
    "Work that must happen belongs into a queue.",
    "cancelled": "At a deploy line: the grace period is shorter than the longest request. Otherwise: find the timeout.",
    "client_disconnect": "Compare with the duration of the route: clients leave when they have waited too long. Only "
    "one user agent: its own timeout. All at once: a proxy in front was restarted.",
    "duplicate_request": "See by kind what it is: a double click and a reload want an idempotency key and a button "
    "that is disabled; a retry wants its cause removed. Then look for what was done twice.",
    "empty_success": "Look at what the answer is made from: a replica that lags, an index, a filter, a flag. Stop what "
    "acts upon the list until it is whole again.",
    "event_loop_blocked": "`where` in the log line is the code: make it asynchronous, or give it to a thread.",
    "invariant_failed": "Look for the name in the code; the facts in the log line are those that its developer wanted "
    "to see. If wrong data is being written, stop the route.",
    "no_response": "Look for a path through the handler that returns nothing, or a middleware that swallows what it "
    "should pass on.",
    "partial_write": "Stop making more, save the log lines, and repair from them: `done` and `missing` say what to "
    "finish or undo, the bound facts whose it is.",
    "raised_after_headers": "Read the exception in the log line. Work that can fail belongs before the first byte.",
    "request_stuck": "`where` is the line it hangs in, `doing` what it waits for. `obskit doctor --stacks PID` shows "
    "all that is in flight: the same line many times is the cause.",
    "retry_storm": "Take the cause away (what fails, what is slow) and shed load early with 429 or 503 and "
    "Retry-After. Then give clients backoff, jitter and a budget.",
    "session_lost": "See by reason: `bad_signature` means that secret keys differ, `missing` that the store forgot, "
    "`expired` that an age or a clock is wrong.",
    "soft_error": "The key in the evidence says what gave it away. Find what failed in the trace, and let the route "
    "answer with a status that says so.",
    "timeout": "Open a trace of the route and see what it waits for; then compare the timeouts of all layers.",
    "truncated_request": "`answered` with a 2xx: a part was taken for the whole, look for it in the data. Else compare "
    "bytes and seconds with the limits of the layers in front.",
    "truncated_response": "Look at what the response is made from: a generator that ended early or raised, a file that "
    "changed, a wrong Content-Length.",
    "worker_died": "`reason` says why: `oom` wants memory, `timeout` a look at the route, `died` the log of the server "
    "and of the kernel. Each lost request has its line: do again what must not be lost.",
}

# One row of the dashboard each, in this order.
FAILURES: tuple[SilentFailure, ...] = (
    *(
        SilentFailure(
            one.name,
            FOUND,
            f'finding="{one.name}"',
            # The names stand in a list, of which Loki's JSON makes no label.
            f'|= `"{one.name}"`',
            one.help,
            one.why,
            DO[one.name],
        )
        for one in shipped()
    ),
    SilentFailure(
        "unknown",
        OUTCOMES,
        'outcome="unknown"',
        '| outcome="unknown"',
        "Nobody knows how the request ended.",
        "The server gives no way to tell, so its status proves nothing.",
        "Nothing to repair in the application: docs/servers.md says which servers let us see more.",
    ),
)

_EVERY = rate(OUTCOMES, ROUTE)
_CHOSEN = 'event="http.request" | http_route=~"$http_route"'
_NOT_COMPLETED = 'outcome!="completed"'
_LINES = f'{CANONICAL} | http_route=~"$http_route" | outcome!="completed"'
_WITH_FINDINGS = f'{{service_name=~"$service"}} |~ `"findings":\\["` | json | {_CHOSEN}'


def board(grafana: Path) -> Board:
    """An overview of how requests ended, then one row for each silent failure."""
    return Board(
        slug="silent-failures",
        title="Silent failures",
        description="Requests that failed without a status code that says so, each kind with the reason why not.",
        rows=(
            Row("What was found", _found()),
            Row("How requests really ended", _ends()),
            *(
                Row(f"{failure.name}: why the status did not show it", _failure(failure))
                for failure in FAILURES
            ),
            Row("Exceptions", _exceptions()),
            Row("The requests", _requests()),
        ),
        hidden=frozenset({"http_request_method"}),
    )


def _ends() -> list[Panel]:
    by = "http_route, job"
    ended = increase(OUTCOMES, ROUTE, by)
    return [
        stat(
            "Not completed",
            "Share of requests and WebSocket connections that did not end as they should. Compare with the "
            "5xx share on Overview: the difference is what no status showed.",
            Query(share(rate(OUTCOMES, f"{ROUTE},{_NOT_COMPLETED}"), _EVERY)),
            "percentunit",
            empty=NO_TRAFFIC,
            thresholds=ERROR_RATIO,
            width=6,
            height=8,
        ),
        timeseries(
            "Requests that did not complete",
            "By how they ended. The row of that outcome says what it means and what to look at.",
            Query(rate(OUTCOMES, f"{ROUTE},{_NOT_COMPLETED}", "outcome"), "{{outcome}}"),
            "reqps",
            empty="none",
            colours=COLOURS,
            stacked=True,
            width=18,
            links=[to_logs("Their log lines", f"| outcome=`{series('outcome')}`")],
        ),
        timeseries(
            "All requests by outcome",
            "Completed ones included, WebSocket connections too. More than the requests on Overview: those "
            "are WebSockets.",
            Query(rate(OUTCOMES, ROUTE, "outcome"), "{{outcome}}"),
            "reqps",
            colours=COLOURS,
            stacked=True,
        ),
        table(
            "Not completed by route",
            "Which routes lose requests, over the chosen range. Click a route for its log lines.",
            [
                Column(
                    "not completed",
                    share(increase(OUTCOMES, f"{ROUTE},{_NOT_COMPLETED}", by), ended),
                    "percentunit",
                    ERROR_RATIO,
                ),
                Column("requests", f"{ended} > 0", "short"),
            ],
            ("http_route", "job"),
            empty="-",
            sort="not completed",
            width=12,
            height=8,
            links={
                "http_route": [
                    to_board("Only this route", "silent-failures", http_route=cell("http_route")),
                    to_logs("Its log lines", f'| http_route=`{cell("http_route")}` | outcome!="completed"'),
                ]
            },
        ),
    ]


def _found() -> list[Panel]:
    return [
        timeseries(
            "Findings over time",
            "Silent failures by name, those of the application's own detectors too. The row of that name says what it "
            "means and what to do.",
            Query(events(FOUND, ROUTE, "finding", NOW), "{{finding}}"),
            "short",
            empty="none",
            bars=True,
            stacked=True,
            links=[to_logs("Their log lines", f'|= `"{series("finding")}"`')],
        ),
        table(
            "Findings",
            "What was found where, over the chosen range. Click a name for the log lines with the evidence, a route "
            "for its dashboard. Without a route: outside of any request.",
            [Column("count", f"{events(FOUND, ROUTE, 'finding, http_route, job')} > 0", "short")],
            ("finding", "http_route", "job"),
            empty="none",
            sort="count",
            width=12,
            height=8,
            links={
                "finding": [to_logs("Log lines", f'|= `"{cell("finding")}"`')],
                "http_route": [to_board("This route", "routes", http_route=cell("http_route"))],
            },
        ),
    ]


def _failure(failure: SilentFailure) -> list[Panel]:
    counted = events(failure.metric, failure.matchers)
    about = f"{failure.what} {failure.why} {failure.do}"
    return [
        text(
            f"{failure.name}: what it is",
            about,
            f"{failure.what}\n\n**Why the status did not show it.** {failure.why}\n\n**What to do.** {failure.do}",
            width=8,
            height=7,
        ),
        stat(
            f"{failure.name}: in this range",
            about,
            Query(or_zero(counted, increase(OUTCOMES, ROUTE))),
            "short",
            empty=NO_TRAFFIC,
            thresholds=ANY_IS_BAD,
            height=7,
            decimals=0,
        ),
        timeseries(
            f"{failure.name}: by route",
            about,
            Query(
                or_zero(
                    events(failure.metric, failure.matchers, "http_route", NOW),
                    rate(OUTCOMES, ROUTE, "http_route"),
                ),
                "{{http_route}}",
            ),
            "short",
            bars=True,
            height=7,
            links=[
                to_logs("Their log lines", f"| http_route=`{series('http_route')}` {failure.log_filter}"),
                to_board("This route", "routes", http_route=series("http_route")),
            ],
        ),
        *_MORE.get(failure.name, list)(),
    ]


def _kinds(title: str, about: str, metric: str, matchers: str, label: str) -> Panel:
    """How often each kind of a finding was seen, over time."""
    return timeseries(
        title,
        about,
        Query(events(metric, matchers, label, NOW), f"{{{{{label}}}}}"),
        "short",
        empty="none",
        bars=True,
        stacked=True,
        width=24,
        height=7,
    )


def _duplicates() -> list[Panel]:
    return [
        _kinds(
            "duplicate_request: by kind",
            "`concurrent`: both ran at once, a double click. `repeat`: the first had succeeded, so it was done twice. "
            "`retry_after_error` and `retry_after_abort`: the client did not get what it wanted; find out why.",
            DUPLICATES,
            ROUTE,
            "kind",
        )
    ]


def _amplification() -> list[Panel]:
    attempts = rate(OUTCOMES, ROUTE, "http_route")
    operations = f"({attempts} - {or_zero(rate(DUPLICATES, ROUTE, 'http_route'), attempts)})"
    return [
        timeseries(
            "retry_storm: attempts per operation",
            "1 is what it should be: every request is wanted once. At 2 half of the work is repetition, and a route "
            "that was slow is made slower by it. Look at the kinds of duplicate_request for the reason.",
            Query(f"{attempts} / ({operations} > 0)", "{{http_route}}"),
            "short",
            thresholds=AMPLIFIED,
            width=24,
            height=7,
        )
    ]


def _lost_sessions() -> list[Panel]:
    return [
        _kinds(
            "session_lost: by reason",
            "A wall of `bad_signature` from one moment on: secret keys differ between workers or releases. `missing`: "
            "the session store was emptied or is full. `expired`: look for its age in the settings, and at clocks.",
            LOST,
            SERVICE,
            "reason",
        )
    ]


def _partial_writes() -> list[Panel]:
    return [
        _kinds(
            "partial_write: by kind",
            "`unit_of_work`: a declared unit was left with some steps done and others not. Each is somebody's data, to "
            "be repaired from the log lines.",
            PARTIAL,
            ROUTE,
            "kind",
        )
    ]


def _invariants() -> list[Panel]:
    failed = f'{SERVICE},result="failed"'
    by = "invariant, job"
    held = increase(CHECKED, f'{SERVICE},result="held"', by)
    return [
        table(
            "invariant_failed: held and failed",
            "Every assumption that was checked in this range. One that fails always: the check or a deploy is wrong. "
            "One that fails now and then depends on the data; its facts are in the log lines.",
            [
                Column("failed", or_zero(events(CHECKED, failed, by), held), "short", ANY_IS_BAD),
                Column("held", held, "short"),
            ],
            ("invariant", "job"),
            empty="none checked",
            sort="failed",
            height=7,
            links={"invariant": [to_logs("Log lines", f'|= `"{cell("invariant")}"`')]},
        )
    ]


# What a finding has beside its count.
_MORE: dict[str, Callable[[], list[Panel]]] = {
    "duplicate_request": _duplicates,
    "invariant_failed": _invariants,
    "partial_write": _partial_writes,
    "retry_storm": _amplification,
    "session_lost": _lost_sessions,
}


def _exceptions() -> list[Panel]:
    return [
        timeseries(
            "Exceptions by type",
            "What ended requests or their background work. A type that was not there before a deploy line "
            "came with it.",
            Query(rate(EXCEPTIONS, ROUTE, "exception_type"), "{{exception_type}}"),
            "ops",
            empty="none",
            stacked=True,
        ),
        timeseries(
            "Exceptions, handled and not",
            "Unhandled ones went through the application to the server: the client got a bare 500 or a cut "
            "connection. Handled ones became an answer of the application, an error page or body.",
            [
                Query(
                    or_zero(rate(EXCEPTIONS, f'{ROUTE},handled="false"'), rate(EXCEPTIONS, ROUTE)),
                    "unhandled",
                ),
                Query(
                    or_zero(rate(EXCEPTIONS, f'{ROUTE},handled="true"'), rate(EXCEPTIONS, ROUTE)), "handled"
                ),
            ],
            "ops",
            empty="none",
            colours={"/^unhandled/": "red", "/^handled/": "yellow"},
        ),
        table(
            "Exceptions in this range",
            "By type, route and whether the client still got an answer. Click a type for the log lines with "
            "the stack.",
            [
                Column(
                    "count",
                    f"{events(EXCEPTIONS, ROUTE, 'exception_type, http_route, handled, job')} > 0",
                    "short",
                )
            ],
            ("exception_type", "http_route", "handled", "job"),
            empty="none",
            sort="count",
            links={
                "exception_type": [
                    to_logs(
                        "Log lines",
                        # The line has the class with its module.
                        f"| http_route=`{cell('http_route')}` | exception_type=~`(.+[.])?{cell('exception_type')}`",
                    )
                ],
                "http_route": [to_board("This route", "routes", http_route=cell("http_route"))],
            },
        ),
    ]


def _requests() -> list[Panel]:
    return [
        logs(
            "Log lines of requests with findings",
            "Their canonical lines. `evidence` holds for each finding why no status told, and the facts that show it. "
            "Empty although panels above count some: the log streams have no label service_name.",
            _WITH_FINDINGS,
        ),
        logs(
            "Log lines of requests that did not complete",
            "Their canonical lines: outcome, bytes, duration, ids. Open one and follow its trace_id. Empty "
            "although panels above count some: the log streams have no label service_name.",
            _LINES,
        ),
        traces(
            "Traces of requests with findings",
            "SERVER spans with an event for each finding. Open one and see what happened before it.",
            f'{{{SPANS} && kind=server && span.http.route=~"$http_route" && event.obskit.finding.name=~".+"}}',
            empty="none",
            width=24,
        ),
    ]
