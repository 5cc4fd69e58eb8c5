"""The shipped rules: promtool has nothing against them, and each was seen to fire, to end and to stay quiet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import promql_parser as promql
import pytest

from obskit.export import bundle, objectives, prometheus, rules
from obskit.export.links import Links, runbook_panel_id
from obskit.export.rules.model import Rendering, in_seconds
from obskit.export.yaml_text import yaml_text
from tests.grafana.dashboard_files import all_panels, metric_of, nodes, selectors, shipped
from tests.grafana.dashboard_lint_queries import OTHERS, recorded_series, series_of_names
from tests.grafana.promtool import (
    RULES,
    TEST_FILES,
    key,
    promtool,
    rule_tests,
    shipped_alerts,
    shipped_groups,
)

TESTS = list(rule_tests())
ALERTS = shipped_alerts()
DASHBOARDS = {dashboard["uid"]: dashboard for dashboard in shipped().values()}

# It fires always: that is what it is for. Its silence is what another service listens for.
NEVER_QUIET = {"ObskitWatchdog"}

every_alert = pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: " ".join(key(rule)))


# ---- promtool ---------------------------------------------------------------------------------------


def test_promtool_has_nothing_against_the_rules() -> None:
    status, output = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert status == 0, output


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "counted"])
@pytest.mark.parametrize(
    "rendering", [Rendering(job="shop"), Rendering(time_factor=60)], ids=["job", "scaled"]
)
def test_promtool_has_nothing_against_rules_of_one_job_or_of_scaled_time(
    rendering: Rendering, recorded: bool, tmp_path: Path
) -> None:
    of_a_route = objectives.parse(["latency@/jobs/<job>=95:250ms", "availability@/checkout=99"])
    groups = rules.groups(of_a_route, recorded=recorded)
    file = tmp_path / "rules.yaml"
    file.write_text(yaml_text(prometheus.rule_file(groups, rendering, Links())), encoding="utf-8")
    status, output = promtool("check", "rules", "--lint=all", "--lint-fatal", file)
    assert status == 0, output


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.stem)
def test_every_alert_fires_and_stays_quiet_as_its_test_says(file: Path) -> None:
    status, output = promtool("test", "rules", file)
    assert status == 0, output


def test_the_rules_are_what_an_export_with_defaults_writes() -> None:
    assert RULES.read_text(encoding="utf-8") == bundle.default_files()["rules/obskit.yaml"]


# ---- what the tests of promtool cover ---------------------------------------------------------------


@every_alert
def test_an_alert_is_seen_to_fire_at_a_minute_and_not_one_evaluation_before(rule: dict[str, Any]) -> None:
    if rule["alert"] in NEVER_QUIET:
        assert any(test.firing(key(rule)).get(0) for test in TESTS)
        return
    seen = []
    for test in TESTS:
        moments = test.firing(key(rule))
        for moment, alerts in moments.items():
            before = moments.get(moment - test.interval_s)
            if before is not None:
                labels = [one["exp_labels"] for one in before]
                seen += [one["exp_labels"] for one in alerts if one["exp_labels"] not in labels]
    assert seen


@every_alert
def test_an_alert_that_is_kept_is_seen_to_end(rule: dict[str, Any]) -> None:
    if "keep_firing_for" not in rule:
        return
    ended = []
    for test in TESTS:
        moments = test.firing(key(rule))
        for moment, alerts in moments.items():
            after = moments.get(moment + test.interval_s)
            if after is not None:
                labels = [one["exp_labels"] for one in after]
                ended += [one["exp_labels"] for one in alerts if one["exp_labels"] not in labels]
    assert ended


@every_alert
def test_an_alert_stays_quiet_for_a_near_miss_during_a_whole_test(rule: dict[str, Any]) -> None:
    quiet = {job for test in TESTS for job in test.quiet_jobs(key(rule))}
    assert quiet or rule["alert"] in NEVER_QUIET


def test_every_alert_that_a_test_names_exists() -> None:
    named = {case["alertname"] for test in TESTS for case in test.content.get("alert_rule_test", [])}
    assert named == {rule["alert"] for rule in ALERTS}


# ---- what an alert says -----------------------------------------------------------------------------


@every_alert
def test_an_alert_has_a_severity_and_all_that_its_reader_needs(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info", "none")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert all(rule["annotations"].values())


@every_alert
def test_an_alert_says_in_its_summary_which_service_it_is_about(rule: dict[str, Any]) -> None:
    assert "$labels.job" in rule["annotations"]["summary"] or rule["alert"] in NEVER_QUIET


@every_alert
def test_the_dashboard_of_an_alert_exists_and_has_the_variables_of_its_link(rule: dict[str, Any]) -> None:
    address = urlsplit(rule["annotations"]["dashboard_url"])
    dashboard = DASHBOARDS[address.path.removeprefix("/d/")]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert {name.removeprefix("var-") for name in parse_qs(address.query)} <= variables


@every_alert
def test_the_runbook_of_an_alert_is_a_panel_of_its_name_and_a_file(rule: dict[str, Any]) -> None:
    address = urlsplit(rule["annotations"]["runbook_url"])
    panels = {panel["id"]: panel for panel in all_panels(DASHBOARDS[address.path.removeprefix("/d/")])}
    number = int(parse_qs(address.query)["viewPanel"][0])
    assert number == runbook_panel_id(rule["alert"])
    assert panels[number]["title"] == rule["alert"]
    assert (RULES.parents[1] / "runbooks" / f"{rule['alert']}.md").is_file()


@every_alert
def test_the_labels_of_an_alerts_texts_are_labels_of_its_expression(rule: dict[str, Any]) -> None:
    used = set(re.findall(r"\$labels\.(\w+)", "".join(rule["annotations"].values())))
    # A plain selector keeps all its labels; every scraped series has these two.
    assert used <= {"job", "instance"} or any(used <= labels for labels in _label_sets(rule["expr"]))


def _label_sets(expression: str) -> set[frozenset[str]]:
    """The labels of every aggregation in an expression, and in those of the recorded series that it reads."""
    recorded = {
        rule["record"]: rule["expr"]
        for group in shipped_groups()
        for rule in group["rules"]
        if "record" in rule
    }
    found = set()
    for node, _ in nodes(promql.parse(expression)):
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            found.add(frozenset(node.modifier.labels))
        elif isinstance(node, promql.VectorSelector) and metric_of(node) in recorded:
            found |= _label_sets(recorded[metric_of(node)])
    return found


# ---- what an expression reads -----------------------------------------------------------------------


def test_an_expression_names_only_metrics_and_labels_that_exist() -> None:
    known = series_of_names()
    for group in shipped_groups():
        for rule in group["rules"]:
            for selector, _ in selectors(promql.parse(rule["expr"])):
                metric = metric_of(selector)
                assert metric in known or metric in OTHERS or metric in recorded_series(), metric
                if metric in known:
                    labels = {matcher.name for matcher in selector.matchers.matchers} - {"__name__"}
                    assert labels <= known[metric] | {"job", "instance"}, f"{metric}: {labels}"


def test_a_recorded_series_is_recorded_before_it_is_read() -> None:
    recorded: set[str] = set()
    for group in shipped_groups():
        for rule in group["rules"]:
            read = {metric_of(selector) for selector, _ in selectors(promql.parse(rule["expr"]))}
            later = {name for name in read if ":" in name and not name.endswith(":avg30m")} - recorded
            assert not later, f"{rule.get('alert') or rule['record']} reads {later}"
            recorded |= {rule["record"]} if "record" in rule else set()


def test_names_of_groups_are_unique_and_every_group_has_an_interval() -> None:
    names = [group["name"] for group in shipped_groups()]
    assert len(set(names)) == len(names)
    assert all(in_seconds(group["interval"]) >= 60 for group in shipped_groups())
