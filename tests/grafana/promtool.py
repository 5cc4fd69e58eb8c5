"""promtool, and what the rule tests below grafana/rules/tests claim: which alert fires when, and for whom not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from obskit.export.rules.model import in_seconds
from tests.support.program import on_path

RULES = Path(__file__).resolve().parents[2] / "grafana" / "rules" / "obskit.yaml"
TEST_FILES = sorted((RULES.parent / "tests").glob("*.yaml"))

Json = dict[str, Any]
Alert = tuple[str, str]
"""Name and severity: two rules may share a name."""

_EVER_FIRED = re.compile(
    r"group by \((?P<by>job|job, severity)\) "
    r'\(last_over_time\(ALERTS\{alertname="(?P<alert>\w+)",alertstate="firing"\}\[\d+[hdw]\]\)\)'
)
_JOB, _SEVERITY = re.compile(r'\bjob="([^"]+)"'), re.compile(r'\bseverity="([^"]+)"')


def promtool(*arguments: str | Path, timeout_s: float = 120) -> tuple[int, str]:
    """Exit status and output of promtool."""
    done = subprocess.run(
        [on_path("promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def shipped_groups() -> list[Json]:
    """The groups of the shipped rule file."""
    groups: list[Json] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return groups


def shipped_alerts() -> list[Json]:
    """Every alert of the shipped rule file."""
    return [rule for group in shipped_groups() for rule in group["rules"] if "alert" in rule]


def key(rule: Json) -> Alert:
    """Name and severity of an alert of the rule file."""
    return rule["alert"], rule["labels"]["severity"]


@dataclass(frozen=True)
class RuleTest:
    """One test of one file."""

    file: Path
    content: Json
    interval_s: int

    @property
    def name(self) -> str:
        return f"{self.file.stem}: {self.content['name']}"

    @property
    def jobs(self) -> set[str]:
        """Every job that has a series."""
        return {
            match[1]
            for series in self.content.get("input_series", [])
            if (match := _JOB.search(series["series"]))
        }

    def firing(self, alert: Alert) -> dict[int, list[Json]]:
        """Second -> the expected alerts, of each moment at which the test says something about `alert`."""
        name, severity = alert
        return {
            seconds(case["eval_time"]): [
                one for one in case["exp_alerts"] if one["exp_labels"]["severity"] == severity
            ]
            for case in self.content.get("alert_rule_test", [])
            if case["alertname"] == name
        }

    def quiet_jobs(self, alert: Alert) -> set[str]:
        """The jobs that have series and are shown to have fired at no moment of the test."""
        quiet: set[str] = set()
        for case in self.content.get("promql_expr_test", []):
            match = _EVER_FIRED.fullmatch(case["expr"])
            if match is None or match["alert"] != alert[0]:
                continue
            fired = {
                _JOB.findall(sample["labels"])[0]
                for sample in case["exp_samples"]
                if match["by"] == "job" or _SEVERITY.findall(sample["labels"]) == [alert[1]]
            }
            quiet |= self.jobs - fired
        return quiet


def rule_tests() -> Iterator[RuleTest]:
    """Every test of every file."""
    for file in TEST_FILES:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for test in content["tests"]:
            yield RuleTest(file, test, in_seconds(content["evaluation_interval"]))


def seconds(duration: str) -> int:
    """Seconds of promtool's `eval_time`; 0m is none of ours."""
    return in_seconds(duration)


def write_test(folder: Path, groups: list[Json], tests: list[Json], evaluation_interval: str = "1m") -> Path:
    """A rule file and a test file for it in `folder`; the path of the test file."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}, sort_keys=False), encoding="utf-8")
    file = folder / "test.yaml"
    content = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": evaluation_interval,
        "group_eval_order": [group["name"] for group in groups],
        "tests": tests,
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file
