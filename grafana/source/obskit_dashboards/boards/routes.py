"""Routes: which of them, and what about it?"""

from __future__ import annotations

from pathlib import Path

from obskit_dashboards.board import Board, Row
from obskit_dashboards.links import cell, series, to_board, to_logs, to_traces
from obskit_dashboards.panels import Column, Panel, logs, table, timeseries, traces
from obskit_dashboards.queries import (
    CANONICAL,
    CHOSEN,
    RANGE,
    REQUESTS,
    ROUTE_METHOD,
    SPANS,
    Query,
    increase,
    quantile,
    rate,
    share,
    status,
)
from obskit_dashboards.style import CLIENT_ERROR_RATIO, ERROR_RATIO, LATENCY

_COUNT = f"{REQUESTS}_count"
_FIRST_BYTE = "http_server_time_to_first_byte_seconds"
_LABELS = ("http_route", "http_request_method", "job")
_BY = ", ".join(_LABELS)
_ROUTE = "{{http_route}}"


def board(grafana: Path) -> Board:
    """All routes as a table, the chosen ones in detail."""
    return Board(
        slug="routes",
        title="Routes",
        description="Every route with rate, errors, duration and share of time; a row leads to its logs and traces.",
        rows=(
            Row("All routes in this range", [_routes()]),
            Row("The chosen routes", _detail()),
            Row("Sizes", _sizes()),
            Row("Their requests", _requests()),
        ),
    )


def _routes() -> Panel:
    counted = increase(_COUNT, ROUTE_METHOD, _BY)
    spent = increase(f"{REQUESTS}_sum", ROUTE_METHOD, _BY)
    route = cell("http_route")
    return table(
        "Routes",
        "Over the chosen range. Click a route for its detail below, its log lines or its traces. Sort by 5xx "
        "to find what fails, by p95 to find what is slow, by share of time to find what is worth improving. "
        "`unmatched` is every 404 that no route answers, `other` all routes beyond the series limit.",
        [
            Column("rate", f"{counted} / $__range_s", "reqps"),
            Column("requests", counted, "short"),
            Column(
                "4xx",
                share(increase(_COUNT, status(ROUTE_METHOD, "4.."), _BY), counted),
                "percentunit",
                CLIENT_ERROR_RATIO,
            ),
            Column(
                "5xx",
                share(increase(_COUNT, status(ROUTE_METHOD, "5.."), _BY), counted),
                "percentunit",
                ERROR_RATIO,
            ),
            Column("p50", quantile(0.5, ROUTE_METHOD, by=_BY, over=RANGE), "s"),
            Column("p95", quantile(0.95, ROUTE_METHOD, by=_BY, over=RANGE), "s", LATENCY),
            Column("share of time", f"{spent} / on () group_left () (sum({spent}) > 0)", "percentunit"),
        ],
        _LABELS,
        empty="-",
        sort="rate",
        height=12,
        links={
            "http_route": [
                to_board("Only this route", "routes", http_route=route),
                to_logs("Its log lines", f"| http_route=`{route}`"),
                to_traces("Its traces", f'span.http.route="{route}"'),
                to_board("How its requests ended", "silent-failures", http_route=route),
            ],
            "http_request_method": [
                to_board("Only this method", "routes", http_request_method=cell("http_request_method"))
            ],
        },
    )


def _detail() -> list[Panel]:
    by = "http_route"
    every = rate(_COUNT, ROUTE_METHOD, by)
    links = [to_board("Only this route", "routes", http_route=series("http_route"))]
    return [
        timeseries(
            "Requests by route",
            "A route that falls to zero alone: nobody can reach it, or a deploy renamed it.",
            Query(every, _ROUTE),
            "reqps",
            links=links,
        ),
        timeseries(
            "5xx share by route",
            "Share of each route's requests that were answered with 5xx. One route: its code or what only it "
            "calls. All at once: something they share.",
            Query(share(rate(_COUNT, status(ROUTE_METHOD, "5.."), by), every), _ROUTE),
            "percentunit",
            thresholds=ERROR_RATIO,
            links=links,
        ),
        timeseries(
            "p95 duration by route",
            "To the last byte. Click a point beside the curves for the trace of one such request.",
            Query(quantile(0.95, ROUTE_METHOD, by=by), _ROUTE, exemplar=True),
            "s",
            thresholds=LATENCY,
            links=links,
        ),
        timeseries(
            "p95 time to first byte by route",
            "Until the first byte of the body. Much shorter than the duration: the time goes into sending "
            "(large bodies, slow clients, streams). Equal: it goes into working the answer out.",
            Query(quantile(0.95, ROUTE_METHOD, metric=_FIRST_BYTE, by=by), _ROUTE),
            "s",
            thresholds=LATENCY,
            links=links,
        ),
        timeseries(
            "4xx share by route",
            "Share of each route's requests that were answered with 4xx. A step up: a client was deployed, "
            "credentials ran out, or a validation became stricter.",
            Query(share(rate(_COUNT, status(ROUTE_METHOD, "4.."), by), every), _ROUTE),
            "percentunit",
            thresholds=CLIENT_ERROR_RATIO,
            links=links,
        ),
        timeseries(
            "Errors by type",
            "Responses that failed, by `error_type`: the status of a 5xx, or the exception that cut a "
            "response off.",
            Query(
                rate(_COUNT, f'{ROUTE_METHOD},error_type!=""', "http_route, error_type"),
                "{{error_type}} {{http_route}}",
            ),
            "reqps",
            empty="no errors",
        ),
    ]


def _sizes() -> list[Panel]:
    return [
        timeseries(
            "Request body size",
            "p50 and p95 of what clients sent. Growing p95: uploads that belong elsewhere, or a client "
            "sending too much.",
            _size("http_server_request_body_size_bytes"),
            "bytes",
        ),
        timeseries(
            "Response body size",
            "p50 and p95 of what was answered. Growing with the data: a list without a page limit.",
            _size("http_server_response_body_size_bytes"),
            "bytes",
        ),
    ]


def _size(metric: str) -> list[Query]:
    return [
        Query(quantile(q, ROUTE_METHOD, metric=metric, by="http_route"), f"p{q * 100:.0f} {_ROUTE}")
        for q in (0.5, 0.95)
    ]


def _requests() -> list[Panel]:
    return [
        logs(
            "Log lines",
            "The canonical line of each request of the chosen routes: status, outcome, duration, ids. Open "
            "one and follow its trace_id. Empty although there is traffic: the log streams have no label "
            "service_name.",
            f"{CANONICAL} | {CHOSEN}",
        ),
        traces(
            "Slow requests",
            "SERVER spans of the chosen routes of more than half a second, longest first. Open one to see "
            "what it waited for.",
            f'{{{SPANS} && kind=server && span.http.route=~"$http_route" && duration>500ms}}',
            empty="none",
        ),
        traces(
            "Failed requests",
            "SERVER spans of the chosen routes that ended in an error. Open one for the exception.",
            f'{{{SPANS} && kind=server && span.http.route=~"$http_route" && status=error}}',
            empty="none",
        ),
    ]
