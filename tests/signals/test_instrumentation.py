"""Installed client instrumentation is switched on, below the SERVER span, and off again."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import httpx
import pytest
import requests
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import obskit
from obskit.signals import instrumentation, late
from tests.signals.conftest import House

Make = Callable[..., House]
Lines = Callable[[], list[dict[str, Any]]]
CLIENTS = ["httpx", "psycopg", "redis", "requests", "sqlalchemy", "sqlite3", "urllib"]
SERVERS = ["asgi", "fastapi", "flask", "wsgi"]


@pytest.fixture
def on(house: Make) -> Callable[..., list[str]]:
    """Installs with these options; the instrumentations that are on then, or wait for their library."""

    def install(**options: Any) -> list[str]:
        house(instrumentation=True, **options)
        return sorted({*instrumentation._switched_on, *instrumentation._waiting})

    return install


@pytest.fixture(autouse=True)
def all_off_afterwards() -> Iterator[None]:
    yield
    obskit.shutdown()
    assert instrumentation._switched_on == instrumentation._waiting == {}


def _instrumented() -> set[str]:
    """Names of the installed instrumentations that are on, as they say themselves."""
    # Each of these imports its library, and with it comes what waits for that library.
    return {
        entry.name
        for entry in entry_points(group="opentelemetry_instrumentor")
        if (entry.name in SERVERS or (entry.name in CLIENTS and importlib.util.find_spec(entry.name)))
        and entry.load()().is_instrumented_by_opentelemetry
    }


def test_every_installed_client_is_switched_on_and_no_server(on: Callable[..., list[str]]) -> None:
    found = on()
    assert set(found) & {*CLIENTS, *SERVERS} == _instrumented()
    assert {"httpx", "requests", "sqlite3", "urllib"} <= set(found)
    assert not {*SERVERS, "django", "starlette"} & _instrumented()


def test_a_client_whose_library_is_not_installed_stays_off(on: Callable[..., list[str]]) -> None:
    found = on()
    for name in ("redis", "psycopg"):
        assert (name in found) is (importlib.util.find_spec(name) is not None)


def test_the_notice_of_the_install_names_them(house: Make, capsys: pytest.CaptureFixture[str]) -> None:
    house(instrumentation=True).pipeline.begin()
    notice = json.loads(capsys.readouterr().out.splitlines()[0])
    assert notice["instrumentations"] == sorted({*instrumentation._switched_on, *instrumentation._waiting})


def test_none_is_switched_on_when_the_option_is_off(on: Callable[..., list[str]], house: Make) -> None:
    house(instrumentation=False)
    assert _instrumented() == set()


@pytest.mark.parametrize("name", ["httpx", "requests", "sqlite3"])
@pytest.mark.parametrize("by", ["option", "environment", "upper case", "spaces"])
def test_each_can_be_switched_off_by_name(
    name: str, by: str, on: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "option":
        found = on(disabled_instrumentations=[name])
    else:
        value = {"environment": f"redis,{name}", "upper case": name.upper(), "spaces": f" {name} , "}[by]
        monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", value)
        found = on()
    assert name not in found
    assert name not in _instrumented()
    assert "urllib" in found


def test_a_star_switches_all_off(on: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "*")
    assert on() == []
    assert _instrumented() == set()


def test_a_second_install_switches_nothing_on_twice(on: Callable[..., list[str]]) -> None:
    assert on() == on()


def test_what_the_user_switched_on_is_left_alone_then_and_afterwards(on: Callable[..., list[str]]) -> None:
    from opentelemetry.instrumentation.requests import RequestsInstrumentor

    RequestsInstrumentor().instrument()
    try:
        assert "requests" not in on()
        obskit.shutdown()
        assert RequestsInstrumentor().is_instrumented_by_opentelemetry
    finally:
        RequestsInstrumentor().uninstrument()


def test_shutdown_switches_all_off_again(on: Callable[..., list[str]]) -> None:
    before = (requests.Session.send, httpx.HTTPTransport.handle_request, sqlite3.connect)
    assert on()
    assert before != (requests.Session.send, httpx.HTTPTransport.handle_request, sqlite3.connect)
    obskit.shutdown()
    assert _instrumented() == set()
    assert before == (requests.Session.send, httpx.HTTPTransport.handle_request, sqlite3.connect)


# ---- faulty instrumentation ---------------------------------------------------------------------------------


class _Instrumentor:
    """What an instrumentation package provides; each way to fail is a subclass."""

    is_instrumented_by_opentelemetry = False

    def instrumentation_dependencies(self) -> list[str]:
        return []

    def instrument(self, **_: Any) -> None:
        return None

    def uninstrument(self) -> None:
        return None


class FailsOn(_Instrumentor):
    def instrument(self, **_: Any) -> None:
        raise RuntimeError("a version nobody tested")


class FailsOff(_Instrumentor):
    def uninstrument(self) -> None:
        raise RuntimeError("cannot be undone")


class NeedsMore(_Instrumentor):
    def instrumentation_dependencies(self) -> list[str]:
        return ["no-such-library >= 1.0"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes these the only instrumentation packages there are."""

    def of(**named: str) -> None:
        found = [
            EntryPoint(name, f"{__name__}:{value}", "opentelemetry_instrumentor")
            for name, value in named.items()
        ]
        monkeypatch.setattr(instrumentation, "entry_points", lambda group: found)
        monkeypatch.setattr(EntryPoint, "load", lambda entry: globals()[entry.attr])

    return of


