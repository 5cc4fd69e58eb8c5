"""Four services under healthy traffic, with Prometheus, the shipped rules, Alertmanager and a webhook around them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from obskit.export.alertmanager import configuration
from obskit.export.links import Links
from obskit.export.objectives import DEFAULTS
from obskit.export.prometheus import rule_file
from obskit.export.rules import groups
from obskit.export.rules.model import Rendering
from tests.support.alertmanager import AlertmanagerServer, Webhook, for_test
from tests.support.prometheus import PrometheusServer
from tests.support.servers import Server
from tests.support.shops import SHOPS, Shop, running
from tests.support.traffic import Step, Traffic, send
from tests.support.watched.collector import Collector
from tests.support.watched.history import Past, write_history

# The one factor: every duration of the rules and of Alertmanager's routes is divided by it. 5m becomes 5 s.
TIME_FACTOR = 60

NO_SUCH_ORDER = 999_999_999
NEW_ORDER = {"item": "tea", "quantity": 1, "price_cents": 500}
EXPORT = "/api/v1/orders/export"
EVENTS = "/api/v1/orders/events"
MISSING_ORDER = f"/api/v1/orders/{NO_SUCH_ORDER}"

# What both shops are asked for all day: every kind of answer but a failure.
HEALTHY = (
    Step("GET", "/api/v1/orders", 20),
    Step("POST", "/api/v1/orders", 10, NEW_ORDER),
    Step("POST", "/api/v1/orders", 2, {**NEW_ORDER, "quantity": -1}),
    Step("GET", "/api/v1/orders/1", 16),
    Step("GET", MISSING_ORDER, 2),
    Step("POST", "/api/v1/orders/1/pay", 4),
    Step("POST", "/api/v1/uploads", 6, "x" * 20_000),
    Step("GET", EXPORT, 8),
    Step("GET", "/api/v1/reports/slow?seconds=0.05", 3),
    Step("GET", "/healthz", 4),
    Step("GET", "/no/such/page", 2),
    Step("DELETE", "/api/v1/orders", 1),
)
# Only the FastAPI shop streams events: with a limit that an order of the past fulfils, they end by themselves.
WITH_EVENTS = (*HEALTHY, Step("GET", f"{EVENTS}?after=0&limit=1", 24))
CALM = (Step("GET", "/ok"),)
# Routes with a past, so that a fault of theirs is news.
KNOWN = (
    Step("GET", "/page", 4),
    Step("GET", "/pay"),
    Step("POST", "/checkout", body={"order": 0}),
    Step("POST", "/upload", body="all of it"),
)
EDGES = ("edge", "spare-edge", "leaky-edge")
# Few enough for a fault to use up, on a page that a busy machine answers within Prometheus' second.
MAX_SERIES = {"spare-edge": 60}
SHOP_PER_S, ORDERS_PER_S, EDGE_PER_S = 10.0, 6.0, 2.0
PAGE_BYTES = 2_100
KNOWN_PER_S = 4.0


@dataclass(frozen=True)
class World:
    """What runs. `servers` and the `traffic` to them are by name."""

    servers: dict[str, Server]
    traffic: dict[str, Traffic]
    collector: Collector
    prometheus: PrometheusServer
    alertmanager: AlertmanagerServer
    webhook: Webhook
    began: float
    services: ExitStack

    def end_services(self) -> None:
        """Stop the services and their traffic. Prometheus keeps what it saw of them."""
        self.services.close()

    def instance(self, name: str) -> str:
        """The `instance` label of a server."""
        return address(self.servers[name])


def address(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


@contextmanager
def world(directory: Path) -> Iterator[World]:
    """Everything started, with traffic, before any fault."""
    rules = rule_file(groups(DEFAULTS), Rendering(time_factor=TIME_FACTOR), Links())
    with ExitStack() as stack:
        services = stack.enter_context(ExitStack())
        collector = stack.enter_context(Collector())
        webhook = stack.enter_context(Webhook())
        alertmanager = stack.enter_context(
            AlertmanagerServer(
                directory / "alertmanager", for_test(configuration(), webhook.url, TIME_FACTOR)
            )
        )
        exporting = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "300",
            # A failing export is retried for so long, in seconds: by default ten, two of the rules' windows here.
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }
        shop, _ = services.enter_context(running(_shop("fastapi"), _folder(directory, "shop"), exporting))
        orders, _ = services.enter_context(running(_shop("flask"), _folder(directory, "orders")))
        servers = {"shop": shop, "orders": orders}
        for name in (*EDGES, "mute"):
            servers[name] = services.enter_context(_edge(directory / name, MAX_SERIES.get(name, 100)))
        for server in (shop, orders):
            # Order 1, which the healthy steps read and pay.
            assert send(server.port, Step("POST", "/api/v1/orders", body=NEW_ORDER)) == 201
        traffic = {
            "shop": Traffic(shop.url, WITH_EVENTS, per_s=SHOP_PER_S, workers=4),
            "orders": Traffic(orders.url, HEALTHY, per_s=ORDERS_PER_S),
            **{name: Traffic(servers[name].url, CALM, per_s=EDGE_PER_S) for name in (*EDGES, "mute")},
            "known": Traffic(servers["mute"].url, KNOWN, per_s=KNOWN_PER_S),
        }
        for one in traffic.values():
            services.enter_context(one)
        began = time.time()
        targets = {
            "shop": [address(shop)],
            "orders": [address(orders)],
            "edge": [address(servers[name]) for name in EDGES],
            "mute": [address(servers["mute"])],
        }
        write_history(directory / "prometheus", _past(targets), began, TIME_FACTOR)
        prometheus = stack.enter_context(
            PrometheusServer(
                directory / "prometheus", targets, rules=rules, alertmanagers=[alertmanager.address]
            )
        )
        yield World(servers, traffic, collector, prometheus, alertmanager, webhook, began, services)


def _edge(log_dir: Path, max_series: int) -> Server:
    env = {
        "OBSKIT_LOG_FORMAT": "json",
        "OBSKIT_LOG_LEVEL": "info",
        "OBSKIT_MAX_SERIES": str(max_series),
        "OBSKIT_STUCK_REQUEST_S": "1",
    }
    return Server("uvicorn", "edge:app", cwd=Path(__file__).parent, log_dir=log_dir, env=env)


def _shop(name: str) -> Shop:
    return next(shop for shop in SHOPS if shop.name == name)


def _folder(directory: Path, name: str) -> Path:
    (directory / name).mkdir()
    return directory / name


def _past(targets: dict[str, list[str]]) -> list[Past]:
    """Yesterday and last week as healthy as today is before the faults."""
    past = []
    for job, per_s in (("shop", SHOP_PER_S), ("orders", ORDERS_PER_S)):
        (instance,) = targets[job]
        past += [
            Past("job:http_server_requests:rate5m", {"job": job}, per_s),
            Past("job_route:http_server_requests:rate5m", {"job": job, "http_route": EXPORT}, 0.8),
        ]
        for method, route, status, share in (
            ("GET", "/api/v1/orders", "200", 0.8),
            ("GET", "/api/v1/orders/{order_id}", "404", 0.02),
            ("GET", "/api/v1/fail", "500", 0.0001),
        ):
            labels = {
                "job": job,
                "instance": instance,
                "http_request_method": method,
                "http_route": route,
                "http_response_status_code": status,
                "error_type": "",
            }
            past.append(
                Past("http_server_request_duration_seconds_count", labels, per_s=round(per_s * share, 4))
            )
    (mute,) = targets["mute"]
    page = {"job": "mute", "instance": mute, "http_request_method": "GET", "http_route": "/page"}
    size = "http_server_response_body_size_bytes"
    past += [
        Past(f"{size}_count", page, per_s=KNOWN_PER_S),
        Past(f"{size}_sum", page, per_s=KNOWN_PER_S * PAGE_BYTES),
    ]
    # A double click now and then.
    checkout = {"job": "mute", "instance": mute, "http_route": "/checkout"}
    past += [
        Past("obskit_http_server_outcomes_total", {**checkout, "outcome": "completed"}, per_s=0.5),
        Past("obskit_findings_total", {**checkout, "finding": "duplicate_request"}, per_s=0.001),
    ]
    return past
