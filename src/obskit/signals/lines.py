"""A log line as JSON: one object a line, bounded in length, valid whatever the application put into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from json import dumps as _dumps
from json.encoder import encode_basestring
from time import time
from typing import Any, Final

from obskit.exchange import Exchange, Finding
from obskit.names import CANONICAL_EVENT, CANONICAL_KEYS
from obskit.plain import (
    MAX_DEPTH,
    MAX_FRAMES,
    MAX_ITEMS,
    MAX_TEXT,
    IsSecret,
    agent_of,
    clean,
    exception_of,
    key_of,
    path_of,
    plain,
    text_of,
)
from obskit.redact import REDACTED, is_secret_name
from obskit.signals.writer import MAX_LINE_BYTES

_SHORT_TEXT: Final = 256
_NOTE_BYTES: Final = 64
# What a reader may take for the end of a line, or a terminal for a command, and JSON lets stand as it is.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029]")

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


def quote(text: str, limit: int = MAX_TEXT) -> str:
    """A JSON string, cut at `limit` characters."""
    return encode_basestring(text if len(text) <= limit else text[: limit - 1] + "…")


def _visible(quoted: str) -> str:
    """JSON without a raw control character or line separator: such stand in its strings alone, and there as escapes."""
    if quoted.isascii() and "\x7f" not in quoted:
        return quoted
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def quote_or_null(text: str | None, limit: int = MAX_TEXT) -> str:
    return "null" if text is None else quote(text, limit)


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
        now = timestamp()
        event = clean(event, self.is_secret)

        def head(limit: int) -> str:
            written = (
                f'{{"timestamp":"{now}","level":"{level}","event":{quote(event, limit)},'
                f'"logger":{quote(logger, limit)},{self._resource}'
            )
            if exchange is None:
                return written
            return (
                f'{written},"trace_id":"{exchange.trace_id}","span_id":"{exchange.span_id}",'
                f'"request_id":{quote(exchange.request_id)}'
            )

        facts = exchange.facts if exchange is not None else None
        return self._whole(head, fields, facts, BASE_KEYS)

    def canonical(self, exchange: Exchange) -> str:
        """The one line that says how a request went."""
        now = timestamp()
        first_byte = exchange.time_to_first_byte
        sent = (
            "null"
            if exchange.server_sends_file and not exchange.response_complete
            else exchange.response_bytes
        )
        status = "null" if exchange.status is None else exchange.status
        url_path = path_of(exchange, self.is_secret)
        user_agent = agent_of(exchange, self.is_secret)

        def head(limit: int) -> str:
            return (
                f'{{"timestamp":"{now}","level":"{exchange.level}","event":"{CANONICAL_EVENT}",'
                f'"logger":"obskit.http",{self._resource},"trace_id":"{exchange.trace_id}",'
                f'"span_id":"{exchange.span_id}","request_id":{quote(exchange.request_id)},'
                f'"http_request_method":"{exchange.method}","http_route":{quote(exchange.http_route or "")},'
                f'"url_path":{quote(url_path, limit)},"http_response_status_code":{status},'
                f'"outcome":"{exchange.outcome}","duration_s":{exchange.duration:.6f},'
                f'"ttfb_s":{"null" if first_byte is None else f"{first_byte:.6f}"},'
                f'"request_bytes":{exchange.request_bytes},"response_bytes":{sent},'
                f'"client_address":{quote_or_null(exchange.client_address, limit)},'
                f'"user_agent":{quote_or_null(user_agent, limit)},"worker_pid":{self.pid},'
                f'"findings":{finding_names(exchange) if exchange.findings else "[]"}'
            )

        return self._whole(head, own_fields(exchange, self.is_secret), exchange.facts, _CANONICAL_KEYS)

    def _whole(
        self,
        make_head: Callable[[int], str],
        own: Mapping[str, Any],
        facts: Mapping[str, Any] | None,
        reserved: frozenset[str],
    ) -> str:
        """Head, facts and own fields as one line; what makes it too long is left out, the facts first."""
        head = _visible(make_head(MAX_TEXT))
        if _too_long(head, MAX_LINE_BYTES // 2):
            head = _visible(make_head(_SHORT_TEXT))  # escapes take up to six bytes a character
        if not own and not facts:
            return head + "}"
        shown = self._rendered(own, reserved)
        told = self._rendered({k: v for k, v in facts.items() if k not in own}, reserved) if facts else ""
        if not _too_long(line := f"{head}{told}{shown}}}", MAX_LINE_BYTES):
            return line
        left_out = len(told)
        if _too_long(head + shown, MAX_LINE_BYTES - _NOTE_BYTES):
            error = {"exception": own["exception"]} if "exception" in own else {}
            kept = self._rendered(error, reserved)
            kept = "" if _too_long(head + kept, MAX_LINE_BYTES - _NOTE_BYTES) else kept
            left_out, shown = left_out + len(shown) - len(kept), kept
        return f'{head}{shown},"left_out_characters":{left_out}}}'

    def _rendered(self, fields: Mapping[str, Any], reserved: frozenset[str]) -> str:
        values = {}
        for key, value in list(fields.items())[:MAX_ITEMS]:
            name = key_of(key, self.is_secret)
            if name in reserved:  # a second key of that name would make the line ambiguous
                name += "_"
            values[name] = REDACTED if self.is_secret(name) else plain(value, self.is_secret)
        if not values:
            return ""
        return (
            "," + _visible(_dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False))[1:-1]
        )


def _too_long(text: str, limit: int) -> bool:
    return len(text) * 4 > limit and len(text.encode("utf-8", "replace")) >= limit


def own_fields(exchange: Exchange, is_secret: IsSecret = is_secret_name) -> dict[str, Any]:
    """What only some canonical lines have beside facts: the wait in front, the exception at the end, the findings."""
    own: dict[str, Any] = {}
    if exchange.queue_s is not None:
        own["queue_s"] = round(exchange.queue_s, 6)
    if exchange.exception is not None:
        own["exception"] = exception_of(exchange.exception, is_secret)
    if exchange.findings:
        own["evidence"] = evidence_of(exchange.findings)
    return own


def finding_names(exchange: Exchange) -> str:
    """The names of the findings as JSON, each once."""
    return _dumps(list(dict.fromkeys(one.finding for one in exchange.findings)), separators=(",", ":"))


def evidence_of(findings: tuple[Finding, ...]) -> dict[str, Any]:
    """By finding: severity, why no status told, and the facts; a finding met twice has the facts of each in a list."""
    told: dict[str, Any] = {}
    for one in findings:
        facts = {"severity": one.severity, "why": one.why, **one.evidence}
        if one.times > 1:
            facts["times"] = one.times
        known = told.get(one.finding)
        if known is None:
            told[one.finding] = facts
        elif isinstance(known, list):
            known.append(facts)
        else:
            told[one.finding] = [known, facts]
    return told


BASE_KEYS: Final = frozenset(
    {"timestamp", "level", "event", "logger", "service_name", "service_version", "deployment_environment"}
    | {"trace_id", "span_id", "request_id"}
)
__all__ = [
    "MAX_DEPTH",
    "MAX_FRAMES",
    "MAX_ITEMS",
    "MAX_TEXT",
    "LineFormat",
    "exception_of",
    "plain",
    "text_of",
]
_CANONICAL_KEYS: Final = frozenset(CANONICAL_KEYS) - {"exception", "evidence", "queue_s"}