def test_one_that_fails_costs_neither_the_install_nor_the_others_and_is_counted(
    installed: Callable[..., None], house: Make, lines: Lines
) -> None:
    installed(bad="FailsOn", good="_Instrumentor", missing="Missing")
    made = house(instrumentation=True)
    assert sorted(instrumentation._switched_on) == ["good"]
    assert made.value("obskit_internal_errors_total", stage="instrumentation.bad") == 1
    assert made.value("obskit_internal_errors_total", stage="instrumentation.missing") == 1
    assert {line["stage"] for line in lines()} == {"instrumentation.bad", "instrumentation.missing"}


def test_one_that_cannot_be_undone_is_told_and_the_others_are_undone(
    installed: Callable[..., None], house: Make, lines: Lines
) -> None:
    installed(a="FailsOff", b="_Instrumentor")
    house(instrumentation=True)
    lines()
    obskit.shutdown()
    assert instrumentation._switched_on == {}
    (told,) = lines()
    assert (told["event"], told["instrumentation"]) == ("instrumentation.undo_failed", "a")


def test_one_whose_library_has_another_version_stays_off(installed: Callable[..., None], house: Make) -> None:
    installed(needy="NeedsMore")
    house(instrumentation=True)
    assert instrumentation._switched_on == {}


# ---- libraries that nobody has imported yet ------------------------------------------------------------------

PROGRAM = """
import json, sys
import obskit
from obskit.signals import instrumentation
app = obskit.install(lambda environ, start_response: [], interface="wsgi", service="late")
names = {names!r}
before = [name for name in names if name in sys.modules]
waiting = sorted(instrumentation._waiting)
{used}
on = sorted(instrumentation._switched_on)
obskit.shutdown()
print(json.dumps([before, waiting, on, sorted(instrumentation._waiting), type(sys.meta_path[0]).__name__]))
"""


