"""Overview: is it healthy now, and since when not?"""

from __future__ import annotations

from pathlib import Path

from obskit_dashboards.board import Board, Row
from obskit_dashboards.links import cell, to_board
from obskit_dashboards.panels import NO_TRAFFIC, Column, Panel, heatmap, stat, table, timeseries
from obskit_dashboards.queries import (
    METHOD,
    NOW,
    REQUESTS,
    ROUTE_METHOD,
    SERVICE,
    Query,
    increase,
    or_zero,
    quantile,
    rate,
    share,
    status,
)
from obskit_dashboards.style import (
    ANY_IS_BAD,
    BUDGET_LEFT,
    CLIENT_ERROR_RATIO,
    ERROR_RATIO,
    INSTANCES,
    LATENCY,
    QUANTILES,
    STATUS,
)

_COUNT = f"{REQUESTS}_count"
_ALL = rate(_COUNT, ROUTE_METHOD)
_LAST_WEEK = " offset 1w"

# An alert without job (a service that is gone altogether) belongs to every choice of jobs.
_FIRING = 'ALERTS{alertstate="firing",alertname=~"Obskit.+",alertname!="ObskitWatchdog",job=~"$job|"}'


def _class(name: str, pattern: str) -> Query:
    return Query(or_zero(rate(_COUNT, status(ROUTE_METHOD, pattern)), _ALL), name)


def _quantiles() -> list[Query]:
    return [Query(quantile(q, ROUTE_METHOD), f"p{q * 100:.0f}", exemplar=True) for q in (0.5, 0.95, 0.99)]


def board(grafana: Path) -> Board:
    """The first dashboard to open."""
    return Board(
        slug="overview",
        title="Overview",
        description="Is the service healthy now? Rate, errors, duration, what fires, and what changed.",
        rows=(
            Row("Now", _now()),
            Row("Traffic and errors", _traffic()),
            Row("How long requests take", _duration()),
        ),
    )


def _now() -> list[Panel]:
    errors = share(rate(_COUNT, status(ROUTE_METHOD, "5..")), _ALL)
    routes = [to_board("Which routes", "routes")]
    return [
        stat(
            "Requests per second",
            "How much is asked of the service. Zero while users are there: look at Instances, then at what "
            "stands in front of the service.",
            Query(_ALL),
            "reqps",
            empty=NO_TRAFFIC,
        ),
        stat(
            "Error ratio",
            "Share of requests answered with 5xx. When red, open Routes to see where, then the exceptions on "
            "Silent failures and the logs of that route.",
            Query(errors),
            "percentunit",
            empty=NO_TRAFFIC,
            thresholds=ERROR_RATIO,
            links=routes,
        ),
        stat(
            "p95 duration",
            "19 of 20 requests are answered faster, to the last byte. When red, compare with time to first "
            "byte on Routes, and open a slow trace from an exemplar below.",
            Query(quantile(0.95, ROUTE_METHOD)),
            "s",
            empty=NO_TRAFFIC,
            thresholds=LATENCY,
            links=routes,
        ),
        stat(
            "In flight",
            "Requests being worked on now. Rising while the rate does not: they are waiting for something. "
            "See Runtime.",
            Query(f"sum(http_server_active_requests{{{SERVICE},{METHOD}}})"),
            "short",
            empty="no data",
            links=[to_board("Runtime", "runtime")],
        ),
        stat(
            "Instances",
            "Processes that Prometheus reaches. Fewer than you run: see Targets on Telemetry.",
            Query(
                f"sum(up{{{SERVICE}}} * on (job, instance) group_left () group by (job, instance) "
                f"(last_over_time(obskit_app_info{{{SERVICE}}}[1d])))"
            ),
            "short",
            empty="none",
            thresholds=INSTANCES,
            links=[to_board("Targets", "telemetry")],
        ),
        stat(
            "Alerts firing",
            "Alerts of obskit's rules that fire for the chosen jobs. The list is below.",
            Query(f"count({_FIRING}) or vector(0)"),
            "short",
            empty="0",
            thresholds=ANY_IS_BAD,
        ),
        stat(
            "Error budget left",
            "Share of the 30-day error budget that is not spent. Near 0: stop risky deploys. Below 0: the "
            "objective is missed. Needs the recording rules in grafana/rules.",
            Query(
                'min by (slo) (obskit:slo_error_budget:remaining_ratio{job=~"$job",http_route=""})', "{{slo}}"
            ),
            "percentunit",
            empty="rules not loaded",
            thresholds=BUDGET_LEFT,
            at_least=None,
            names=True,
            width=8,
            height=8,
            links=[to_board("SLO", "slo")],
        ),
        table(
            "Firing now",
            "What fires for the chosen jobs. Each alert has its runbook on the dashboard Runbooks, under its "
            "own name.",
            [Column("firing", f"max by (alertname, severity, job, http_route, slo) ({_FIRING})", "short")],
            ("severity", "alertname", "job", "http_route", "slo"),
            empty="nothing fires",
            sort="severity",
            descending=False,
            width=16,
            height=8,
            hide_values=True,
            links={
                "alertname": [to_board("Runbooks", "runbooks", job=cell("job"))],
                "http_route": [to_board("This route", "routes", http_route=cell("http_route"))],
            },
        ),
    ]


