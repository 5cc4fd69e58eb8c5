"""The Grafana-managed rules tell of the same things as the Prometheus rules, shown on the scenarios of rules/tests.

Both forms are given to promtool, the Grafana-managed one as if Prometheus evaluated it. They need not agree on the
minute: a mean of recorded rates trails the rate over the same window by up to the five minutes that each spans. They
must agree on what fires at all, for whom, and with which labels.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from obskit.export import rules
from obskit.export.grafana_alerting import provisioning
from obskit.export.links import Links
from obskit.export.objectives import DEFAULTS
from obskit.export.rules.model import Rendering
from tests.grafana.promtool import Json, RuleTest, promtool, rule_tests, seconds, shipped_groups, write_test

SCENARIOS = [test for test in rule_tests() if test.content.get("alert_rule_test")]
_LABEL = r'[a-z_]+="(?:[^"\\]|\\.)*"'
_SAMPLE = re.compile(rf"\{{{_LABEL}(?:, {_LABEL})*\}}")


def grafana_groups() -> list[Json]:
    """What Grafana would evaluate, as Prometheus would have it."""
    content = provisioning(
        rules.groups(DEFAULTS, recorded=False), Rendering(), Links(), datasource_uid="prometheus"
    )
    return [
        {
            "name": group["name"],
            "interval": group["interval"],
            "rules": [
                {
                    "alert": rule["title"].partition(" ")[0],
                    "expr": rule["data"][0]["model"]["expr"],
                    "for": rule.get("for", "0s"),
                    "keep_firing_for": rule.get("keepFiringFor", "0s"),
                    "labels": rule["labels"],
                }
                for rule in group["rules"]
            ],
        }
        for group in content["groups"]
    ]


def what_fires(groups: list[Json], scenario: RuleTest, folder: Path) -> set[str]:
    """The labels of each of the scenario's alerts that fires at any time in it."""
    folder.mkdir()
    tested = scenario.content["alert_rule_test"]
    end = f"{max(60, *(seconds(one['eval_time']) for one in tested))}s"
    alerts = "|".join(sorted({one["alertname"] for one in tested}))
    firing = f'last_over_time(ALERTS{{alertstate="firing",alertname=~"{alerts}"}}[{end}])'
    # What is expected is never there, so promtool says what it found.
    wrong = {"expr": firing, "eval_time": end, "exp_samples": [{"labels": '{never="there"}', "value": 1}]}
    content = {
        "interval": scenario.content.get("interval", "1m"),
        "input_series": scenario.content.get("input_series", []),
        "promql_expr_test": [wrong],
    }
    _, said = promtool("test", "rules", write_test(folder, groups, [content], f"{scenario.interval_s}s"))
    _, mark, got = said.partition("got:")
    assert mark, said
    return set(_SAMPLE.findall(got))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_both_forms_fire_for_the_same_reasons(scenario: RuleTest, tmp_path: Path) -> None:
    of_prometheus = what_fires(shipped_groups(), scenario, tmp_path / "prometheus")
    assert what_fires(grafana_groups(), scenario, tmp_path / "grafana") == of_prometheus
    # Without this, silence would be compared with silence.
    expected = any(one["exp_alerts"] for one in scenario.content["alert_rule_test"])
    assert bool(of_prometheus) == expected


def test_a_form_that_differs_is_noticed(tmp_path: Path) -> None:
    scenario = next(one for one in SCENARIOS if one.file.stem == "errors")
    silenced = grafana_groups()
    for group in silenced:
        for rule in group["rules"]:
            rule["expr"] = f"({rule['expr']}) and on () vector(0) > 0"
    shipped = what_fires(shipped_groups(), scenario, tmp_path / "prometheus")
    assert what_fires(silenced, scenario, tmp_path / "grafana") != shipped
