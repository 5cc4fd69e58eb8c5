"""What is written straight from a record is what the official encoder writes of the same request's span."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from obskit.exchange import Exchange, Outcome
from obskit.names import OTHER_METHOD, UNMATCHED_ROUTE
from obskit.redact import make_redactor
from obskit.signals import request_wire
from obskit.signals.incoming import Caller
from obskit.signals.provider import MAX_ATTRIBUTE_LENGTH
from obskit.signals.request_span import Maker
from obskit.signals.request_wire import RequestWire, uncut

IS_SECRET = make_redactor(["iban"])
LIMITS = SpanLimits(max_attribute_length=MAX_ATTRIBUTE_LENGTH)
PROVIDER = TracerProvider(
    resource=Resource.create({"service.name": "shop"}), span_limits=LIMITS, shutdown_on_exit=False
)
MAKER = Maker(PROVIDER.get_tracer("obskit", "1"), IS_SECRET)  # type: ignore[arg-type]
WIRE = RequestWire(
    IS_SECRET, LIMITS
)  # one for all: what it remembers of one request must not show in another

HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def written(exchange: Exchange, caller: Caller | None, linked: Caller | None, kept: str = "") -> Span:
    """What a collector reads."""
    spans = ScopeSpans.FromString(WIRE.write(exchange, caller, linked, kept)).spans
    assert len(spans) == 1
    return spans[0]


def official(exchange: Exchange, caller: Caller | None, linked: Caller | None, kept: str = "") -> Span:
    request = encode_spans([MAKER.ended(exchange, caller, linked, kept)])
    return request.resource_spans[0].scope_spans[0].spans[0]


def in_order(span: Span) -> Span:
    """Its attributes by name: they are a map."""
    sorted_ = sorted(span.attributes, key=lambda one: one.key)
    del span.attributes[:]
    span.attributes.extend(sorted_)
    return span


# What the official encoder takes; it loses the attribute for a lone surrogate, and ours writes another character.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=100) | st.text(
    "ab", min_size=60, max_size=3000
)
NUMBERS = st.integers(0, 2**40)
HEX = "0123456789abcdef"
STATES = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    is_remote=st.booleans(),
    trace_flags=st.sampled_from([TraceFlags(0), TraceFlags(1), TraceFlags(3)]),
    trace_state=st.sampled_from([TraceState(), TraceState([("vendor", "1"), ("other", "x" * 200)])]),
)
HEADERS = st.sampled_from([HEADER, f"{HEADER[:-2]}03"])
CALLERS = st.tuples(st.none() | HEADERS | STATES, st.none()) | st.tuples(st.none(), HEADERS | STATES)
FACTS = st.dictionaries(
    TEXT | st.sampled_from(["password", "iban", "tenant"]),
    TEXT | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.integers()) | st.binary(),
    max_size=5,
)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    maybe = lambda what: draw(st.none() | what)  # noqa: E731
    method = draw(st.sampled_from(["GET", "POST", OTHER_METHOD]))
    exchange = Exchange(draw(st.sampled_from(["http", "websocket"])), method, draw(TEXT))
    exchange.method_original = maybe(TEXT) if method == OTHER_METHOD else None
    exchange.scheme = draw(st.sampled_from(["http", "https"]) | TEXT)
    exchange.http_version, exchange.server_address = maybe(st.sampled_from(["1.1", "2"])), maybe(TEXT)
    exchange.server_port = maybe(st.integers(0, 65535))
    exchange.client_address, exchange.user_agent = maybe(TEXT), maybe(TEXT)
    exchange.http_route = maybe(TEXT | st.sampled_from(["/orders/{id}", UNMATCHED_ROUTE]))
    exchange.status, exchange.outcome = maybe(st.integers(100, 599)), draw(st.sampled_from(Outcome))
    exchange.level = draw(st.sampled_from(["info", "warning", "error"]))
    exchange.request_bytes, exchange.response_bytes = draw(NUMBERS), draw(NUMBERS)
    exchange.trace_id = draw(st.integers(1, 2**128 - 1).map("{:032x}".format))
    exchange.span_id = draw(st.integers(1, 2**64 - 1).map("{:016x}".format))
    exchange.request_id = draw(st.just(exchange.trace_id) | st.text("abc-", min_size=1, max_size=128))
    exchange.facts, exchange.sampled = maybe(FACTS), True
    exchange.last_byte_ns = exchange.started_ns + draw(NUMBERS)
    return exchange


@given(exchanges(), CALLERS, st.sampled_from(["", "error", "slow"]))
@settings(max_examples=300, deadline=None)
def test_a_collector_reads_the_same_as_of_the_official_encoder(
    exchange: Exchange, callers: tuple[Caller | None, Caller | None], kept: str
) -> None:
    assert in_order(written(exchange, *callers, kept)) == in_order(official(exchange, *callers, kept))


def ordinary(**fields: Any) -> Exchange:
    exchange = Exchange("http", "GET", "/orders/7")
    exchange.trace_id, exchange.span_id, exchange.request_id = "1" * 32, "2" * 16, "1" * 32
    exchange.http_route, exchange.status, exchange.outcome = "/orders/{id}", 200, Outcome.COMPLETED
    exchange.last_byte_ns, exchange.sampled = exchange.started_ns + 1_000, True
    for name, value in fields.items():
        setattr(exchange, name, value)
    return exchange


@pytest.mark.parametrize("size", [0, 1, 60, 79, 80, 81, 100, 113, 114, 127, 128, 300, 2047])
@pytest.mark.parametrize("field", ["url_path", "request_id", "client_address", "user_agent", "http_route"])
def test_texts_of_every_length_are_framed_rightly(field: str, size: int) -> None:
    exchange = ordinary(**{field: "é" * (size % 2) + "x" * (size - 2 * (size % 2))})
    assert in_order(written(exchange, None, None)) == in_order(official(exchange, None, None))


@pytest.mark.parametrize("facts", [0, 1, 64])
def test_a_span_of_every_size_is_framed_rightly(facts: int) -> None:
    exchange = ordinary(facts={f"fact{n}": "x" * 2000 for n in range(facts)})
    assert in_order(written(exchange, None, None)) == in_order(official(exchange, None, None))


@pytest.mark.parametrize(
    "field", ["url_path", "request_id", "client_address", "user_agent", "http_route", "server_address"]
)
def test_text_that_is_no_unicode_costs_a_character_and_not_the_span(field: str) -> None:
    exchange = ordinary(**{field: "caf\udce9"})
    values = {one.key: one.value.string_value for one in written(exchange, None, None).attributes}
    assert any(value == "caf?" for value in values.values()), values


@pytest.mark.parametrize(
    "field", ["client_address", "user_agent", "http_route", "server_address", "response_bytes", "url_path"]
)
def test_what_strangers_send_makes_it_forget_and_not_grow(field: str) -> None:
    wire = RequestWire(IS_SECRET, LIMITS)
    for n in range(3 * request_wire._REMEMBERED):
        value: Any = n + 1 if field == "response_bytes" else f"/{n}" + "x" * (n % 3 * 2000)
        exchange = ordinary(**{field: value})
        wire.write(exchange, None, None)
    memories = (
        *(wire._shapes, wire._agents, wire._clients, wire._sizes),
        *(request_wire._PATH, request_wire._REQUEST, request_wire._SPAN),
    )
    assert all(0 < len(memory) <= request_wire._REMEMBERED for memory in memories)
    held = sum(len(one) + len(str(key)) for memory in memories for key, one in memory.items())
    assert held < 2_000_000


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        ({}, True),
        ({"max_span_attributes": SpanLimits.UNSET}, True),
        ({"max_span_attributes": 60}, False),
        ({"max_attributes": 60}, False),
        ({"max_span_attribute_length": 2048}, False),
        ({"max_attribute_length": 100}, False),
        ({"max_attribute_length": 16_384}, True),
        ({"max_links": 0}, False),
    ],
    ids=str,
)
def test_limits_that_could_cut_are_left_to_the_sdk(limits: dict[str, int], fits: bool) -> None:
    assert uncut(SpanLimits(**limits)) is fits


def test_the_longest_route_is_cut_as_the_sdk_cuts_it() -> None:
    exchange = ordinary(http_route="/" + "x" * 20_000)
    assert in_order(written(exchange, None, None)) == in_order(official(exchange, None, None))


def test_most_of_what_a_request_can_say_is_within_the_default_limit() -> None:
    exchange = ordinary(
        method=OTHER_METHOD, method_original="BREW", http_version="1.1", server_address="s", server_port=1,
        client_address="c", user_agent="u", status=500, level="error", request_bytes=1, response_bytes=1,
        facts={f"f{n}": n for n in range(64)},
    )  # fmt: skip
    span = written(exchange, None, None, "error")
    assert len(span.attributes) <= request_wire._MOST_ATTRIBUTES <= 128
    assert in_order(span) == in_order(official(exchange, None, None, "error"))
