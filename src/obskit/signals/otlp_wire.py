"""Spans as the bytes of OTLP's protobuf messages, written down without making the messages first.

The official encoder makes a Python object of every message and of every attribute in it, to serialize them in a second
pass: most of the CPU time of an export. What is written here is read back by the official classes as what the official
encoder writes, with one difference: text that is no Unicode (a lone surrogate) has `?` in its place, where the official
encoder leaves out an attribute, and loses the whole batch for a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

_DOUBLE: Final = Struct("<Bd").pack
_TIMES: Final = Struct("<BQBQ").pack
_TIME: Final = Struct("<BQ").pack
_SPAN_FLAGS: Final = Struct("<HI").pack
_LINK_FLAGS: Final = Struct("<BI").pack

# trace.proto: HAS_IS_REMOTE and IS_REMOTE.
_HERE: Final = 0x100
_REMOTE: Final = 0x300
_MAX_INT: Final = (1 << 63) - 1


class Encoded(NamedTuple):
    """A span that is ready to be sent: its `ScopeSpans.spans` entry, with tag and length."""

    resource: Resource
    scope: InstrumentationScope | None
    data: bytes


_SMALL: Final = tuple(bytes((n,)) for n in range(128))
# OTLP counts from 1: 0 is for none.
_KINDS: Final = tuple(bytes((0x30, kind + 1)) for kind in range(5))


def varint(n: int) -> bytes:
    """An unsigned number, or one of two's complement in 64 bit."""
    if 0 <= n < 128:
        return _SMALL[n]
    if n < 0:
        n += 1 << 64
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def message(field: int, data: bytes) -> bytes:
    """`data` as a field of that number: tag, length, data. For texts and bytes, too."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def text(field: int, value: str) -> bytes:
    """A text field; nothing for an empty one, which is its default."""
    return message(field, value.encode("utf-8", "replace")) if value else b""


def attribute(field: int, key: str, value: Any) -> bytes:
    """A KeyValue as a field of that number; nothing when OTLP has no such value (an integer beyond 64 bit, say)."""
    pair = _pair(key, value)
    return varint(field << 3 | 2) + pair if pair else b""


def attributes(field: int, found: Mapping[str, Any] | None) -> bytes:
    """Attributes as repeated fields of that number."""
    if not found:
        return b""
    tag = varint(field << 3 | 2)
    return b"".join([tag + pair for key, value in found.items() if (pair := _pair(key, value))])


# Most attributes of a service are the same again and again. By type, for True == 1 == 1.0; each is emptied when it is
# full, so that values which never come again cost their place for a while, and no more.
_REMEMBERED: Final[dict[type, dict[tuple[str, Any], bytes]]] = {str: {}, int: {}, bool: {}}
MAX_REMEMBERED: Final = 1024
MAX_REMEMBERED_BYTES: Final = 256


def _pair(key: str, value: Any) -> bytes:
    """A KeyValue with its length before it; nothing when OTLP has no such value."""
    known = _REMEMBERED.get(type(value))
    if known is not None and (pair := known.get((key, value))) is not None:
        return pair
    try:
        content = text(1, key) + message(2, any_value(value))
    except Exception:  # the code of a value of the application
        return b""
    pair = varint(len(content)) + content
    if known is not None and len(pair) <= MAX_REMEMBERED_BYTES:
        if len(known) >= MAX_REMEMBERED:
            known.clear()
        known[key, value] = pair
    return pair


def any_value(value: Any) -> bytes:
    """The content of an AnyValue. Raises ValueError or TypeError for what OTLP has no form for."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, str):
        return message(1, value.encode("utf-8", "replace"))
    if isinstance(value, int):
        if not -_MAX_INT - 1 <= value <= _MAX_INT:
            raise ValueError("an integer of more than 64 bit")
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return _DOUBLE(0x21, value)
    if isinstance(value, bytes):
        return message(7, value)
    if isinstance(value, Sequence):
        return message(5, b"".join([message(1, any_value(one)) for one in value]))
    if isinstance(value, Mapping):
        pairs = [message(1, text(1, str(k)) + message(2, any_value(v))) for k, v in value.items()]
        return message(6, b"".join(pairs))
    raise TypeError("no OTLP value")


