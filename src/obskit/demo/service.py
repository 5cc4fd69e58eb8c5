"""The shops of integrations/ and how each is served: where they are, what they need, starting and stopping one."""

from __future__ import annotations

import http.client
import os
import re
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from obskit.demo.errors import DemoError, ServiceDied
from obskit.demo.process import ChildProcess

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
POLL_S = 0.05
STOCKED_ORDERS = 2_000
METRICS_PATH = "/metrics"

_UVICORN = "uvicorn main:app --host {host} --port {port} --timeout-graceful-shutdown 3"
# Renewing workers, as gunicorn.conf.py does, would throw away the counters that the summary compares.
_GUNICORN = (
    "gunicorn -c gunicorn.conf.py -b {host}:{port} "
    "--graceful-timeout 3 --max-requests 0 --max-requests-jitter 0 "
)


@dataclass(frozen=True)
class Service:
    """One shop: its folder and framework, server command, orders table, and the packages it cannot do without."""

    name: str
    server: str
    command: str
    orders_table: str
    needs: Mapping[str, str]
    """Importable name: distribution name."""


SERVICES: Mapping[str, Service] = {
    service.name: service
    for service in (
        Service(
            "fastapi",
            "uvicorn",
            _UVICORN,
            "orders",
            {
                "fastapi": "fastapi",
                "uvicorn": "uvicorn",
                "sqlalchemy": "sqlalchemy",
                "httpx": "httpx",
                "itsdangerous": "itsdangerous",
            },
        ),
        Service(
            "flask",
            "gunicorn",
            _GUNICORN + "wsgi:app",
            "orders",
            {"flask": "flask", "gunicorn": "gunicorn", "sqlalchemy": "sqlalchemy", "requests": "requests"},
        ),
        Service(
            "django",
            "gunicorn",
            _GUNICORN + "shop.wsgi",
            "orders_order",
            {"django": "django", "gunicorn": "gunicorn", "requests": "requests"},
        ),
    )
}

# What the user's shell says about other services must not change this one.
_NOT_INHERITED = re.compile(
    r"OBSKIT_.*|UVICORN_.*|GUNICORN_.*|FLASK_.*|DJANGO_.*|DATABASE_URL|SECRET_KEY|SECURE_COOKIES|ALLOWED_HOSTS"
    r"|FORWARDED_ALLOW_IPS|PORT|PROMETHEUS_MULTIPROC_DIR|PYTHONSAFEPATH|OTEL_SERVICE_NAME|OTEL_RESOURCE_ATTRIBUTES",
    re.IGNORECASE,
)


def check_packages(service: Service) -> None:
    """Raises DemoError with the command that installs what is missing."""
    missing = [distribution for module, distribution in service.needs.items() if not _importable(module)]
    if missing:
        # The names beside the extras, so that the command suffices whatever version of ours it installs.
        raise DemoError(
            f"--service {service.name} needs packages that are not installed here: {', '.join(missing)}. Install "
            f"them: pip install 'obskit-web[cli,{service.name}]' {' '.join(missing)}"
        )


def _importable(module: str) -> bool:
    spec = find_spec(module)
    # A folder of that name in the current directory looks like a package without an origin.
    return spec is not None and spec.origin is not None


def find_services() -> Path:
    """The folder with the shops: within the installed package, or integrations/ of a source checkout."""
    installed = Path(__file__).parent / "services"
    checkout = Path(__file__).parents[3] / "integrations"
    for place in (installed, checkout):
        if (place / "payments" / "gateway.py").is_file():
            return place
    raise DemoError(
        f"the services of the demo are missing: neither {installed} nor {checkout} holds them. Reinstall obskit-web"
    )


def check_port(port: int) -> None:
    """Raises DemoError if nobody can listen on this port of loopback now."""
    with socket.socket() as probe:
        # As servers do it: a port that an ended connection still remembers is free all the same.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DemoError(
                f"cannot listen on {HOST}:{port} ({error.strerror}): choose another --port, or leave it out to get "
                "a free one"
            ) from None


