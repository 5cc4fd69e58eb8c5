"""The traces view: one SERVER span per exchange, by the OpenTelemetry SDK and its semantic conventions.

A span object of the SDK is made when somebody wants it: the application looks at its span, a processor of its own
listens, a sampler of its own decides. Else the record is written as the bytes that a collector reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind
from opentelemetry.trace.propagation import _SPAN_KEY

from obskit.exchange import Exchange
from obskit.signals import provider as providers
from obskit.signals.ids import OwnIds, pairs_of, spans_of
from obskit.signals.incoming import Caller, Incoming, context_of, flags_of, within
from obskit.signals.otlp_wire import Encoded
from obskit.signals.request_attributes import (
    MAX_ATTRIBUTE,
    describe,
    ended_at,
    opening,
    span_method,
)
from obskit.signals.request_span import RequestSpan, UnsampledSpan, maker_of
from obskit.signals.request_wire import RequestWire, uncut
from obskit.signals.sampling import ALWAYS, Bounds, bounds_of
from obskit.version import __version__

__all__ = ["MAX_ATTRIBUTE", "Traces"]

_new: Final = object.__new__
_put: Final = dict.__setitem__
# Of a span that goes on with nobody's, and is linked to none.
_ALONE: Final = (None, None)


class Traces:
    """A pipeline signal with a context of its own."""

    name = "traces"

    def __init__(
        self,
        provider: providers.ProviderHandle,
        is_secret: Callable[[str], bool],
        incoming_trace: str = "continue",
        keep: Collection[str] = ("errors", "slow", "findings"),
        slow_request_s: float = 1.0,
    ) -> None:
        """`incoming_trace`: whether a request goes on with its caller's trace, or begins one (`Config`).

        `keep`: which requests are recorded that are not sampled, and from when on one of them is slow.
        """
        self._provider = provider
        self._restarts = incoming_trace == "restart"
        self._is_secret = is_secret
        self._keeps_errors, self._keeps_findings = "errors" in keep, "findings" in keep
        self._slow_ns = round(slow_request_s * 1e9) if "slow" in keep else 1 << 63
        self._tracer = provider.provider.get_tracer("obskit", __version__)
        # Where it is told whether somebody has switched it off.
        self._switch: Any = self._tracer if hasattr(self._tracer, "_tracer_config") else _SwitchedOn
        generator = (
            provider.provider.id_generator if isinstance(provider.provider, TracerProvider) else OwnIds()
        )
        self._new_pair, self._new_span = pairs_of(generator), spans_of(generator)
        # The propagator decides which headers carry context (OTEL_PROPAGATORS); a request without any is a root.
        self.carrier_headers = frozenset(name.lower() for name in propagate.get_global_textmap().fields)
        self._incoming = Incoming()
        self._maker = maker_of(provider.provider, self._tracer, is_secret)
        self._bounds = None if self._maker is None else bounds_of(self._maker.tracer.sampler)
        limits = None if self._maker is None else self._maker.tracer._span_limits
        self._wire = None if limits is None or not uncut(limits) else RequestWire(is_secret, limits)
        runtime: Any = otel_context._RUNTIME_CONTEXT
        stock = type(runtime) is ContextVarsRuntimeContext
        self._around = runtime._current_context.get if stock else runtime.get_current
        self._attach = runtime._current_context.set if stock else runtime.attach
        self.leave: Callable[[Any], None] = runtime._current_context.reset if stock else runtime.detach
        """Gives back what `enter` gave. Raises ValueError in another context than that."""

    def begin(self) -> None:
        self._provider.begin()

    # ---- a request comes in --------------------------------------------------------------------------------

    def opened(self, exchange: Exchange) -> None:
        maker, bounds = self._maker, self._bounds
        if (
            maker is None
            or bounds is None
            or self._provider.foreign_processors()
            or not self._switch._tracer_config.is_enabled
        ):
            self._opened_by_sdk(exchange)
            return
        caller: Caller | None = None
        linked: Caller | None = None
        sent: Context | None = None
        failed: Exception | None = None
        if exchange.carrier is None:
            bound = bounds.root
            exchange.trace_id, exchange.span_id = self._new_pair()
        else:
            caller, sent, failed = self._incoming.read(exchange.carrier)
            if caller is not None and not isinstance(caller, str) and not caller.is_remote:
                self._opened_by_sdk(exchange, caller, sent)
                return
            if self._restarts:
                # Nothing of a stranger's reaches the application: neither his sampling flag nor his baggage.
                caller, linked, sent = None, caller, None
            bound = self._go_on(exchange, caller, bounds)
        span: RequestSpan | UnsampledSpan
        if bound == ALWAYS or int(exchange.trace_id[16:], 16) < bound:
            exchange.sampled = True
            if caller is None and linked is None:
                span = _new(RequestSpan)  # as `asleep` does
                span._maker, span._exchange = maker, exchange
            else:
                span = maker.asleep(RequestSpan, exchange, caller, linked)
        else:
            span = maker.asleep(UnsampledSpan, exchange, caller, linked)
        exchange.span = span
        # Always from an empty context: whatever an earlier request left in this thread is no parent of this one.
        around = self._around()
        context = Context({**around, **(sent or {})}) if around or sent else Context()
        _put(context, _SPAN_KEY, span)
        exchange.otel_context = context
        if failed is not None:
            raise failed

    def _go_on(self, exchange: Exchange, caller: Caller | None, bounds: Bounds) -> int:
        """Give it its ids, in its caller's trace if there is one. Below which number that trace is sampled."""
        if caller is None:
            exchange.trace_id, exchange.span_id = self._new_pair()
            return bounds.root
        exchange.trace_id = caller[3:35] if isinstance(caller, str) else f"{caller.trace_id:032x}"
        exchange.span_id = self._new_span()
        return bounds.asked if flags_of(caller) & 1 else bounds.declined

    def _opened_by_sdk(
        self, exchange: Exchange, caller: Caller | None = None, sent: Context | None = None
    ) -> None:
        """The same through the tracer, with a span that processors and samplers are shown at once."""
        failed: Exception | None = None
        linked: Caller | None = None
        if caller is None and exchange.carrier is not None:
            caller, sent, failed = self._incoming.read(exchange.carrier)
        if self._restarts:
            caller, linked, sent = None, caller, None
        parent = within(caller, sent)
        span = self._tracer.start_span(
            span_method(exchange),
            parent,
            SpanKind.SERVER,
            opening(exchange, self._is_secret),
            None if linked is None else [Link(context_of(linked))],
            start_time=exchange.started_unix_ns,
            record_exception=False,
            set_status_on_exception=False,
        )
        ids = span.get_span_context()
        if ids.is_valid:
            exchange.trace_id = f"{ids.trace_id:032x}"
            exchange.span_id = f"{ids.span_id:016x}"
            exchange.sampled = ids.trace_flags.sampled
        # OTEL_SDK_DISABLED: no span, or the caller's own. The lines of one request still need to find each other.
        if not ids.is_valid:
            exchange.trace_id, exchange.span_id = self._new_pair()
        elif caller is not None and context_of(caller).span_id == ids.span_id:
            exchange.span_id = self._new_span()
        elif self._maker is not None and type(span) is NonRecordingSpan:
            # It may turn out to be worth recording.
            unsampled = self._maker.asleep(UnsampledSpan, exchange, caller, linked)
            unsampled._context = ids
            span = unsampled
        exchange.span = span
        exchange.otel_context = trace.set_span_in_context(span, Context({**self._around(), **parent}))
        if failed is not None:
            raise failed

    def enter(self, exchange: Exchange) -> Any:
        context = exchange.otel_context
        return None if context is None else self._attach(context)

    # ---- a request ends ------------------------------------------------------------------------------------

    def keeps(self, exchange: Exchange) -> str:
        """Why a request that has ended is recorded though it is not sampled; empty when it is not."""
        span = exchange.span
        if span is None or self._maker is None or self._provider.put is None:
            return ""
        if type(span) is not UnsampledSpan and not span.is_recording():
            return ""  # a tracer that is switched off, or a span that the application has ended
        if exchange.level == "error" and self._keeps_errors:
            return "error"
        if exchange.findings and self._keeps_findings:
            return "finding"
        took_ns = (exchange.last_byte_ns or exchange.ended_ns or 0) - exchange.started_ns
        return "slow" if took_ns >= self._slow_ns else ""

    def may_wait(self) -> bool:
        """Whether a span that nobody has looked at may be written later: no processor of the user's hears of it."""
        provider = self._provider
        if self._maker is None or self._bounds is None or provider.foreign_processors():
            return False
        return provider.put is None or (provider.encoded is not None and self._wire is not None)

    def rests(self, exchange: Exchange) -> bool:
        """End a span that nobody has looked at, so that it is only to be written; false: do that now."""
        span = exchange.span
        if type(span) is RequestSpan:
            known = span.__dict__
            rested = _ALONE if exchange.carrier is None else (known.get("_caller"), known.get("_linked"))
            if not RequestSpan.ends_asleep(span):
                return False
            exchange.span = rested
        elif type(span) is UnsampledSpan:
            exchange.span = None
        elif span is not None:
            return False
        exchange.otel_context = None
        return True

    def closed(self, exchange: Exchange) -> None:
        span = exchange.span
        if span is None:
            return
        exchange.span = exchange.otel_context = None
        if type(span) is tuple:  # it rests
            send = self._provider.encoded
            if send is not None:
                self._send(exchange, span[0], span[1], send)
            return
        if type(span) is RequestSpan:
            if self._closed_asleep(span, exchange):
                return
        elif type(span) is UnsampledSpan:
            if exchange.kept:
                self._keep(span, exchange)
            return
        if not span.is_recording():
            return
        try:
            describe(span, exchange, self._is_secret, exchange.kept)
        finally:
            span.end(ended_at(exchange))
        put = self._provider.put
        if exchange.kept and put is not None:
            put(span._readable_span())  # which our exporter's processor refuses: it is not sampled

    def _closed_asleep(self, span: RequestSpan, exchange: Exchange) -> bool:
        """Whether all is done for a span that nobody has looked at."""
        send = self._provider.encoded
        if self._provider.foreign_processors():
            RequestSpan.wake(span)
            return False
        if send is None:
            # Nobody hears of it; or the exporter wants spans, and there is one.
            if self._provider.put is None:
                return RequestSpan.ends_asleep(span)
            RequestSpan.wake(span)
            return False
        if self._wire is None or exchange.findings or exchange.exception is not None:
            RequestSpan.wake(span)
            return False
        known = span.__dict__
        caller, linked = known.get("_caller"), known.get("_linked")
        if not RequestSpan.ends_asleep(span):
            return False
        self._send(exchange, caller, linked, send)
        return True

    def _keep(self, span: UnsampledSpan, exchange: Exchange) -> None:
        send, put, maker = self._provider.encoded, self._provider.put, self._maker
        if put is None or maker is None:
            return
        caller, linked = span._caller, span._linked
        plain = self._bounds is not None and not exchange.findings and exchange.exception is None
        if send is not None and self._wire is not None and plain:
            self._send(exchange, caller, linked, send)
        else:
            put(maker.ended(exchange, caller, linked, exchange.kept, span.get_span_context()))

    def _send(
        self,
        exchange: Exchange,
        caller: Caller | None,
        linked: Caller | None,
        send: Callable[[Encoded], None],
    ) -> None:
        maker, wire = self._maker, self._wire
        assert maker is not None
        assert wire is not None
        try:
            data = wire.write(exchange, caller, linked, exchange.kept)
        except Exception:
            put = self._provider.put
            if put is not None:
                put(maker.ended(exchange, caller, linked, exchange.kept))
            raise
        tracer = maker.tracer
        send(Encoded(tracer.resource, tracer._instrumentation_scope, data))

    def flush(self, timeout_s: float) -> None:
        self._provider.flush(timeout_s)

    def goodbye(self) -> None:
        self._provider.goodbye()

    def shutdown(self, timeout_s: float) -> None:
        self._provider.shutdown(timeout_s)


class _SwitchedOn:
    """A tracer that nobody can switch off."""

    class _tracer_config:
        is_enabled = True
