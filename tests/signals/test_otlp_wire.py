"""Spans as bytes: read back by the official classes, they are what the official encoder writes."""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from obskit.signals.otlp_wire import attribute, encoded, message, request, varint

# What makes a difference: lengths around one and two bytes of a varint, and texts that are no Unicode.
TEXTS = st.one_of(
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs", "L"]), max_size=6),
    st.builds(lambda text, n: (text or "é") * n, st.text(max_size=3), st.sampled_from([1, 30, 63, 127, 200, 9000])),
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([0, 1, -1, 127, 128, 16384, 2**31, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30]),
)  # fmt: skip
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(), TEXTS, st.binary(max_size=200))
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(TEXTS, st.integers()), inner, max_size=4),
    ),
    max_leaves=8,
)
ATTRIBUTES = st.dictionaries(TEXTS, VALUES, max_size=6)
TIMES = st.one_of(st.none(), st.integers(0, 2**64 - 1))
COUNTS = st.sampled_from([0, 0, 1, 127, 128, 2**32 - 1])
STATES = st.sampled_from([None, TraceState(), TraceState([("a", "1"), ("b@c", "2=3")])])


@st.composite
def contexts(draw: st.DrawFn) -> SpanContext:
    flags = TraceFlags(draw(st.sampled_from([0, 1, 3])))
    return SpanContext(
        draw(st.integers(0, 2**128 - 1)),
        draw(st.integers(0, 2**64 - 1)),
        draw(st.booleans()),
        flags,
        draw(STATES),
    )


@st.composite
def bounded(draw: st.DrawFn, values: st.SearchStrategy[Mapping[str, Any]] = ATTRIBUTES) -> Any:
    """Attributes as given, or as the SDK has them after it has dropped some."""
    found = draw(values)
    if draw(st.booleans()):
        return found
    made = BoundedAttributes(attributes={"a": 1, "b": 2.5, "c": "d", "e": (True, False)})
    made.dropped = draw(COUNTS)
    return made


def listed(things: Sequence[Any], dropped: int) -> BoundedList:
    made = BoundedList(10)
    made.extend(things)
    made.dropped = dropped
    return made


RESOURCES = [
    Resource({"service.name": "shop", "n": 1}),
    Resource({"service.name": "shop", "n": 1}),  # the same once more, and another object
    Resource({"service.name": "shop", "n": 1}, "https://schema"),
    Resource({}),
]
SCOPES = [
    None,
    InstrumentationScope("a"),
    InstrumentationScope("a"),
    InstrumentationScope("a", "1.0", "https://schema", {"x": 1, "y": ("z",)}),
    InstrumentationScope("", None, None),
]


@st.composite
def spans(draw: st.DrawFn) -> ReadableSpan:
    events = st.builds(Event, TEXTS, bounded(), st.integers(1, 2**64 - 1))
    links = st.builds(Link, contexts(), bounded())
    description = draw(st.one_of(st.none(), TEXTS))
    return ReadableSpan(
        name=draw(TEXTS),
        context=draw(contexts()),
        parent=draw(st.one_of(st.none(), contexts())),
        resource=draw(st.sampled_from(RESOURCES)),
        attributes=draw(bounded()),
        events=listed(draw(st.lists(events, max_size=3)), draw(COUNTS)),
        links=listed(draw(st.lists(links, max_size=3)), draw(COUNTS)),
        kind=draw(st.sampled_from(SpanKind)),
        status=Status(StatusCode.ERROR, description) if description is not None else
        Status(draw(st.sampled_from(StatusCode))),
        start_time=draw(TIMES),
        end_time=draw(TIMES),
        instrumentation_scope=draw(st.sampled_from(SCOPES)),
    )  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """The official encoder logs what it leaves out."""
    logger = logging.getLogger("opentelemetry.exporter.otlp.proto.common._internal")
    logger.disabled = True
    yield
    logger.disabled = False


