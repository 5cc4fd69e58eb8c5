"""One SERVER span per request, by the semantic conventions, in the trace the client began."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

import obskit
from obskit.exchange import Exchange, Outcome
from obskit.names import OTHER_METHOD
from obskit.signals.traces import MAX_ATTRIBUTE, Traces
from tests.signals.conftest import House, run_python
from tests.support.otlp import SERVER, OtlpSink

Make = Callable[..., House]
Lines = Callable[[], list[dict[str, Any]]]
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}


def only(spans: InMemorySpanExporter) -> Any:
    (span,) = spans.get_finished_spans()
    return span


def test_a_span_says_all_that_the_conventions_ask_for(house: Make, spans: InMemorySpanExporter) -> None:
    exchange = house().serve(
        method="POST", status=201, request_id="req-7", scheme="https", http_version="1.1", client_address="192.0.2.7",
        server_address="shop.example", server_port=8443, user_agent="curl/8", request_bytes=10, response_bytes=20,
    )  # fmt: skip
    span = only(spans)
    assert span.kind is SpanKind.SERVER
    assert span.name == "POST /orders/{id}"
    assert dict(span.attributes) == {
        "http.request.method": "POST", "http.route": "/orders/{id}", "http.response.status_code": 201,
        "url.path": "/orders/7", "url.scheme": "https", "network.protocol.version": "1.1",
        "client.address": "192.0.2.7", "server.address": "shop.example", "server.port": 8443,
        "user_agent.original": "curl/8", "http.request.body.size": 10, "http.response.body.size": 20,
        "obskit.outcome": "completed", "obskit.request_id": "req-7",
    }  # fmt: skip
    assert (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}") == (
        exchange.trace_id,
        exchange.span_id,
    )
    assert span.instrumentation_scope.name == "obskit"


def test_what_is_not_known_is_no_attribute(house: Make, spans: InMemorySpanExporter) -> None:
    house().serve(status=None, disconnected=True, route=None)
    assert set(only(spans).attributes) == {
        "http.request.method", "url.path", "url.scheme", "obskit.outcome", "obskit.request_id", "obskit.findings"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "route", "name"),
    [
        ("GET", "/orders/{id}", "GET /orders/{id}"),
        ("GET", None, "GET"),
        (OTHER_METHOD, None, "HTTP"),
        (OTHER_METHOD, "/orders/{id}", "HTTP /orders/{id}"),
    ],
)
def test_a_span_is_named_by_method_and_route(
    method: str, route: str | None, name: str, house: Make, spans: InMemorySpanExporter
) -> None:
    house().serve(method=method, route=route, method_original="BREW" if method == OTHER_METHOD else None)
    span = only(spans)
    assert span.name == name
    assert span.attributes.get("http.request.method_original") == ("BREW" if method == OTHER_METHOD else None)


@pytest.mark.parametrize(
    ("how", "status", "error_type"),
    [
        ({"status": 200}, StatusCode.UNSET, None),
        ({"status": 404}, StatusCode.UNSET, None),
        ({"status": 418, "raised": ValueError("x"), "handled": True}, StatusCode.UNSET, None),
        ({"status": 200, "disconnected": True}, StatusCode.UNSET, None),
        ({"status": 503}, StatusCode.ERROR, "503"),
        ({"status": None, "raised": ValueError("x")}, StatusCode.ERROR, "500"),
        (
            {"status": 200, "raised": ValueError("x"), "outcome": Outcome.RAISED_AFTER_HEADERS},
            StatusCode.ERROR,
            "ValueError",
        ),
    ],
    ids=["ok", "client error", "handled", "left", "server error", "raised", "cut off"],
)
def test_only_server_errors_and_exceptions_are_errors(
    how: dict[str, Any], status: StatusCode, error_type: str | None, house: Make, spans: InMemorySpanExporter
) -> None:
    house().serve(**how)
    span = only(spans)
    assert span.status.status_code is status
    assert span.attributes.get("error.type") == error_type


def test_the_exception_of_a_request_is_an_event_of_its_span(house: Make, spans: InMemorySpanExporter) -> None:
    house().serve(status=None, raised=ValueError("out of stock"))
    (event,) = only(spans).events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "out of stock"


def test_the_exit_of_a_worker_is_no_event(house: Make, spans: InMemorySpanExporter) -> None:
    house().serve(status=None, raised=SystemExit(1))
    assert [event.name for event in only(spans).events if event.name != "obskit.finding"] == []


class _Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_without_text_does_not_cost_the_span(house: Make, spans: InMemorySpanExporter) -> None:
    house().serve(status=None, raised=_Mute())
    assert only(spans).status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("seconds", [0.0, 0.000001, 0.25, 3600.0])
def test_a_span_lasts_as_long_as_the_record_says(
    seconds: float, house: Make, spans: InMemorySpanExporter
) -> None:
    exchange = house().serve(seconds=seconds)
    span = only(spans)
    assert span.start_time == exchange.started_unix_ns
    assert abs((span.end_time - span.start_time) - exchange.duration * 1e9) < 1000


def test_facts_are_attributes_and_secrets_among_them_are_not(
    house: Make, spans: InMemorySpanExporter
) -> None:
    class Total:
        def __str__(self) -> str:
            return "9.99 EUR"

    with house().request():
        obskit.bind(
            tenant="acme", items=3, paid=True, rate=0.5, total=Total(), password="p4ss", note="x" * 10_000
        )
    found = {k.removeprefix("obskit.fact."): v for k, v in only(spans).attributes.items() if "fact" in k}
    assert len(found.pop("note")) == MAX_ATTRIBUTE
    assert found.pop("total").endswith("Total>")  # an object is named: its own code may do anything
    assert found == {
        "tenant": "acme", "items": 3, "paid": True, "rate": 0.5, "password": "[redacted]"
    }  # fmt: skip


def test_a_secret_inside_a_fact_is_no_part_of_the_span(house: Make, spans: InMemorySpanExporter) -> None:
    with house().request():
        obskit.bind(order={"id": 7, "card_number": "4111"}, login=[{"password": "p4ss"}])
    assert "4111" not in str(dict(only(spans).attributes))
    assert "p4ss" not in str(dict(only(spans).attributes))


@pytest.mark.parametrize(
    "fact",
    [_Mute(), "\ud800", 2**70, float("nan"), b"\xff", None, object()],
    ids=["unprintable", "surrogate", "big number", "nan", "bytes", "none", "object"],
)
def test_no_fact_costs_a_span(fact: Any, house: Make, spans: InMemorySpanExporter) -> None:
    with house().request():
        obskit.bind(fact=fact)
    assert only(spans).name == "GET /orders/{id}"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: obskit.bind(fact="\ud800"),
        lambda: obskit.bind(fact=2**70),
        lambda: obskit.bind(**{"\ud800": 1}),
        lambda: {"raised": FileNotFoundError("caf\udce9.txt"), "status": None},
        lambda: {"user_agent": "\ud800"},
        lambda: {"path": "/\ud800"},
    ],
    ids=["surrogate", "big number", "key", "exception", "user agent", "path"],
)
def test_what_no_wire_can_carry_costs_neither_its_span_nor_the_others_of_the_batch(
    spoil: Callable[[], Any], house: Make, collector: OtlpSink
) -> None:
    made = house()
    others = [made.serve().trace_id]
    how = spoil() or {}
    with made.request(**how) as exchange:
        spoil()
    others.append(made.serve().trace_id)
    made.pipeline.flush(5.0)
    assert {span.trace_id for span in collector.spans()} == {*others, exchange.trace_id}


def test_long_text_of_the_client_is_cut(house: Make, spans: InMemorySpanExporter) -> None:
    house().serve(path="/" + "x" * 100_000, user_agent="y" * 100_000)
    attributes = only(spans).attributes
    assert len(attributes["url.path"]) == len(attributes["user_agent.original"]) == MAX_ATTRIBUTE


# ---- where the trace comes from and goes ----------------------------------------------------------------


def test_a_traceparent_makes_the_span_its_child(house: Make, spans: InMemorySpanExporter) -> None:
    exchange = house().serve(carrier={**TRACEPARENT, "tracestate": "vendor=1"})
    span = only(spans)
    assert exchange.trace_id == TRACE_ID == f"{span.context.trace_id:032x}"
    assert f"{span.parent.span_id:016x}" == PARENT_ID
    assert span.parent.is_remote
    assert span.context.trace_state.to_header() == "vendor=1"


@pytest.mark.parametrize(
    "value",
    ["", "garbage", f"00-{'0' * 32}-{PARENT_ID}-01", f"00-{TRACE_ID}-{'0' * 16}-01", f"ff-{TRACE_ID}-{PARENT_ID}-01",
     f"00-{TRACE_ID[:-1]}-{PARENT_ID}-01", f"00-{TRACE_ID}-{PARENT_ID}-01-x", "\ud800",
     "00-" + "z" * 52, "0" * 100_000],
    ids=lambda value: value[:12],
)  # fmt: skip
def test_a_malformed_traceparent_gives_a_root_span(
    value: str, house: Make, spans: InMemorySpanExporter
) -> None:
    made = house()
    exchange = made.serve(carrier={"traceparent": value, "tracestate": "=,=", "baggage": "=;=,"})
    assert only(spans).parent is None
    assert exchange.trace_id not in ("", TRACE_ID)
    assert set(made.samples().get("obskit_internal_errors_total", {})) == set()


def test_baggage_of_the_client_is_readable_during_the_request(house: Make) -> None:
    with house().request(carrier={"baggage": "tenant=acme,plan=gold"}):
        assert baggage.get_baggage("tenant") == "acme"
        assert baggage.get_baggage("plan") == "gold"
    assert baggage.get_baggage("tenant") is None


def test_calls_made_during_the_request_are_told_its_trace(house: Make) -> None:
    headers: dict[str, str] = {}
    with house().request(carrier=TRACEPARENT) as exchange:
        propagate.inject(headers)
        assert f"{trace.get_current_span().get_span_context().span_id:016x}" == exchange.span_id
    assert headers["traceparent"] == f"00-{TRACE_ID}-{exchange.span_id}-01"
    assert not trace.get_current_span().get_span_context().is_valid


def test_what_an_earlier_request_left_in_this_thread_is_no_parent(
    house: Make, spans: InMemorySpanExporter
) -> None:
    left = NonRecordingSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1)))
    token = context.attach(trace.set_span_in_context(left))
    try:
        house().serve()
    finally:
        context.detach(token)
    assert only(spans).parent is None


def test_the_headers_that_carry_context_are_those_of_the_propagators(house: Make) -> None:
    assert house().pipeline.carrier_headers == {"traceparent", "tracestate", "baggage"}


@pytest.mark.parametrize(
    ("propagators", "carrier"),
    [
        ("b3multi", {"x-b3-traceid": TRACE_ID, "x-b3-spanid": PARENT_ID, "x-b3-sampled": "1"}),
        ("b3", {"b3": f"{TRACE_ID}-{PARENT_ID}-1"}),
        ("tracecontext,b3", {"b3": f"{TRACE_ID}-{PARENT_ID}-1"}),
    ],
)
def test_otel_propagators_decides_whose_headers_carry_the_trace(
    propagators: str, carrier: dict[str, str]
) -> None:
    done = run_python(
        f"""
        house = obskit.install(app, interface="wsgi", instrumentation=False)
        environ = {{"HTTP_" + name.upper().replace("-", "_"): value for name, value in {carrier!r}.items()}}
        b"".join(house(dict(environ, REQUEST_METHOD="GET", PATH_INFO="/x"), lambda *_: None))
        """,
        env={"OTEL_PROPAGATORS": propagators},
    )
    assert f'"trace_id":"{TRACE_ID}"' in done.stdout


# ---- less than everything is recorded ---------------------------------------------------------------------


def _everything_but_the_span(made: House, exchange: Exchange, lines: Lines) -> None:
    canonical = lines()[-1]
    assert canonical["trace_id"] == exchange.trace_id
    assert len(exchange.trace_id) == 32
    assert len(exchange.span_id) == 16
    assert int(exchange.trace_id, 16)
    text = made.scrape("application/openmetrics-text; version=1.0.0").body.decode()
    assert "http_server_request_duration_seconds_count" in text
    assert "# {" not in text


@pytest.mark.parametrize(
    "switch",
    [{"OTEL_TRACES_SAMPLER": "always_off"}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_SDK_DISABLED": " TRUE "}],
    ids=str,
)
def test_without_spans_lines_and_metrics_still_have_ids_and_no_exemplar(
    switch: dict[str, str], house: Make, lines: Lines, collector: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in switch.items():
        monkeypatch.setenv(name, value)
    made = house()
    other = made.serve()
    exchange = made.serve()
    assert not exchange.sampled
    assert exchange.trace_id != other.trace_id
    assert exchange.span_id != other.span_id
    _everything_but_the_span(made, exchange, lines)
    made.pipeline.flush(5.0)
    assert collector.spans() == []


def test_a_client_that_did_not_sample_is_followed(house: Make, lines: Lines, collector: OtlpSink) -> None:
    made = house()
    exchange = made.serve(carrier={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"})
    assert exchange.trace_id == TRACE_ID
    assert exchange.span_id != PARENT_ID
    _everything_but_the_span(made, exchange, lines)
    made.pipeline.flush(5.0)
    assert collector.spans() == []


def test_two_requests_of_one_trace_have_span_ids_of_their_own_with_the_sdk_disabled(
    house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    made = house()
    first, second = made.serve(carrier=TRACEPARENT), made.serve(carrier=TRACEPARENT)
    assert first.trace_id == second.trace_id == TRACE_ID
    assert len({first.span_id, second.span_id, PARENT_ID}) == 3


def test_a_websocket_is_one_span_with_the_status_of_its_handshake(
    house: Make, spans: InMemorySpanExporter
) -> None:
    house().serve(protocol="websocket", status=101, route="/feed", seconds=3600)
    span = only(spans)
    assert (span.name, span.attributes["http.response.status_code"]) == ("GET /feed", 101)


def test_a_span_arrives_with_the_resource_of_the_service(
    house: Make, collector: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=checkout,service.version=1.2")
    made = house(service="shop", environment="test")
    exchange = made.serve()
    made.pipeline.flush(5.0)
    span = collector.wait_for(trace_id=exchange.trace_id)
    assert span.kind == SERVER
    expected = {
        "service.name": "shop",
        "service.version": "1.2",
        "deployment.environment.name": "test",
        "team": "checkout",
    }
    assert {key: span.resource.get(key) for key in expected} == expected


def test_a_record_that_was_never_opened_or_is_closed_again_has_no_span(
    house: Make, spans: InMemorySpanExporter
) -> None:
    traces = house().pipeline._traces
    assert isinstance(traces, Traces)
    exchange = Exchange()
    traces.closed(exchange)
    assert traces.enter(exchange) is None
    assert spans.get_finished_spans() == ()
    assert json.dumps(sorted(traces.carrier_headers))


# ---- a public edge: the caller's trace is not continued ---------------------------------------------------


def test_a_restarted_trace_is_ours_and_links_to_the_callers(house: Make, spans: InMemorySpanExporter) -> None:
    carrier = {**TRACEPARENT, "tracestate": "vendor=1", "baggage": "role=admin"}
    with house(incoming_trace="restart").request(carrier=carrier) as exchange:
        assert baggage.get_all() == {}
        sent: dict[str, str] = {}
        propagate.inject(sent)
    span = only(spans)
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" == exchange.trace_id != TRACE_ID
    (link,) = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert set(sent) == {"traceparent"}
    assert exchange.trace_id in sent["traceparent"]


def test_a_restarted_trace_is_sampled_as_a_root_is(
    house: Make, collector: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    asked = house(incoming_trace="restart", share_workers=False).serve(carrier=TRACEPARENT)
    assert not asked.sampled
    obskit.shutdown()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    not_asked = {"traceparent": TRACEPARENT["traceparent"][:-1] + "0"}
    kept = house(incoming_trace="restart", share_workers=False).serve(carrier=not_asked)
    assert kept.sampled


def test_without_a_caller_a_restarted_trace_has_no_link(house: Make, spans: InMemorySpanExporter) -> None:
    made = house(incoming_trace="restart")
    for carrier in (None, {"traceparent": "garbage"}, {"baggage": "role=admin"}):
        made.serve(carrier=carrier)
    assert [span.links for span in spans.get_finished_spans()] == [(), (), ()]


def test_a_callers_trace_is_continued_by_default(house: Make, spans: InMemorySpanExporter) -> None:
    exchange = house().serve(carrier=TRACEPARENT)
    assert exchange.trace_id == TRACE_ID
    assert only(spans).links == ()


@pytest.mark.parametrize("mode", ["continue", "restart"])
def test_a_propagator_that_raises_costs_the_parent_and_not_the_span(
    mode: str, house: Make, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("a propagator of the user's own")

    made = house(incoming_trace=mode)
    monkeypatch.setattr(propagate.get_global_textmap(), "extract", broken)
    carrier = {**TRACEPARENT, "tracestate": "vendor=1"}  # a traceparent alone is read without it
    exchange = made.serve(carrier=carrier)
    assert f"{only(spans).context.trace_id:032x}" == exchange.trace_id
    assert made.value("obskit_internal_errors_total", stage="traces.open") == 1


def test_what_a_stranger_makes_the_application_carry_is_bounded(house: Make) -> None:
    carrier = {
        **TRACEPARENT,
        "tracestate": ",".join(f"vendor{n}=" + "x" * 20 for n in range(30)),
        "baggage": ",".join(f"k{n}=" + "x" * 60 for n in range(100)),
    }
    with house().request(carrier=carrier):
        sent: dict[str, str] = {}
        propagate.inject(sent)
    assert len(sent.get("tracestate", "")) <= 512
    assert len(sent.get("baggage", "").split(",")) <= 64
    assert len(sent.get("baggage", "")) <= 8192


def test_no_attribute_grows_with_what_a_client_sends(house: Make, spans: InMemorySpanExporter) -> None:
    long = "x" * 100_000
    house().serve(
        client_address=long, server_address=long, scheme=long, http_version=long, user_agent=long, path=long
    )
    assert max(len(str(value)) for value in only(spans).attributes.values()) <= MAX_ATTRIBUTE


def test_what_stands_in_the_context_around_a_request_is_there_within_it_and_no_parent(
    house: Make, spans: InMemorySpanExporter
) -> None:
    made = house()
    key = context.create_key("of the framework")
    outside = trace.set_span_in_context(
        trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1)))
    )
    token = context.attach(context.set_value(key, "kept", outside))
    try:
        exchange = Exchange("http", "GET", "/")
        made.pipeline.open(exchange, None)
        entered = made.pipeline.enter(exchange)
        assert context.get_value(key) == "kept"
        assert format(trace.get_current_span().get_span_context().trace_id, "032x") == exchange.trace_id
        made.pipeline.leave(entered)
        made.pipeline.close(exchange)
    finally:
        context.detach(token)
    assert exchange.trace_id != f"{1:032x}"