def free_port() -> int:
    """A port of loopback on which nobody listened a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Demonstration:
    """A shop, the payment gateway it calls and its throw-away database, all of them gone after the `with` block.

    `stopping` is asked while waiting for the start: true ends the wait.
    """

    def __init__(self, service: Service, port: int | None, stopping: Callable[[], bool]) -> None:
        self.service = service
        self.port = port if port is not None else free_port()
        self._stopping = stopping
        self._stack = ExitStack()
        self._folder = find_services()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"{self.url}{METRICS_PATH}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="obskit-demo-"))
            self._database = Path(temporary) / "shop.sqlite3"
            self.gateway = self._start(
                stack,
                "the payment gateway",
                "payments",
                [str(self._folder / "payments" / "gateway.py"), "--port", "0"],
            )
            self._gateway_url = self._wait_for(self.gateway, self._gateway_address) or ""
            words = self.service.command.format(host=HOST, port=self.port).split()
            self.process = self._start(
                stack, f"the {self.service.name} service", self.service.name, ["-m", *words]
            )
            self._wait_for(self.process, self._answers)
            self._stack = stack.pop_all()
        self.started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def check_alive(self) -> None:
        """Raises ServiceDied if the shop or the gateway has ended."""
        self.gateway.check_alive()
        self.process.check_alive()

    def stock(self) -> None:
        """Give a shop that has one order as many as one that has been open for a while.

        An export of so many rows takes long enough that a client can leave in the middle of it.
        """
        with closing(sqlite3.connect(self._database, timeout=10)) as database:
            table = self.service.orders_table
            columns = ", ".join(
                row[1] for row in database.execute(f"PRAGMA table_info({table})") if row[1] != "id"
            )
            with database:
                database.execute(
                    "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?) "
                    f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}, number",
                    (STOCKED_ORDERS,),
                )

    def _start(self, stack: ExitStack, what: str, folder: str, arguments: list[str]) -> ChildProcess:
        child = ChildProcess(what, [sys.executable, *arguments], self._folder / folder, self._environment())
        stack.callback(child.stop)
        return child

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not _NOT_INHERITED.fullmatch(name)}
        direct = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), HOST, "localhost"]))
        return {
            **kept,
            "NO_PROXY": direct,
            "no_proxy": direct,
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # the folder may be part of an installed package
            "OBSKIT_SERVICE": f"{self.service.name}-shop",
            "OBSKIT_ENVIRONMENT": "demo",
            "OBSKIT_LOG_FORMAT": "json",
            # What an earlier demonstration asked for is no request of this one's users.
            "OBSKIT_STATE_DIR": str(self._database.parent),
            # One worker: /metrics then speaks for the whole service.
            "WEB_CONCURRENCY": "1",
            "SEED_DEMO_USER": "1",
            "SHOP_DB_PATH": str(self._database),
            "PAYMENTS_URL": getattr(self, "_gateway_url", ""),
        }

    def _wait_for(self, child: ChildProcess, ready: Callable[[], str | None]) -> str | None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._stopping():
            found = ready()
            child.check_alive()
            if found:
                return found
            if time.monotonic() > deadline:
                raise ServiceDied(
                    f"{child.what} did not answer within {START_TIMEOUT_S:g} s. Its last output:\n{child.last_words()}"
                )
            time.sleep(POLL_S)
        return None

    def _gateway_address(self) -> str | None:
        for line in list(self.gateway.stdout.output.copy()):
            if found := re.search(r"http://\S+", line):
                return found[0]
        return None

    def _answers(self) -> str | None:
        # /metrics and nothing else: it is the one request that is not recorded.
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", METRICS_PATH)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if response.status != 200:
            raise ServiceDied(f"{self.metrics_url} answered {response.status}, expected 200")
        return self.metrics_url
