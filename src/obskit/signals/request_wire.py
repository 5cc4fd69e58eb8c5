"""The span of a request as OTLP bytes, straight from its record.

What repeats is written once: the attributes of a route, a client, an agent. Each memory is emptied when it is full, so
whoever sends something new with each request makes it forget and not grow.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from opentelemetry.sdk.trace import SpanLimits

from obskit import names
from obskit.exchange import MAX_FACTS, Exchange
from obskit.plain import agent_of, path_of
from obskit.signals.incoming import Caller, context_of
from obskit.signals.otlp_wire import attribute, message, text
from obskit.signals.request_attributes import (
    MAX_ATTRIBUTE,
    IsSecret,
    ended_at,
    facts,
    span_method,
    span_name,
)

_TIMES: Final = Struct("<BQBQ").pack
_hex: Final = bytes.fromhex
# Field numbers of opentelemetry.proto.trace.v1.Span.
_ATTRIBUTE: Final = 9
_SERVER: Final = b"\x30\x02"
_UNSET: Final = b"\x7a\x00"
_ERROR: Final = b"\x7a\x02\x18\x02"
_HERE: Final = "850100010000"
_REMOTE: Final = "850100030000"

_REMEMBERED: Final = 512
_REMEMBERED_LENGTH: Final = 256
# Ours and what an application may bind: a limit below that would cut, which is left to the SDK.
_MOST_ATTRIBUTES: Final = 24 + MAX_FACTS


def uncut(limits: SpanLimits) -> bool:
    """Whether these limits can cut nothing of what is written here."""
    return (
        (limits.max_span_attributes is None or limits.max_span_attributes >= _MOST_ATTRIBUTES)
        and (limits.max_span_attribute_length is None or limits.max_span_attribute_length > MAX_ATTRIBUTE)
        and (limits.max_links is None or limits.max_links > 0)
    )


class RequestWire:
    """Writes spans of requests; one for each install."""

    def __init__(self, is_secret: IsSecret, limits: SpanLimits) -> None:
        self._is_secret = is_secret
        self._longest = limits.max_span_attribute_length
        self._shapes: dict[tuple[Any, ...], bytes] = {}
        self._agents: dict[str | None, bytes] = {}
        self._clients: dict[str | None, bytes] = {}
        self._sizes: dict[int, bytes] = {}

    def write(
        self, exchange: Exchange, caller: Caller | None, linked: Caller | None, kept: str = ""
    ) -> bytes:
        """The `ScopeSpans.spans` entry of a request that has ended, without findings and without an exception."""
        if caller is None:
            head = _hex(f"0a10{exchange.trace_id}1208{exchange.span_id}{_HERE}")
        else:
            head = _with_caller(exchange, caller)
        shape = (
            exchange.method, exchange.scheme, exchange.http_version, exchange.server_address, exchange.server_port,
            exchange.http_route, exchange.status, exchange.outcome, exchange.level, exchange.method_original,
        )  # fmt: skip
        is_secret = self._is_secret
        known = self._shapes.get(shape)
        if known is None:
            known = self._shape(exchange, shape)
        client = self._clients.get(exchange.client_address)
        if client is None:
            client = _remembered(self._clients, exchange.client_address, names.ATTR_CLIENT_ADDRESS)
        shown = exchange.shown_agent or agent_of(exchange, is_secret)
        agent = self._agents.get(shown)
        if agent is None:
            agent = _remembered(self._agents, shown, names.ATTR_USER_AGENT)
        path = (exchange.shown_path or path_of(exchange, is_secret)).encode("utf-8", "replace")
        request = exchange.request_id.encode("utf-8", "replace")
        body = b"".join(
            (
                head,
                _TIMES(0x39, exchange.started_unix_ns, 0x41, ended_at(exchange)),
                known,
                _PATH[len(path)] + path if len(path) < _SHORT else _long(names.ATTR_URL_PATH, path),
                _REQUEST[len(request)] + request if len(request) < _SHORT else _long(names.ATTR_REQUEST_ID, request),
                client,
                agent,
                self._size(exchange.response_bytes) if exchange.response_bytes else b"",
                self._rest(exchange, linked, kept) if exchange.request_bytes or exchange.facts or linked or kept
                else b"",
            )
        )  # fmt: skip
        size = len(body)
        if 127 < size < 16_384:
            return b"\x12%c%c%b" % (size & 127 | 128, size >> 7, body)
        return message(2, body)

    def _shape(self, exchange: Exchange, shape: tuple[Any, ...]) -> bytes:
        found: dict[str, Any] = {
            names.ATTR_METHOD: exchange.method,
            names.ATTR_URL_SCHEME: exchange.scheme[:MAX_ATTRIBUTE],
        }
        if exchange.method_original is not None:
            found[names.ATTR_METHOD_ORIGINAL] = exchange.method_original
        if exchange.server_port is not None:
            found[names.ATTR_SERVER_PORT] = exchange.server_port
        if exchange.http_version is not None:
            found[names.ATTR_PROTOCOL_VERSION] = exchange.http_version[:MAX_ATTRIBUTE]
        if exchange.server_address is not None:
            found[names.ATTR_SERVER_ADDRESS] = exchange.server_address[:MAX_ATTRIBUTE]
        found[names.ATTR_OUTCOME] = str(exchange.outcome)
        name = span_name(exchange)
        if name != span_method(exchange):
            found[names.ATTR_ROUTE] = (exchange.http_route or "")[: self._longest]
        if exchange.status is not None:
            found[names.ATTR_STATUS] = exchange.status
        if exchange.error_type:
            found[names.ATTR_ERROR_TYPE] = exchange.error_type
        written = b"".join(
            (
                text(5, name),
                _SERVER,
                *(attribute(_ATTRIBUTE, key, value) for key, value in found.items()),
                _ERROR if exchange.level == "error" else _UNSET,
            )
        )
        if len(written) <= 4 * _REMEMBERED_LENGTH:
            _remember(self._shapes, shape, written)
        return written

    def _size(self, size: int) -> bytes:
        found = self._sizes.get(size)
        if found is None:
            found = _remember(self._sizes, size, attribute(_ATTRIBUTE, names.ATTR_RESPONSE_SIZE, size))
        return found

    def _rest(self, exchange: Exchange, linked: Caller | None, kept: str) -> bytes:
        """What few requests have."""
        found: dict[str, Any] = {}
        if exchange.request_bytes:
            found[names.ATTR_REQUEST_SIZE] = exchange.request_bytes
        if exchange.facts:
            found.update(facts(exchange, self._is_secret))
        if kept:
            found[names.ATTR_KEPT] = kept
        written = b"".join([attribute(_ATTRIBUTE, key, value) for key, value in found.items()])
        return written if linked is None else written + _link(linked)


def _with_caller(exchange: Exchange, caller: Caller) -> bytes:
    own = f"0a10{exchange.trace_id}1208{exchange.span_id}"
    if isinstance(caller, str):
        return _hex(f"{own}2208{caller[36:52]}{_REMOTE}")
    state = ",".join([f"{key}={value}" for key, value in caller.trace_state.items()])
    return _hex(f"{own}2208{caller.span_id:016x}{_REMOTE if caller.is_remote else _HERE}") + text(3, state)


def _link(linked: Caller) -> bytes:
    context = context_of(linked)
    flags = "3500030000" if context.is_remote else "3500010000"
    return message(13, _hex(f"0a10{context.trace_id:032x}1208{context.span_id:016x}{flags}"))


def _remembered(memory: dict[str | None, bytes], value: str | None, key: str) -> bytes:
    if value is None:
        return _remember(memory, None, b"")
    written = attribute(_ATTRIBUTE, key, value[:MAX_ATTRIBUTE])
    return _remember(memory, value, written) if len(value) <= _REMEMBERED_LENGTH else written


def _remember(memory: dict[Any, bytes], key: Any, written: bytes) -> bytes:
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[key] = written
    return written


# Of a text this short, every length before it is one byte.
_SHORT: Final = 80


def _before(key: str) -> tuple[bytes, ...]:
    """What comes before a text of each short length that is the value of `key`."""
    named = text(1, key)
    return tuple(
        b"\x4a%c%b\x12%c\x0a%c" % (len(named) + size + 4, named, size + 2, size) for size in range(_SHORT)
    )


def _long(key: str, value: bytes) -> bytes:
    named = text(1, key)
    return message(_ATTRIBUTE, named + message(2, message(1, value)))


_PATH: Final = _before(names.ATTR_URL_PATH)
_REQUEST: Final = _before(names.ATTR_REQUEST_ID)
