"""The export for Kubernetes: objects that the API server, the Prometheus operator and Grafana's sidecar take."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from obskit.export import bundle, operator, shipped
from obskit.export.errors import ExportError
from obskit.export.objectives import parse
from obskit.export.operator import MAX_CONFIG_MAP_BYTES, dashboard_config_map, metadata
from obskit.export.request import Request
from tests.export import kubernetes_types

LABELS = {"release": "kube-prometheus-stack"}
REQUEST = Request(
    format="operator",
    service="shop",
    job="prod/shop",
    objectives=parse(["availability=99.5", "latency@/checkout=95:0.25s"]),
    namespace="monitoring",
    labels=LABELS,
)


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    """Path -> object of everything to be applied."""
    return loaded(REQUEST)


def loaded(request: Request) -> dict[str, dict[str, Any]]:
    files = bundle.files(request)
    return {path: yaml.safe_load(text) for path, text in files.items() if path.startswith("manifests/")}


def test_every_object_is_what_its_schema_and_its_types_allow(
    objects: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    assert kubernetes_types.complaints(list(objects.values()), tmp_path) == []


@pytest.mark.parametrize(
    ("path", "where", "value", "said"),
    [
        (
            "manifests/prometheusrule.yaml",
            ("spec", "groups", 0, "interval"),
            "1 minute",
            "must match pattern",
        ),
        ("manifests/prometheusrule.yaml", ("spec", "groups", 0, "rules", 0, "fro"), "5m", "'\"fro\"'"),
        ("manifests/servicemonitor.yaml", ("spec", "endpoint"), [], "'\"endpoint\"'"),
        ("manifests/dashboards/obskit-overview.yaml", ("data", "n"), 1, "must be string"),
        ("manifests/dashboards/obskit-overview.yaml", ("metadata", "lables"), {}, "'\"lables\"'"),
    ],
)
def test_a_mistake_in_an_object_would_be_seen(
    objects: dict[str, dict[str, Any]],
    tmp_path: Path,
    path: str,
    where: tuple[Any, ...],
    value: Any,
    said: str,
) -> None:
    wrong: Any = copy.deepcopy(objects[path])
    at = wrong
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    assert said in "\n".join(kubernetes_types.complaints([wrong], tmp_path))


def test_every_object_has_the_namespace_and_labels_that_were_asked_for(
    objects: dict[str, dict[str, Any]],
) -> None:
    for path, one in objects.items():
        assert one["metadata"]["namespace"] == "monitoring", path
        assert one["metadata"]["labels"].items() >= LABELS.items(), path


def test_without_a_namespace_the_one_of_the_user_is_left_to_apply() -> None:
    assert (
        "namespace"
        not in loaded(Request(format="operator", service="shop"))["manifests/servicemonitor.yaml"]["metadata"]
    )


def test_no_two_objects_of_a_kind_have_one_name(objects: dict[str, dict[str, Any]]) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in objects.values()]
    assert len(set(names)) == len(names)


def test_the_rules_are_those_of_the_prometheus_format(objects: dict[str, dict[str, Any]]) -> None:
    as_files = bundle.files(Request(service="shop", job="prod/shop", objectives=REQUEST.objectives))
    assert objects["manifests/prometheusrule.yaml"]["spec"] == yaml.safe_load(
        as_files["rules/obskit-shop.yaml"]
    )


def test_scraped_series_get_the_job_that_the_rules_ask_for(objects: dict[str, dict[str, Any]]) -> None:
    (endpoint,) = objects["manifests/servicemonitor.yaml"]["spec"]["endpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "prod/shop"}]


def test_a_dollar_in_a_job_is_no_group_of_the_relabelling() -> None:
    monitor = operator.service_monitor("shop", "shop$1", {})
    assert monitor["spec"]["endpoints"][0]["relabelings"][0]["replacement"] == "shop$$1"


def test_each_dashboard_is_in_a_config_map_that_the_sidecar_finds(objects: dict[str, dict[str, Any]]) -> None:
    found = {one["metadata"]["name"]: one for one in objects.values() if one["kind"] == "ConfigMap"}
    assert set(found) == set(shipped.dashboards())
    for name, one in found.items():
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"]["grafana_folder"] == "obskit"
        ((key, text),) = one["data"].items()
        assert key == f"{name}.json"
        assert json.loads(text)["uid"] == name


def test_a_dashboard_survives_the_way_through_yaml_to_the_byte(objects: dict[str, dict[str, Any]]) -> None:
    texts = bundle.dashboards(REQUEST)
    for one in objects.values():
        for key, text in one.get("data", {}).items():
            assert text == texts[key.removesuffix(".json")]


def test_the_label_that_a_sidecar_looks_for_can_be_another() -> None:
    made = dashboard_config_map("a", "{}", metadata(None, {"grafana_dashboard": "true"}))
    assert made["metadata"]["labels"]["grafana_dashboard"] == "true"


def test_a_dashboard_that_kubernetes_would_refuse_is_refused_here() -> None:
    most = MAX_CONFIG_MAP_BYTES - len("a.json")
    assert dashboard_config_map("a", "ö" * (most // 2), {"labels": {}})
    with pytest.raises(
        ExportError, match=f"dashboard a: its ConfigMap would hold {MAX_CONFIG_MAP_BYTES + 1} bytes"
    ):
        dashboard_config_map("a", "x" * (most + 1), {"labels": {}})


def test_a_folder_to_apply_holds_nothing_but_objects(objects: dict[str, dict[str, Any]]) -> None:
    files = bundle.files(REQUEST)
    assert all(path.endswith(".md") or path.startswith("manifests/") for path in files)
    assert all({"apiVersion", "kind", "metadata"} <= one.keys() for one in objects.values())
