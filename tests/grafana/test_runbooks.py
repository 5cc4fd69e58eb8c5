"""Runbooks: one for each alert, and nothing in them that does not exist or does not run."""

from __future__ import annotations

import json
import logging
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY

import obskit
from obskit import names
from obskit.export import objectives, rules
from obskit.export.links import dashboard_uid
from tests.grafana.runbooks import FOLDER, SECTIONS, Named, Runbook, runbook_queries, runbooks
from tests.support.findings import write_findings
from tests.support.ports import free_port

GRAFANA = FOLDER.parent
ALERTS = {alert.name: alert for alert in rules.alerts(objectives.DEFAULTS)}

# What Prometheus itself adds, and what an alert becomes.
_PROMETHEUS = {"up": (), "scrape_duration_seconds": (), "scrape_samples_scraped": ()}
_ALERTS = {"ALERTS": ("alertname", "alertstate", "severity")}
# Grafana replaces these in text panels, where runbooks are shown as well.
_INTERPOLATED = re.compile(r"\$|\[\[|\{\{")
_SILENCE = re.compile(r"amtool silence add [^`\n]+")


@pytest.fixture(params=runbooks(), ids=lambda runbook: runbook.alert)
def runbook(request: pytest.FixtureRequest) -> Runbook:
    found: Runbook = request.param
    return found


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {runbook.alert for runbook in runbooks()} == set(ALERTS)


def test_the_index_lists_every_alert_with_its_severities() -> None:
    severities: dict[str, list[str]] = {}
    for alert in rules.alerts(objectives.DEFAULTS):
        severities.setdefault(alert.name, []).append(alert.severity)
    rows = re.findall(
        r"^\| \[(\w+)\]\((\w+)\.md\) \| ([^|]+) \| ([^|]+) \|$", (FOLDER / "README.md").read_text(), re.M
    )
    assert sorted((name, file, severity) for name, file, severity, _ in rows) == sorted(
        (name, name, ", ".join(found)) for name, found in severities.items()
    )
    sentences = {runbook.alert: _first_sentence(runbook) for runbook in runbooks()}
    assert {name: sentence for name, _, _, sentence in rows} == sentences


def _first_sentence(runbook: Runbook) -> str:
    return runbook.text.split("\n\n")[1].replace("\n", " ")


def test_it_has_its_name_one_sentence_and_the_five_sections(runbook: Runbook) -> None:
    title, sentence = runbook.text.split("\n\n")[:2]
    assert title == f"# {runbook.alert}"
    assert re.fullmatch(r"[A-Z][^.]+\.", sentence), f"not one sentence: {sentence}"
    assert list(runbook.sections) == SECTIONS
    assert all(text.strip() for text in runbook.sections.values())


def test_its_diagnosis_has_panel_query_and_log_filter_in_the_order_of_use(runbook: Runbook) -> None:
    diagnosis = runbook.sections["Diagnosis"]
    assert runbook.blocks("promql", "Diagnosis")
    # The watchdog is about the way of an alert, not about a service with log lines.
    assert runbook.blocks("logql", "Diagnosis") or runbook.alert == "ObskitWatchdog"
    assert runbook.blocks("console", "Diagnosis")
    first = [diagnosis.find(sign) for sign in ("- Dashboard: ", "```promql")]
    assert first == sorted(first)
    assert diagnosis.lstrip().startswith("- Dashboard: "), "the panel to open comes first"
    known = {"promql", "logql", "traceql", "console"}
    assert set(re.findall(r"^ *```(\w+)$", runbook.text, re.M)) <= known


def test_its_meaning_tells_how_long_the_alert_waits_and_goes_on(runbook: Runbook) -> None:
    for alert in rules.alerts(objectives.DEFAULTS):
        if alert.name == runbook.alert:
            for duration in filter(None, (alert.hold, alert.keep_firing)):
                count, unit = duration[:-1], {"m": "min", "h": "h"}[duration[-1]]
                assert re.search(rf"\b{count}\s+{unit}", runbook.sections["Meaning"]), duration


def test_it_shows_the_same_in_a_text_panel_of_grafana(runbook: Runbook) -> None:
    assert not _INTERPOLATED.findall(runbook.text)
    prose = re.sub(r"`[^`]+`", "", runbook.prose)
    assert not re.findall(r"<[A-Za-z/!]", prose), "HTML in the prose"


def test_the_panels_it_names_exist_and_one_is_on_the_alerts_own_dashboard(runbook: Runbook) -> None:
    named = runbook.panels()
    assert set(named) <= set(_panels()), "no such panel"
    assert len(named) == runbook.text.count("Dashboard: "), "a panel that the test cannot read"
    own = dashboard_uid(ALERTS[runbook.alert].dashboard)
    assert own in {uid for panel, uid in _panels().items() if panel in named}


def _panels() -> dict[Named, str]:
    found = {}
    for path in (GRAFANA / "dashboards").glob("*.json"):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for inner in (panel, *panel.get("panels", [])):
                found[Named(dashboard["title"], inner["title"])] = dashboard["uid"]
    return found


# ---- queries ----------------------------------------------------------------------------------------


def test_its_promql_names_only_metrics_and_labels_that_exist(runbook: Runbook) -> None:
    known = _known_metrics()
    for query in runbook.blocks("promql"):
        selectors = list(_selectors(promql_parser.parse(query)))
        assert selectors, query
        for selector in selectors:
            assert selector.name in known, f"{selector.name} in {query}"
            for matcher in selector.matchers.matchers:
                labels = known[selector.name]
                if labels is not None:
                    assert matcher.name in {*labels, "job", "instance"}, query
                if matcher.name == "job":
                    assert matcher.value == "shop", query


