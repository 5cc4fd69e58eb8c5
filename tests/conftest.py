"""Every test leaves the process as it found it: what obskit set up is undone, what OpenTelemetry holds is let go."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import obskit
from obskit import folders, workers
from obskit.context import _current
from obskit.signals import capture, structured
from obskit.signals import provider as providers
from tests.support.sharing import SharedScheduling

Lines = Callable[[], list[dict[str, Any]]]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedScheduling:
    return SharedScheduling(config, log)


def forget_tracer_provider() -> None:
    # OpenTelemetry lets a process set its provider once; a test process plays many processes.
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()


@pytest.fixture(autouse=True)
def clean_process() -> Iterator[None]:
    yield
    obskit.shutdown(timeout_s=2)
    # What an install that failed half-way may have left is one test's finding, not the next one's surprise.
    for sink in [*structured._sinks, *capture._users]:
        structured.detach(sink)
        capture.detach(sink)
    providers._shared = None
    forget_tracer_provider()
    _current.set(None)  # where a test has kept a request from being left


# Both with a patch of their own: a test may undo those of its `monkeypatch` before it ends.
@pytest.fixture(autouse=True)
def memory_of_its_own() -> Iterator[None]:
    """What the app of one test remembers of a request makes no duplicate of another test's, on any worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "places", lambda directory: () if directory is None else (directory,))
        yield


@pytest.fixture(autouse=True)
def sockets_of_its_own() -> Iterator[None]:
    """A listening socket that somebody else has left open makes no server of the process that runs this test."""
    look = workers.listeners
    before = {listener.inode for listener in look()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "listeners", lambda: [one for one in look() if one.inode not in before])
        yield


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's shell decides what a test sees."""
    for name in list(os.environ):
        if name.startswith(("OBSKIT_", "OTEL_")):
            monkeypatch.delenv(name)


@pytest.fixture
def install(clean_environment: None) -> Callable[..., Any]:
    """`obskit.install` without the instrumentation of client libraries, which is no part of the claim."""

    def call(app: Any, **options: Any) -> Any:
        return obskit.install(app, **{"instrumentation": False, **options})

    return call


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """The JSON lines written since the last call."""

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return read


@pytest.fixture
def canonical(lines: Lines) -> Lines:
    """The canonical lines written since the last call."""
    return lambda: [line for line in lines() if line["event"] == "http.request"]


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """What the user's own, global tracer provider exports."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": "mine"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter
