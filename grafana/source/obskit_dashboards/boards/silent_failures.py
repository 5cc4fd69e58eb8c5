"""Silent failures: what went wrong although the status code said otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from obskit_dashboards.board import Board, Row
from obskit_dashboards.links import cell, series, to_board, to_logs
from obskit_dashboards.panels import NO_TRAFFIC, Column, Panel, logs, stat, table, text, timeseries
from obskit_dashboards.queries import (
    CANONICAL,
    EXCEPTIONS,
    NOW,
    OUTCOMES,
    ROUTE,
    Query,
    events,
    increase,
    or_zero,
    rate,
    share,
)
from obskit_dashboards.style import ANY_IS_BAD, ERROR_RATIO
from obskit_dashboards.style import OUTCOMES as COLOURS


@dataclass(frozen=True)
class SilentFailure:
    """One way to fail silently: the PromQL matcher and LogQL filter that find it, why no status told, what to do."""

    name: str
    metric: str
    matcher: str
    log_filter: str
    why: str
    do: str

    @property
    def matchers(self) -> str:
        """The chosen routes' failures of this kind."""
        return f"{ROUTE},{self.matcher}"


def _outcome(name: str, why: str, do: str) -> SilentFailure:
    return SilentFailure(name, OUTCOMES, f'outcome="{name}"', f'| outcome="{name}"', why, do)


# One row of the dashboard each, in this order. What finds further failures adds its line here.
FAILURES: tuple[SilentFailure, ...] = (
    _outcome(
        "client_disconnect",
        "The client left before the last byte. The status had been decided, often 200, and nobody was there "
        "to read it.",
        "Compare with the duration of the route: clients leave when they have waited too long. Only one user "
        "agent: its own timeout. All at once: a proxy in front was restarted.",
    ),
    _outcome(
        "truncated",
        "Fewer bytes than declared were sent, or the last part never came. The status went out first and "
        "said success; the client holds a broken body.",
        "Look at what the response is made from: a generator that ended early, a file that changed, a wrong "
        "Content-Length.",
    ),
    _outcome(
        "raised_after_headers",
        "An exception came after the status had been sent. It cannot be taken back: logs of proxies show "
        "200.",
        "Read the exception in the log line. Work that can fail belongs before the first byte.",
    ),
    _outcome(
        "no_response",
        "The application returned without an answer. The server made one up (500), or cut the connection; "
        "the application's own error handling never saw it.",
        "Look for a path through the handler that returns nothing, or a middleware that swallows what it "
        "should pass on.",
    ),
    _outcome(
        "cancelled",
        "The server cancelled the work while the client was still there: a shutdown, or a timeout of its "
        "own. No exception handler of the application runs for it.",
        "At a deploy line: the grace period is shorter than the longest request. Otherwise: find the "
        "timeout.",
    ),
    _outcome(
        "timeout",
        "The server gave up on the request. Whatever status the client sees comes from a layer in front.",
        "Open a trace of the route and see what it waits for; then compare the timeouts of all layers.",
    ),
    _outcome(
        "unknown",
        "The server gives no way to tell how the request ended, so its status proves nothing.",
        "Nothing to repair in the application: docs/servers.md says which servers let us see more.",
    ),
)

_EVERY = rate(OUTCOMES, ROUTE)
_NOT_COMPLETED = 'outcome!="completed"'
_LINES = f'{CANONICAL} | http_route=~"$http_route" | outcome!="completed"'


def board(grafana: Path) -> Board:
    """An overview of how requests ended, then one row for each silent failure."""
    return Board(
        slug="silent-failures",
        title="Silent failures",
        description="Requests that failed without a status code that says so, each kind with the reason why not.",
        rows=(
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


def _failure(failure: SilentFailure) -> list[Panel]:
    counted = events(failure.metric, failure.matchers)
    about = f"{failure.why} {failure.do}"
    return [
        text(
            f"{failure.name}: what it is",
            about,
            f"**Why the status did not show it.** {failure.why}\n\n**What to do.** {failure.do}",
            width=8,
            height=7,
        ),
        stat(
            f"{failure.name}: in this range",
            about,
            Query(or_zero(counted, increase(failure.metric, ROUTE))),
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
                    rate(failure.metric, ROUTE, "http_route"),
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
    ]


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
            "Log lines of requests that did not complete",
            "Their canonical lines: outcome, bytes, duration, ids. Open one and follow its trace_id. Empty "
            "although panels above count some: the log streams have no label service_name.",
            _LINES,
        )
    ]
