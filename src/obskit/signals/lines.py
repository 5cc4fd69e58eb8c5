"""A log line as JSON: one object a line, bounded in length, valid whatever the application put into it."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring
from time import time
from typing import Any, Final

from obskit.exchange import Exchange
from obskit.names import CANONICAL_EVENT, CANONICAL_KEYS
from obskit.redact import REDACTED
from obskit.signals.writer import MAX_LINE_BYTES

MAX_TEXT: Final = 2_048
MAX_ITEMS: Final = 64
MAX_DEPTH: Final = 4
MAX_FRAMES: Final = 20

IsSecret = Callable[[str], bool]

_second_text: tuple[int, str] = (0, "")


def timestamp(unix_s: float | None = None) -> str:
    """RFC 3339 UTC with microseconds, such as 2026-01-31T23:59:59.000001Z."""
    global _second_text
    now = time() if unix_s is None else unix_s
    second = int(now)
    known, text = _second_text
    if known != second:
        text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _second_text = (second, text)
    return f"{text}.{int((now - second) * 1e6):06d}Z"


def quote(text: str) -> str:
    """A JSON string, cut at 2,048 characters."""
    return encode_basestring(text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…")


def quote_or_null(text: str | None) -> str:
    return "null" if text is None else quote(text)


def plain(value: Any, is_secret: IsSecret, depth: int = 0) -> Any:
    """`value` as JSON can hold it: bounded in depth, items and length; secrets by key redacted. Never raises."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"
    if isinstance(value, int):
        # int subclasses (enums) as the number they are; numbers beyond 64 bits as text, readers would round them.
        return int(value) if -(2**63) <= value < 2**63 else _text(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return _mapping(value, is_secret, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return [
                plain(item, is_secret, depth + 1) for _, item in zip(range(MAX_ITEMS), value, strict=False)
            ]
    if isinstance(value, BaseException):
        return exception_of(value)
    return _text(value)


def _mapping(value: Mapping[Any, Any], is_secret: IsSecret, depth: int) -> Any:
    try:
        pairs = [(_text(key), item) for _, (key, item) in zip(range(MAX_ITEMS), value.items(), strict=False)]
    except Exception:
        return _text(value)
    return {key: REDACTED if is_secret(key) else plain(item, is_secret, depth + 1) for key, item in pairs}


def _text(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception as error:
        text = f"<{type(value).__name__}: {type(error).__name__} in str()>"
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def exception_of(error: BaseException) -> dict[str, Any]:
    """Type, message and frames (innermost last, without locals or source text) of an exception."""
    frames = [
        {"file": frame.filename, "line": frame.lineno, "function": frame.name}
        for frame in traceback.StackSummary.extract(
            traceback.walk_tb(error.__traceback__), limit=-MAX_FRAMES, lookup_lines=False
        )
    ]
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    found: dict[str, Any] = {"type": name, "message": _text(error), "frames": frames}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        found["cause"] = {"type": type(cause).__qualname__, "message": _text(cause)}
    return found


class LineFormat:
    """Renders lines of one install: what never changes is encoded once."""

    def __init__(self, service: str, version: str, environment: str, is_secret: IsSecret, pid: int) -> None:
        self.is_secret = is_secret
        self._resource = (
            f'"service_name":{quote(service)},"service_version":{quote(version)},'
            f'"deployment_environment":{quote(environment)}'
        )
        self.pid = pid

    def line(
        self, level: str, event: str, logger: str, exchange: Exchange | None, fields: Mapping[str, Any]
    ) -> str:
        """A line the application (or its server) wrote."""
        head = (
            f'{{"timestamp":"{timestamp()}","level":"{level}","event":{quote(event)},"logger":{quote(logger)},'
            f"{self._resource}"
        )
        if exchange is not None:
            head += (
                f',"trace_id":"{exchange.trace_id}","span_id":"{exchange.span_id}",'
                f'"request_id":{quote(exchange.request_id)}'
            )
        extra: Mapping[str, Any] = fields
        if exchange is not None and exchange.facts:
            extra = {**exchange.facts, **fields}
        return self._whole(head, extra, BASE_KEYS)

    def canonical(self, exchange: Exchange) -> str:
        """The one line that says how a request went."""
        first_byte = exchange.time_to_first_byte
        sent = (
            "null"
            if exchange.server_sends_file and not exchange.response_complete
            else exchange.response_bytes
        )
        status = "null" if exchange.status is None else exchange.status
        head = (
            f'{{"timestamp":"{timestamp()}","level":"{exchange.level}","event":"{CANONICAL_EVENT}",'
            f'"logger":"obskit.http",{self._resource},"trace_id":"{exchange.trace_id}",'
            f'"span_id":"{exchange.span_id}","request_id":{quote(exchange.request_id)},'
            f'"http_request_method":"{exchange.method}","http_route":{quote(exchange.http_route or "")},'
            f'"url_path":{quote(exchange.url_path)},"http_response_status_code":{status},'
            f'"outcome":"{exchange.outcome}","duration_s":{exchange.duration:.6f},'
            f'"ttfb_s":{"null" if first_byte is None else f"{first_byte:.6f}"},'
            f'"request_bytes":{exchange.request_bytes},"response_bytes":{sent},'
            f'"client_address":{quote_or_null(exchange.client_address)},'
            f'"user_agent":{quote_or_null(exchange.user_agent)},"worker_pid":{self.pid}'
        )
        return self._whole(head, canonical_extra(exchange), _CANONICAL_KEYS)

    def _whole(self, head: str, extra: Mapping[str, Any], reserved: frozenset[str]) -> str:
        if not extra:
            return head + "}"
        line = head + self._rendered(extra, reserved) + "}"
        if len(line) * 4 > MAX_LINE_BYTES and len(line.encode("utf-8", "replace")) >= MAX_LINE_BYTES:
            return f'{head},"left_out_characters":{len(line) - len(head)}}}'
        return line

    def _rendered(self, fields: Mapping[str, Any], reserved: frozenset[str]) -> str:
        values = {}
        for key, value in list(fields.items())[:MAX_ITEMS]:
            name = _text(key)
            if name in reserved:  # a second key of that name would make the line ambiguous
                name += "_"
            values[name] = REDACTED if self.is_secret(name) else plain(value, self.is_secret)
        return "," + json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)[1:-1]


def canonical_extra(exchange: Exchange) -> dict[str, Any]:
    """What only some canonical lines have: bound facts, and the exception that ended the request."""
    extra: dict[str, Any] = dict(exchange.facts) if exchange.facts else {}
    if exchange.exception is not None:
        extra["exception"] = exception_of(exchange.exception)
    return extra


BASE_KEYS: Final = frozenset(
    {"timestamp", "level", "event", "logger", "service_name", "service_version", "deployment_environment"}
    | {"trace_id", "span_id", "request_id"}
)
_CANONICAL_KEYS: Final = frozenset(CANONICAL_KEYS) - {"exception"}
