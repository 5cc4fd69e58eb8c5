"""Lost sessions on real servers: two workers that sign with different keys, and all that only looks like a loss."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

from tests.support.exposition import labels, parse
from tests.support.otlp import SERVER, OtlpSink
from tests.support.servers import Line, Server

pytestmark = pytest.mark.e2e

# A key of each worker's own is what `SECRET_KEY = os.urandom(32)` in a settings file makes.
DJANGO = """
import os
import django
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY=os.environ.get("KEY") or f"of worker {os.getpid()}",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SESSION_ENGINE="django.contrib.sessions.backends." + os.environ["STORE"],
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}},
    LOGGING_CONFIG=None,
)
django.setup()

import obskit
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application


def count(request):
    request.session["n"] = request.session.get("n", 0) + 1
    return HttpResponse(str(request.session["n"]))


def log_in(request):
    request.session.cycle_key()
    return count(request)


def log_out(request):
    request.session.flush()
    return HttpResponse("out")


urlpatterns = [
    path("count", count),
    path("log-in", log_in),
    path("log-out", log_out),
    path("healthz", lambda request: HttpResponse("ok")),
]
if __name__ == "__main__":
    call_command("migrate", verbosity=0)
else:
    app = obskit.install(get_asgi_application() if os.environ["ASGI"] else get_wsgi_application())
"""
FLASK = """
import os
import flask
import obskit

app = flask.Flask("shop")
app.secret_key = os.environ.get("KEY") or f"of worker {os.getpid()}"


@app.get("/count")
def count():
    flask.session["n"] = flask.session.get("n", 0) + 1
    return str(flask.session["n"])


app.add_url_rule("/log-in", view_func=count, endpoint="log-in")


@app.get("/log-out")
def log_out():
    flask.session.clear()
    return "out"


@app.get("/healthz")
def healthz():
    return "ok"


obskit.install(app)
"""
STARLETTE = """
import os
import obskit
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def count(request):
    request.session["n"] = request.session.get("n", 0) + 1
    return PlainTextResponse(str(request.session["n"]))


async def log_out(request):
    request.session.clear()
    return PlainTextResponse("out")


async def healthz(request):
    return PlainTextResponse("ok")