def _traffic() -> list[Panel]:
    return [
        timeseries(
            "Requests by status",
            "What was answered. 5xx: the service failed. 4xx rising: a client, a deploy of one, or a broken "
            "link. No status: nothing was answered at all.",
            [
                _class("2xx", "2.."),
                _class("3xx", "3.."),
                _class("4xx", "4.."),
                _class("5xx", "5.."),
                Query(
                    or_zero(rate(_COUNT, f'{ROUTE_METHOD},http_response_status_code=""'), _ALL), "no status"
                ),
            ],
            "reqps",
            colours=STATUS,
            stacked=True,
        ),
        timeseries(
            "Error ratios",
            "Shares of requests answered with 4xx and 5xx. A step up at a deploy line: roll back first, ask "
            "later.",
            [
                Query(share(rate(_COUNT, status(ROUTE_METHOD, "4..")), _ALL), "4xx"),
                Query(share(rate(_COUNT, status(ROUTE_METHOD, "5..")), _ALL), "5xx"),
            ],
            "percentunit",
            colours=STATUS,
        ),
        timeseries(
            "Requests against last week",
            "The rate now and at the same time a week ago. Well below: users cannot reach the service, or "
            "something in front of it turns them away.",
            [Query(_ALL, "now"), Query(rate(_COUNT, ROUTE_METHOD, suffix=_LAST_WEEK), "a week ago")],
            "reqps",
            dashed=("/^a week ago/",),
        ),
        timeseries(
            "Requests in flight",
            "Work that is waiting or being done, by method. A curve that only rises: requests get stuck. See "
            "Runtime.",
            Query(
                f"sum by (http_request_method) (http_server_active_requests{{{SERVICE},{METHOD}}})",
                "{{http_request_method}}",
            ),
            "short",
            empty="no data",
            stacked=True,
        ),
    ]


def _duration() -> list[Panel]:
    busiest = (
        f"topk(10, {increase(f'{REQUESTS}_sum', ROUTE_METHOD, 'job, http_route, http_request_method')} > 0)"
    )
    by = "job, http_route, http_request_method"
    counted = increase(_COUNT, ROUTE_METHOD, by)
    return [
        timeseries(
            "Duration",
            "To the last byte. p99 far from p50: some requests are different (a route, a tenant, a cold "
            "cache). Click a point beside the curves to open the trace of one such request.",
            _quantiles(),
            "s",
            colours=QUANTILES,
            thresholds=LATENCY,
        ),
        heatmap(
            "Duration of all requests",
            "Each cell is the number of requests of that duration. Two bands are two kinds of request; a "
            "band that wanders up is something filling up.",
            Query(
                f"sum by (le) (increase({REQUESTS}_bucket{{{ROUTE_METHOD}}}[{NOW}]))", "{{le}}", exemplar=True
            ),
            "s",
        ),
        table(
            "Where the time goes",
            "The ten routes that took most time in this range, all their requests together: where an "
            "improvement pays.",
            [
                Column("total time", busiest, "s"),
                Column("requests", f"{counted} and {busiest}", "short"),
                Column(
                    "5xx",
                    f"{share(increase(_COUNT, status(ROUTE_METHOD, '5..'), by), counted)} and {busiest}",
                    "percentunit",
                    ERROR_RATIO,
                ),
                Column(
                    "4xx",
                    f"{share(increase(_COUNT, status(ROUTE_METHOD, '4..'), by), counted)} and {busiest}",
                    "percentunit",
                    CLIENT_ERROR_RATIO,
                ),
            ],
            ("http_route", "http_request_method", "job"),
            empty="-",
            sort="total time",
            links={"http_route": [to_board("This route", "routes", http_route=cell("http_route"))]},
        ),
        stat(
            "What runs here",
            "Versions in service. Two of one service: a deploy is under way, or one got stuck.",
            Query(
                f"count by (service_name, service_version) (obskit_app_info{{{SERVICE}}})",
                "{{service_name}} {{service_version}}",
            ),
            "short",
            empty="none",
            names=True,
            width=24,
            height=4,
        ),
    ]
