"""The span of a request as OTLP bytes, straight from its record.

What repeats is written once: the attributes of a route, a client, an agent. Each memory is emptied when it is full, so
whoever sends something new with each request makes it forget and not grow.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from opentelemetry.sdk.trace import SpanLimits

from obskit import names
from obskit.exchange import MAX_FACTS, Exchange
from obskit.plain import agent_of, path_of
from obskit.signals.incoming import Caller, context_of
from obskit.signals.otlp_wire import attribute, message, text, varint
from obskit.signals.request_attributes import (
    MAX_ATTRIBUTE,
    IsSecret,
    facts,
    name_of,
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
_ROOT: Final = f"{_HERE}0a10"

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


class _Remembered(dict[Any, bytes]):
    """What was written for each key; it writes what it does not know, and is emptied when it is full."""

    def __init__(self, write: Callable[[Any], bytes], longest: int) -> None:
        super().__init__()
        self._write = write
        self._longest = longest

    def __missing__(self, key: Any) -> bytes:
        written = self._write(key)
        if len(written) <= self._longest:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[key] = written
        return written


class RequestWire:
    """Writes spans of requests; one for each install."""

    def __init__(self, is_secret: IsSecret, limits: SpanLimits) -> None:
        self._is_secret = is_secret
        self._longest_route = limits.max_span_attribute_length
        self._shapes = _Remembered(self._shape, 4 * _REMEMBERED_LENGTH)
        self._agents = _Remembered(_named(names.ATTR_USER_AGENT), _REMEMBERED_LENGTH)
        self._clients = _Remembered(_named(names.ATTR_CLIENT_ADDRESS), _REMEMBERED_LENGTH)
        self._sizes = _Remembered(_response_size, _REMEMBERED_LENGTH)

    def write(
        self, exchange: Exchange, caller: Caller | None, linked: Caller | None, kept: str = ""
    ) -> bytes:
        """The `ScopeSpans.spans` entry of a request that has ended, without findings and without an exception."""
        path = exchange.shown_path or path_of(exchange, self._is_secret)
        try:
            path_bytes, request_bytes = path.encode(), exchange.request_id.encode()
        except UnicodeEncodeError:
            path_bytes = path.encode("utf-8", "replace")
            request_bytes = exchange.request_id.encode("utf-8", "replace")
        started_ns = exchange.started_unix_ns
        body = b"".join(
            (
                _hex(f"{_ROOT}{exchange.trace_id}1208{exchange.span_id}") if caller is None
                else _with_caller(exchange, caller),
                _TIMES(
                    0x39, started_ns,
                    0x41, started_ns + (exchange.last_byte_ns or exchange.ended_ns or 0) - exchange.started_ns,
                ),
                self._shapes[
                    exchange.method, exchange.scheme, exchange.http_version, exchange.server_address,
                    exchange.server_port, exchange.http_route, exchange.status, exchange.outcome, exchange.level,
                    exchange.method_original,
                ],
                _PATH[len(path_bytes)], path_bytes,
                _REQUEST[len(request_bytes)], request_bytes,
                self._clients[exchange.client_address],
                self._agents[exchange.shown_agent or agent_of(exchange, self._is_secret)],
                self._sizes[exchange.response_bytes],
            )
        )  # fmt: skip
        if exchange.request_bytes or exchange.facts or linked or kept:
            body += self._rest(exchange, linked, kept)
        return _SPAN[len(body)] + body

    def _shape(self, shape: tuple[Any, ...]) -> bytes:
        (
            method, scheme, http_version, server_address,
            server_port, route, status, outcome, level,
            method_original,
        ) = shape  # fmt: skip
        found: dict[str, Any] = {
            names.ATTR_METHOD: method,
            names.ATTR_URL_SCHEME: scheme[:MAX_ATTRIBUTE],
        }
        if method_original is not None:
            found[names.ATTR_METHOD_ORIGINAL] = method_original
        if server_port is not None:
            found[names.ATTR_SERVER_PORT] = server_port
        if http_version is not None:
            found[names.ATTR_PROTOCOL_VERSION] = http_version[:MAX_ATTRIBUTE]
        if server_address is not None:
            found[names.ATTR_SERVER_ADDRESS] = server_address[:MAX_ATTRIBUTE]
        found[names.ATTR_OUTCOME] = str(outcome)
        name = name_of(method, route)
        if name != name_of(method, None):
            found[names.ATTR_ROUTE] = (route or "")[: self._longest_route]
        if status is not None:
            found[names.ATTR_STATUS] = status
            if status >= 500:
                found[names.ATTR_ERROR_TYPE] = str(status)
        return b"".join(
            (
                text(5, name),
                _SERVER,
                *(attribute(_ATTRIBUTE, key, value) for key, value in found.items()),
                _ERROR if level == "error" else _UNSET,
            )
        )

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


def _named(key: str) -> Callable[[str | None], bytes]:
    """What writes a text that is the value of `key`, where there is one."""
    return lambda value: b"" if value is None else attribute(_ATTRIBUTE, key, value[:MAX_ATTRIBUTE])


def _response_size(size: int) -> bytes:
    return attribute(_ATTRIBUTE, names.ATTR_RESPONSE_SIZE, size) if size else b""


def _before(key: str) -> Callable[[int], bytes]:
    """What writes all that comes before a text of some length that is the value of `key`."""
    named = text(1, key)

    def write(length: int) -> bytes:
        value = b"\x0a" + varint(length)
        inner = b"\x12" + varint(len(value) + length) + value
        return varint(_ATTRIBUTE << 3 | 2) + varint(len(named) + len(inner) + length) + named + inner

    return write


# By length in bytes.
_PATH: Final = _Remembered(_before(names.ATTR_URL_PATH), _REMEMBERED_LENGTH)
_REQUEST: Final = _Remembered(_before(names.ATTR_REQUEST_ID), _REMEMBERED_LENGTH)
_SPAN: Final = _Remembered(lambda length: b"\x12" + varint(length), _REMEMBERED_LENGTH)