def attributes_of(span: ReadableSpan) -> Mapping[str, Any]:
    """The attributes of an ended span: its own dict, if the SDK has one: the view of it is far slower."""
    if type(span).attributes is ReadableSpan.attributes:
        inner = getattr(span._attributes, "_dict", None)
        if isinstance(inner, dict):
            return inner
    return span.attributes or {}


def encoded(span: ReadableSpan) -> Encoded:
    """An ended span of anybody's. Raises OverflowError or struct.error where an id or a time is none."""
    context, parent, status = span.context, span.parent, span.status
    events, links = span.events, span.links
    parts = [
        b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big"),
        text(5, span.name), _KINDS[span.kind.value], _TIMES(0x39, span.start_time or 0, 0x41, span.end_time or 0),
        attributes(9, attributes_of(span)),
        # An empty status is written too, as the official encoder has it.
        b"\x7a\x00" if status.status_code is StatusCode.UNSET and not status.description else _status(status),
        _SPAN_FLAGS(0x0185, _REMOTE if parent and parent.is_remote else _HERE),
    ]  # fmt: skip
    if parent:
        parts.append(b"\x22\x08" + parent.span_id.to_bytes(8, "big"))
    if context.trace_state:
        parts.append(_state(context))
    if events:
        parts += map(_event, events)
    if links:
        parts += map(_link, links)
    for field, dropped in (
        (10, span.dropped_attributes),
        (12, span.dropped_events),
        (14, span.dropped_links),
    ):
        if dropped:
            parts.append(_count(field, dropped))
    return Encoded(span.resource, span.instrumentation_scope, message(2, b"".join(parts)))


def request(spans: Iterable[Encoded]) -> bytes:
    """An ExportTraceServiceRequest of them, grouped by resource and scope."""
    # Looked up by who they are: to compare resources by what is in them costs more than to write a span. A list, so
    # that nobody else comes to be under the same number.
    known: dict[tuple[int, int], list[bytes]] = {}
    grouped: dict[Resource, dict[InstrumentationScope | None, list[bytes]]] = {}
    every = list(spans)
    for resource, scope, data in every:
        same = known.get((id(resource), id(scope)))
        if same is None:
            same = grouped.setdefault(resource, {}).setdefault(scope or None, [])
            known[id(resource), id(scope)] = same
        same.append(data)
    return b"".join(
        message(
            1,
            message(1, attributes(1, resource.attributes))
            + b"".join([message(2, _scope(scope) + b"".join(found)) for scope, found in scopes.items()])
            + text(3, resource.schema_url),
        )
        for resource, scopes in grouped.items()
    )


def _scope(scope: InstrumentationScope | None) -> bytes:
    if not scope:
        return message(1, b"")
    known = text(1, scope.name) + text(2, scope.version or "") + attributes(3, scope.attributes)
    return message(1, known) + text(3, scope.schema_url or "")


def _state(context: SpanContext) -> bytes:
    return text(3, ",".join([f"{key}={value}" for key, value in context.trace_state.items()]))


def _event(event: Event) -> bytes:
    return message(
        11,
        _TIME(0x09, event.timestamp)
        + text(2, event.name)
        + attributes(3, event.attributes)
        + _count(4, event.dropped_attributes),
    )


def _link(link: Link) -> bytes:
    context = link.context
    return message(
        13,
        b"\x0a\x10" + context.trace_id.to_bytes(16, "big") + b"\x12\x08" + context.span_id.to_bytes(8, "big")
        + attributes(4, link.attributes)
        + _count(5, link.dropped_attributes)
        + _LINK_FLAGS(0x35, _REMOTE if context.is_remote else _HERE),
    )  # fmt: skip


def _status(status: Status) -> bytes:
    code = status.status_code.value
    return message(15, text(2, status.description or "") + (b"\x18" + _SMALL[code] if code else b""))


def _count(field: int, n: int) -> bytes:
    return varint(field << 3) + varint(n) if n else b""
