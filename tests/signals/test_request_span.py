"""The span of a request is, for whoever looks at it, one that the SDK has made."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider, _Span
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from obskit.exchange import Exchange, Outcome
from obskit.redact import is_secret_name
from obskit.signals import request_span
from obskit.signals.incoming import Caller, context_of, within
from obskit.signals.request_attributes import ended_at, opening
from obskit.signals.request_span import Maker, RequestSpan, UnsampledSpan, maker_of

TRACE_ID, SPAN_ID, PARENT_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, 0x00F067AA0BA902B7
HEADER = f"00-{TRACE_ID:032x}-{PARENT_ID:016x}-03"
OTHER = SpanContext(7, 9, is_remote=True, trace_flags=TraceFlags(1))
STATED = SpanContext(
    TRACE_ID,
    PARENT_ID,
    is_remote=True,
    trace_flags=TraceFlags(1),
    trace_state=trace.TraceState([("vendor", "1")]),
)


class _SameIds(IdGenerator):
    def generate_span_id(self) -> int:
        return SPAN_ID

    def generate_trace_id(self) -> int:
        return TRACE_ID

    def is_trace_id_random(self) -> bool:
        return True


class Seen(SpanProcessor):
    """A user's processor that writes down what it is shown."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        self.told.append(f"start {span.name}")

    def _on_ending(self, span: Any) -> None:
        self.told.append(f"ending {span.name}")

    def on_end(self, span: ReadableSpan) -> None:
        self.told.append(f"end {span.name}")
        self.ended.append(span)


class Pair:
    """A request's span as the SDK starts it, and ours of the same request, each with a processor of its own."""

    def __init__(
        self, limits: SpanLimits | None = None, caller: Caller | None = None, linked: Caller | None = None
    ) -> None:
        self.exchange = Exchange("http", "POST", "/orders/7")
        self.exchange.user_agent, self.exchange.client_address = "curl/8", "192.0.2.7"
        self.exchange.trace_id, self.exchange.span_id = f"{TRACE_ID:032x}", f"{SPAN_ID:016x}"
        self.exchange.sampled = True
        self.sdk_seen, self.our_seen = Seen(), Seen()
        self.sdk = self._tracer(self.sdk_seen, limits).start_span(
            "POST",
            within(caller, None),
            SpanKind.SERVER,
            opening(self.exchange, is_secret_name),
            [] if linked is None else [Link(context_of(linked))],
            start_time=self.exchange.started_unix_ns,
            record_exception=False,
            set_status_on_exception=False,
        )
        self.sdk_seen.told.clear()  # ours begins where nobody listens
        self.maker = Maker(self._tracer(self.our_seen, limits), is_secret_name)
        self.ours = self.maker.asleep(RequestSpan, self.exchange, caller, linked)

    def _tracer(self, seen: Seen, limits: SpanLimits | None) -> Any:
        provider = TracerProvider(
            resource=Resource.create({"service.name": "shop"}),
            id_generator=_SameIds(),
            span_limits=limits,
            shutdown_on_exit=False,
        )
        provider.add_span_processor(seen)
        return provider.get_tracer("obskit", "1")

    def both(self, do: Callable[[Any], Any]) -> Any:
        """What `do` gives or raises for the SDK's span, which has to be what it does for ours."""
        expected, found = _result(do, self.sdk), _result(do, self.ours)
        assert found == expected
        assert looks(self.ours) == looks(self.sdk)
        assert self.our_seen.told == self.sdk_seen.told
        return expected


def _result(do: Callable[[Any], Any], span: Any) -> Any:
    try:
        found = do(span)
    except Exception as error:
        return type(error), str(error)
    return "itself" if found is span else found


def looks(span: Any) -> dict[str, Any]:
    """All that can be seen of a span; times of its own clock left out."""
    shown = json.loads(span.to_json())
    for event in shown["events"]:
        event.pop("timestamp")
    if shown["end_time"] is not None:
        shown["end_time"] = "ended"
    shown |= {
        "recording": span.is_recording(),
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "context": tuple(span.get_span_context()),
        "same": (span.context is span.get_span_context(), isinstance(span, trace.Span), isinstance(span, ReadableSpan)),
        "parent": None if span.parent is None else tuple(span.parent),
        "repr": repr(span),
        "scope": repr(span.instrumentation_scope),
        "kinds": (type(span).__name__, type(span.attributes).__name__, type(span.events).__name__),
        "fields": sorted(vars(span)),
        "events": [(event.name, dict(event.attributes or {}), event.dropped_attributes) for event in span.events],
        "links": [(tuple(link.context), dict(link.attributes or {})) for link in span.links],
        "status": (span.status.status_code, span.status.description),
    }  # fmt: skip
    return shown


