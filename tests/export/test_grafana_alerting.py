"""The alerts as Grafana-managed rules: the same alerts, in a file that every Grafana from 10 on reads alike."""

from __future__ import annotations

import re
from typing import Any

import pytest

from obskit.export import rules
from obskit.export.errors import ExportError
from obskit.export.grafana_alerting import provisioning
from obskit.export.links import Links
from obskit.export.objectives import DEFAULTS, parse
from obskit.export.rules.model import Rendering
from obskit.export.yaml_text import yaml_text

GROUPS = rules.groups(DEFAULTS, recorded=False)


def file(groups: Any = GROUPS, **rendering: Any) -> dict[str, Any]:
    return provisioning(groups, Rendering(**rendering), Links(), datasource_uid="prom-uid")


def rules_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for group in content["groups"] for rule in group["rules"]]


def test_every_alert_of_the_prometheus_rules_is_there_with_the_same_urgency_and_patience() -> None:
    expected = [(one.name, one.severity, one.hold, one.keep_firing) for one in rules.alerts(DEFAULTS)]
    found = [
        (
            rule["title"].split(" ")[0],
            rule["labels"]["severity"],
            rule.get("for", ""),
            rule.get("keepFiringFor", ""),
        )
        for rule in rules_of(file())
    ]
    assert sorted(found) == sorted(expected)
    assert len(found) > 25


def test_no_rule_reads_a_recorded_series() -> None:
    for rule in rules_of(file()):
        expression = rule["data"][0]["model"]["expr"]
        assert not re.search(r"\b(obskit|job|job_route):", expression), rule["title"]


def test_titles_are_unique_in_the_folder_and_uids_in_the_organisation() -> None:
    one_route = parse(["latency@/checkout=95:250ms", "availability@/checkout=99"])
    content = rules_of(file(rules.groups(one_route, recorded=False)))
    for key in ("title", "uid"):
        assert len({rule[key] for rule in content}) == len(content)
    assert {rule["title"] for rule in content} >= {
        "ObskitServiceAbsent",
        "ObskitLatencyBudgetBurn (critical)",
        "ObskitLatencyBudgetBurn /checkout (warning)",
    }


def test_a_uid_is_one_that_grafana_takes_and_stays_the_same_for_the_same_service() -> None:
    uids = [rule["uid"] for rule in rules_of(file(job="shop"))]
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", uid) for uid in uids)
    assert uids == [rule["uid"] for rule in rules_of(file(job="shop"))]
    assert not set(uids) & {rule["uid"] for rule in rules_of(file(job="other"))}


def test_nothing_is_left_for_grafana_to_replace_from_its_environment() -> None:
    assert "$" not in yaml_text(file())


@pytest.mark.parametrize("rule", rules_of(file()), ids=lambda rule: rule["title"])
def test_a_rule_asks_the_given_datasource_and_fires_for_every_series_in_the_answer(
    rule: dict[str, Any],
) -> None:
    query, condition = rule["data"]
    assert query["datasourceUid"] == query["model"]["datasource"]["uid"] == "prom-uid"
    assert query["model"]["instant"] is True
    assert rule["condition"] == condition["refId"] == condition["model"]["refId"]
    assert condition["model"]["expression"] == query["refId"] == query["model"]["refId"]
    assert condition["model"]["type"] == "threshold"
    # up == 0 has the value 0, and is an alert.
    assert condition["model"]["conditions"] == [{"evaluator": {"type": "gt", "params": [-1]}}]
    assert rule["noDataState"] == "OK"


def test_templates_read_labels_and_the_value_of_the_query_by_their_long_names() -> None:
    down = next(rule for rule in rules_of(file()) if rule["title"] == "ObskitFdExhaustion")
    assert down["annotations"] == {
        "summary": "{{ .Labels.instance }} of {{ .Labels.job }} runs out of file descriptors",
        "description": "{{ .Values.A.Value | humanizePercentage }} of them are in use; "
        "at 100 % no connection is accepted.",
        "runbook_url": Links().runbook("ObskitFdExhaustion"),
        "dashboard_url": "http://localhost:3000/d/obskit-runtime?var-job={{ .Labels.job | urlquery }}"
        "&var-instance={{ .Labels.instance | urlquery }}",
    }


def test_a_service_has_its_own_folder_and_only_its_own_job() -> None:
    content = provisioning(
        GROUPS, Rendering("shop"), Links(), datasource_uid="prometheus", folder="obskit / shop"
    )
    assert {group["folder"] for group in content["groups"]} == {"obskit / shop"}
    for rule in rules_of(content):
        expression = rule["data"][0]["model"]["expr"]
        assert 'job="shop"' in expression or rule["title"] == "ObskitWatchdog", rule["title"]


def test_a_route_that_grafana_would_take_for_a_variable_is_refused() -> None:
    with pytest.raises(
        ExportError, match=r"Grafana would replace '\$HOME' in '/\$HOME/x' from its environment"
    ):
        file(rules.groups(parse(["availability@/$HOME/x=99"]), recorded=False))


def test_a_route_that_is_a_regular_expression_may_end_in_a_dollar() -> None:
    content = rules_of(file(rules.groups(parse([r"availability@/^x/\d+/$=99"]), recorded=False)))
    (route,) = {rule["labels"]["http_route"] for rule in content if "http_route" in rule["labels"]}
    assert route == r"/^x/\d+/$"
    assert any(r'http_route="/^x/\\d+/$"' in rule["data"][0]["model"]["expr"] for rule in content)
