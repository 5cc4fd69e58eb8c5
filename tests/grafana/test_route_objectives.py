"""Objectives of one route, with recorded series and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from obskit.export import objectives, prometheus, rules
from obskit.export.links import Links
from obskit.export.rules.model import Rendering
from tests.grafana.promtool import Json, promtool, write_test

COUNT, BUCKET = "http_server_request_duration_seconds_count", "http_server_request_duration_seconds_bucket"
OUTCOMES = "obskit_http_server_outcomes_total"
RECORDED = pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "counted"])


def groups(texts: list[str], *, recorded: bool) -> list[Json]:
    found: list[Json] = prometheus.rule_file(
        rules.groups(objectives.parse(texts), recorded=recorded), Rendering(), Links()
    )["groups"]
    return found


def of_route(route: str, per_minute: int, fast: int, failed: int = 0) -> list[Json]:
    """Requests a minute to a route of the shop for two hours: all, those within 250 ms, those that fail."""
    labels = f'job="shop",instance="a",http_route="{route}"'
    good = per_minute - failed
    return [
        {"series": f'{COUNT}{{{labels},http_response_status_code="200"}}', "values": f"0+{good}x120"},
        {"series": f'{COUNT}{{{labels},http_response_status_code="500"}}', "values": f"0+{failed}x120"},
        {
            "series": f'{BUCKET}{{{labels},http_response_status_code="200",le="0.25"}}',
            "values": f"0+{fast}x120",
        },
        {
            "series": f'{BUCKET}{{{labels},http_response_status_code="200",le="0.5"}}',
            "values": f"0+{good}x120",
        },
        {"series": f'{OUTCOMES}{{{labels},outcome="completed"}}', "values": f"0+{per_minute}x120"},
    ]


APP = {"series": 'obskit_app_info{job="shop",instance="a"}', "values": "1x120"}
CHECKOUT_LINK = "http://localhost:3000/d/obskit-slo?var-job=shop&var-http_route=%2Fcheckout"


def fired(alert: str, *expected: str) -> Json:
    firing = f'last_over_time(ALERTS{{alertname="{alert}",alertstate="firing"}}[3h])'
    return {
        "expr": f"group by (severity, http_route) ({firing})",
        "eval_time": "2h",
        "exp_samples": [{"labels": labels, "value": 1} for labels in expected],
    }


@RECORDED
def test_the_objective_of_a_route_is_judged_by_that_route_alone(tmp_path: Path, recorded: bool) -> None:
    # Four in ten requests of the checkout are slow, which is six times what its own objective allows; of the whole
    # service they are one in a thousand. The other route is slower still and has no objective.
    slow_checkout = {
        "interval": "1m",
        "input_series": [
            APP,
            *of_route("/checkout", 20, 12),
            *of_route("/report", 10, 0),
            *of_route("/orders", 20_000, 20_000),
        ],
        "alert_rule_test": [
            {
                "eval_time": "2h",
                "alertname": "ObskitLatencyBudgetBurn",
                "exp_alerts": [
                    {
                        "exp_labels": {
                            "severity": severity,
                            "category": "slo",
                            "slo": "latency",
                            "job": "shop",
                            "http_route": "/checkout",
                        },
                        "exp_annotations": {
                            "summary": "/checkout of shop is burning its latency error budget",
                            "description": f"Over {over}, 40% of requests took longer than 0.25 s; "
                            "the objective is that 95 % of requests are answered within 0.25 s.",
                            "runbook_url": "http://localhost:3000/d/obskit-runbooks?viewPanel=897953",
                            "dashboard_url": CHECKOUT_LINK,
                        },
                    }
                    for severity, over in (("critical", "1h or 6h"), ("warning", "1d or 3d"))
                ],
            }
        ],
        "promql_expr_test": [fired("ObskitAvailabilityBudgetBurn")],
    }
    file = write_test(tmp_path, groups(["latency@/checkout=95:250ms"], recorded=recorded), [slow_checkout])
    status, output = promtool("test", "rules", file)
    assert status == 0, output


@RECORDED
def test_a_route_that_fails_breaks_its_objective_and_not_that_of_the_service(
    tmp_path: Path, recorded: bool
) -> None:
    failing = {
        "interval": "1m",
        "input_series": [
            APP,
            *of_route("/checkout", 20, 20, failed=2),
            *of_route("/orders", 20_000, 20_000),
        ],
        "promql_expr_test": [
            fired(
                "ObskitAvailabilityBudgetBurn",
                '{severity="critical",http_route="/checkout"}',
                '{severity="warning",http_route="/checkout"}',
            ),
            fired("ObskitAllRequestsFailing"),
        ],
    }
    file = write_test(tmp_path, groups(["availability@/checkout=99"], recorded=recorded), [failing])
    status, output = promtool("test", "rules", file)
    assert status == 0, output