def test_the_queries_of_all_runbooks_are_handed_out_with_their_alert() -> None:
    queries = list(runbook_queries())
    assert {alert for alert, _ in queries} == set(ALERTS)
    assert all(query == query.strip() and "```" not in query for _, query in queries)


def _known_metrics() -> dict[str, tuple[str, ...] | None]:
    """Name -> its labels; None where they are not ours to know."""
    known: dict[str, tuple[str, ...] | None] = {**_PROMETHEUS, **_ALERTS}
    for metric in names.METRICS:
        if metric.kind == "histogram":
            known |= {metric.name + "_bucket": (*metric.labels, "le")}
            known |= dict.fromkeys((metric.name + "_count", metric.name + "_sum"), metric.labels)
        else:
            known[metric.name] = metric.labels
    known |= dict.fromkeys((sample.name for family in REGISTRY.collect() for sample in family.samples), None)
    for group in yaml.safe_load((GRAFANA / "rules" / "obskit.yaml").read_text())["groups"]:
        known |= dict.fromkeys((rule["record"] for rule in group["rules"] if "record" in rule), None)
    return known


def _selectors(expression: Any) -> Iterator[Any]:
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
        return
    for part in ("expr", "lhs", "rhs", "param", "vector_selector"):
        inner = getattr(expression, part, None)
        if inner is not None:
            yield from _selectors(inner)
    for argument in getattr(expression, "args", []):
        yield from _selectors(argument)


# ---- commands ---------------------------------------------------------------------------------------


def test_its_silences_are_commands_that_amtool_understands(runbook: Runbook) -> None:
    commands = _SILENCE.findall(runbook.text)
    # Watchdog and internal errors are never normal; the first must not be silenced at all.
    assert commands or runbook.alert == "ObskitWatchdog"
    for command in commands:
        arguments = shlex.split(command)
        assert f"alertname={runbook.alert}" in arguments
        nobody = f"--alertmanager.url=http://127.0.0.1:{free_port()}"
        done = subprocess.run([*arguments, nobody], capture_output=True, text=True, timeout=30)
        # It has read matchers, duration and comment when all that fails is the connection.
        assert "connection refused" in done.stderr, f"{command}\n{done.stderr}"


def test_its_grep_lines_find_what_they_look_for_in_real_lines(
    runbook: Runbook, install: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _write_lines(install)
    write_findings(install, tmp_path)
    (tmp_path / "app.log").write_text(capsys.readouterr().out)
    for block in runbook.blocks("console"):
        for line in block.splitlines():
            if "app.log" in line:
                done = subprocess.run(
                    ["bash", "-o", "pipefail", "-c", line],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=30,
                )
                # 128 and SIGPIPE: `head` had all it wanted before `sort` had written the rest.
                assert done.returncode in ((0, 141) if "| head" in line else (0,)), f"{line}\n{done.stderr}"
                assert done.stdout.strip() not in ("", "0"), line


def _write_lines(install: Callable[..., Any]) -> None:
    """One request of each way to end, and the other lines that runbooks speak of, on standard output."""
    app = install(_shop, service="shop", log_format="json", capture_logs="all", trusted_proxies=("loopback",))
    for path in (
        "/",
        "/missing",
        "/refused",
        "/busy",
        "/slow",
        "/large",
        "/short",
        "/late",
        "/bad",
        "/exit",
        "/none",
    ):
        _request(app, path)
    _request(app, "/stream", leave=True)
    _request(app, "/waited", REMOTE_ADDR="127.0.0.1", HTTP_X_REQUEST_START=f"t={time.time() - 3:.3f}")
    app.pipeline.failed("logs.close", ValueError("a processor that raises"))
    told = {"reason": "refused", "collector": "http://collector:4318"}
    logging.getLogger("obskit").warning("telemetry.export_failed", extra=told)
    logging.getLogger("shop").error("accept failed: Too many open files")


def _shop(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    path, exchange = environ["PATH_INFO"], obskit.current()
    assert exchange is not None
    if path != "/missing":
        exchange.name_route("/orders/{order_id}")
    if path == "/bad":
        raise KeyError("order")
    if path == "/none":
        return []
    if path == "/slow":
        exchange.started_ns -= 7_000_000_000
    if path == "/large":
        exchange.response_bytes += 100_000_000
    status = {"/missing": "404 Not Found", "/refused": "403 Forbidden", "/busy": "503 Service Unavailable"}
    start_response(status.get(path, "200 OK"), [("Content-Length", "10")] if path == "/short" else [])
    return _parts(path)


def _parts(path: str) -> Iterator[bytes]:
    yield b"part"
    if path == "/late":
        raise KeyError("order")
    if path == "/exit":
        raise SystemExit(1)
    yield b"more" if path != "/short" else b""


def _request(app: Any, path: str, *, leave: bool = False, **more: str) -> None:
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "HTTP_USER_AGENT": "curl/8.5.0",
        "REMOTE_ADDR": "127.0.0.1",
        **more,
    }
    try:
        body = app(environ, lambda *_: lambda _data: None)
    except Exception:
        return
    try:
        for _ in body:
            if leave:
                break
    except (Exception, SystemExit):
        pass
    finally:
        if hasattr(body, "close"):
            body.close()