def unicode(value: Any) -> Any:
    """The value with `?` for what is no Unicode: the one thing in which we differ on purpose."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [unicode(one) for one in value]
    if isinstance(value, dict):
        # Pairs that become alike stay pairs.
        return _Pairs((unicode(str(key)), unicode(one)) for key, one in value.items())
    return value


class _Pairs(Mapping[str, Any]):
    def __init__(self, pairs: Any) -> None:
        self.pairs = list(pairs)

    def items(self) -> Any:
        return self.pairs

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(key for key, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


class Official(ReadableSpan):
    """A span as the official encoder can take it."""

    def __init__(self, span: ReadableSpan) -> None:
        status = Status(span.status.status_code, unicode(span.status.description))
        super().__init__(
            unicode(span.name), span.context, span.parent, span.resource, {}, [_Event(one) for one in span.events],
            [_Link(one) for one in span.links], span.kind, None, status, span.start_time, span.end_time,
            span.instrumentation_scope,
        )  # fmt: skip
        self.span = span

    @property
    def attributes(self) -> Any:
        return unicode(dict(self.span.attributes or {}))

    dropped_attributes = property(lambda self: self.span.dropped_attributes)
    dropped_events = property(lambda self: self.span.dropped_events)
    dropped_links = property(lambda self: self.span.dropped_links)


class _Event:
    def __init__(self, event: Event) -> None:
        self.name, self.timestamp = unicode(event.name), event.timestamp
        self.attributes, self.dropped_attributes = (
            unicode(dict(event.attributes or {})),
            event.dropped_attributes,
        )


class _Link:
    def __init__(self, link: Link) -> None:
        self.context, self.attributes = link.context, unicode(dict(link.attributes or {}))
        self.dropped_attributes = link.dropped_attributes


def read(data: bytes) -> bytes:
    """What the official classes understand, in one form: messages with a NaN in them are not even like themselves."""
    return ExportTraceServiceRequest.FromString(data).SerializeToString(deterministic=True)


@given(st.lists(spans(), max_size=5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_the_official_classes_read_what_the_official_encoder_writes(found: list[ReadableSpan]) -> None:
    ours = request(map(encoded, found))
    official = encode_spans([Official(span) for span in found])
    assert read(ours) == official.SerializeToString(deterministic=True)
    # Twice, for what was remembered the first time must be as good.
    assert request(map(encoded, found)) == ours


@given(TEXTS, VALUES)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@example("k", {"a": {"b": [None, b"", "", [], {}, 0, False, 0.0]}})
@example("k", [1, 2**64])
@example("", "")
def test_an_attribute_of_any_kind_is_the_same_key_value(key: str, value: Any) -> None:
    span = ReadableSpan("s", SpanContext(1, 1, False), attributes={key: value}, start_time=1, end_time=1)
    (expected,) = encode_spans([Official(span)]).resource_spans[0].scope_spans[0].spans
    data = attribute(9, key, value)
    if not expected.attributes:
        assert data == b""
    else:
        assert data[:1] == b"\x4a"
        _, at = _read_varint(data, 1)
        found = KeyValue.FromString(data[at:])
        assert found.SerializeToString(deterministic=True) == expected.attributes[0].SerializeToString(
            deterministic=True
        )


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            assert at + number == len(data) or number < len(data)
            return number, at


class Colour(enum.IntEnum):
    RED = 3


class Text(str):
    pass


@pytest.mark.parametrize(
    "value", [Colour.RED, Text("x"), range(3), bytearray(b"ab"), memoryview(b"ab"), "a\0b"]
)
def test_values_that_are_something_by_inheritance_are_that(value: Any) -> None:
    span = ReadableSpan("s", SpanContext(1, 1, False), attributes={"k": value}, start_time=1, end_time=1)
    assert read(request([encoded(span)])) == encode_spans([span]).SerializeToString(deterministic=True)


@pytest.mark.parametrize("value", [object(), {1, 2}, [object()], 1j, {"a": {"b": object()}}])
def test_a_value_that_otlp_has_no_form_for_is_left_out_alone(value: Any) -> None:
    span = ReadableSpan(
        "s", SpanContext(1, 1, False), attributes={"k": value, "l": 1}, start_time=1, end_time=1
    )
    assert attribute(9, "k", value) == b""
    assert read(request([encoded(span)])) == encode_spans([span]).SerializeToString(deterministic=True)


def test_a_value_that_holds_itself_is_left_out() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert attribute(9, "k", endless) == b""


def test_a_value_whose_code_raises_is_left_out() -> None:
    class Odd(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise RuntimeError(key)

        def __iter__(self) -> Iterator[str]:
            raise RuntimeError("no")

        def __len__(self) -> int:
            raise RuntimeError("no")

    assert attribute(9, "k", Odd()) == b""


@pytest.mark.parametrize(
    "change",
    [{"context": SpanContext(1 << 130, 1, False)}, {"start_time": -1}, {"end_time": 1 << 64}],
    ids=str,
)
def test_a_span_with_an_impossible_id_or_time_is_refused_alone(change: dict[str, Any]) -> None:
    given_: dict[str, Any] = {"context": SpanContext(1, 1, False), "start_time": 1, "end_time": 1}
    with pytest.raises(Exception, match=r"int|argument|format"):
        encoded(ReadableSpan("s", **given_ | change))


def test_spans_of_the_sdk_itself_are_the_same() -> None:
    provider = TracerProvider(shutdown_on_exit=False, resource=RESOURCES[0])
    tracer = provider.get_tracer("t", "1", "https://schema", {"a": 1})
    with tracer.start_as_current_span("outer", kind=SpanKind.SERVER) as outer:
        outer.add_event("event", {"n": 1})
        with tracer.start_as_current_span(
            "inner", links=[Link(outer.get_span_context(), {"l": "k"})]
        ) as inner:
            inner.record_exception(ValueError("no"))
            inner.set_status(StatusCode.ERROR, "no")
    every: list[Any] = [outer, inner]
    assert read(request(map(encoded, every))) == encode_spans(every).SerializeToString(deterministic=True)


@given(st.integers(-(2**63), 2**64 - 1))
def test_a_number_is_written_as_protobuf_has_it(n: int) -> None:
    data = varint(n)
    assert _read_varint_only(data) == (n if n >= 0 else n + 2**64)
    assert len(data) <= 10


def _read_varint_only(data: bytes) -> int:
    assert all(byte > 127 for byte in data[:-1])
    assert data[-1] < 128
    return sum((byte & 127) << 7 * at for at, byte in enumerate(data))


def test_a_message_has_a_tag_and_a_length() -> None:
    assert message(1, b"ab") == b"\x0a\x02ab"
    assert message(16, b"x" * 300) == b"\x82\x01\xac\x02" + b"x" * 300
