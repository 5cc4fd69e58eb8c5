"""A log line as JSON: one object a line, bounded in length, valid whatever the application put into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from json.encoder import JSONEncoder, encode_basestring
from time import time_ns
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

_MAX_HEAD_BYTES: Final = MAX_LINE_BYTES // 2
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
_SECOND_NS: Final = 1_000_000_000
# The second that was told last, in nanoseconds, and its text up to the point.
_second: tuple[int, str] = (-(2**62), "")


def timestamp(unix_ns: int | None = None) -> str:
    """RFC 3339 UTC with microseconds, such as 2026-01-31T23:59:59.000001Z."""
    now = time_ns() if unix_ns is None else unix_ns
    second, text = _second
    if not 0 <= now - second < _SECOND_NS:
        second, text = _second_of(now)
    return f"{text}{(now - second) // 1_000:06d}Z"


def _second_of(unix_ns: int) -> tuple[int, str]:
    global _second
    second = unix_ns // _SECOND_NS
    text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
    _second = found = (second * _SECOND_NS, text)
    return found


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

    def __init__(self, make: Callable[[_K], tuple[_V, bool]]) -> None:
        """`make` tells how a key is written, and whether that may be remembered."""
        super().__init__()
        self._make = make

    def __missing__(self, key: _K) -> _V:
        value, may_stay = self._make(key)
        if may_stay:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[key] = value
        return value


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
        # Of canonical lines, each with what stands behind it: the pieces between ids, path and numbers; a path and a
        # user agent as they are shown, and written; the address of a client.
        self._kinds: _Remembered[_Kind, tuple[str, str, str]] = _Remembered(partial(_kind, self._resource))
        self._paths: _Remembered[str, tuple[str, str]] = _Remembered(partial(_path, is_secret))
        self._agents: _Remembered[str | None, tuple[str | None, str]] = _Remembered(
            partial(_agent, is_secret, pid)
        )
        self._clients: _Remembered[str | None, str] = _Remembered(_client)

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
        """The one line that says how a request went; of one that has been settled."""
        ended = exchange.ended_ns
        ended = time_ns() if ended is None else exchange.started_unix_ns + ended - exchange.started_ns
        second, second_text = _second
        microseconds = (ended - second) // 1_000 + 1_000_000  # whose first digit is not written: six are left
        if microseconds // 1_000_000 != 1:
            second, second_text = _second_of(ended)
            microseconds = (ended - second) // 1_000 + 1_000_000
        before_ids, before_path, before_numbers = self._kinds[
            (exchange.method, exchange.http_route, exchange.status, exchange.outcome, exchange.level)
        ]
        # Whoever looks at these first does it for all the signals.
        if exchange.shown_path is None:
            exchange.shown_path, path = self._paths[exchange.url_path]
        else:
            path = encode_basestring(exchange.shown_path)
        exchange.shown_agent, agent = self._agents[exchange.user_agent]
        duration = exchange.duration_s
        lasted = f"{duration:.6f}"
        to_first_byte = exchange.first_byte_s
        if to_first_byte == duration:  # an answer in one piece; to write such a number takes long
            first = lasted
        else:
            first = "null" if to_first_byte is None else f"{to_first_byte:.6f}"
        size: int | str = exchange.response_bytes
        if exchange.server_sends_file and not exchange.response_complete:
            size = "null"
        pieces = (
            '{"timestamp":"',
            second_text,
            f"{microseconds}"[1:],  # in half the time that :06d takes
            before_ids,
            exchange.trace_id,
            '","span_id":"',
            exchange.span_id,
            '","request_id":"',
            exchange.trace_id
            if exchange.request_id is exchange.trace_id
            else quote(exchange.request_id)[1:-1],
            before_path,
            path,
            before_numbers,
            lasted,
            ',"ttfb_s":',
            first,
            f',"request_bytes":{exchange.request_bytes},"response_bytes":{size}',
            self._clients[exchange.client_address],
            agent,
        )
        line = "".join(pieces)
        if (
            exchange.facts
            or exchange.findings
            or exchange.exception is not None
            or exchange.queue_s is not None
            or not line.isascii()
            or "\x7f" in line
            or len(line) >= _MAX_HEAD_BYTES
        ):
            return self._longer(exchange, pieces)
        line += "[]}"  # in place, as it is nobody else's
        return line

    def _longer(self, exchange: Exchange, pieces: tuple[str, ...]) -> str:
        """The same with what few requests have, and with its texts cut: escapes take up to six bytes a character."""
        findings = finding_names(exchange) if exchange.findings else "[]"

        def cut(limit: int) -> str:
            path = quote(path_of(exchange, self.is_secret), limit)
            client = _client_piece(exchange.client_address, limit)
            agent = _agent_piece(agent_of(exchange, self.is_secret), self.pid, limit)
            return "".join(
                (*pieces[:_PATH_PIECE], path, *pieces[_PATH_PIECE + 1 : -2], client, agent, findings)
            )

        own = own_fields(exchange, self.is_secret)
        return _whole("".join((*pieces, findings)), cut, own, exchange.facts, self._canonical_keys)


# Where the path stands among the pieces of a canonical line.
_PATH_PIECE: Final = 10


def _kind(resource: str, kind: _Kind) -> tuple[tuple[str, str, str], bool]:
    method, route, status, outcome, level = kind
    pieces = (
        f'Z","level":"{level}","event":"{CANONICAL_EVENT}","logger":"obskit.http",{resource},"trace_id":"',
        f'","http_request_method":"{method}","http_route":{quote(route or "")},"url_path":',
        f',"http_response_status_code":{"null" if status is None else status},"outcome":"{outcome}","duration_s":',
    )
    return pieces, len(route or "") <= _REMEMBERED_CHARACTERS


def _path(is_secret: IsSecret, path: str) -> tuple[tuple[str, str], bool]:
    shown = clean(path, is_secret)
    return (shown, encode_basestring(shown)), _may_stay(path, shown)


def _agent(is_secret: IsSecret, pid: int, agent: str | None) -> tuple[tuple[str | None, str], bool]:
    shown = clean(agent, is_secret) if agent else None
    return (shown, _agent_piece(shown, pid)), _may_stay(agent, shown)


def _client(address: str | None) -> tuple[str, bool]:
    return _client_piece(address), _may_stay(address, address)


def _may_stay(text: str | None, shown: str | None) -> bool:
    """Whether it is no secret that was sent, and short."""
    return text is shown and (text is None or len(text) <= _REMEMBERED_CHARACTERS)


def _client_piece(address: str | None, limit: int = MAX_TEXT) -> str:
    return f',"client_address":{quote_or_null(address, limit)},"user_agent":'


def _agent_piece(agent: str | None, pid: int, limit: int = MAX_TEXT) -> str:
    return f'{quote_or_null(agent, limit)},"worker_pid":{pid},"findings":'


class _Keys:
    """The keys of one kind of line as they are written: without secrets, and none that is the line's own."""

    def __init__(self, reserved: frozenset[str], is_secret: IsSecret) -> None:
        self.is_secret = is_secret
        self._reserved = reserved
        self._known: _Remembered[str, tuple[str, bool]] = _Remembered(self._name)

    def rendered(self, fields: Mapping[str, Any]) -> str:
        """The first fields as the inside of a JSON object, a comma in front of each."""
        told: dict[str, str] = {}
        for key, value in list(fields.items())[:MAX_ITEMS]:
            name, is_secret = self._known[key] if type(key) is str else self._name(key)[0]
            told[name] = _REDACTED if is_secret else self._value(value)
        return _visible("".join([f",{name}:{value}" for name, value in told.items()]))

    def _name(self, key: Any) -> tuple[tuple[str, bool], bool]:
        """How it is written and whether its value is a secret; and whether that may be remembered."""
        name = key_of(key, self.is_secret)
        if name in self._reserved:  # a second key of that name would make the line ambiguous
            name += "_"
        written = encode_basestring(name), self.is_secret(name)
        return written, name is key and len(name) <= _REMEMBERED_CHARACTERS

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
    if _too_long(head, _MAX_HEAD_BYTES):
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