app = obskit.install(
    Starlette(
        routes=[
            Route("/count", count), Route("/log-in", count), Route("/log-out", log_out), Route("/healthz", healthz)
        ],
        middleware=[Middleware(SessionMiddleware, secret_key=os.environ.get("KEY") or f"of worker {os.getpid()}")],
    )
)
"""
APPS = {
    "django-db": (DJANGO, {"STORE": "db", "ASGI": ""}, "gunicorn-sync"),
    "django-signed-cookies": (DJANGO, {"STORE": "signed_cookies", "ASGI": ""}, "gunicorn-sync"),
    "flask": (FLASK, {}, "gunicorn-sync"),
    "django-asgi-db": (DJANGO, {"STORE": "db", "ASGI": "1"}, "uvicorn"),
    "starlette": (STARLETTE, {}, "uvicorn"),
}


class Service:
    """Two workers of one application: of one gunicorn, or two uvicorns beside each other."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.cookie_name = ""

    def get(self, server: Server, path: str, cookie: str | None) -> tuple[str, str | None]:
        """The body, and the session cookie that came back."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        try:
            connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, body
            back = SimpleCookie(response.getheader("Set-Cookie") or "")
            return body, next((f"{name}={morsel.value}" for name, morsel in back.items()), None)
        finally:
            connection.close()

    def lines(self) -> list[Line]:
        return [line for one in self.servers for line in one.lines if line["event"] == "http.request"]

    def lost(self) -> list[Line]:
        return [line for line in self.lines() if line["findings"]]

    def wait_for(self, what: Any, do: Any) -> Any:
        deadline = time.monotonic() + 20
        while not (found := what()):
            assert time.monotonic() < deadline, self.lines()[-10:]
            do()
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def call(kind: str, **env: str) -> Service:
            source, more, name = APPS[kind]
            (tmp_path / "shop_app.py").write_text(source, encoding="utf-8")
            env = {**more, "OBSKIT_STATE_DIR": str(tmp_path), "OBSKIT_LOG_FORMAT": "json", **env}
            servers = []
            for _ in range(1 if name.startswith("gunicorn") else 2):
                server = Server(name, "shop_app:app", cwd=tmp_path, log_dir=tmp_path / "log", env=env)
                if name.startswith("gunicorn"):
                    server.command[server.command.index("-w") + 1] = "2"
                servers.append(server)
            if source is DJANGO:
                migrate(servers[0], tmp_path)
            for server in servers:
                stack.enter_context(server)
            return Service(servers)

        yield call


def migrate(server: Server, directory: Path) -> None:
    command = [sys.executable, "shop_app.py"]
    subprocess.run(command, cwd=directory, env=server.env, check=True, timeout=60)


def from_both_workers(service: Service, path: str, cookie: str) -> None:
    """The same cookie until both workers have seen it."""
    before = len(service.lines())

    def asked() -> bool:
        return len({line["worker_pid"] for line in service.lines()[before:] if line["url_path"] == path}) == 2

    def ask() -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda server: service.get(server, path, cookie), service.servers * 4))

    service.wait_for(asked, ask)


@pytest.mark.parametrize("kind", APPS)
def test_workers_that_sign_with_different_keys_lose_a_session_in_all_three_signals(
    kind: str, start: Any
) -> None:
    with OtlpSink() as sink:
        service = start(kind, OTEL_EXPORTER_OTLP_ENDPOINT=sink.url, OTEL_BSP_SCHEDULE_DELAY="50")
        _, cookie = service.get(service.servers[0], "/count", None)
        assert cookie is not None
        from_both_workers(service, "/count", cookie)
        (line,) = service.lost()
        assert line["findings"] == ["session_lost"]
        assert line["evidence"]["session_lost"]["reason"] == "bad_signature"
        assert (line["level"], line["http_response_status_code"]) == ("warning", 200)
        span = sink.wait_for(trace_id=line["trace_id"], kind=SERVER)
        assert span.attributes["obskit.findings"] == ["session_lost"]
        (event,) = [event for event in span.events if event.name == "obskit.finding"]
        assert event.attributes["obskit.finding.evidence.reason"] == "bad_signature"
    pages: list[str] = []
    counted = labels(reason="bad_signature")

    def in_the_metrics() -> bool:
        return any(parse(page)["obskit_sessions_lost_total"].get(counted) == 1 for page in pages)

    def scrape() -> None:
        pages.extend(service.get(server, "/metrics", None)[0] for server in service.servers)

    service.wait_for(in_the_metrics, scrape)
    value = cookie.partition("=")[2]
    assert not any(
        value in path.read_text() for one in service.servers for path in (one.stdout_path, one.stderr_path)
    )


@pytest.mark.parametrize("kind", APPS)
def test_visits_log_ins_log_outs_and_late_tabs_are_no_loss(kind: str, start: Any) -> None:
    service = start(kind, KEY="the same in all workers")
    here = service.servers[0]
    service.get(here, "/healthz", None)
    body, first = service.get(here, "/count", None)
    assert (body, bool(first)) == ("1", True)
    body, inside = service.get(here, "/log-in", first)
    assert body == "2"
    if kind.endswith("-db"):
        assert inside != first
    from_both_workers(service, "/count", first)
    from_both_workers(service, "/healthz", inside)
    service.get(here, "/log-out", inside)
    from_both_workers(service, "/count", inside)
    from_both_workers(service, "/log-out", inside)
    service.get(here, "/count", "other=1; csrftoken=2")
    service.wait_for(lambda: service.lines()[-1], lambda: None)
    assert service.lost() == []
