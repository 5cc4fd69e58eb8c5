"""What a caller sends as its trace context, made safe before OpenTelemetry reads it.

Anybody can send these headers. OpenTelemetry's readers warn of each bad one, in a log line that repeats it, and take
a time that grows with the square of the white space in them: 8 KiB of it in a `baggage` header cost 30 ms. So what is
too long or not well-formed never reaches them. The application sees its headers as they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_MAX_TRACEPARENT = 512
_MAX_OTHER = 2_048
# W3C Baggage §3.3.2 and what OpenTelemetry takes.
_MAX_BAGGAGE = 8_192
_MAX_MEMBER = 4_096
_MAX_MEMBERS = 64
# W3C Trace Context §3.3.1 and §3.3.1.5: what everybody passes on.
_MAX_STATES = 32
_MAX_TRACESTATE = 512

# No quantifier gives back what it took: each pattern is linear, whatever it is shown.
_SPACE = r"[ \t]*+"
_TOKEN = r"[!#-'*+\-.0-9A-Z^-z|~]++"
_VALUE = r"[!#-+\--:<-\[\]-~]*+"
_PROPERTY = rf";{_SPACE}{_TOKEN}{_SPACE}(?:={_SPACE}{_VALUE}{_SPACE})?+"
_MEMBER = re.compile(rf"{_TOKEN}{_SPACE}={_SPACE}{_VALUE}{_SPACE}(?:{_PROPERTY})*+")
_STATE = re.compile(
    r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)

# The form that everybody sends. What has another one may still be a traceparent: OpenTelemetry's reader decides.
_USUAL: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_W3C: Final = frozenset({TraceContextTextMapPropagator, W3CBaggagePropagator})

Caller = str | SpanContext
"""The span that a request comes from: a traceparent of the usual form as it was sent, or what a propagator made."""


class Incoming:
    """Reads who sent a request."""

    def __init__(self) -> None:
        textmap = propagate.get_global_textmap()
        kinds = {type(one) for one in getattr(textmap, "_propagators", ())}
        usual = type(textmap) is CompositePropagator and TraceContextTextMapPropagator in kinds <= _W3C
        self._w3c = textmap if usual else None
        """What reads a traceparent alone in the way that we know, and need not be asked; None for any other."""

    def read(self, carrier: Mapping[str, str]) -> tuple[Caller | None, Context | None, Exception | None]:
        """The caller, all that he sent along, and what reading failed with: that costs the parent, not the span."""
        if self._w3c is propagate.get_global_textmap() and len(carrier) == 1:
            header = carrier.get("traceparent")
            if header is not None and _USUAL.fullmatch(header) is not None:
                return header, None, None
        try:
            context = propagate.extract(cleaned(carrier), context=Context())
        except Exception as error:  # a propagator of the user's own
            return None, None, error
        caller = trace.get_current_span(context).get_span_context()
        return (caller if caller.is_valid else None), context, None


def context_of(caller: Caller) -> SpanContext:
    """The caller as OpenTelemetry has it."""
    if not isinstance(caller, str):
        return caller
    return SpanContext(
        int(caller[3:35], 16),
        int(caller[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(flags_of(caller)),
    )


def within(caller: Caller | None, context: Context | None) -> Context:
    """The context that the propagators make of such a request."""
    if caller is None or context is not None:
        return Context() if context is None else context
    return trace.set_span_in_context(NonRecordingSpan(context_of(caller)), Context())


def flags_of(caller: Caller) -> int:
    """His trace flags."""
    return int(caller[53:], 16) if isinstance(caller, str) else caller.trace_flags


def cleaned(carrier: Mapping[str, str]) -> Mapping[str, str]:
    """The headers of `carrier` (lower-case name → value) that may be read, as they may be."""
    if len(carrier) == 1 and len(carrier.get("traceparent", "")) in range(1, _MAX_TRACEPARENT):
        return carrier
    found = {}
    for name, value in carrier.items():
        kept = _READERS.get(name, _plain)(value)
        if kept:
            found[name] = kept
    return found


def _plain(value: str) -> str:
    return value if len(value) <= _MAX_OTHER and value.isascii() and value.isprintable() else ""


def _traceparent(value: str) -> str:
    return value if len(value) < _MAX_TRACEPARENT else ""


def _tracestate(value: str) -> str:
    """All of it or, where one member is malformed, nothing (W3C Trace Context §3.3.1.1); of a long one the start."""
    if len(value) > _MAX_BAGGAGE:
        return ""
    members = [member for part in value.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(keys) != len(members) or len(members) > _MAX_STATES:
        return ""
    if not all(map(_STATE.fullmatch, members)):
        return ""
    kept = ",".join(members)
    # The oldest are at the end. Whole members go: half a one would be another.
    return (
        kept
        if len(kept) <= _MAX_TRACESTATE
        else kept[: kept.rfind(",", 0, _MAX_TRACESTATE + 1) + 1].rstrip(",")
    )


def _baggage(value: str) -> str:
    """The members that are well-formed."""
    if len(value) > _MAX_BAGGAGE:
        return ""
    members = [one for part in value.split(",") if (one := part.strip(" \t"))]
    kept = [one for one in members if len(one) <= _MAX_MEMBER and _MEMBER.fullmatch(one)]
    return ",".join(kept[:_MAX_MEMBERS])


_READERS = {"traceparent": _traceparent, "tracestate": _tracestate, "baggage": _baggage}
