"""The same request by the same client, again.

Judged when a request closes, against what the workers of this host remember of those that closed before it: when
they ran and how they ended. Two requests are the same when an `Idempotency-Key` says so (same user, method and path;
remembered for ten minutes), or else when client, method, path, query and body are the same, within
`duplicate_window_s`. Client means address, forwarding headers, `Authorization`, `Cookie`, `User-Agent` and `Host`
together. Of a body the length and a checksum of the first 64 KiB are compared. All of it goes into a keyed hash of
64 bits in memory of fixed size; nothing that was hashed is kept. The kinds:

`concurrent`         both ran at the same time: a double click, a page loaded anew before it came
`repeat`             the first one had succeeded
`retry_after_error`  the first one had failed: a 5xx, a 408, or an answer that broke off
`retry_after_abort`  the first one had been given up, by its client or the server, before its answer was there

A first one that was refused (4xx, but for the 408) has changed nothing, and a client told to come again (425, 429) may:
no finding. A second one that is refused is one: its user sees an error for what has succeeded.

Of methods that change nothing (GET, HEAD) only this counts: asked again after a failure, after giving up before
the first byte, or while the first one had waited for at least a second. A client that asks again and again does so
by design. Where third and later repeats are more than one in five of a route's successes (of 20 or more that this
process has seen), repeating is its manner (heartbeats, polling by POST) and `repeat` is no finding there. Everything
sent twice, and no more than twice, stays one.

What it cannot see: other hosts and whatever shares no memory with this worker (`scope` in the evidence says "host" or
"worker"), a repeat that comes with a changed cookie or from another address, a body that the application did not
read to its end, requests forgotten because too many came since (the memory holds 65,536), and two that close within
the same few microseconds on two workers.
"""

from __future__ import annotations

from typing import NamedTuple

from obskit import names
from obskit.detectors._manners import Manners
from obskit.detectors._remembering import Remembering
from obskit.detectors._sameness import BY_CONTENT, BY_KEY, operation, page
from obskit.exchange import Evidence, Exchange, Outcome
from obskit.findings import Detector, Judge, Setting
from obskit.shared import Entry, Table

SLOTS = 65_536
KEY_WINDOW_NS = 600_000_000_000
# Two tabs or widgets that ask at once are no refresh: a user must have waited first.
WAITED_NS = 1_000_000_000

_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_LAST_TROUBLE = 0  # which of the table's marks: when a request of a safe method was last worth remembering

_COMPLETED = Outcome.COMPLETED
_OUTCOMES = tuple(Outcome)
_GIVEN_UP = (Outcome.CLIENT_DISCONNECT, Outcome.CANCELLED, Outcome.TIMEOUT)
_BROKEN = (Outcome.RAISED, Outcome.RAISED_AFTER_HEADERS, Outcome.TRUNCATED, Outcome.NO_RESPONSE)
_REPEAT, _AFTER_ERROR, _AFTER_ABORT = "repeat", "retry_after_error", "retry_after_abort"
_STATUS_BITS = 10


class _Run(NamedTuple):
    """When a request ran (to the last byte of its answer; for a safe method to the first) and how it ended."""

    started_ns: int
    ended_ns: int
    outcome: Outcome
    status: int

    @property
    def kind_of_next(self) -> str:
        """What the same request after this one is; empty when it is nothing to speak of."""
        return _kind_of_next(self.outcome, self.status)

    @property
    def state(self) -> int:
        return _state(self.outcome, self.status)

    @classmethod
    def remembered(cls, entry: Entry) -> _Run:
        outcome = _OUTCOMES[min(entry.state >> _STATUS_BITS, len(_OUTCOMES) - 1)]
        return cls(entry.started_ns, entry.ended_ns, outcome, entry.state & (1 << _STATUS_BITS) - 1)


