"""What lies in a slot of the flight recorder: how it is laid out, and how it is read when its worker has died."""

from __future__ import annotations

import os
import struct

from obskit import folders, names
from obskit.exchange import Exchange, Outcome
from obskit.workers import Member

KIND = "flight"
OPEN, ANSWERING, ENDED = 1, 2, 3
COUNTED = 8
"""Added to the phase of one that its worker has counted, and not yet told of."""
PHASES = {OPEN: "open", ANSWERING: "answering", ENDED: "ended"}

MAGIC = b"obskitF\x02"
FIRST = 4096
SLOT_SIZE = 576
SLOTS = 64
CHUNK = SLOT_SIZE * SLOTS
MAX_SLOTS = 4096
MAX_SIZE = FIRST + MAX_SLOTS * SLOT_SIZE
# Slot: phase and told, a byte each. What was noted meanwhile, of the request that was opened then (unix ns): whether
# the event loop was blocked by it, and its route. When (unix ns) and with what status it was answered, or has ended;
# then also how long its first byte took (ns; 0 for none), and the bytes of both bodies. What it is: a text that ends
# with a zero byte, for that is quick to make; what does not fit in is cut, and has no such end.
TOLD_AT, NOTE_AT, ANSWER_AT, TEXT_AT = 1, 8, 136, 176
NOTE = struct.Struct("<Q?H")
NOTED_AT = NOTE_AT + 8
"""What is noted, behind of which request: that is plain where one has ended."""
ANSWER = struct.Struct("<QH")
END = struct.Struct("<QHQQQ")
ROUTE_AT = NOTE_AT + NOTE.size
ROUTE = ANSWER_AT - ROUTE_AT
TEXT = SLOT_SIZE - TEXT_AT


class Lost:
    """A request that a dead worker had in flight, or that had ended there and was not told of."""

    __slots__ = (
        "answered_s",
        "at",
        "blocked",
        "counted",
        "cut",
        "exchange",
        "opened_unix_ns",
        "phase",
        "told",
    )

    def __init__(self, data: bytes, at: int) -> None:
        """Raises ValueError for a slot that nobody has written so."""
        self.at = at
        self.phase, self.told = data[at] & ~COUNTED, bool(data[at + TOLD_AT])
        self.counted = bool(data[at] & COUNTED)
        text, end, _ = data[at + TEXT_AT : at + SLOT_SIZE].partition(b"\0")
        self.cut = not end
        # What was cut may end in the midst of a character.
        facts = text.decode("utf-8", "ignore").split("\n", 7)
        opened, protocol, method, trace_id, span_id, request_id, prefix, path = facts
        known = protocol in ("http", "websocket") and "".join(facts[:6]).isprintable()
        if self.phase not in PHASES or not known:
            raise ValueError("a slot that nobody has written so")
        self.opened_unix_ns = int(opened)
        exchange = self.exchange = Exchange(protocol, method, path)
        exchange.started_unix_ns = self.opened_unix_ns
        exchange.trace_id, exchange.span_id = trace_id, span_id
        exchange.request_id = request_id or trace_id
        exchange.path_prefix = prefix
        noted, blocked, length = NOTE.unpack_from(data, at + NOTE_AT)
        known = noted == self.opened_unix_ns or self.phase == ENDED
        self.blocked = blocked and known
        if known and length <= ROUTE:
            route = data[at + ROUTE_AT : at + ROUTE_AT + length]
            exchange.http_route = route.decode("utf-8") or None
        self.answered_s = 0.0
        if self.phase != OPEN:
            answered, status = ANSWER.unpack_from(data, at + ANSWER_AT)
            self.answered_s = max(0, answered - self.opened_unix_ns) * 1e-9
            exchange.status = status if 100 <= status <= 999 else None
        if self.phase == ENDED:
            _, _, first_byte_ns, exchange.request_bytes, exchange.response_bytes = END.unpack_from(
                data, at + ANSWER_AT
            )
            took_ns = max(0, answered - self.opened_unix_ns)
            if first_byte_ns:
                exchange.first_byte_ns = exchange.started_ns + min(first_byte_ns, took_ns)
            exchange.last_byte_ns = exchange.started_ns + took_ns
            exchange.outcome, exchange.response_started, exchange.response_complete = (
                Outcome.COMPLETED,
                True,
                True,
            )
            exchange.http_route = exchange.http_route or names.UNMATCHED_ROUTE
            exchange.end(exchange.last_byte_ns)
            exchange.settle()


def count(member: Member) -> int:
    """How many requests a worker has in flight, read from outside. 0 for a worker without a record."""
    try:
        opened = folders.readable(member.path(KIND))
    except FileNotFoundError:
        return 0
    try:
        return sum(one.phase != ENDED and not one.counted for one in in_slots(whole(opened)))
    finally:
        os.close(opened)


def whole(opened: int) -> bytes:
    return os.pread(opened, min(os.fstat(opened).st_size, MAX_SIZE), 0)


def in_slots(data: bytes) -> list[Lost]:
    found = []
    if data[: len(MAGIC)] == MAGIC:
        for at in range(FIRST, len(data) - SLOT_SIZE + 1, SLOT_SIZE):
            if data[at]:
                try:
                    found.append(Lost(data, at))
                except ValueError:
                    continue
    return found
