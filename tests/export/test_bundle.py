"""What an export consists of, and that the programs it is meant for take it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from obskit.export import bundle, shipped
from obskit.export.links import Links
from obskit.export.objectives import parse
from obskit.export.request import DataSources, Request
from tests.export.conftest import small_dashboard

SHOP = Request(
    service="shop",
    job='prod/"shop"',
    objectives=parse(["availability=99.5", "latency=95:250ms", "latency@/checkout/{id}=95:0.25s"]),
    links=Links("https://grafana.example.org", "https://docs.example.org/runbooks"),
)


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def written(request: Request, folder: Path) -> Path:
    for path, text in bundle.files(request).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
    return folder


def folders(request: Request) -> set[str]:
    return {path.rpartition("/")[0] for path in bundle.files(request)}


def test_for_prometheus_there_are_rules_and_an_alertmanager(small: Path) -> None:
    files = bundle.files(SHOP)
    assert "rules/obskit-shop.yaml" in files
    assert "alertmanager/alertmanager.yaml" in files
    assert folders(SHOP) == {
        "rules",
        "alertmanager",
        "dashboards",
        "provisioning/dashboards",
        "provisioning/datasources",
        "runbooks",
    }


def test_for_grafana_the_alerts_are_provisioned_instead(small: Path) -> None:
    request = Request(format="grafana", service="shop", data_sources=DataSources(prometheus="prom-1"))
    files = bundle.files(request)
    assert folders(request) == folders(SHOP) - {"rules", "alertmanager"} | {"provisioning/alerting"}
    alerting = yaml.safe_load(files["provisioning/alerting/obskit-shop.yaml"])
    assert {group["folder"] for group in alerting["groups"]} == {"obskit shop"}
    sources = {rule["data"][0]["datasourceUid"] for group in alerting["groups"] for rule in group["rules"]}
    assert sources == {"prom-1"}


def test_without_a_service_files_are_named_for_all(small: Path) -> None:
    assert "rules/obskit.yaml" in bundle.files(Request())
    assert "provisioning/alerting/obskit.yaml" in bundle.files(Request(format="grafana"))


@pytest.mark.parametrize("request_", [Request(), SHOP], ids=["all", "shop"])
def test_prometheus_takes_the_rules_and_alertmanager_its_sample(tmp_path: Path, request_: Request) -> None:
    folder = written(request_, tmp_path)
    (rules,) = (folder / "rules").iterdir()
    assert "SUCCESS" in run("promtool", "check", "rules", rules)
    assert "SUCCESS" in run("amtool", "check-config", folder / "alertmanager/alertmanager.yaml")


def test_the_rules_of_a_service_ask_for_its_job_alone(small: Path) -> None:
    text = bundle.files(SHOP)["rules/obskit-shop.yaml"]
    for group in yaml.safe_load(text)["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") != "ObskitWatchdog":
                assert 'job="prod/\\"shop\\""' in rule["expr"], rule


def test_alerts_lead_to_the_addresses_that_were_given(small: Path) -> None:
    text = bundle.files(SHOP)["rules/obskit-shop.yaml"]
    assert "https://grafana.example.org/d/obskit-slo" in text
    assert "https://docs.example.org/runbooks/ObskitServiceAbsent.md" in text
    assert "localhost" not in text


def test_objectives_reach_the_rules(small: Path) -> None:
    text = bundle.files(SHOP)["rules/obskit-shop.yaml"]
    assert 'http_route="/checkout/{id}"' in text
    assert "0.995" in text


def test_a_dashboard_differs_from_the_shipped_one_in_the_chosen_job_alone() -> None:
    plain = shipped.dashboards()
    for name, text in bundle.dashboards(SHOP).items():
        before, after = plain[name].splitlines(), text.splitlines()
        assert len(before) == len(after), name
        changed = [(old.strip(), new.strip()) for old, new in zip(before, after, strict=True) if old != new]
        assert sorted(changed) == [('"$__all"', '"prod/\\"shop\\""'), ('"All"', '"prod/\\"shop\\""')], name


def test_without_a_service_dashboards_are_the_shipped_ones_to_the_byte() -> None:
    assert bundle.dashboards(Request()) == shipped.dashboards()


def test_a_title_keeps_its_letters(small: Path) -> None:
    assert '"title": "Größe"' in bundle.dashboards(SHOP)["obskit-slo"]


def test_a_variable_for_one_value_gets_one_value(small: Path) -> None:
    dashboard = small_dashboard("slo")
    del dashboard["templating"]["list"][1]["multi"]
    (small / "dashboards/obskit-slo.json").write_text(json.dumps(dashboard))
    opened = json.loads(bundle.dashboards(Request(service="shop"))["obskit-slo"])
    assert opened["templating"]["list"][1]["current"] == {"selected": True, "text": "shop", "value": "shop"}


def test_the_generated_files_of_the_repository_are_an_export_of_defaults(small: Path) -> None:
    files = bundle.default_files()
    assert set(files) == {
        "rules/obskit.yaml",
        "alertmanager/alertmanager.yaml",
        "provisioning/alerting/obskit.yaml",
        "provisioning/dashboards/obskit.yaml",
        "provisioning/datasources/obskit.yaml",
    }
    for format in ("prometheus", "grafana"):
        exported = bundle.files(Request(format=format))
        assert {path: exported[path] for path in files.keys() & exported.keys()}.items() <= files.items()


def test_runbooks_are_exported_as_they_are(small: Path) -> None:
    assert bundle.files(SHOP)["runbooks/ObskitServiceAbsent.md"] == "# ObskitServiceAbsent\n"


def test_nothing_that_is_exported_leads_out_of_the_folder() -> None:
    for request in (Request(), SHOP, Request(format="grafana"), Request(format="operator", service="a.b")):
        for path in bundle.files(request):
            assert re.fullmatch(r"[a-z]+(/[a-z]+)*/[A-Za-z0-9._-]+", path), path


def test_an_export_is_the_same_every_time() -> None:
    assert bundle.files(SHOP) == bundle.files(SHOP)
