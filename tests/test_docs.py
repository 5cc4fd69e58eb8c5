"""The README is executed: every snippet runs on a real server, every output it shows has the shape it shows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.otlp import SERVER, OtlpSink
from tests.support.servers import Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
FILES = {
    match[1]: body
    for language, body in BLOCKS
    if language == "python" and (match := re.match(r"# (\S+\.py)\n", body))
}
DJANGO_SETTINGS = """
from django.http import HttpResponse
from django.urls import path

SECRET_KEY = "only for this test"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.settings"
urlpatterns = [path("orders/<int:order_id>", lambda request, order_id: HttpResponse("an order"))]
"""


def blocks(language: str) -> list[str]:
    return [body for found, body in BLOCKS if found == language]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with every file the README shows, as a reader would have typed them."""
    for name, body in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(body, encoding="utf-8")
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "settings.py").write_text(DJANGO_SETTINGS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as running:
        yield running


def test_every_python_block_is_known_to_these_tests() -> None:
    named = {"main.py", "wsgi.py", "shop/wsgi.py", "shop/asgi.py", "plain.py", "anywhere.py"}
    named |= {"checkout.py", "detectors.py"}
    assert set(FILES) == named
    assert len(blocks("python")) == len(named) + 1  # and the one-liner at the top


@pytest.mark.parametrize(
    ("server", "app", "route"),
    [
        ("uvicorn", "main:app", "/orders/{order_id}"),
        ("gunicorn-sync", "wsgi:app", "/orders/<int:order_id>"),
        ("gunicorn-sync", "shop.wsgi", "/orders/<int:order_id>"),
        ("uvicorn", "shop.asgi:application", "/orders/<int:order_id>"),
        ("waitress", "plain:app", "/orders/{id}"),
    ],
)
def test_each_frameworks_snippet_serves_and_is_recorded(
    project: Path, tmp_path: Path, server: str, app: str, route: str
) -> None:
    with Server(server, app, cwd=project, log_dir=tmp_path / "log") as running:
        with urllib.request.urlopen(f"{running.url}/orders/42", timeout=10) as response:
            assert response.status == 200
        line = running.wait_for_line(lambda found: found["event"] == "http.request")
    assert line["http_route"] == route
    assert line["url_path"] == "/orders/42"


def test_the_three_outputs_have_the_shape_of_a_real_request(
    project: Path, tmp_path: Path, sink: OtlpSink
) -> None:
    shown_line, shown_span = (json.loads(block) for block in blocks("json"))
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with Server("uvicorn", "main:app", cwd=project, log_dir=tmp_path / "log", env=env) as running:
        urllib.request.urlopen(f"{running.url}/orders/42", timeout=10).read()
        line = running.wait_for_line(lambda found: found["event"] == "http.request")
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        request = urllib.request.Request(f"{running.url}/metrics", headers=accept)
        page = urllib.request.urlopen(request, timeout=10).read().decode()
        span = sink.wait_for(trace_id=line["trace_id"], kind=SERVER)

    assert list(line) == list(shown_line)
    for key in ("event", "http_route", "url_path", "outcome", "order_id", "http_response_status_code"):
        assert line[key] == shown_line[key]
    assert span.name == shown_span["name"]
    assert set(span.attributes) == set(shown_span["attributes"])
    shown_series = [sample.split(" ")[0] for sample in blocks("text")[0].splitlines()]
    real_series = {sample.split(" ")[0] for sample in page.splitlines() if not sample.startswith("#")}
    without_bound = re.compile(r'(,le="[^"]*"|python_version="[^"]*")')
    assert {without_bound.sub("", s) for s in shown_series} <= {without_bound.sub("", s) for s in real_series}
    assert f'# {{trace_id="{line["trace_id"]}"}}' in page

    # What the README shows is one and the same request, as it claims.
    assert shown_line["trace_id"] == shown_span["trace_id"]
    assert shown_line["trace_id"] in blocks("text")[0]
    assert (shown_span["end_ns"] - shown_span["start_ns"]) / 1e9 == pytest.approx(
        shown_line["duration_s"], abs=1e-6
    )


def test_the_snippet_for_application_code_binds_and_logs(project: Path) -> None:
    program = """
import obskit, anywhere

def app(environ, start_response):
    anywhere.pay(7)
    start_response("204 No Content", [])
    return []

app = obskit.install(app)
body = app({"REQUEST_METHOD": "POST", "PATH_INFO": "/pay"}, lambda status, headers: None)
list(body)
body.close()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=project, capture_output=True, text=True, check=True, timeout=60
    )
    lines = {line["event"]: line for line in map(json.loads, result.stdout.splitlines())}
    for event in ("payment.accepted", "stdlib logging goes the same way", "http.request"):
        assert lines[event]["order_id"] == 7
    assert lines["payment.accepted"]["amount_cents"] == 1999
    assert len({line["trace_id"] for event, line in lines.items() if event != "obskit.installed"}) == 1


def test_the_snippets_about_silent_failures_find_them(project: Path) -> None:
    program = """
import obskit, checkout, detectors

def save():
    raise OSError("the disk is full")

def app(environ, start_response):
    try:
        checkout.checkout(lambda amount_cents: None, save, amount_cents=0)
    except OSError:
        pass
    start_response("200 OK", [])
    return [b"x" * 50_000_001]

app = obskit.install(app, detectors=[detectors.HUGE_ANSWER])
body = app({"REQUEST_METHOD": "POST", "PATH_INFO": "/checkout"}, lambda status, headers: None)
list(body)
body.close()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=project, capture_output=True, text=True, check=True, timeout=60
    )
    (line,) = [
        line for line in map(json.loads, result.stdout.splitlines()) if line["event"] == "http.request"
    ]
    assert line["findings"] == ["invariant_failed", "partial_write", "huge_answer"]
    assert line["evidence"]["partial_write"]["missing"] == ["saved"]
    assert line["evidence"]["huge_answer"]["bytes"] == 50_000_001
    assert line["level"] == "warning"


def test_the_one_liner_is_all_it_takes(project: Path) -> None:
    program = "import obskit\nasync def app(scope, receive, send): ...\n" + blocks("python")[0]
    subprocess.run([sys.executable, "-c", program], cwd=project, check=True, capture_output=True, timeout=60)


def test_the_two_commands_exist() -> None:
    commands = [line.removeprefix("$ ") for line in blocks("console")[0].splitlines()]
    assert commands == ["make demo", "make test"]
    for command in commands:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    "page",
    sorted(
        path
        for folder in ("", "docs/", "integrations/**/", "grafana/**/")
        for path in ROOT.glob(f"{folder}*.md")
    ),
)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


EXPORTS = sorted(
    {
        line.strip().removeprefix("$ ")
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("grafana/**/*.md")]
        for line in re.findall(
            r"^\s*(?:\$ )?obskit export .*$", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
)


@pytest.mark.parametrize("command", EXPORTS)
def test_an_export_that_a_page_shows_writes_rules_dashboards_and_runbooks(
    command: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "obskit.cli", *shlex.split(command)[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    written = {path.relative_to(tmp_path).as_posix().partition("/")[2] for path in tmp_path.rglob("*.*")}
    assert {"dashboards/obskit-overview.json", "runbooks/README.md"} <= written
    assert any(path.startswith("rules/obskit") for path in written)


def test_pages_show_exports() -> None:
    assert len(EXPORTS) >= 3


def test_generated_pages_are_up_to_date() -> None:
    subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, check=True, timeout=60)