def _raise_within(span: Any) -> None:
    with span:
        raise ValueError("within")


def _use(span: Any, **how: Any) -> None:
    with trace.use_span(span, **how):
        raise ValueError("used")


DEEDS: dict[str, Callable[[Any], Any]] = {
    "is_recording": lambda span: span.is_recording(),
    "get_span_context": lambda span: tuple(span.get_span_context()),
    "name": lambda span: span.name,
    "kind": lambda span: span.kind,
    "start_time": lambda span: span.start_time,
    "status": lambda span: span.status.status_code,
    "attributes": lambda span: dict(span.attributes),
    "set_attribute": lambda span: span.set_attribute("colour", "blue"),
    "set_attribute again": lambda span: span.set_attribute("colour", ["red", "green"]),
    "set_attribute of ours": lambda span: span.set_attribute("url.path", "/mine"),
    "set_attribute that is none": lambda span: span.set_attribute("", object()),
    "set_attributes": lambda span: span.set_attributes({f"n{n}": n for n in range(5)} | {"deep": {"a": [1, None]}}),
    "add_event": lambda span: span.add_event("cache.miss", {"key": "k", "n": 1}),
    "add_event at a time": lambda span: span.add_event("cache.miss", timestamp=123),
    "add_link": lambda span: span.add_link(OTHER, {"why": "batch"}),
    "add_link to nothing": lambda span: span.add_link(trace.INVALID_SPAN_CONTEXT),
    "update_name": lambda span: span.update_name("mine"),
    "set_status ok": lambda span: span.set_status(StatusCode.OK),
    "set_status error": lambda span: span.set_status(StatusCode.ERROR, "broke"),
    "set_status object": lambda span: span.set_status(Status(StatusCode.ERROR, "broke"), "ignored"),
    "set_status unset": lambda span: span.set_status(StatusCode.UNSET),
    "record_exception": lambda span: span.record_exception(ValueError("x"), {"extra": 1}, escaped=True),
    "start": lambda span: span.start(),
    "end": lambda span: span.end(),
    "end at a time": lambda span: span.end(2_000_000_000_000_000_000),
    "context manager": lambda span: span.__enter__() is span,
    "leaves context manager": lambda span: span.__exit__(None, None, None),
    "raises within": _raise_within,
    "use_span": _use,
    "use_span to its end": lambda span: _use(span, end_on_exit=True),
    "unknown attribute": lambda span: span.colour,
    "private unknown": lambda span: span._colour,
    "hash": lambda span: hash(span) == hash(span) and span == span,
    "copy": lambda span: looks(copy.copy(span)),
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "readable": lambda span: looks_readable(span._readable_span()),
}  # fmt: skip


def looks_readable(span: ReadableSpan) -> str:
    return "\n".join(
        line for line in span.to_json().splitlines() if '"timestamp"' not in line and "end_time" not in line
    )


CALLERS: list[tuple[Caller | None, Caller | None]] = [
    (None, None),
    (HEADER, None),
    (STATED, None),
    (None, HEADER),
    (None, STATED),
]


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize(("caller", "linked"), CALLERS)
def test_whatever_is_done_first_to_a_span_does_what_the_sdks_does(
    deed: str, caller: Caller | None, linked: Caller | None
) -> None:
    Pair(caller=caller, linked=linked).both(DEEDS[deed])


@given(st.lists(st.sampled_from(sorted(DEEDS)), max_size=8))
def test_whatever_is_done_after_it_does_too(deeds: list[str]) -> None:
    pair = Pair()
    for deed in deeds:
        pair.both(DEEDS[deed])


@pytest.mark.parametrize(
    "limits",
    [
        {"max_span_attributes": 3},
        {"max_span_attributes": 0},
        {"max_attribute_length": 4},
        {"max_span_attribute_length": 0},
        {"max_events": 1},
        {"max_links": 1},
        {"max_links": 0},
        {"max_event_attributes": 1, "max_link_attributes": 0},
    ],
    ids=str,
)
def test_its_limits_hold(limits: dict[str, int]) -> None:
    pair = Pair(SpanLimits(**limits), linked=HEADER)
    for deed in (
        "set_attributes",
        "add_event",
        "add_event",
        "add_link",
        "add_link",
        "record_exception",
        "end",
    ):
        pair.both(DEEDS[deed])


@pytest.mark.parametrize(
    "variable",
    [
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_SPAN_EVENT_COUNT_LIMIT",
        "OTEL_SPAN_LINK_COUNT_LIMIT",
    ],
)
def test_limits_of_the_environment_hold(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "2")
    pair = Pair(linked=HEADER)
    for deed in ("set_attributes", "add_event", "add_event", "add_event", "add_link", "add_link", "end"):
        pair.both(DEEDS[deed])


