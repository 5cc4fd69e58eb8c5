"""The tracer provider: the user's kept, ours undone; nothing starts early, is lost uncounted or waited for long."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, TraceFlags

import obskit
from obskit.config import Config
from obskit.signals import otlp_wire
from obskit.signals import provider as providers
from obskit.signals.otlp_wire import Encoded
from obskit.signals.provider import ProviderHandle, get_provider
from tests.signals.conftest import House, run_python, wait_until
from tests.support.otlp import OtlpSink

Make = Callable[..., House]
EXPORTS = "obskit_telemetry_exports_total"
DROPPED = "obskit_telemetry_dropped_total"
RESOURCE = {"service.name": "shop"}


@pytest.fixture(params=["lean", "official"])
def exporter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What sends spans over HTTP: what holds for one of them holds for the other."""
    monkeypatch.setenv("OBSKIT_OTLP_EXPORTER", request.param)
    found: str = request.param
    return found


# ---- whose provider --------------------------------------------------------------------------------------


def test_the_users_provider_is_kept_and_gets_the_spans(house: Make, spans: InMemorySpanExporter) -> None:
    theirs = trace.get_tracer_provider()
    made = house()
    exchange = made.serve()
    assert trace.get_tracer_provider() is theirs
    (span,) = spans.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == exchange.trace_id


def test_shutdown_leaves_the_users_provider_working(house: Make, spans: InMemorySpanExporter) -> None:
    theirs = trace.get_tracer_provider()
    house().serve()
    obskit.shutdown()
    assert trace.get_tracer_provider() is theirs
    trace.get_tracer("theirs").start_span("after").end()
    assert [span.name for span in spans.get_finished_spans()][-1] == "after"


def test_shutdown_and_flush_push_out_what_the_users_provider_has_queued(house: Make) -> None:
    flushed: list[int] = []
    theirs = TracerProvider(shutdown_on_exit=False)
    theirs.force_flush = lambda timeout_millis=0: bool(flushed.append(1)) or True  # type: ignore[method-assign]
    trace.set_tracer_provider(theirs)
    made = house()
    made.pipeline.flush(1.0)
    assert flushed == [1]
    obskit.shutdown()
    assert flushed == [1, 1]


@pytest.mark.usefixtures("exporter")
def test_an_endpoint_named_to_us_is_added_to_the_users_provider(
    house: Make, spans: InMemorySpanExporter, collector: OtlpSink
) -> None:
    made = house(otlp_endpoint=collector.url)
    exchange = made.serve()
    made.pipeline.flush(5.0)
    assert collector.wait_for(trace_id=exchange.trace_id)
    assert len(spans.get_finished_spans()) == 1


def test_an_endpoint_of_the_environment_is_left_to_the_users_provider(
    house: Make, spans: InMemorySpanExporter, collector: OtlpSink
) -> None:
    made = house()
    made.serve()
    made.pipeline.flush(1.0)
    assert collector.requests == 0


class _Foreign(trace.TracerProvider):
    """A provider that is not the SDK's: no processors, no flush."""

    def get_tracer(self, *arguments: Any, **more: Any) -> trace.Tracer:
        return trace.NoOpTracer()


def test_a_provider_that_is_not_the_sdks_is_served_too(house: Make) -> None:
    trace.set_tracer_provider(_Foreign())
    made = house(otlp_endpoint="http://127.0.0.1:9")
    assert len(made.serve().trace_id) == 32
    made.pipeline.flush(1.0)
    assert set(made.samples().get("obskit_internal_errors_total", {})) == set()


def test_ours_becomes_the_global_one_is_shared_and_forgotten_with_its_last_user(house: Make) -> None:
    first, second = house(), house()
    ours = trace.get_tracer_provider()
    assert isinstance(ours, TracerProvider)
    assert first.pipeline._traces._provider is second.pipeline._traces._provider
    second.pipeline.shutdown(1.0)
    assert trace.get_tracer_provider() is ours
    first.pipeline.shutdown(1.0)
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def test_installing_again_after_shutdown_gets_a_provider_that_works(house: Make, collector: OtlpSink) -> None:
    house().serve()
    obskit.shutdown()
    made = house()
    exchange = made.serve()
    made.pipeline.flush(5.0)
    assert collector.wait_for(trace_id=exchange.trace_id)


