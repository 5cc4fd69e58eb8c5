"""The sample configuration of Alertmanager: it loads, it routes, and what it silences exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from obskit.export import rules
from obskit.export.alertmanager import COMMENT, configuration
from obskit.export.objectives import DEFAULTS
from obskit.export.yaml_text import yaml_text

NAMES = {alert.name for alert in rules.alerts(DEFAULTS)}
BY_NAME = {alert.name: alert for alert in rules.alerts(DEFAULTS)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alertmanager") / "alertmanager.yaml"
    path.write_text(yaml_text(configuration(), *COMMENT))
    return path


def amtool(*arguments: str) -> str:
    done = subprocess.run(["amtool", *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_accepts_it(file: Path) -> None:
    assert "SUCCESS" in amtool("check-config", str(file))


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (("alertname=ObskitServiceAbsent", "severity=critical", "job=shop"), "page"),
        (("alertname=ObskitRouteErrors", "severity=warning", "job=shop"), "ticket"),
        (("alertname=ObskitNewExceptionType", "severity=info", "job=shop"), "ticket"),
        (("alertname=ObskitWatchdog", "severity=none"), "deadman"),
        (("alertname=SomebodyElses", "severity=warning"), "ticket"),
    ],
)
def test_each_urgency_reaches_its_receiver(file: Path, labels: tuple[str, ...], receiver: str) -> None:
    assert amtool("config", "routes", "test", f"--config.file={file}", *labels).strip() == receiver


def test_every_alert_named_in_an_inhibition_exists() -> None:
    named = set(re.findall(r"\bObskit[A-Za-z]+", yaml_text(configuration()["inhibit_rules"])))
    assert named <= NAMES
    assert len(named) > 10


def test_labels_compared_by_an_inhibition_are_labels_of_both_sides() -> None:
    # A label that both sides lack counts as equal, and would silence other services' alerts.
    for rule in configuration()["inhibit_rules"]:
        for side in ("source_matchers", "target_matchers"):
            for name in re.findall(r'(?<=[="|])Obskit[A-Za-z]+', " ".join(rule[side])):
                if "!=" not in " ".join(rule[side]):
                    assert set(rule["equal"]) <= {"alertname", "job", "instance"} & {
                        "alertname",
                        *BY_NAME[name].by,
                    }
