"""The shops of integrations/, each started for real, with the payment gateway and the database it needs."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.load import PATHS
from tests.support.ports import free_port
from tests.support.postgres import postgres
from tests.support.servers import Server

INTEGRATIONS = Path(__file__).resolve().parents[2] / "integrations"


@dataclass(frozen=True)
class Shop:
    """A service of integrations/ and the server it is run under, one worker each: one /metrics for all of it."""

    name: str
    directory: str
    server: str
    app: str
    order_id: str
    """How the framework writes the order's number in a route."""
    on_postgres: bool = False

    def route(self, kind: str) -> str:
        return "unmatched" if kind == "nowhere" else PATHS[kind].replace("{id}", self.order_id)


SHOPS = [
    Shop("django-wsgi", "django", "gunicorn-sync", "shop.wsgi:application", "<int:order_id>"),
    Shop("django-asgi", "django", "uvicorn", "shop.asgi:application", "<int:order_id>"),
    Shop("flask", "flask", "gunicorn-gthread", "wsgi:app", "<int:order_id>"),
    Shop("fastapi", "fastapi", "uvicorn", "main:app", "{order_id}"),
    Shop("django-postgresql", "django", "gunicorn-sync", "shop.wsgi:application", "<int:order_id>", True),
    Shop("flask-postgresql", "flask", "gunicorn-gthread", "wsgi:app", "<int:order_id>", True),
    Shop("fastapi-postgresql", "fastapi", "uvicorn", "main:app", "{order_id}", True),
]


@contextmanager
def payment_gateway(log_path: Path) -> Iterator[str]:
    """The third party that a shop calls when an order is paid; yields its URL."""
    port = free_port()
    command = [sys.executable, str(INTEGRATIONS / "payments" / "gateway.py"), "--port", str(port)]
    with (
        log_path.open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            deadline = time.monotonic() + 20
            while not answers(port, "/healthz"):
                assert process.poll() is None, log_path.read_text()
                assert time.monotonic() < deadline, "the payment gateway did not start"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def answers(port: int, path: str) -> bool:
    try:
        return get(port, path)[0] == 200
    except OSError:
        return False


def get(port: int, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, content type and text of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read().decode()
    finally:
        connection.close()


@contextmanager
def running(
    shop: Shop, tmp_path: Path, extra_env: Mapping[str, str] | None = None
) -> Iterator[tuple[Server, str | None]]:
    """The shop's server, and the URL of its PostgreSQL if it runs on one."""
    directory = INTEGRATIONS / shop.directory
    with ExitStack() as stack:
        env = {
            "SHOP_DB_PATH": str(tmp_path / "shop.sqlite3"),
            "PAYMENTS_URL": stack.enter_context(payment_gateway(tmp_path / "gateway.log")),
            "OBSKIT_LOG_FORMAT": "json",
            **(extra_env or {}),
        }
        database_url = stack.enter_context(postgres()) if shop.on_postgres else None
        if database_url:
            env["DATABASE_URL"] = database_url
        server = Server(shop.server, shop.app, cwd=directory, log_dir=tmp_path, env=env)
        if shop.directory == "django":
            subprocess.run(
                [sys.executable, "manage.py", "migrate", "--no-input", "--verbosity=0"],
                cwd=directory,
                env=server.env,
                check=True,
                timeout=60,
            )
        yield stack.enter_context(server), database_url