def test_a_span_that_was_used_is_the_sdks_and_keeps_nothing_of_ours() -> None:
    pair = Pair()
    pair.ours.set_attribute("a", 1)
    assert type(pair.ours) is _Span
    assert not [name for name in vars(pair.ours) if name in request_span._OURS]
    assert vars(pair.ours).keys() == vars(pair.sdk).keys()


@pytest.mark.parametrize("look", ["is_recording", "get_span_context"])
def test_asking_whether_it_records_and_for_its_context_does_not_wake_it(look: str) -> None:
    pair = Pair()
    DEEDS[look](pair.ours)
    child = pair.maker.tracer.start_span("child", trace.set_span_in_context(pair.ours, Context()))
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(pair.ours, Context()))
    assert type(pair.ours) is RequestSpan
    assert child.parent is pair.ours.get_span_context()  # type: ignore[attr-defined]
    assert headers["traceparent"] == f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-03"
    assert dict(pair.ours.attributes or {}) == dict(pair.sdk.attributes)
    assert pair.ours.context is child.parent  # type: ignore[attr-defined]


# ---- its request ends ------------------------------------------------------------------------------------


def _ended(pair: Pair) -> None:
    exchange = pair.exchange
    exchange.http_route, exchange.status, exchange.outcome = "/orders/{id}", 503, Outcome.COMPLETED
    exchange.level, exchange.request_id, exchange.facts = "error", "r", {"tenant": "acme"}
    exchange.last_byte_ns = exchange.started_ns + 5_000


def test_a_span_that_is_looked_at_after_its_request_shows_all_of_it_and_is_over() -> None:
    pair = Pair()
    _ended(pair)
    assert RequestSpan.ends_asleep(pair.ours)
    assert RequestSpan.ends_asleep(pair.ours)
    assert not pair.ours.is_recording()
    pair.ours.set_attribute("late", 1)
    assert pair.ours.end_time == ended_at(pair.exchange)
    assert pair.ours.name == "POST /orders/{id}"
    assert pair.ours.status.status_code is StatusCode.ERROR
    attributes = dict(pair.ours.attributes or {})
    assert attributes["obskit.fact.tenant"] == "acme"
    assert attributes["http.response.status_code"] == 503
    assert "late" not in attributes
    with pytest.raises(TypeError):
        pair.ours._attributes["late"] = 1  # type: ignore[index]
    assert pair.our_seen.told == [], "it has gone its way without processors"


def test_a_span_that_was_woken_before_does_not_end_asleep() -> None:
    pair = Pair()
    pair.ours.set_attribute("a", 1)
    assert not RequestSpan.ends_asleep(pair.ours)
    assert vars(pair.ours).keys() - {"_fate"} == vars(pair.sdk).keys()
    assert pair.ours.is_recording()


def test_who_wakes_it_and_who_ends_it_agree_whatever_comes_first() -> None:
    for _ in range(300):
        pair = Pair()
        _ended(pair)
        ready, ended = threading.Barrier(4), []

        def touch(pair: Pair = pair, ready: threading.Barrier = ready) -> None:
            ready.wait()
            pair.ours.set_attribute("touched", 1)

        threads = [threading.Thread(target=touch) for _ in range(3)]
        for one in threads:
            one.start()
        ready.wait()
        ended.append(type(pair.ours) is RequestSpan and pair.ours.ends_asleep())
        for one in threads:
            one.join()
        assert type(pair.ours) is _Span
        assert pair.ours.is_recording() is not ended[0]
        assert ("touched" in (pair.ours.attributes or {})) is not ended[0]
        assert not [name for name in vars(pair.ours) if name in ("_maker", "_exchange", "_late")]


def test_threads_that_wake_it_at_once_lose_nothing_of_what_they_write() -> None:
    for _ in range(200):
        pair = Pair()
        ready = threading.Barrier(4)

        def write(n: int, pair: Pair = pair, ready: threading.Barrier = ready) -> None:
            ready.wait()
            pair.ours.set_attribute(f"thread{n}", n)
            pair.ours.add_event(f"thread{n}")

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert {f"thread{n}" for n in range(4)} <= (pair.ours.attributes or {}).keys()
        assert len(pair.ours.events) == 4


