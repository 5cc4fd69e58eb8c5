"""The span of a request while nobody looks at it: a place in the context, with the record behind it.

Most applications never touch the span of a request, and one of the SDK costs more than all else that a request pays
for its telemetry. `RequestSpan` has the type of an SDK span and none of its fields. Who asks it for its context (a
child span, a propagator) gets that alone; whoever does more wakes it, and from then on it is an SDK span: the fields
are those that the SDK's own constructor makes, and its class is the SDK's own. So nothing here says again what a span
does.

No lock is held while it wakes, since a garbage collection may come back to the same span from anywhere: each thread
makes the fields, and one step of the dictionary decides whose are taken, or that the request has ended before.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SynchronousMultiSpanProcessor, Tracer, TracerProvider, _Span
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
)

from obskit.exchange import Exchange
from obskit.signals.incoming import Caller, context_of, flags_of
from obskit.signals.request_attributes import IsSecret, describe, ended_at, opening, span_method

_RANDOM: Final = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
_ENDED: Final[dict[str, Any]] = {}
_new: Final = object.__new__
_Stub = TypeVar("_Stub", "RequestSpan", "UnsampledSpan")


class Maker:
    """Makes what a tracer of the SDK makes of a request, when it is asked for."""

    def __init__(self, tracer: Tracer, is_secret: IsSecret) -> None:
        self.tracer = tracer
        self.is_secret = is_secret
        random = getattr(tracer.id_generator, "is_trace_id_random", None)
        self._root_flags = _RANDOM if random is not None and random() else 0

    def asleep(
        self, kind: type[_Stub], exchange: Exchange, caller: Caller | None, linked: Caller | None
    ) -> _Stub:
        """What stands for the span of a request: a RequestSpan where it is sampled, else an UnsampledSpan."""
        span = _new(kind)
        span._maker = self
        span._exchange = exchange
        if caller is not None:
            span._caller = caller
        elif linked is not None:
            span._linked = linked
        return span

    def context(self, exchange: Exchange, caller: Caller | None) -> SpanContext:
        """The span context of a request."""
        flags = self._root_flags if caller is None else flags_of(caller) & _RANDOM
        return SpanContext(
            int(exchange.trace_id, 16),
            int(exchange.span_id, 16),
            is_remote=False,
            trace_flags=TraceFlags(flags | exchange.sampled),
            trace_state=None if caller is None else context_of(caller).trace_state,
        )

    def span(
        self, exchange: Exchange, context: SpanContext, caller: Caller | None, linked: Caller | None
    ) -> _Span:
        """The same request's span as the SDK starts it."""
        tracer = self.tracer
        span = _Span(
            name=span_method(exchange),
            context=context,
            parent=None if caller is None else context_of(caller),
            sampler=tracer.sampler,
            resource=tracer.resource,
            attributes=opening(exchange, self.is_secret),
            links=() if linked is None else [Link(context_of(linked))],
            kind=SpanKind.SERVER,
            span_processor=tracer.span_processor,
            instrumentation_info=tracer.instrumentation_info,
            record_exception=False,
            set_status_on_exception=False,
            limits=tracer._span_limits,
            instrumentation_scope=tracer._instrumentation_scope,
        )
        span._start_time = exchange.started_unix_ns
        return span

    def ended(
        self,
        exchange: Exchange,
        caller: Caller | None,
        linked: Caller | None,
        kept: str = "",
        context: SpanContext | None = None,
    ) -> ReadableSpan:
        """All that is known of a request that has ended, as a span that no processor has seen."""
        made = self.span(exchange, context or self.context(exchange, caller), caller, linked)
        _end(made, exchange, self.is_secret, kept)
        return made._readable_span()


def _end(span: _Span, exchange: Exchange, is_secret: IsSecret, kept: str = "") -> None:
    describe(span, exchange, is_secret, kept)
    span._end_time = ended_at(exchange)
    span._attributes._immutable = True  # type: ignore[union-attr]


