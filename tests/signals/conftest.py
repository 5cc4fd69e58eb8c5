"""One install per test, and the process left as it was found: logging, structlog, tracer provider, environment."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import obskit
from obskit.exchange import Exchange
from obskit.pipeline import Answer
from obskit.signals import capture, provider, structured
from obskit.signals.writer import MAX_LINE_BYTES
from tests.support.exposition import Samples, labels, parse
from tests.support.otlp import OtlpSink


def _every_logger() -> list[logging.Logger]:
    known = [
        logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)
    ]
    return [logging.getLogger(), *known]


def logging_state() -> dict[str, tuple[Any, ...]]:
    """What a set-up can change of each logger, without pytest's own handlers, which come and go."""
    return {
        logger.name: (
            {handler for handler in logger.handlers if "_pytest" not in type(handler).__module__},
            logger.level,
            logger.propagate,
            logger.disabled,
        )
        for logger in _every_logger()
    }


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """A test here sees the root logger as a process of its own has it: pytest's handlers would re-raise what a
    formatter raises, and beside them `logging.basicConfig` does nothing."""
    root = logging.getLogger()
    pytests = [handler for handler in root.handlers if "_pytest" in type(handler).__module__]
    for handler in pytests:
        root.removeHandler(handler)
    try:
        return (yield)
    finally:
        for handler in pytests:
            root.addHandler(handler)


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("OBSKIT_", "OTEL_")):
            monkeypatch.delenv(name)
    before = logging_state()
    yield
    obskit.shutdown(timeout_s=2.0)
    for logger in _every_logger():
        handlers, level, propagate, disabled = before.get(logger.name, (set(), logging.NOTSET, True, False))
        pytests = [handler for handler in logger.handlers if "_pytest" in type(handler).__module__]
        logger.handlers[:] = [*pytests, *handlers]
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled
        logger.filters.clear()
    forget_sinks()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    forget_provider()


def forget_sinks() -> None:
    """What a failed test may have left would fail the ones after it."""
    structured._sinks.clear()
    structured._configured_by_us, structured._added_to = False, None
    capture._users.clear()
    capture._undo.clear()
    capture._handler, capture._root_is_ours = None, False
    provider._shared = None


def forget_provider() -> None:
    """OpenTelemetry takes a global provider once per process; the tests need one each."""
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()


class House:
    """One install of a plain WSGI application, and requests that go through its pipeline without a server."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("instrumentation", False)
        options.setdefault("service", "shop")
        self.app = obskit.install(_hello, interface="wsgi", **options)
        self.pipeline = self.app.pipeline

    @contextmanager
    def request(
        self,
        method: str = "GET",
        path: str = "/orders/7",
        *,
        route: str | None = "/orders/{id}",
        status: int | None = 200,
        seconds: float = 0.25,
        raised: BaseException | None = None,
        handled: bool = False,
        request_id: str | None = None,
        **fields: Any,
    ) -> Iterator[Exchange]:
        """An open request around the block; afterwards it has ended the way the arguments say."""
        exchange = Exchange(fields.pop("protocol", "http"), method, path)
        for name, value in fields.items():
            setattr(exchange, name, value)
        self.pipeline.open(exchange, request_id)
        entered = self.pipeline.enter(exchange)
        try:
            yield exchange
        finally:
            self.pipeline.leave(entered)
            exchange.http_route = exchange.http_route or route
            exchange.status = status
            exchange.exception, exchange.exception_handled = raised, handled
            exchange.response_started = exchange.response_complete = status is not None
            exchange.last_byte_ns = exchange.started_ns + int(seconds * 1e9)
            self.pipeline.close(exchange)

    def serve(self, **how: Any) -> Exchange:
        """One whole request; its record."""
        with self.request(**how) as exchange:
            pass
        return exchange

    def scrape(
        self, accept: str = "", client: str | None = "127.0.0.1", method: str = "GET", **headers: str
    ) -> Answer:
        given = {"accept": accept, **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer: Answer = self.pipeline.endpoints["/metrics"](method, given, client)
        return answer

    def samples(self) -> Samples:
        return parse(self.scrape().body.decode())

    def value(self, name: str, **of: object) -> float:
        """The one sample with exactly these labels; 0 if there is none."""
        return self.samples().get(name, {}).get(labels(**of), 0.0)


def _hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


@pytest.fixture
def house() -> Callable[..., House]:
    """Makes an install; the first line of every install is its own notice, which `lines` leaves out."""
    return House


def read_lines(text: str) -> list[dict[str, Any]]:
    """Every line as the JSON object it must be, in at most 16 KB; installs' own notices left out."""
    found = []
    for line in text.split("\n"):
        if line:
            assert len(line.encode()) < MAX_LINE_BYTES
            assert "\r" not in line
            found.append(json.loads(line, parse_constant=_refuse))
    return [line for line in found if line["event"] != "obskit.installed"]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """What stdout got since the last call."""
    return lambda: read_lines(capsys.readouterr().out)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """A tracer provider the user made before install; what it was given."""
    exporter = InMemorySpanExporter()
    theirs = TracerProvider(shutdown_on_exit=False)
    theirs.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(theirs)
    return exporter


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpSink]:
    """A real OTLP receiver over HTTP, named by the environment."""
    with OtlpSink() as sink:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
        yield sink


def wait_until(true: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """The first true value of `true()`; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
    return found


@contextmanager
def records_of(name: str) -> Iterator[list[logging.LogRecord]]:
    """What is logged to this logger inside, whatever its level."""
    records: list[logging.LogRecord] = []
    handler, logger = logging.Handler(), logging.getLogger(name)
    handler.emit = records.append  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


PRELUDE = """
import json, logging, os, sys, threading
import obskit
from obskit.exchange import Exchange
def app(environ, start_response):
    start_response("200 OK", [])
    return [b""]
def serve(pipeline, **fields):
    exchange = Exchange("http", "GET", "/x")
    for name, value in fields.items():
        setattr(exchange, name, value)
    pipeline.open(exchange, None)
    exchange.status, exchange.response_started, exchange.response_complete = 200, True, True
    pipeline.close(exchange)
    return exchange
"""


def run_python(code: str, *, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run `code` after PRELUDE in a process of its own, with `env` added to this one's."""
    environment = {**os.environ, **more.pop("env", {})}
    more.setdefault("stdout", subprocess.PIPE)
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        cwd=Path(__file__).parents[2],
        **more,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


__all__ = [
    "House",
    "forget_provider",
    "logging_state",
    "read_lines",
    "records_of",
    "run_python",
    "wait_until",
]
