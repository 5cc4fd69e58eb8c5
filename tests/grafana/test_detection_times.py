"""The table of detection times in docs/alerts.md, measured: promtool is given what each row describes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from obskit.export import objectives, prometheus, rules
from obskit.export.links import Links
from obskit.export.rules.model import Alert, Recording, Rendering
from tests.grafana.promtool import Json, promtool, write_test

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"

HORIZON_MIN = 245
DAYS_MIN, HOURS_MIN = 3 * 24 * 60, 3 * 60


class Scenario(NamedTuple):
    """Requests a minute, the share of them that fails after the history, and how much of it there is."""

    history_min: int
    per_minute: float
    bad_share: float

    def values(self) -> tuple[str, str, str]:
        """Of 200s, of 500s and of all outcomes, a sample a minute. The first bad request is in the minute after."""
        before, after = self.history_min, HORIZON_MIN
        bad = round(self.per_minute * self.bad_share, 6)
        good = round(self.per_minute - bad, 6)
        return (
            f"0+{self.per_minute:g}x{before} {self.per_minute * before + good:.0f}+{good:g}x{after}",
            f"0x{before} {bad:g}+{bad:g}x{after}",
            f"0+{self.per_minute:g}x{before + after}",
        )


SCENARIOS = {
    "100 % of 10 requests/s fail": Scenario(DAYS_MIN, 600, 1),
    "10 % of 10 requests/s fail": Scenario(DAYS_MIN, 600, 0.1),
    "2 % of 10 requests/s fail": Scenario(DAYS_MIN, 600, 0.02),
    "1 % of 10 requests/s fail": Scenario(DAYS_MIN, 600, 0.01),
    "100 % of 1 request a minute fail": Scenario(HOURS_MIN, 1, 1),
    "100 % of 15 requests an hour fail": Scenario(HOURS_MIN, 0.25, 1),
}
COLD = "one failure of a service that started 10 minutes ago, 2 requests a minute"


def documented() -> dict[str, dict[tuple[str, str], int]]:
    """What happens -> (alert, severity) -> minutes, of the table; an alert that never fires is left out."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("## Detection times")[2].partition("\n## ")[0]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\|.*\|$", section, re.M)
    ]
    alerts = [(name, severity) for name, severity in (cell.split(" ") for cell in head[1:])]
    return {
        what: {alert: int(cell) for alert, cell in zip(alerts, cells, strict=True) if cell != "never"}
        for what, *cells in rows
    }


def groups() -> list[Json]:
    """The rules of availability and nothing else: three days of all of them would take minutes."""

    def needed(rule: Alert | Recording) -> bool:
        if isinstance(rule, Alert):
            return rule.labels["slo"] == "availability"
        return rule.labels.get("slo") == "availability" or rule.record.startswith(
            "obskit:slo_error:ratio_rate"
        )

    kept = []
    for group in rules.groups(objectives.DEFAULTS):
        if group.name in ("obskit-slo-recordings", "obskit-slo"):
            chosen = tuple(rule for rule in group.rules if needed(rule))
            kept.append(type(group)(group.name, group.interval, chosen))
    written: list[Json] = prometheus.rule_file(kept, Rendering(), Links())["groups"]
    return written


def series(job: str, good: str, bad: str, outcomes: str, present: str = "1x5000") -> list[Json]:
    count = "http_server_request_duration_seconds_count"
    labels = f'job="{job}",instance="a",http_route="/orders"'
    return [
        {"series": f'obskit_app_info{{job="{job}",instance="a"}}', "values": present},
        {"series": f'{count}{{{labels},http_response_status_code="200"}}', "values": good},
        {"series": f'{count}{{{labels},http_response_status_code="500"}}', "values": bad},
        {
            "series": f'obskit_http_server_outcomes_total{{{labels},outcome="completed"}}',
            "values": outcomes,
        },
    ]


def cold_service() -> list[Json]:
    unseen = f"_x{HOURS_MIN - 9}"
    requests = f"{unseen} 0+2x{HORIZON_MIN + 9}"
    return series(COLD, requests, f"{unseen} 0x8 1x{HORIZON_MIN}", requests, f"{unseen} 1x{HORIZON_MIN + 9}")


@pytest.mark.parametrize("history_min", [DAYS_MIN, HOURS_MIN], ids=["three days", "three hours"])
def test_the_documented_detection_times_are_those_that_promtool_sees(
    tmp_path: Path, history_min: int
) -> None:
    inputs = {
        what: series(what, *scenario.values())
        for what, scenario in SCENARIOS.items()
        if scenario.history_min == history_min
    }
    if history_min == HOURS_MIN:
        inputs[COLD] = cold_service()
    end_min = history_min + HORIZON_MIN
    first = f"min_over_time(timestamp(ALERTS{{alertstate='firing'}})[{end_min}m:1m])"
    test = {
        "interval": "1m",
        "input_series": [one for found in inputs.values() for one in found],
        "promql_expr_test": [
            {
                "expr": f"min by (job, alertname, severity) ({first}) / 60 - {history_min}",
                "eval_time": f"{end_min}m",
                "exp_samples": [
                    {
                        "labels": f'{{job="{what}",alertname="{name}",severity="{severity}"}}',
                        "value": minutes,
                    }
                    for what, found in documented().items()
                    if what in inputs
                    for (name, severity), minutes in found.items()
                ],
            }
        ],
    }
    status, output = promtool("test", "rules", write_test(tmp_path, groups(), [test]))
    assert status == 0, output


def test_the_table_has_a_row_for_every_scenario() -> None:
    assert list(documented()) == [*SCENARIOS, COLD]
