"""One span receiver for all, and one server at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.otlp import OtlpSink

from .runner import Running
from .targets import Target


@pytest.fixture(scope="session")
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as receiver:
        yield receiver
    assert not receiver.errors, f"exports the receiver could not read: {receiver.errors}"


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    """A client that opens a connection per request: what a server does on reuse is a case of its own."""
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(timeout=10, limits=limits, trust_env=False, follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="session")
def serve(
    sink: OtlpSink, http: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Target], Running]]:
    """Gives the server of a target; starts it if another one is up. Tests come sorted by target."""
    log_dir = tmp_path_factory.mktemp("servers")
    current: list[Running] = []

    def get(target: Target) -> Running:
        if current and current[0].target == target:
            current[0].server.check_alive()
            return current[0]
        while current:
            current.pop().stop()
        current.append(Running(target, sink, http, log_dir))
        return current[0]

    yield get
    while current:
        current.pop().stop()