def _kind_of_next(outcome: Outcome, status: int) -> str:
    if outcome is _COMPLETED and status < 400:
        return _REPEAT
    if outcome in _GIVEN_UP:
        return _AFTER_ABORT
    if status >= 500 or status == 408 or outcome in _BROKEN:
        return _AFTER_ERROR
    return _REPEAT if status < 400 else ""


def _state(outcome: Outcome, status: int) -> int:
    """Outcome and status as the table keeps them, in 16 bits."""
    told = 0 if outcome is _COMPLETED else _OUTCOMES.index(outcome) << _STATUS_BITS
    return told | min(status, (1 << _STATUS_BITS) - 1)


class Repeats(Remembering):
    """The judge of one install."""

    TABLE, SLOTS = "repeats", SLOTS

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._window_ns = int(setting.config.duplicate_window_s * 1e9)
        self._manners = Manners(setting.config.max_series)

    def begin(self) -> None:
        super().begin()
        table = self._table
        if self._setting.config.state_dir is not None and table is not None and not table.shared:
            self._setting.failed(
                "detectors.duplicate_request",
                OSError(f"option 'state_dir': workers share nothing: {table.why}"),
            )

    def closed(self, exchange: Exchange) -> Evidence | None:
        table = self._table
        if table is None:
            return None
        method = exchange.method
        if method == "GET" or method == "HEAD":
            started_ns = exchange.started_ns
            quiet = started_ns - table.marks[_LAST_TROUBLE] > self._window_ns
            if (
                quiet
                and exchange.outcome is _COMPLETED
                and (exchange.ended_ns or 0) - started_ns < WAITED_NS
                and (exchange.status or 0) < 408
            ):
                return None
            return self._safe(exchange, table, quiet=quiet) if exchange.protocol == "http" else None
        return self._unsafe(exchange, table) if method in _UNSAFE and exchange.protocol == "http" else None

    # -- what changes something -------------------------------------------------------------------

    def _unsafe(self, exchange: Exchange, table: Table) -> Evidence | None:
        outcome, status = exchange.outcome or _COMPLETED, exchange.status or 0
        if status == 404 and exchange.http_route == names.UNMATCHED_ROUTE:
            return None  # what scanners ask for
        data, by = operation(exchange)
        if data is None:
            return None
        closed_ns = exchange.ended_ns or 0
        # Work that goes on after the answer is no part of what the client waits for.
        ended_ns = exchange.last_byte_ns or closed_ns
        fingerprint = table.fingerprint(data)
        state = status if outcome is _COMPLETED and status < 1 << _STATUS_BITS else _state(outcome, status)
        # A refusal, too: of two at once the refused one may be the first to close.
        entry = table.add(fingerprint, exchange.started_ns, ended_ns, state, closed_ns)
        if entry is not None:
            run = _Run(exchange.started_ns, ended_ns, outcome, status)
            return self._again(exchange, table, fingerprint, run, entry, by)
        if self._manners.counts and by is BY_CONTENT and _kind_of_next(outcome, status) is _REPEAT:
            self._manners.learn(exchange.method, exchange.http_route, repeated=False)
        return None

    def _again(
        self, exchange: Exchange, table: Table, fingerprint: int, run: _Run, entry: Entry, by: str
    ) -> Evidence | None:
        other = _Run.remembered(entry)
        first, second = (other, run) if other.started_ns <= run.started_ns else (run, other)
        gap_ns = second.started_ns - first.ended_ns
        window_ns = max(self._window_ns, KEY_WINDOW_NS) if by is BY_KEY else self._window_ns
        if gap_ns < 0:
            kind = "concurrent" if first.kind_of_next or second.kind_of_next else ""
        else:
            kind = "" if gap_ns > window_ns else first.kind_of_next
        attempt = entry.times + 1 if kind else 1
        if run.kind_of_next or not kind:
            table.put(fingerprint, run.started_ns, run.ended_ns, run.state, attempt)
        else:
            table.put(fingerprint, other.started_ns, other.ended_ns, other.state, attempt)
        if by is BY_CONTENT and run.kind_of_next == _REPEAT:
            # What is sent twice is what we look for; who goes on sending it means to.
            method, route = exchange.method, exchange.http_route
            self._manners.learn(method, route, repeated=kind == _REPEAT and attempt > 2)
            if kind == _REPEAT and self._manners.by_design(method, route):
                return None
        return self._evidence(table, kind, by, first, second, other, attempt) if kind else None

    # -- what only asks ---------------------------------------------------------------------------

    def _safe(self, exchange: Exchange, table: Table, *, quiet: bool) -> Evidence | None:
        ended_ns = exchange.ended_ns or 0
        # From the first byte on the client sees that something comes: a stream, or a file it may ask the rest of.
        run = _run(exchange, exchange.first_byte_ns or exchange.last_byte_ns or ended_ns)
        kind_of_next = run.kind_of_next
        if kind_of_next == _AFTER_ABORT and exchange.first_byte_ns is not None:
            run = run._replace(outcome=_COMPLETED, status=200)
            kind_of_next = _REPEAT
        waited = run.ended_ns - run.started_ns >= WAITED_NS
        worth_it = kind_of_next in (_AFTER_ERROR, _AFTER_ABORT) or (kind_of_next == _REPEAT and waited)
        if quiet and not worth_it:
            return None
        data = page(exchange)
        if data is None:
            return None
        fingerprint = table.fingerprint(data)
        entry = table.get(fingerprint, ended_ns)
        kind, attempt, other, first, second = "", 1, run, run, run
        if entry is not None:
            other = _Run.remembered(entry)
            first, second = (other, run) if other.started_ns <= run.started_ns else (run, other)
            gap_ns = second.started_ns - first.ended_ns
            if gap_ns < 0:
                kind = "concurrent" if second.started_ns - first.started_ns >= WAITED_NS else ""
            elif gap_ns <= self._window_ns and first.kind_of_next != _REPEAT:
                kind = first.kind_of_next
            attempt = entry.times + 1 if kind else 1
        if worth_it or entry is not None:
            # A success, too, where something is remembered: the next one repeats that, and not what failed before.
            table.put(fingerprint, run.started_ns, run.ended_ns, run.state, attempt)
        if worth_it:
            table.marks[_LAST_TROUBLE] = ended_ns
        if kind_of_next == _REPEAT and waited:
            self._manners.learn(exchange.method, exchange.http_route, repeated=kind == "concurrent")
        if kind == "concurrent" and self._manners.by_design(exchange.method, exchange.http_route):
            return None  # several tabs that each wait for news
        return self._evidence(table, kind, BY_CONTENT, first, second, other, attempt) if kind else None

    @staticmethod
    def _evidence(
        table: Table, kind: str, by: str, first: _Run, second: _Run, other: _Run, attempt: int
    ) -> Evidence:
        if kind == "concurrent":
            when = {"overlap_s": round((min(first.ended_ns, second.ended_ns) - second.started_ns) * 1e-9, 3)}
        else:
            when = {"after_s": round((second.started_ns - first.ended_ns) * 1e-9, 3)}
        return {
            "kind": kind,
            "by": by,
            **when,
            "attempt": attempt,
            # Of the one that closed first.
            "earlier_status": other.status or None,
            "earlier_outcome": other.outcome.value,
            "scope": "host" if table.shared else "worker",
        }


def _run(exchange: Exchange, ended_ns: int) -> _Run:
    return _Run(exchange.started_ns, ended_ns, exchange.outcome or _COMPLETED, exchange.status or 0)


def make(setting: Setting) -> Judge:
    return Repeats(setting)


DETECTOR = Detector(
    name="duplicate_request",
    help="The same client sent the same request again: clicked twice, loaded anew, or retried.",
    why="Each request has a status of its own, and none of them says that they were one and the same wish.",
    severity="warning",
    runbook="ObskitDuplicateRequests",
    make=make,
    digests=_UNSAFE,
    metric=names.DUPLICATE_REQUESTS,
)
