"""A success whose JSON body says that it is an error.

Looked at are the first 4 KiB of the body, in them the top level alone, and there the keys of the option
`soft_error_keys`. A key that comes later, in a later chunk of a stream, or in a compressed body is not seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from obskit.detectors._toplevel import Shape, members
from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector, Setting

# Answers without a body of their own, or with a part of one.
_NOT_JUDGED = frozenset({204, 205, 206})
_SPACE = frozenset({b" ", b"\n", b"\r", b"\t"})


class Condition(NamedTuple):
    """One part of an entry of `soft_error_keys`: what its key must be."""

    key: str
    negated: bool
    text: str | None

    def holds(self, found: dict[str, Any]) -> bool:
        if self.key not in found:
            return False
        value = found[self.key]
        if self.text is not None:
            return (value == self.text) is not self.negated
        return value is False if self.negated else bool(value)

    def pattern(self) -> bytes:
        """What every body that meets this condition holds behind the key's first letter, as a regular expression."""
        named = re.escape(f'{self.key[1:]}"').encode() + rb"[ \t\r\n]*+:"
        if self.text is None:
            return named + rb"[ \t\r\n]*+false" if self.negated else named
        if self.negated or not _plain(self.text):
            return named
        return named + rb"[ \t\r\n]*+" + re.escape(f'"{self.text}"').encode()


class Rule(NamedTuple):
    """One entry of `soft_error_keys`, ready to be asked."""

    written: str
    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, written: str) -> Rule:
        conditions = []
        for part in written.split("+"):
            key, equals, text = part.removeprefix("!").partition("=")
            conditions.append(Condition(key, part.startswith("!"), text if equals else None))
        return cls(written, tuple(conditions))


def _any_of(conditions: Sequence[Condition]) -> bytes:
    """What every body that meets one of these holds somewhere, as a regular expression."""
    if not conditions:
        return rb"(?!)"
    if not all(_plain(one.key) for one in conditions):
        return b":"
    # The letter first, and any word behind any of them: at most quotes one look at it is all there is.
    letters = b"".join(dict.fromkeys(re.escape(one.key[0]).encode() for one in conditions))
    words = b"|".join(dict.fromkeys(one.pattern() for one in conditions))
    return rb'"[' + letters + rb"](?:" + words + rb")"


def _plain(text: str) -> bool:
    # JSON may spell anything else in more than one way: "\u00e9" and "é".
    return text.isascii() and text.isprintable() and not set(text) & set('"\\/')


class SoftErrors:
    """Judges by the rules of one install; keeps nothing of what it saw."""

    def __init__(self, setting: Setting) -> None:
        self._rules = tuple(Rule.parse(written) for written in setting.config.soft_error_keys)
        # Nearly every body ends here: one search for a few words costs less than a look at a header.
        first = [rule.conditions[0] for rule in self._rules]
        self._may_hold: Callable[[bytes], object] = re.compile(_any_of(first)).search

    def closed(self, exchange: Exchange) -> Evidence | None:
        head = exchange.response_head
        first = head[:1]
        if first != b"{" and first not in _SPACE:
            return None
        return self._judge(exchange, bytes(head)) if self._may_hold(head) else None

    def _judge(self, exchange: Exchange, head: bytes) -> Evidence | None:
        status = exchange.status or 0
        if not 200 <= status < 300 or status in _NOT_JUDGED or exchange.protocol != "http":
            return None
        if exchange.outcome is not Outcome.COMPLETED or exchange.server_sends_file:
            return None
        if (exchange.response_header("content-encoding") or "identity").strip().lower() != "identity":
            return None
        media_type = (exchange.response_header("content-type") or "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not media_type.endswith("+json"):
            return None
        found = _whole(head) if exchange.response_bytes == len(head) else members(head)
        for rule in self._rules:
            if all(condition.holds(found) for condition in rule.conditions):
                value = found[rule.conditions[0].key]
                return {
                    "key": rule.written,
                    "value": kind_of(value),
                    "status": status,
                    "content_type": media_type[:80],
                }
        return None


def _whole(body: bytes) -> dict[str, Any]:
    try:
        read = json.loads(body.decode())
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def kind_of(value: Any) -> str:
    """What a JSON value is, without what it says: bodies stay in the process."""
    if isinstance(value, Shape):
        return value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "text"
    if isinstance(value, dict):
        return "object"
    return "list" if isinstance(value, list) else "number"


DETECTOR = Detector(
    name="soft_error",
    help="A request that failed was answered as a success: only the JSON body said that it had not worked.",
    why="The status was a success; that it was an error stood only in the body.",
    severity="warning",
    runbook="ObskitSoftErrors",
    make=SoftErrors,
    about="response_head",
)