def test_a_provider_the_user_set_over_ours_survives_our_shutdown(house: Make) -> None:
    house()
    theirs = TracerProvider(shutdown_on_exit=False)
    trace._TRACER_PROVIDER = theirs
    obskit.shutdown()
    assert trace.get_tracer_provider() is theirs


def test_a_provider_of_the_app_itself_comes_before_the_global_one(spans: InMemorySpanExporter) -> None:
    own = TracerProvider(shutdown_on_exit=False)
    handle = get_provider(Config(), RESOURCE, own)
    assert (handle.provider, handle.ours, handle.exporter) == (own, False, "yours")


# ---- which exporter --------------------------------------------------------------------------------------

ENDPOINT = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("environ", "options", "told"),
    [
        ({}, {}, "none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, {}, "otlp/http"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ENDPOINT}, {}, "otlp/http"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, {}, "otlp/http"),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, {}, "otlp/http"),
        ({}, {"otlp_endpoint": ENDPOINT}, "otlp/http"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, {}, "none"),
        ({"OTEL_TRACES_EXPORTER": "none"}, {"otlp_endpoint": ENDPOINT}, "otlp/http"),
        ({"OTEL_SDK_DISABLED": "true"}, {"otlp_endpoint": ENDPOINT}, "disabled"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {}, "otlp/grpc"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, {}, "otlp/grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {"otlp_endpoint": ENDPOINT, "otlp_protocol": "http/protobuf"},
         "otlp/http"),
        ({}, {"otlp_endpoint": ENDPOINT, "otlp_protocol": "grpc"}, "otlp/grpc"),
    ],
    ids=str,
)  # fmt: skip
def test_options_then_environment_decide_where_spans_go(
    environ: dict[str, str], options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    handle = get_provider(Config(**options), RESOURCE)
    assert handle.exporter == told
    handle.shutdown(1.0)


def test_an_unknown_protocol_is_refused_with_what_was_seen_and_is_allowed(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(obskit.InstallError, match=r"saw 'http/json', expected http/protobuf or grpc"):
        house()
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def test_grpc_without_its_package_is_refused_with_what_to_install(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(obskit.InstallError, match=r"obskit-web\[otlp-grpc\]"):
        house(otlp_endpoint=ENDPOINT, otlp_protocol="grpc")


@pytest.mark.usefixtures("exporter")
@pytest.mark.parametrize("suffix", ["", "/", "/v1/traces"])
def test_an_endpoint_option_may_be_the_base_or_the_whole_address(suffix: str, house: Make) -> None:
    with OtlpSink() as sink:
        made = house(otlp_endpoint=sink.url + suffix)
        exchange = made.serve()
        made.pipeline.flush(5.0)
        assert sink.wait_for(trace_id=exchange.trace_id)
        assert sink.errors == []


# ---- nothing before begin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_no_thread_starts_and_no_exporter_is_made_before_the_first_request(protocol: str) -> None:
    done = run_python(
        """
        import time
        before = threading.active_count()
        house = obskit.install(app, interface="wsgi", instrumentation=False)
        # The SDK asks its resource detectors in threads it joins; the kernel may still be clearing those away.
        deadline = time.monotonic() + 10
        while (native := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        handle = house.pipeline._traces._provider
        installed = (threading.active_count() - before, native, handle._queue)
        serve(house.pipeline)
        begun = [one.name for one in threading.enumerate() if one.name == "obskit-spans"]
        print(f"{installed} {begun} {handle._queue is not None}", file=sys.stderr)
        obskit.shutdown(0.2)
        """,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol},
    )
    assert done.stderr.splitlines()[0] == "(0, 1, None) ['obskit-spans'] True"


def test_begin_makes_one_exporter_however_often_it_is_called() -> None:
    made: list[SpanExporter] = []

    def make() -> SpanExporter:
        made.append(InMemorySpanExporter())
        return made[-1]

    handle = ProviderHandle(
        TracerProvider(shutdown_on_exit=False), ours=False, make_exporter=make, exporter="test"
    )
    handle.begin()
    handle.begin()
    handle.shutdown(1.0)
    assert len(made) == 1


def test_an_exporter_that_cannot_be_made_is_told_and_its_spans_are_counted_as_lost(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house(otlp_endpoint=ENDPOINT)
    monkeypatch.setattr(made.pipeline._traces._provider, "_make_exporter", lambda: 1 / 0)
    made.serve()
    made.pipeline.flush(5.0)
    assert made.value("obskit_internal_errors_total", stage="traces.begin") == 1
    assert made.value(DROPPED, signal="traces", reason="export_failed") == 1


@pytest.mark.parametrize(
    ("protocol", "by"), [("http/protobuf", "lean"), ("http/protobuf", "official"), ("grpc", "lean")]
)
def test_no_connection_is_made_and_no_name_is_looked_up_to_begin(
    protocol: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *what, **more: used.append(what))
    monkeypatch.setattr(socket.socket, "connect", lambda *what: used.append(what))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        handle = get_provider(Config(otlp_endpoint=url, otlp_protocol=protocol, otlp_exporter=by), RESOURCE)
        handle.begin()
        with pytest.raises(TimeoutError):  # gRPC has sockets of its own
            listener.accept()
        assert used == []
        handle.shutdown(0.0)


def test_no_http_client_is_loaded_but_for_the_official_exporter_and_then_at_install() -> None:
    code = """
        obskit.install(app, interface="wsgi", instrumentation=False)
        heavy = {"requests", "urllib3", "google.protobuf", "opentelemetry.exporter"}
        print(sorted(heavy & set(sys.modules)), file=sys.stderr)
        obskit.shutdown(0.2)
        """
    assert run_python(code).stderr.splitlines()[0] == "[]"
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}
    assert run_python(code, env=env).stderr.splitlines()[0] == "[]"
    done = run_python(code, env=env | {"OBSKIT_OTLP_EXPORTER": "official"})
    assert "requests" in done.stderr.splitlines()[0]


@pytest.mark.parametrize(
    ("environ", "options", "collector"),
    [
        ({}, {}, ""),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, {}, "http://localhost:4318"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {}, "http://localhost:4317"),
        ({}, {"otlp_endpoint": "https://me:secret@c.example:4318/secret"}, "https://c.example:4318"),
    ],
    ids=str,
)  # fmt: skip
def test_where_spans_go_is_known_without_what_is_secret_in_it(
    environ: dict[str, str], options: dict[str, Any], collector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    handle = get_provider(Config(**options), RESOURCE)
    assert handle.collector == collector
    handle.shutdown(0.0)


# ---- how much a span may hold ------------------------------------------------------------------------------


def test_a_span_of_the_application_holds_no_whole_document_while_it_waits() -> None:
    handle = get_provider(Config(), RESOURCE)
    span = handle.provider.get_tracer("app").start_span("big", attributes={"document": "x" * 2_000_000})
    assert len(span.attributes["document"]) == providers.MAX_ATTRIBUTE_LENGTH
    handle.shutdown(0.0)


@pytest.mark.parametrize("name", providers._LENGTH_LIMITS)
def test_a_limit_of_the_environment_comes_before_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "20000")
    handle = get_provider(Config(), RESOURCE)
    span = handle.provider.get_tracer("app").start_span("big", attributes={"document": "x" * 30_000})
    assert len(span.attributes["document"]) == 20_000
    handle.shutdown(0.0)


# ---- what became of the spans --------------------------------------------------------------------------------


@pytest.mark.usefixtures("exporter")
def test_spans_arrive_over_http_and_the_export_is_counted(house: Make, collector: OtlpSink) -> None:
    made = house()
    served = {made.serve().trace_id for _ in range(20)}
    made.pipeline.flush(5.0)
    assert {span.trace_id for span in collector.spans()} == served
    assert made.value(EXPORTS, signal="traces", outcome="success") == collector.requests
    assert made.value(EXPORTS, signal="traces", outcome="failure") == 0


def test_spans_leave_in_the_background_without_a_flush(
    house: Make, collector: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    assert collector.wait_for(trace_id=house().serve().trace_id)


@pytest.mark.usefixtures("exporter")
def test_shutdown_sends_what_is_queued(house: Make, collector: OtlpSink) -> None:
    made = house()
    served = {made.serve().trace_id for _ in range(20)}
    obskit.shutdown()
    assert {span.trace_id for span in collector.spans()} == served


class _Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.names += [
            span.name
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def grpc_collector() -> Iterator[tuple[str, _Receiver]]:
    server = grpc.server(ThreadPoolExecutor(2))
    receiver = _Receiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", receiver
    server.stop(0).wait(5)


@pytest.mark.parametrize("by", ["options", "environment"])
def test_spans_arrive_over_grpc_and_the_export_is_counted(
    by: str, house: Make, grpc_collector: tuple[str, _Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, receiver = grpc_collector
    if by == "environment":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        made = house()
    else:
        made = house(otlp_endpoint=url, otlp_protocol="grpc")
    made.serve()
    made.pipeline.flush(5.0)
    assert receiver.names == ["GET /orders/{id}"]
    assert made.value(EXPORTS, signal="traces", outcome="success") == 1


@pytest.mark.usefixtures("exporter")
def test_a_refused_export_is_counted_with_the_spans_it_lost(
    house: Make, collector: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "take", lambda path, body: 1 / 0)
    made = house()
    for _ in range(3):
        made.serve()
    made.pipeline.flush(5.0)
    assert made.value(EXPORTS, signal="traces", outcome="failure") == 1
    assert made.value(EXPORTS, signal="traces", outcome="success") == 0
    assert made.value(DROPPED, signal="traces", reason="export_failed") == 3


class _Raises(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise RuntimeError("no network")

    def shutdown(self) -> None:
        pass


def test_an_exporter_that_raises_is_counted_as_a_failure() -> None:
    counted: list[Any] = []
    handle = ProviderHandle(
        TracerProvider(shutdown_on_exit=False), ours=False, make_exporter=_Raises, exporter="test"
    )
    handle.count_with(lambda *what: counted.append(what), lambda *what: counted.append(what))
    handle.count_with(lambda *what: pytest.fail("counted twice"), lambda *what: pytest.fail("counted twice"))
    handle.begin()
    handle.provider.get_tracer("t").start_span("s").end()
    handle.flush(5.0)
    handle.shutdown(1.0)
    assert counted == [("traces", "failure"), ("traces", "export_failed", 1)]


def test_the_exporter_is_shut_down_with_the_last_user() -> None:
    calls: list[str] = []

    class Noting(_Raises):
        def shutdown(self) -> None:
            calls.append("shutdown")

    handle = ProviderHandle(
        TracerProvider(shutdown_on_exit=False), ours=False, make_exporter=Noting, exporter="test"
    )
    handle.begin()
    handle.shutdown(1.0)
    assert calls == ["shutdown"]


class _Stuck(SpanExporter):
    """An exporter whose collector is slow, until told to go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.exported = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.go_on.wait(30)
        self.exported += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def test_spans_a_full_queue_had_no_room_for_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    lost: list[int] = []
    stuck = _Stuck()
    handle = ProviderHandle(
        TracerProvider(shutdown_on_exit=False), ours=False, make_exporter=lambda: stuck, exporter="test"
    )
    handle.count_with(lambda *_: None, lambda signal, reason, count: lost.append(count))
    handle.begin()
    tracer = handle.provider.get_tracer("t")
    for n in range(50):
        tracer.start_span(f"s{n}").end()
    stuck.go_on.set()
    handle.flush(5.0)
    handle.shutdown(5.0)
    assert stuck.exported < 50
    assert sum(lost) == 50 - stuck.exported


# ---- a collector that hangs -------------------------------------------------------------------------------------


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.usefixtures("exporter")
def test_shutdown_waits_no_longer_than_it_was_told_for_a_collector_that_hangs(
    house: Make, silent: str
) -> None:
    made = house(otlp_endpoint=silent)
    made.serve()
    began = time.monotonic()
    obskit.shutdown(timeout_s=0.3)
    assert 0.2 < time.monotonic() - began < 2.0


def test_a_flush_that_took_too_long_is_told(
    house: Make, silent: str, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    made = house(otlp_endpoint=silent)
    made.serve()
    made.pipeline.flush(0.1)
    told = [line for line in lines() if line["event"] == "telemetry.flush_timeout"]
    obskit.shutdown(timeout_s=0.1)
    assert [(line["level"], line["signal"], line["timeout_s"]) for line in told] == [
        ("warning", "traces", 0.1)
    ]


def test_requests_do_not_wait_for_a_collector_that_hangs(
    house: Make, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    made = house(otlp_endpoint=silent)
    began = time.monotonic()
    for _ in range(200):
        made.serve()
    assert time.monotonic() - began < 2.0
    obskit.shutdown(timeout_s=0.1)


@pytest.mark.usefixtures("exporter")
def test_a_process_ends_in_time_though_its_collector_hangs(silent: str) -> None:
    began = time.monotonic()
    run_python(
        'serve(obskit.install(app, interface="wsgi", instrumentation=False).pipeline)',
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": silent},
    )
    assert time.monotonic() - began < 8.0


@pytest.mark.usefixtures("exporter")
def test_a_process_that_just_ends_has_sent_its_spans(collector: OtlpSink) -> None:
    run_python('serve(obskit.install(app, interface="wsgi", instrumentation=False).pipeline)')
    assert [span.name for span in collector.spans()] == ["GET"]


@pytest.mark.usefixtures("exporter")
def test_a_server_that_says_goodbye_twice_waits_once(
    house: Make, silent: str, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    made = house(otlp_endpoint=silent)
    made.serve()
    began = time.monotonic()
    made.pipeline.flush(0.5)
    made.pipeline.goodbye()
    obskit.shutdown(timeout_s=0.5)
    assert 0.4 < time.monotonic() - began < 0.9
    told = [line for line in lines() if line["event"] == "telemetry.spans_lost"]
    assert [(line["reason"], line["spans_lost"], line["collector"]) for line in told] == [
        ("shutdown", 1, silent)
    ]


def test_what_is_lost_when_a_process_says_goodbye_is_counted(house: Make, silent: str) -> None:
    made = house(otlp_endpoint=silent)
    for _ in range(3):
        made.serve()
    made.pipeline.flush(0.1)
    made.pipeline.goodbye()
    assert made.value(DROPPED, signal="traces", reason="shutdown") == 3


def test_an_outage_is_one_line_that_says_where_and_what_to_do(
    house: Make,
    exporter: str,
    lines: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    made = house(otlp_endpoint=f"http://me:hunter2@127.0.0.1:{port}/hunter2")
    for _ in range(3):
        made.serve()
        made.pipeline.flush(5.0)
    every = lines()
    (line,) = [line for line in every if line["event"] == "telemetry.export_failed"]
    assert (line["level"], line["reason"], line["collector"]) == (
        "warning", "refused", f"http://127.0.0.1:{port}",
    )  # fmt: skip
    assert "start the collector" in line["do"]
    assert [line["event"] for line in every].count("http.request") == len(every) - 1
    assert "hunter2" not in str(every)


def test_a_handle_that_was_shut_down_does_not_begin_again() -> None:
    made: list[SpanExporter] = []
    handle = ProviderHandle(
        TracerProvider(shutdown_on_exit=False),
        ours=False,
        make_exporter=lambda: made.append(InMemorySpanExporter()) or made[-1],  # type: ignore[func-returns-value]
        exporter="test",
    )
    handle.begin()
    handle.shutdown(1.0)
    handle.begin()
    assert (len(made), handle.queue()) == (1, None)


def test_how_many_spans_wait_is_known() -> None:
    stuck = _Stuck()
    handle = ProviderHandle(
        TracerProvider(shutdown_on_exit=False), ours=False, make_exporter=lambda: stuck, exporter="test"
    )
    assert handle.queue() is None
    handle.begin()
    for _ in range(5):
        handle.provider.get_tracer("t").start_span("s").end()
    assert handle.queue() == (5, 2048)
    stuck.go_on.set()
    handle.shutdown(5.0)


class _Unwilling(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "the password hunter2 is wrong")


def test_an_export_that_grpc_refuses_is_told_with_its_status(
    house: Make, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Unwilling(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made = house(otlp_endpoint=f"http://127.0.0.1:{port}", otlp_protocol="grpc")
    made.serve()
    made.pipeline.flush(5.0)
    server.stop(0).wait(5)
    every = lines()
    (line,) = [line for line in every if line["event"] == "telemetry.export_failed"]
    assert (line["reason"], line["error"]) == ("grpc_error", "PERMISSION_DENIED")
    assert "hunter2" not in str(every)
    assert made.value(DROPPED, signal="traces", reason="export_failed") == 1


def test_a_call_that_fails_within_its_time_says_so() -> None:
    with pytest.raises(ZeroDivisionError):
        providers._bounded(lambda: 1 / 0, 5.0)


# ---- past the processors -------------------------------------------------------------------------------------------


def encoded_span(handle: ProviderHandle) -> Encoded:
    context = SpanContext(7, 9, False, TraceFlags(1))
    span = ReadableSpan("bytes", context, resource=handle.provider.resource, start_time=1, end_time=2)
    return otlp_wire.encoded(span)


def test_bytes_go_past_the_processors_while_the_lean_exporter_takes_them(collector: OtlpSink) -> None:
    handle = get_provider(Config(), RESOURCE)
    assert (handle.encoded, handle.put) == (None, None)
    handle.begin()
    assert handle.encoded is not None
    assert handle.put is not None
    handle.encoded(encoded_span(handle))
    handle.provider.get_tracer("t").start_span("object").end()
    handle.flush(5.0)
    assert sorted(span.name for span in collector.spans()) == ["bytes", "object"]
    assert collector.errors == []
    handle.shutdown(1.0)
    assert (handle.encoded, handle.put) == (None, None)


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("options", [{"otlp_exporter": "official"}, {"otlp_protocol": "grpc"}], ids=str)
def test_an_exporter_that_encodes_itself_is_given_no_bytes(options: dict[str, Any]) -> None:
    handle = get_provider(Config(**options), RESOURCE)
    handle.begin()
    assert handle.encoded is None
    assert handle.put is not None
    handle.shutdown(0.0)


def test_whether_anybody_else_gets_the_spans_is_known_at_any_time(collector: OtlpSink) -> None:
    handle = get_provider(Config(), RESOURCE)
    assert not handle.foreign_processors()
    handle.begin()
    assert not handle.foreign_processors()
    handle.provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    assert handle.foreign_processors()
    handle.shutdown(0.0)
    assert handle.foreign_processors()


def test_of_a_provider_that_is_not_the_sdks_everybody_may_get_the_spans() -> None:
    assert get_provider(Config(), RESOURCE, _Foreign()).foreign_processors()


# ---- forks ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("exporter")
@pytest.mark.parametrize("parent_serves_first", [False, True])
def test_a_forked_child_exports_its_own_spans_and_only_those(
    parent_serves_first: bool, collector: OtlpSink
) -> None:
    done = run_python(
        f"""
        pipeline = obskit.install(app, interface="wsgi", instrumentation=False).pipeline
        if {parent_serves_first}:
            serve(pipeline, url_path="/parent")
        child = os.fork()
        if not child:
            serve(pipeline, url_path="/child")
            obskit.shutdown(5)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        sys.stderr.write(f"status={{status}}")
        """
    )
    assert done.stderr.endswith("status=0")  # Python 3.12 and later also warn of a fork with threads
    wait_until(lambda: len(collector.spans()) >= 1 + parent_serves_first)
    paths = sorted(span.attributes["url.path"] for span in collector.spans())
    assert paths == (["/child", "/parent"] if parent_serves_first else ["/child"])
