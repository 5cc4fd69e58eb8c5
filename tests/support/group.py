"""Several workers of one server in one process: as many memberships, whose locks die when a test says so."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as ExposedMetric

from obskit.exchange import Exchange, Outcome
from obskit.signals.app_metrics import AppMetrics
from obskit.signals.metrics import Metrics
from obskit.workers import Workers


class Worker:
    """One worker with its metrics. `die` is SIGKILL to it: nothing is said, nothing is flushed."""

    def __init__(
        self, directory: Path, service: str = "shop", max_series: int = 2000, joins: bool = True, **join: Any
    ) -> None:
        self.metrics = Metrics(max_series)
        self.registry = CollectorRegistry()
        """The default registry of this worker's process, for the application's own metrics."""
        self.metrics.app = AppMetrics(self.registry)
        self.metrics.app.failed = self.metrics.internal_error
        self.workers = Workers.join(str(directory), service, **join)
        if joins:
            self.metrics.join(self.workers)

    def serve(self, route: str = "/orders", count: int = 1, status: int = 200) -> None:
        """Answer so many requests."""
        for _ in range(count):
            exchange = Exchange()
            exchange.trace_id, exchange.sampled = f"{len(route):032x}", True
            self.metrics.opened(exchange)
            exchange.http_route, exchange.status, exchange.outcome = route, status, Outcome.COMPLETED
            exchange.ended_ns = exchange.started_ns + 1_000_000
            exchange.settle()
            self.metrics.closed(exchange)

    def served(self, route: str = "/orders") -> float:
        """How many requests of a route this worker's page shows."""
        series = self.metrics.store.look()["http_server_request_duration_seconds"]
        return sum(sum(one.numbers[:-1]) for labels, one in series.items() if labels[1] == route)

    def number(self, metric: str, *labels: str) -> float | None:
        """One number of this worker's page; None if it is not there."""
        found = self.metrics.store.look()[metric].get(labels)
        return None if found is None else found.numbers[0]

    def app(self) -> dict[str, ExposedMetric]:
        """The families of the application that this worker's page shows."""
        return {family.name: family for family in self.metrics.app.collect()}

    def app_number(self, sample: str, **labels: str) -> float | None:
        """One number of the application on this worker's page; None if it is not there."""
        found = [
            one.value
            for family in self.metrics.app.collect()
            for one in family.samples
            if (one.name, one.labels) == (sample, labels)
        ]
        assert len(found) < 2, f"{sample}{labels} twice"
        return found[0] if found else None

    def bury(self) -> int:
        return self.workers.bury([self.metrics.inherit])

    def die(self) -> None:
        os.close(self.workers._opened)
        self.workers._opened = -1


def in_child(work: Callable[[], object]) -> str:
    """What `work` returns in a forked child, as text, or what it raises there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                answer = str(work())
            except BaseException as error:
                answer = repr(error)
            os.write(write, answer.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


@contextmanager
def listening() -> Iterator[socket.socket]:
    """What makes this process one that serves."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server
