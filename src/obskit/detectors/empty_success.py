"""A route whose successful answers are practically never empty gave one that is.

What is usual is learned per method and route, in windows. The last complete window decides while the next one fills;
a route that has changed for good is told of for one whole window more, and then that is what is usual.
Each worker learns by itself, and anew after a restart.
"""

from __future__ import annotations

from threading import Lock

from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector, Setting
from obskit.names import OVERFLOW, UNMATCHED_ROUTE

# Enough successes that "never empty" is no accident, and the share of empty ones it still allows.
LEARNED_SUCCESSES = 500
PER_EMPTY = 1_000
# A later window takes at least this long: a burst of odd answers must not become what is usual.
WINDOW_S = 600

# Empty answers by their text; the longest of them with some space around it is still a short body.
_EMPTY = {b"": "nothing", b"[]": "[]", b"{}": "{}", b"null": "null", b'""': '""'}
_LONGEST = 16

_COMPLETED = Outcome.COMPLETED


class _Usual:
    """The windows of one method and route: the complete one, and the one that fills."""

    __slots__ = ("changing", "due_ns", "empty", "learned_empty", "learned_from", "successes")

    def __init__(self) -> None:
        self.learned_from = self.learned_empty = 0
        self.successes = self.empty = 0
        # The first window is not made to wait: until it is complete nothing is known at all.
        self.due_ns = 0
        self.changing = False

    def never_empty(self) -> bool:
        return self.learned_from > 0 and self.learned_empty * PER_EMPTY <= self.learned_from

    def turn(self, now_ns: int) -> None:
        """The window is complete: it becomes what is usual, unless it is the first that shows a change."""
        changed = self.never_empty() and self.empty * PER_EMPTY > self.successes
        if changed and not self.changing:
            # The change may have come with its last minute, and is to be told of for a whole window.
            self.changing = True
        else:
            self.changing = False
            self.learned_from, self.learned_empty = self.successes, self.empty
        self.successes = self.empty = 0
        self.due_ns = now_ns + WINDOW_S * 1_000_000_000


class EmptySuccesses:
    """What is usual for the routes of one process; at most `max_series` of them."""

    def __init__(self, setting: Setting) -> None:
        self._limit = setting.config.max_series
        self._usual: dict[tuple[str, str | None], _Usual] = {}
        self._lock = Lock()

    def closed(self, exchange: Exchange) -> Evidence | None:
        status = exchange.status
        if status != 200 and (status is None or not 200 <= status < 300 or status == 206):
            return None
        method = exchange.method
        if exchange.outcome is not _COMPLETED or method == "HEAD":
            return None
        if exchange.server_sends_file or exchange.protocol != "http":
            return None
        usual = self._usual.get((method, exchange.http_route)) or self._begun(exchange)
        if usual is None:
            return None
        size = exchange.response_bytes
        body = None if size > _LONGEST else _body(exchange.response_head, size)
        # Two threads may lose a count here; that changes nothing that is learned, and saves every request a lock.
        usual.successes = successes = usual.successes + 1
        if body is None and (successes < LEARNED_SUCCESSES or (exchange.ended_ns or 0) < usual.due_ns):
            return None
        with self._lock:
            return self._count(usual, body, size, exchange.ended_ns or 0)

    def _begun(self, exchange: Exchange) -> _Usual | None:
        """The windows of a route that is new, if it is one and there is room for it."""
        route = exchange.http_route
        if not route or route in (UNMATCHED_ROUTE, OVERFLOW) or len(self._usual) >= self._limit:
            return None
        return self._usual.setdefault((exchange.method, route), _Usual())

    def _count(self, usual: _Usual, body: str | None, size: int, now_ns: int) -> Evidence | None:
        evidence: Evidence | None = None
        if body is not None:
            usual.empty += 1
            if usual.never_empty():
                evidence = {
                    "body": body,
                    "response_bytes": size,
                    "learned_from": usual.learned_from,
                    "empty_before": usual.learned_empty,
                }
        if usual.successes >= LEARNED_SUCCESSES and now_ns >= usual.due_ns:
            usual.turn(now_ns)
        return evidence


def _body(head: bytes, size: int) -> str | None:
    """The name of an empty body; None for any other. Of one in several pieces only the first is known."""
    return _EMPTY.get(bytes(head).strip()) if len(head) == size else None


DETECTOR = Detector(
    name="empty_success",
    help="A route that practically always answers with something answered with nothing.",
    why="An empty list, an empty object or no body at all is a success like any other.",
    severity="warning",
    runbook="ObskitEmptySuccess",
    make=EmptySuccesses,
)
