"""A log line as JSON: one object a line, bounded in length, valid whatever the application put into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from json.encoder import JSONEncoder, encode_basestring
from time import time
from typing import Any, Final, TypeVar

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
# What comes again (routes, clients, keys) is remembered as it is written: so many of a kind, none longer than this.
_REMEMBERED: Final = 1024
_REMEMBERED_CHARACTERS: Final = 256
_REDACTED: Final = encode_basestring(REDACTED)
# What a reader may take for the end of a line, or a terminal for a command, and JSON lets stand as it is.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029]")

_K = TypeVar("_K")
_V = TypeVar("_V")
# Method, route, status, outcome and level.
_Kind = tuple[str, str | None, int | None, str | None, str]
_dumps = JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_second_text: tuple[int, str] = (-(2**62), "")


def timestamp(unix_s: float | None = None) -> str:
    """RFC 3339 UTC with microseconds, such as 2026-01-31T23:59:59.000001Z."""
    global _second_text
    now = time() if unix_s is None else unix_s
    second, text = _second_text
    if not 0.0 <= now - second < 1.0:
        second = int(now)
        text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.%%06dZ")
        _second_text = (second, text)
    return text % int((now - second) * 1e6)


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


class _Remembered(dict[_K, _V]):
    """What is met again and again, as it is written; emptied when it is full."""

    def keep(self, key: _K, value: _V) -> None:
        if len(self) >= _REMEMBERED:
            self.clear()
        self[key] = value


class LineFormat:
    """Renders lines of one install: what never changes is encoded once, and what comes again is remembered."""

    def __init__(self, service: str, version: str, environment: str, is_secret: IsSecret, pid: int) -> None:
        self.is_secret = is_secret
        self._resource = (
            f'"service_name":{quote(service)},"service_version":{quote(version)},'
            f'"deployment_environment":{quote(environment)}'
        )
        self.pid = pid
        self._keys = _Keys(BASE_KEYS, is_secret)
        self._canonical_keys = _Keys(_CANONICAL_KEYS, is_secret)
        # Pieces of canonical lines: what stands between ids, path and numbers; the client's address; its user agent.
        self._kinds: _Remembered[_Kind, tuple[str, str, str]] = _Remembered()
        self._clients: _Remembered[str, str] = _Remembered()
        self._agents: _Remembered[str, str] = _Remembered()

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
        return _whole(head(MAX_TEXT), head, fields, facts, self._keys)

    def canonical(self, exchange: Exchange) -> str:
        """The one line that says how a request went."""
        path = exchange.shown_path
        if path is None:
            path = path_of(exchange, self.is_secret)
        client, agent = exchange.client_address, exchange.user_agent
        head = self._told(
            exchange,
            encode_basestring(path),
            "null" if client is None else self._clients.get(client) or self._client(client),
            "null" if not agent else self._agents.get(agent) or self._agent(exchange, agent),
        )
        if (
            exchange.facts
            or exchange.exception is not None
            or exchange.queue_s is not None
            or exchange.findings
            or not head.isascii()
            or "\x7f" in head
            or len(head) >= MAX_LINE_BYTES // 2
        ):
            own = own_fields(exchange, self.is_secret)
            return _whole(
                head, lambda limit: self._cut(exchange, limit), own, exchange.facts, self._canonical_keys
            )
        head += "}"  # in place, as it is nobody else's
        return head

    def _told(self, exchange: Exchange, path: str, client: str, agent: str) -> str:
        """A canonical line up to its findings, out of what is JSON already."""
        method, route, status = exchange.method, exchange.http_route, exchange.status
        kind = (method, route, status, exchange.outcome, exchange.level)
        before_ids, before_path, before_numbers = self._kinds.get(kind) or self._kind(kind)
        trace_id, request_id = exchange.trace_id, exchange.request_id
        request_id = f'"{trace_id}"' if request_id is trace_id else quote(request_id)
        first_byte_ns, started_ns = exchange.first_byte_ns, exchange.started_ns
        ended_ns = exchange.last_byte_ns or exchange.ended_ns
        duration = exchange.duration if ended_ns is None else (ended_ns - started_ns) * 1e-9
        to_first_byte = "null" if first_byte_ns is None else f"{(first_byte_ns - started_ns) * 1e-9:.6f}"
        sent = exchange.response_bytes
        unknown = exchange.server_sends_file and not exchange.response_complete
        return (
            f'{{"timestamp":"{timestamp()}{before_ids}{trace_id}","span_id":"{exchange.span_id}",'
            f'"request_id":{request_id}'
            f'{before_path}{path}{before_numbers}{duration:.6f},"ttfb_s":{to_first_byte},'
            f'"request_bytes":{exchange.request_bytes},"response_bytes":{"null" if unknown else sent},'
            f'"client_address":{client},"user_agent":{agent},"worker_pid":{self.pid},'
            f'"findings":{finding_names(exchange) if exchange.findings else "[]"}'
        )

    def _cut(self, exchange: Exchange, limit: int) -> str:
        """The same with its texts cut: escapes take up to six bytes a character."""
        return self._told(
            exchange,
            quote(path_of(exchange, self.is_secret), limit),
            quote_or_null(exchange.client_address, limit),
            quote_or_null(agent_of(exchange, self.is_secret), limit),
        )

    def _kind(self, kind: _Kind) -> tuple[str, str, str]:
        method, route, status, outcome, level = kind
        pieces = (
            f'","level":"{level}","event":"{CANONICAL_EVENT}","logger":"obskit.http",{self._resource},"trace_id":"',
            f',"http_request_method":"{method}","http_route":{quote(route or "")},"url_path":',
            f',"http_response_status_code":{"null" if status is None else status},"outcome":"{outcome}","duration_s":',
        )
        if len(route or "") <= _REMEMBERED_CHARACTERS:
            self._kinds.keep(kind, pieces)
        return pieces

    def _client(self, address: str) -> str:
        quoted = quote(address)
        if len(address) <= _REMEMBERED_CHARACTERS:
            self._clients.keep(address, quoted)
        return quoted

    def _agent(self, exchange: Exchange, agent: str) -> str:
        shown = agent_of(exchange, self.is_secret)
        quoted = quote_or_null(shown)
        if shown is agent and len(agent) <= _REMEMBERED_CHARACTERS:  # one that holds a secret is not kept
            self._agents.keep(agent, quoted)
        return quoted


class _Keys:
    """The keys of one kind of line as they are written: without secrets, and none that is the line's own."""

    def __init__(self, reserved: frozenset[str], is_secret: IsSecret) -> None:
        self.is_secret = is_secret
        self._reserved = reserved
        self._known: _Remembered[str, tuple[str, bool]] = _Remembered()

    def rendered(self, fields: Mapping[str, Any]) -> str:
        """The first fields as the inside of a JSON object, a comma in front of each."""
        told: dict[str, str] = {}
        for key, value in list(fields.items())[:MAX_ITEMS]:
            known = self._known.get(key) if type(key) is str else None
            name, is_secret = known or self._name(key)
            told[name] = _REDACTED if is_secret else self._value(value)
        return _visible("".join([f",{name}:{value}" for name, value in told.items()]))

    def _name(self, key: Any) -> tuple[str, bool]:
        name = key_of(key, self.is_secret)
        if name in self._reserved:  # a second key of that name would make the line ambiguous
            name += "_"
        written = encode_basestring(name), self.is_secret(name)
        if name is key and len(name) <= _REMEMBERED_CHARACTERS:
            self._known.keep(key, written)
        return written

    def _value(self, value: Any) -> str:
        kind = type(value)
        if kind is str:
            return encode_basestring(clean(value, self.is_secret))
        if kind is int and -(2**63) <= value < 2**63:
            return str(value)
        return _dumps(plain(value, self.is_secret))


def _whole(
    head: str,
    make_head: Callable[[int], str],
    own: Mapping[str, Any],
    facts: Mapping[str, Any] | None,
    keys: _Keys,
) -> str:
    """Head, facts and own fields as one line; what makes it too long is left out, the facts first."""
    head = _visible(head)
    if _too_long(head, MAX_LINE_BYTES // 2):
        head = _visible(make_head(_SHORT_TEXT))
    if not own and not facts:
        return head + "}"
    shown = keys.rendered(own)
    told = keys.rendered({k: v for k, v in facts.items() if k not in own}) if facts else ""
    if not _too_long(line := f"{head}{told}{shown}}}", MAX_LINE_BYTES):
        return line
    left_out = len(told)
    if _too_long(head + shown, MAX_LINE_BYTES - _NOTE_BYTES):
        error = {"exception": own["exception"]} if "exception" in own else {}
        kept = keys.rendered(error)
        kept = "" if _too_long(head + kept, MAX_LINE_BYTES - _NOTE_BYTES) else kept
        left_out, shown = left_out + len(shown) - len(kept), kept
    return f'{head}{shown},"left_out_characters":{left_out}}}'


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
    return _dumps(list(dict.fromkeys(one.finding for one in exchange.findings)))


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
