"""The real Prometheus: a server that scrapes what a test points it at and evaluates its rules, and promtool."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.program import POLL_S, Program, on_path

Series = list[tuple[dict[str, str], float]]
Ranges = list[tuple[dict[str, str], list[tuple[float, float]]]]


class PrometheusError(Exception):
    """Prometheus did not start, refused a query, or never saw what was waited for; the message says which."""


class PrometheusServer(Program):
    """A Prometheus on a free loopback port, with its data in `directory`, scraping `targets` every second.

    `targets` is {job name: "host:port", or several of them}. `rules` is the content of a rule file, evaluated as
    often as its groups say, whose alerts go to `alertmanagers` ("host:port"). Exemplar storage is on, so scrapes
    ask for OpenMetrics first. Blocks that are already in `directory`/data are served as well.
    """

    names = ("prometheus",)
    error = PrometheusError

    def __init__(
        self,
        directory: Path,
        targets: Mapping[str, str | Sequence[str]],
        *,
        metrics_path: str = "/metrics",
        rules: Mapping[str, Any] | None = None,
        alertmanagers: Sequence[str] = (),
    ) -> None:
        super().__init__(directory)
        # JSON is YAML: no second serializer, and no quoting to get wrong.
        config: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": job,
                    "metrics_path": metrics_path,
                    "static_configs": [{"targets": [of_job] if isinstance(of_job, str) else list(of_job)}],
                }
                for job, of_job in targets.items()
            ],
        }
        if rules is not None:
            (directory / "rules.yml").write_text(json.dumps(rules, indent=1))
            config["rule_files"] = ["rules.yml"]
        if alertmanagers:
            config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": list(alertmanagers)}]}]}
        (directory / "prometheus.yml").write_text(json.dumps(config, indent=1))

    def arguments(self) -> list[str]:
        return [
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]

    def query(self, promql: str, *, at: float | None = None) -> Series:
        """The instant vector of an expression, as (labels, value); an empty list when nothing matches.

        `at` is in seconds since the epoch, by default now.
        """
        moment = {} if at is None else {"time": f"{at:.3f}"}
        data = self._get("query", query=promql, **moment)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def query_range(self, promql: str, start: float, end: float, step_s: float = 1.0) -> Ranges:
        """The samples of an expression from `start` to `end` (seconds since the epoch), as (labels, (time, value)s)."""
        data = self._get(
            "query_range", query=promql, start=f"{start:.3f}", end=f"{end:.3f}", step=f"{step_s:g}"
        )
        return [
            (series["metric"], [(float(moment), float(value)) for moment, value in series["values"]])
            for series in data["result"]
        ]

    def label_values(self, label: str, selector: str, start: float, end: float) -> list[str]:
        """The values of `label` among the series that `selector` matches."""
        values: list[str] = self._get(
            f"label/{label}/values", **{"match[]": selector, "start": f"{start:.3f}", "end": f"{end:.3f}"}
        )
        return values

    def rules(self) -> list[dict[str, Any]]:
        """Every rule as Prometheus sees it: name, type, health, lastError."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that are pending or firing now: labels, annotations, state, activeAt, value."""
        active: list[dict[str, Any]] = self._get("alerts")["alerts"]
        return active

    def value(self, promql: str) -> float:
        """The one value of an expression; NaN when nothing matches, PrometheusError when several series do."""
        result = self.query(promql)
        if len(result) > 1:
            raise PrometheusError(f"{promql} has {len(result)} series, expected one: {result}")
        return result[0][1] if result else math.nan

    def wait_until(self, promql: str, predicate: Callable[[Series], bool], timeout: float = 15.0) -> Series:
        """Ask until the answer satisfies `predicate`, and return it; PrometheusError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            result = self.query(promql)
            if predicate(result):
                return result
            if time.monotonic() > deadline:
                raise PrometheusError(
                    f"after {timeout:g} s, {promql} is still {result}\ntargets: {self.target_errors()}\n{self.log()}"
                )
            time.sleep(POLL_S)

    def wait_for_scrape_after(self, moment: float, job: str, timeout: float = 15.0) -> None:
        """Wait until a successful scrape of `job` that began after `moment` (seconds since the epoch) is stored."""
        # When the scrape began, by time.time() of this machine. timestamp(up == 1) would not do: of anything but
        # a plain selector, timestamp() is the time of the query.
        self.wait_until(
            f'timestamp(up{{job="{job}"}}) and up{{job="{job}"}} == 1',
            lambda result: bool(result) and all(began > moment for _, began in result),
            timeout,
        )

    def exemplars(self, promql: str) -> list[tuple[dict[str, str], dict[str, str], float]]:
        """The exemplars of the last hour behind an expression: (series labels, exemplar labels, value)."""
        now = time.time()
        data = self._get("query_exemplars", query=promql, start=f"{now - 3600:.3f}", end=f"{now + 60:.3f}")
        return [
            (series["seriesLabels"], exemplar["labels"], float(exemplar["value"]))
            for series in data
            for exemplar in series["exemplars"]
        ]

    def target_errors(self) -> dict[str, str]:
        """{job: what went wrong at its last scrapes}, empty text when nothing did."""
        errors: dict[str, list[str]] = {}
        for target in self._get("targets")["activeTargets"]:
            errors.setdefault(target["labels"]["job"], []).append(target["lastError"])
        return {job: "; ".join(filter(None, of_job)) for job, of_job in errors.items()}

    def _get(self, endpoint: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as refusal:
            raise PrometheusError(f"{endpoint} {parameters}: {refusal.read().decode()}") from None


def backfill(directory: Path, openmetrics: str) -> None:
    """Write `openmetrics`, samples with timestamps, into blocks for a PrometheusServer of the same `directory`."""
    program = on_path("promtool", error=PrometheusError)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "backfill.om"
    path.write_text(openmetrics)
    command = [program, "tsdb", "create-blocks-from", "openmetrics", str(path), str(directory / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise PrometheusError(f"promtool: {done.stderr}{done.stdout}")


def promtool_check_metrics(text: str) -> tuple[int, str]:
    """Exit status and output of `promtool check metrics` for a scrape: (0, "") when it has nothing to say."""
    program = on_path("promtool", error=PrometheusError)
    done = subprocess.run(
        [program, "check", "metrics"], input=text.encode(), capture_output=True, timeout=30, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace").strip()