class RequestSpan(_Span):
    """The span of a sampled request that nobody has looked at yet."""

    _maker: Maker
    _exchange: Exchange
    _caller: Caller | None = None
    _linked: Caller | None = None

    def __getattr__(self, name: str) -> Any:
        # Only for what is not there.
        if name == "_context":
            return _context_of(self)
        if name in FIELDS:
            RequestSpan.wake(self)
            return self.__dict__[name]
        raise AttributeError(f"{_Span.__name__!r} object has no attribute {name!r}")

    def is_recording(self) -> bool:
        if "_fate" not in self.__dict__:
            return True  # asked of every span by every instrumentation, and nothing to wake for
        RequestSpan.wake(self)
        return _Span.is_recording(self)

    def __repr__(self) -> str:
        RequestSpan.wake(self)
        return f"{_Span.__repr__(self)}"  # type: ignore[no-untyped-call]

    def __reduce_ex__(self, protocol: Any) -> Any:
        RequestSpan.wake(self)
        return object.__reduce_ex__(self, protocol)

    def ends_asleep(self) -> bool:
        """The request has ended: whether nobody has woken its span, and whoever does so later finds it ended."""
        if self.__dict__.setdefault("_fate", _ENDED) is _ENDED and type(self) is RequestSpan:
            return True
        RequestSpan.wake(self)
        return False

    def wake(self) -> None:
        """Become a span of the SDK. Never raises.

        Called by the name of its class: another thread may have made it one of the SDK, which has no such method.
        """
        known = self.__dict__
        exchange = self._exchange if "_exchange" in known else None
        try:
            fate = _fate_of(self)
        except Exception as error:
            _failed(exchange, error)
            fate = _spare(exchange)
        for name in fate:
            known.setdefault(name, fate[name])
        # Now that it has all of its fields: until here, whoever misses one comes back and helps.
        self.__class__ = _Span  # type: ignore[assignment]
        for name in _OURS:
            known.pop(name, None)


class UnsampledSpan(NonRecordingSpan):
    """The span of a request that is not sampled: a context for its children, when they ask."""

    _maker: Maker
    _exchange: Exchange
    _caller: Caller | None = None
    _linked: Caller | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "_context":
            return _context_of(self)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> Any:
        return NonRecordingSpan, (self._context,)


_OURS: Final = ("_exchange", "_maker", "_caller", "_linked", "_fate", "_late")


def _fate_of(span: RequestSpan) -> dict[str, Any]:
    """The fields that `span` is to have, the same for everybody who asks; none when it has them."""
    known = span.__dict__
    maker, exchange = known.get("_maker"), known.get("_exchange")
    if maker is None or exchange is None:
        return {}  # another thread has woken it meanwhile
    made = maker.span(exchange, _context_of(span), known.get("_caller"), known.get("_linked"))
    fate: dict[str, Any] = known.setdefault("_fate", vars(made))
    if fate is _ENDED:
        _end(made, exchange, maker.is_secret)
        fate = known.setdefault("_late", vars(made))
    return fate


def _context_of(span: RequestSpan | UnsampledSpan) -> Any:
    """Its context, made once. Never raises: what cannot be made propagates nothing."""
    known = span.__dict__
    if "_context" in known:
        return known["_context"]
    exchange = known.get("_exchange")
    try:
        made = known["_maker"].context(exchange, known.get("_caller"))
        return known.setdefault("_context", made)
    except Exception as error:
        if "_context" in known:
            return known["_context"]  # woken by another thread meanwhile
        _failed(exchange, error)
        known["_context"] = INVALID_SPAN_CONTEXT
        return INVALID_SPAN_CONTEXT


def _failed(exchange: Exchange | None, error: Exception) -> None:
    if exchange is not None and exchange.pipeline is not None:
        exchange.pipeline.failed("traces.span", error)


def _spare(exchange: Exchange | None) -> dict[str, Any]:
    """The fields of a span that goes nowhere, for an application that is to notice nothing."""
    span = _Span("HTTP", INVALID_SPAN_CONTEXT, resource=_NOWHERE)
    span._start_time = 0 if exchange is None else exchange.started_unix_ns
    return vars(span)


_NOWHERE: Final = Resource({})
# What the SDK's constructor writes; nothing in here depends on its names but those that the code above uses.
FIELDS: Final = frozenset(vars(_Span("HTTP", INVALID_SPAN_CONTEXT, resource=_NOWHERE))) - {"_context"}


def maker_of(provider: Any, tracer: Any, is_secret: IsSecret) -> Maker | None:
    """A Maker in place of `tracer`; None where the SDK is not what we know, or does more with a span than we do."""
    if type(provider) is not TracerProvider or type(tracer) is not Tracer:
        return None
    if type(tracer.span_processor) is not SynchronousMultiSpanProcessor:
        return None
    metrics = getattr(tracer, "_tracer_metrics", None)
    if metrics is not None and type(metrics).__name__ != "NoOpTracerMetrics":
        return None
    limits = getattr(tracer, "_span_limits", None)
    if limits is None or not {"_lock", "_attributes", "_start_time", "_end_time"} <= FIELDS:
        return None
    try:
        maker = Maker(tracer, is_secret)
        probe = Exchange()
        probe.trace_id, probe.span_id, probe.ended_ns = "0" * 31 + "1", "0" * 15 + "1", probe.started_ns
        span = maker.asleep(RequestSpan, probe, None, None)
        ended = span.ends_asleep() and not span.is_recording()
    except Exception:  # another SDK than any we have seen
        return None
    return maker if ended else None
