"""SLO: is the promise kept, how much of the budget is left, and how fast does it go?"""

from __future__ import annotations

from pathlib import Path

from obskit_dashboards.board import Board, Row
from obskit_dashboards.links import cell, to_board
from obskit_dashboards.panels import Column, Panel, stat, table, timeseries
from obskit_dashboards.queries import JOB, RANGE, Query
from obskit_dashboards.style import BUDGET_LEFT, BURN_RATE

_WHOLE = f'{JOB},http_route=""'
_NAME = "{{slo}} {{job}}"
_NO_RULES = "rules not loaded"
_RULES = " Needs the recording rules in grafana/rules."


def board(grafana: Path) -> Board:
    """Objectives, budgets and burn rates, all from recorded series."""
    return Board(
        slug="slo",
        title="SLO",
        description="Objective, success, error budget and burn rate of each service level objective, over 30 days.",
        rows=(Row("Each objective", _state()), Row("Burn rates", _burn()), Row("Bad requests", _bad())),
        hidden=frozenset({"instance", "http_route", "http_request_method"}),
        since="now-7d",
        refresh="5m",
    )


def _burn_rate(window: str, matchers: str = JOB) -> str:
    return (
        f"obskit:slo_error:ratio_rate{window}{{{matchers}}} "
        f"/ on (job, slo, http_route) (1 - obskit:slo_objective:ratio{{{matchers}}})"
    )


def _each(expr: str) -> str:
    # With the name of the series in one column and not in the others, the table would not join the lines.
    return f"max by (slo, job, http_route) ({expr})"


def _state() -> list[Panel]:
    return [
        stat(
            "Objective",
            "What was promised. Set with `obskit export --slo`." + _RULES,
            Query(f"obskit:slo_objective:ratio{{{_WHOLE}}}", _NAME),
            "percentunit",
            empty=_NO_RULES,
            names=True,
            width=8,
            height=6,
            decimals=2,
        ),
        stat(
            "Success over 30 days",
            "What was kept. Below the objective: the promise is broken, and reliability goes before features."
            + _RULES,
            Query(f"1 - obskit:slo_error:ratio_rate30d{{{_WHOLE}}}", _NAME),
            "percentunit",
            empty=_NO_RULES,
            names=True,
            width=8,
            height=6,
            decimals=3,
        ),
        stat(
            "Error budget left",
            "Share of the 30-day budget not yet spent. Near 0: no risky deploys. Below 0: it is overdrawn."
            + _RULES,
            Query(f"obskit:slo_error_budget:remaining_ratio{{{_WHOLE}}}", _NAME),
            "percentunit",
            empty=_NO_RULES,
            names=True,
            thresholds=BUDGET_LEFT,
            at_least=None,
            width=8,
            height=6,
            decimals=1,
        ),
        table(
            "All objectives",
            "Also those of single routes. Sort by burn rate to see which budget is being spent now: "
            "1 spends it in exactly 30 days, 14.4 in two." + _RULES,
            [
                Column("objective", _each(f"obskit:slo_objective:ratio{{{JOB}}}"), "percentunit"),
                Column("success 30d", _each(f"1 - obskit:slo_error:ratio_rate30d{{{JOB}}}"), "percentunit"),
                Column(
                    "budget left",
                    _each(f"obskit:slo_error_budget:remaining_ratio{{{JOB}}}"),
                    "percentunit",
                    BUDGET_LEFT,
                ),
                Column("burn rate 1h", _each(_burn_rate("1h")), "none", BURN_RATE),
                Column("burn rate 3d", _each(_burn_rate("3d")), "none", BURN_RATE),
            ],
            ("slo", "job", "http_route"),
            empty="-",
            sort="burn rate 1h",
            height=8,
            links={"http_route": [to_board("This route", "routes", http_route=cell("http_route"))]},
        ),
    ]


def _burn() -> list[Panel]:
    return [
        timeseries(
            f"Burn rate over {window}",
            about + " Rates of 1 spend the budget in exactly 30 days." + _RULES,
            Query(_burn_rate(window, _WHOLE), _NAME),
            "none",
            empty=_NO_RULES,
            thresholds=BURN_RATE,
        )
        for window, about in (
            ("5m", "What happens this minute; jumpy when there is little traffic."),
            ("1h", "Above 14.4 pages, when the 5 minutes agree: 2 % of the month's budget goes in an hour."),
            ("6h", "Above 6 pages, when the 30 minutes agree: 5 % of the budget goes in six hours."),
            ("3d", "Above 1 makes a ticket: at this rate the objective will be missed."),
        )
    ]


def _bad() -> list[Panel]:
    return [
        timeseries(
            "Bad requests per second",
            "What the budget is spent on: failed, cut off, or slower than the threshold. A peak "
            "spends what a low plateau spends in days. Open Routes at that time to see which "
            "requests." + _RULES,
            Query(f"obskit:slo_bad:rate5m{{{_WHOLE}}}", _NAME),
            "reqps",
            empty=_NO_RULES,
            bars=True,
        ),
        timeseries(
            "Error budget left over time",
            "A steep fall is an incident, a steady slope a fault nobody has looked at. It rises "
            "again only as bad days leave the 30-day window." + _RULES,
            Query(f"obskit:slo_error_budget:remaining_ratio{{{_WHOLE}}}", _NAME),
            "percentunit",
            empty=_NO_RULES,
            at_least=None,
            at_most=1,
        ),
        stat(
            "Bad requests in this range",
            "How many users' requests went wrong in the chosen range." + _RULES,
            Query(f"avg_over_time(obskit:slo_bad:rate5m{{{_WHOLE}}}[{RANGE}]) * $__range_s", _NAME),
            "short",
            empty=_NO_RULES,
            names=True,
            width=12,
            height=6,
            decimals=0,
        ),
        stat(
            "Requests in this range",
            "How many requests were judged." + _RULES,
            Query(f"avg_over_time(obskit:slo_total:rate5m{{{_WHOLE}}}[{RANGE}]) * $__range_s", _NAME),
            "short",
            empty=_NO_RULES,
            names=True,
            width=12,
            height=6,
            decimals=0,
        ),
    ]