def test_a_garbage_collection_may_wake_it_while_it_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    make = pair.maker.span

    def interrupted(*of: Any) -> Any:
        monkeypatch.setattr(pair.maker, "span", make)
        pair.ours.set_attribute("from a finalizer", 1)
        return make(*of)

    monkeypatch.setattr(pair.maker, "span", interrupted)
    pair.ours.set_attribute("own", 2)
    assert {"from a finalizer", "own"} <= (pair.ours.attributes or {}).keys()


# ---- faults of our own ---------------------------------------------------------------------------------------


class _Pipeline:
    def __init__(self) -> None:
        self.failed_with: list[tuple[str, str]] = []

    def failed(self, stage: str, error: BaseException) -> None:
        self.failed_with.append((stage, str(error)))


@pytest.mark.parametrize("deed", [name for name in DEEDS if name not in ("is_recording", "get_span_context")])
def test_a_span_that_cannot_be_made_costs_the_span_and_nothing_else(
    deed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("ours")

    pair = Pair()
    pipeline = pair.exchange.pipeline = _Pipeline()
    monkeypatch.setattr(pair.maker, "span", broken)
    found = _result(DEEDS[deed], pair.ours)
    assert "ours" not in str(found)
    pair.ours.end()
    assert pair.our_seen.told == []
    if deed != "hash":
        assert ("traces.span", "ours") in pipeline.failed_with


@pytest.mark.parametrize("sampled", [True, False])
def test_a_context_that_cannot_be_made_propagates_nothing(
    sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("ours")

    pair = Pair()
    pipeline = pair.exchange.pipeline = _Pipeline()
    monkeypatch.setattr(pair.maker, "context", broken)
    span: Any = pair.ours if sampled else pair.maker.asleep(UnsampledSpan, pair.exchange, None, None)
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(span, Context()))
    assert headers == {}
    assert pipeline.failed_with == [("traces.span", "ours")]


# ---- not sampled -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "flags"), [(None, "02"), (HEADER, "02"), (f"{HEADER[:-2]}00", "00"), (STATED, "00")]
)
def test_an_unsampled_request_has_a_span_that_only_propagates(caller: Caller | None, flags: str) -> None:
    pair = Pair()
    pair.exchange.sampled = False
    span = pair.maker.asleep(UnsampledSpan, pair.exchange, caller, None)
    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(span, Context()))
    assert headers.pop("traceparent") == f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-{flags}"
    assert headers == ({"tracestate": "vendor=1"} if caller is STATED else {})
    assert isinstance(span, NonRecordingSpan)
    assert not span.is_recording()
    sdk = NonRecordingSpan(span.get_span_context())
    for deed in DEEDS.keys() - {
        "copy",
        "deepcopy",
        "pickle",
        "readable",
        "unknown attribute",
        "private unknown",
    }:
        kind, found = _result(DEEDS[deed], sdk), _result(DEEDS[deed], span)
        assert str(found).replace("UnsampledSpan", "NonRecordingSpan") == str(kind)
    for made in (copy.copy(span), copy.deepcopy(span), pickle.loads(pickle.dumps(span))):
        assert type(made) is NonRecordingSpan
        assert made.get_span_context() == span.get_span_context()
    with pytest.raises(AttributeError):
        span.colour  # noqa: B018
    assert repr(span) == repr(sdk)


# ---- where we do not know the SDK -------------------------------------------------------------------------------


class _OtherProvider(TracerProvider):
    pass


@pytest.fixture
def provider() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


def test_the_sdks_own_tracer_can_be_stood_in_for(provider: TracerProvider) -> None:
    assert maker_of(provider, provider.get_tracer("t"), is_secret_name) is not None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda provider, tracer: (_OtherProvider(shutdown_on_exit=False), tracer),
        lambda provider, tracer: (provider, trace.NoOpTracer()),
        lambda provider, tracer: (provider, _with(tracer, _tracer_metrics=object())),
        lambda provider, tracer: (provider, _with(tracer, span_processor=SpanProcessor())),
        lambda provider, tracer: (provider, _with(tracer, _span_limits=None)),
        lambda provider, tracer: (provider, _with(tracer, _span_limits=1)),
    ],
    ids=["provider", "tracer", "metrics", "processor", "no limits", "other fields"],
)  # fmt: skip
def test_any_other_is_left_to_make_its_spans_itself(spoil: Any, provider: TracerProvider) -> None:
    assert maker_of(*spoil(provider, provider.get_tracer("t")), is_secret_name) is None


def _with(tracer: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(tracer, name, value)
    return tracer


def test_an_unsampled_span_has_the_context_it_was_given() -> None:
    pair = Pair()
    span = pair.maker.asleep(UnsampledSpan, pair.exchange, None, None)
    span._context = OTHER
    assert span.get_span_context() is OTHER
    assert type(span) is UnsampledSpan
