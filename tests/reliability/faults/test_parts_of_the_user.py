"""What the user hung into OpenTelemetry, structlog or prometheus-client raises, logs, or both: the request goes on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
import pytest
import structlog
from opentelemetry import propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler

import obskit
from tests.conftest import Lines
from tests.support.recording import listing, make_environ, talk_wsgi

TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
ERRORS = [RuntimeError, OSError, MemoryError, RecursionError]


class Broken:
    """Whatever it is asked for raises."""

    error: type[Exception] = RuntimeError

    def _raise(self, *_: Any, **__: Any) -> Any:
        raise self.error("the user's own")


class BadProcessor(Broken, SpanProcessor):
    on_start = on_end = Broken._raise


class BadExporter(Broken, SpanExporter):
    export = Broken._raise


class BadSampler(Broken, Sampler):
    should_sample = Broken._raise

    def get_description(self) -> str:
        return "bad"


class BadIds(Broken, IdGenerator):
    generate_trace_id = generate_span_id = Broken._raise


class BadPropagator(Broken, TextMapPropagator):
    extract = inject = Broken._raise
    fields = {"traceparent"}


class BadCollector(Broken):
    def describe(self) -> list[Any]:
        return []

    collect = Broken._raise


def bad_processor() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BadProcessor())
    trace.set_tracer_provider(provider)


def bad_exporter() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(BadExporter()))
    trace.set_tracer_provider(provider)


def bad_sampler() -> None:
    trace.set_tracer_provider(TracerProvider(sampler=BadSampler(), shutdown_on_exit=False))


def bad_ids() -> None:
    trace.set_tracer_provider(TracerProvider(id_generator=BadIds(), shutdown_on_exit=False))


def bad_propagator() -> None:
    propagate.set_global_textmap(BadPropagator())


def bad_structlog() -> None:
    structlog.configure(processors=[Broken()._raise])


def bad_collector() -> None:
    prometheus_client.REGISTRY.register(BadCollector())  # type: ignore[arg-type]


BAD = [bad_processor, bad_exporter, bad_sampler, bad_ids, bad_propagator, bad_structlog, bad_collector]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    textmap = propagate.get_global_textmap()
    before = set(prometheus_client.REGISTRY._collector_to_names)
    yield
    propagate.set_global_textmap(textmap)
    structlog.reset_defaults()
    for collector in set(prometheus_client.REGISTRY._collector_to_names) - before:
        prometheus_client.REGISTRY.unregister(collector)


@pytest.mark.parametrize("hang_in", BAD)
@pytest.mark.parametrize("error", ERRORS)
def test_a_part_of_the_users_that_raises_is_not_seen_by_the_application(
    monkeypatch: pytest.MonkeyPatch, install: Any, hang_in: Callable[[], None], error: type[Exception]
) -> None:
    monkeypatch.setattr(Broken, "error", error)
    hang_in()
    app = install(listing(b"ok"), interface="wsgi")
    for _ in range(3):
        talk = talk_wsgi(app, make_environ("/", HTTP_TRACEPARENT=TRACEPARENT))
        assert (talk.error, talk.data, talk.status) == (None, b"ok", "200 OK")
    page = talk_wsgi(app, make_environ("/metrics"))
    assert page.status[:3] in ("200", "503")
    assert talk_wsgi(app).data == b"ok"


class Chatty:
    """Logs while it is being written, as ORMs do; knows how deep that has gone."""

    depth = deepest = 0

    def __repr__(self) -> str:
        Chatty.depth += 1
        Chatty.deepest = max(Chatty.deepest, Chatty.depth)
        again = self if Chatty.depth < 5 else "..."  # a test that fails is to end
        logging.getLogger("orm").warning("loading %r", again)
        obskit.get_logger("orm").warning("loading", what=again)
        Chatty.depth -= 1
        return "<Chatty>"

    __str__ = __repr__


class ChattyProcessor(SpanProcessor):
    """Says of each span that it could not be exported, through the handler that carries the failure on."""

    def on_end(self, span: Any) -> None:
        logging.getLogger("exporter").error("could not export %s", span.name)
        raise RuntimeError("exporter")


def test_telemetry_that_speaks_of_telemetry_ends_after_one_turn(
    monkeypatch: pytest.MonkeyPatch, install: Any, lines: Lines
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's write what it logs, too
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ChattyProcessor())
    trace.set_tracer_provider(provider)
    Chatty.depth = Chatty.deepest = 0

    def app(environ: Any, start_response: Any) -> list[bytes]:
        obskit.bind(what=Chatty())
        logging.getLogger("shop").warning("about %s", Chatty(), extra={"more": Chatty()})
        obskit.get_logger("shop").warning("about", what=Chatty())
        start_response("200 OK", [])
        return [b"ok"]

    served = install(app, interface="wsgi")
    for _ in range(100):
        assert talk_wsgi(served).data == b"ok"
    said = lines()
    assert Chatty.deepest <= 1
    assert not [line for line in said if "RecursionError" in str(line)]
    told = Counter(line["stage"] for line in said if line["event"] == "obskit.internal_error")
    assert told == {"traces.close": 1}, "of each kind one in a minute"
    assert len([line for line in said if line["event"] == "http.request"]) == 100


def spare(frames: int) -> None:
    """Raises RecursionError where fewer frames than that are left."""
    if frames:
        spare(frames - 1)


def test_an_application_that_is_deep_in_recursion_gets_no_error_of_ours(install: Any) -> None:
    tried: list[str] = []
    calls: dict[str, Callable[[], Any]] = {
        "current": obskit.current,
        "bind": lambda: obskit.bind(deep=1),
        "invariant": lambda: obskit.invariant(False, "deep"),
        "log": lambda: log.info("deep", a=1),
        "work": lambda: obskit.unit_of_work("deep", ["a", "b"]).done("a"),
    }
    log = obskit.get_logger("shop")

    def try_all() -> None:
        for name, call in calls.items():
            try:
                spare(6)
            except RecursionError:
                continue
            call()
            tried.append(name)

    def down() -> None:
        try:
            down()
        except RecursionError:
            return
        try_all()  # from the very end of the stack upwards

    def app(environ: Any, start_response: Any) -> list[bytes]:
        down()
        start_response("200 OK", [])
        return [b"ok"]

    talk = talk_wsgi(install(app, interface="wsgi", log_level="error"), make_environ())
    assert (talk.error, talk.data) == (None, b"ok")
    assert set(tried) == set(calls)