def _in_a_process(used: str) -> list[Any]:
    program = PROGRAM.format(names=["httpx", "requests", "sqlite3", "psycopg", "structlog"], used=used)
    # Where coverage is measured, its own start would load sqlite3 in that process.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=env
    )
    told: list[Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def test_no_library_is_loaded_for_the_sake_of_instrumenting_it() -> None:
    before, waiting, on, left, _ = _in_a_process("")
    assert before == []
    assert {"httpx", "requests", "sqlite3"} <= set(waiting)
    assert not {"httpx", "requests", "sqlite3"} & set(on)
    assert left == []


@pytest.mark.parametrize(
    ("used", "name"),
    [
        ("import httpx", "httpx"),
        ("from requests import get", "requests"),
        ("import sqlite3.dbapi2", "sqlite3"),
        ("import opentelemetry.instrumentation.psycopg", "psycopg"),
        (
            "from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor as I; I().instrument()",
            "httpx",
        ),
        (
            "import threading; t = threading.Thread(target=__import__, args=['httpx']); t.start(); t.join()",
            "httpx",
        ),
    ],
)
def test_an_instrumentation_is_switched_on_when_its_library_is_imported(used: str, name: str) -> None:
    _, waiting, on, left, first = _in_a_process(used)
    assert name in waiting
    assert name in on
    assert left == []
    assert first != "_Finder"


def test_what_is_imported_after_shutdown_stays_as_it_is() -> None:
    _, _, on, _, _ = _in_a_process("obskit.shutdown()\nimport httpx, requests, sqlite3")
    assert on == []


def test_a_library_of_which_nobody_can_tell_what_is_imported_is_not_waited_for(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instrumentation, "_top_level", lambda library: [])
    house(instrumentation=True)
    assert {"httpx", "requests"} <= set(instrumentation._switched_on)
    assert not {"httpx", "requests"} & set(instrumentation._waiting)


def test_a_failure_when_the_library_comes_is_counted_and_no_failure_of_the_import(
    house: Make, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    waits: dict[str, Callable[[], None]] = {}
    monkeypatch.setattr(late, "when_imported", lambda names, then: waits.setdefault(names[0], then))
    made = house(instrumentation=True)
    monkeypatch.setattr(EntryPoint, "load", lambda entry: FailsOn)
    waits["requests"]()
    assert made.value("obskit_internal_errors_total", stage="instrumentation.requests") == 1
    assert "requests" not in {*instrumentation._switched_on, *instrumentation._waiting}


# ---- child spans --------------------------------------------------------------------------------------------


@pytest.fixture
def upstream() -> Iterator[tuple[str, list[str]]]:
    """A server to call, and the traceparent headers it was sent."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("traceparent", ""))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/stock", seen
    server.shutdown()
    server.server_close()
    thread.join(5)


def _urllib(url: str) -> None:
    with urllib.request.urlopen(url) as answer:
        answer.read()


@pytest.mark.parametrize("call", [requests.get, httpx.get, _urllib], ids=["requests", "httpx", "urllib"])
def test_an_outbound_call_is_one_child_of_the_server_span_and_tells_the_trace(
    call: Callable[[str], Any], house: Make, spans: InMemorySpanExporter, upstream: tuple[str, list[str]]
) -> None:
    url, seen = upstream
    made = house(instrumentation=True)
    with made.request() as exchange:
        call(url)
    client, server = spans.get_finished_spans()
    assert (client.kind, server.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert f"{client.parent.span_id:016x}" == exchange.span_id
    assert [header[:-3] for header in seen] == [f"00-{exchange.trace_id}-{client.context.span_id:016x}"]


def test_a_query_is_one_child_of_the_server_span(house: Make, spans: InMemorySpanExporter) -> None:
    made = house(instrumentation=True)
    with made.request() as exchange:
        connection = sqlite3.connect(":memory:")
        connection.cursor().execute("select 1").fetchall()
        connection.close()
    query, server = spans.get_finished_spans()
    assert (query.kind, server.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert f"{query.parent.span_id:016x}" == exchange.span_id
    assert query.attributes["db.statement"] == "select 1"


def test_children_go_to_the_provider_of_the_install_also_without_a_global_one(
    house: Make, upstream: tuple[str, list[str]]
) -> None:
    made = house(instrumentation=True)
    with made.request() as exchange:
        requests.get(upstream[0])
    assert isinstance(trace.get_tracer_provider(), trace.TracerProvider)
    assert upstream[1][0].split("-")[1] == exchange.trace_id
