"""Provisioning files, read the way grafana-server documents that it reads them.

There is no grafana-server here. What it does with a folder is in its documentation ("Provision Grafana", "Provision
the Tempo data source", "Provision Grafana Alerting resources") and done below: each kind of file in its folder,
version 1, only keys it knows, and every ``$`` in a value replaced from the environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from obskit.export import bundle, write
from obskit.export.grafana_files import DASHBOARDS_PATH, data_sources
from obskit.export.request import DataSources, Request

ENVIRONMENT = {"__value": "WRONG", "PATH": "WRONG"}
# $$ is a dollar; $name and ${name} are replaced, by nothing when the environment has none.
_REFERENCE = re.compile(r"\$(?:(\$)|\{(\w+)[^}]*\}|(\w+))")

KEYS = {
    "datasources": {
        "": {"apiVersion", "deleteDatasources", "prune", "datasources"},
        "datasources": {
            *(
                "name",
                "type",
                "access",
                "orgId",
                "uid",
                "url",
                "user",
                "database",
                "basicAuth",
                "basicAuthUser",
            ),
            *("withCredentials", "isDefault", "jsonData", "secureJsonData", "version", "editable"),
        },
    },
    "dashboards": {
        "": {"apiVersion", "providers"},
        "providers": {
            *("name", "orgId", "folder", "folderUid", "type", "disableDeletion", "updateIntervalSeconds"),
            *("allowUiUpdates", "options"),
        },
    },
    "alerting": {
        "": {"apiVersion", "groups", "deleteRules"},
        "groups": {"orgId", "name", "folder", "interval", "rules"},
    },
}
RULE_KEYS = {
    *("uid", "title", "condition", "data", "dashboardUid", "panelId", "noDataState", "execErrState", "for"),
    *("keepFiringFor", "annotations", "labels", "isPaused"),
}


def interpolated(value: Any) -> Any:
    """A value as Grafana sees it, after its environment has been put in."""
    if isinstance(value, dict):
        return {key: interpolated(one) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one) for one in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[1] else ENVIRONMENT.get(match[2] or match[3], "")

    return _REFERENCE.sub(replaced, value)


def loaded(provisioning: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a server would load from its provisioning folder: kind and content of each file."""
    for file in sorted(provisioning.rglob("*")):
        if file.is_file():
            kind = file.parent.name
            assert file.parent.parent == provisioning, f"{file}: only folders directly below are read"
            assert file.suffix in (".yaml", ".yml", ".json"), file
            content = yaml.safe_load(file.read_text("utf-8"))
            assert content["apiVersion"] == 1, file
            for key, known in KEYS[kind].items():
                for part in content[key] if key else [content]:
                    assert part.keys() <= known, f"{file}: {part.keys() - known}"
            yield kind, interpolated(content)


@pytest.fixture(params=["prometheus", "grafana"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A written export, laid out as it lies on the disk of the server."""
    files = bundle.files(Request(format=request.param, service="shop"))
    plan = write.plan(files, tmp_path, "shop")
    write.carry_out(plan)
    return tmp_path


def by_kind(server: Path) -> Mapping[str, dict[str, Any]]:
    return dict(loaded(server / "provisioning"))


def test_each_kind_of_file_lies_in_the_folder_it_is_read_from(server: Path) -> None:
    alerting = {"alerting"} if (server / "provisioning/alerting").exists() else set()
    assert set(by_kind(server)) == {"datasources", "dashboards"} | alerting


def test_the_provider_reads_the_dashboards_from_a_path_of_their_own(server: Path) -> None:
    (provider,) = by_kind(server)["dashboards"]["providers"]
    assert provider["type"] == "file"
    assert provider["options"] == {"path": DASHBOARDS_PATH}
    assert provider["name"]
    # The path is the server's; what is copied there are plain JSON files with uids of their own.
    found = sorted((server / "dashboards").iterdir())
    uids = [json.loads(file.read_text("utf-8"))["uid"] for file in found]
    assert len(set(uids)) == len(uids) > 5
    assert all(file.suffix == ".json" for file in found)
    assert all(len(uid) <= 40 for uid in uids)


def test_no_file_provisions_a_second_default_or_names_two_sources_alike(server: Path) -> None:
    sources = by_kind(server)["datasources"]["datasources"]
    assert not any(source.get("isDefault") for source in sources)
    assert len({source["name"] for source in sources}) == len({source["uid"] for source in sources}) == 3
    assert {source["access"] for source in sources} == {"proxy"}


def details(uids: DataSources) -> dict[str, dict[str, Any]]:
    sources = interpolated(data_sources(uids))["datasources"]
    return {source["type"]: source["jsonData"] for source in sources}


def test_each_signal_leads_to_the_others() -> None:
    found = details(DataSources("p", "l", "t"))
    assert found["prometheus"]["exemplarTraceIdDestinations"] == [{"name": "trace_id", "datasourceUid": "t"}]
    (field,) = found["loki"]["derivedFields"]
    assert field["datasourceUid"] == "t"
    assert found["tempo"]["tracesToLogsV2"]["datasourceUid"] == "l"
    assert found["tempo"]["tracesToMetrics"]["datasourceUid"] == "p"


def test_the_trace_id_is_found_in_a_line_of_ours_and_handed_on() -> None:
    (field,) = details(DataSources())["loki"]["derivedFields"]
    line = (
        '{"event":"http.request","trace_id":"d0a3f70cb7f1af8c21ad0d5427bc94bf","span_id":"bdcc4232fc0df8ec"}'
    )
    match = re.search(field["matcherRegex"], line)
    assert match
    assert match[1] == "d0a3f70cb7f1af8c21ad0d5427bc94bf"
    assert field["url"] == "${__value.raw}"


def test_a_line_without_a_trace_has_no_link() -> None:
    (field,) = details(DataSources())["loki"]["derivedFields"]
    assert not re.search(field["matcherRegex"], '{"event":"started","trace_id":""}')


def test_the_queries_from_a_trace_are_promql_once_its_tags_are_in() -> None:
    metrics = details(DataSources())["tempo"]["tracesToMetrics"]
    tags = ",".join(f'{tag["value"]}="shop"' for tag in metrics["tags"])
    for query in metrics["queries"]:
        assert "$__tags" in query["query"]
        assert promql_parser.parse(query["query"].replace("$__tags", tags))


def test_alert_rules_hold_only_keys_that_grafana_knows(tmp_path: Path) -> None:
    text = bundle.files(Request(format="grafana"))["provisioning/alerting/obskit.yaml"]
    for group in yaml.safe_load(text)["groups"]:
        for rule in group["rules"]:
            assert rule.keys() <= RULE_KEYS, rule["title"]


def test_the_environment_of_the_server_changes_nothing_in_an_alert() -> None:
    text = bundle.files(Request(format="grafana", service="shop"))["provisioning/alerting/obskit-shop.yaml"]
    content = yaml.safe_load(text)
    assert interpolated(content) == content


def test_an_unescaped_dollar_would_be_seen() -> None:
    assert interpolated("${__value.raw} $PATH $nothing $$__tags") == "WRONG WRONG  $__tags"


def test_a_file_in_the_wrong_place_or_with_an_unknown_key_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "dashboards" / "below").mkdir(parents=True)
    file = tmp_path / "dashboards" / "a.yaml"
    file.write_text("apiVersion: 1\nproviders: [{nmae: a}]\n")
    with pytest.raises(AssertionError, match="nmae"):
        list(loaded(tmp_path))
    file.rename(tmp_path / "dashboards" / "below" / "a.yaml")
    with pytest.raises(AssertionError, match="directly below"):
        list(loaded(tmp_path))
