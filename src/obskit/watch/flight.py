"""The flight recorder: which requests are in flight in this worker, kept where they can be read when it has died.

Each request has a slot in a mapped file, from its opening until it is counted and its line is written. One that has
ended and waits to be shown (`obskit.together`) keeps it, with how it ended: its heir shows it as this worker would
have. The byte that says that a slot holds something is written last and cleared first, so a worker that dies in the
midst of either leaves a whole slot or an empty one. The heir of a dead worker (the next process of the service that
looks) tells of each request it finds in flight: one line and finding `worker_died` with its trace id, and
`obskit_requests_lost_total`. It marks each that it has told in the file, so that a second heir, should the first one
die too, goes on behind it: at most the one request that the first was just telling of is told twice.

What a slot holds is what the canonical line would: method, path without query, route where it is known, trace, span
and request id. The file is readable to its user alone and goes with the worker.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from time import time_ns
from typing import TYPE_CHECKING

from obskit import folders, names
from obskit.aside import pause_until
from obskit.exchange import Exchange
from obskit.plain import path_of
from obskit.redact import is_secret_name, scrub
from obskit.watch.slots import (
    ANSWER,
    ANSWER_AT,
    ANSWERING,
    CHUNK,
    COUNTED,
    END,
    ENDED,
    FIRST,
    KIND,
    MAGIC,
    MAX_SLOTS,
    NOTE,
    NOTE_AT,
    NOTED_AT,
    OPEN,
    PHASES,
    ROUTE,
    ROUTE_AT,
    SLOT_SIZE,
    SLOTS,
    TEXT,
    TEXT_AT,
    TOLD_AT,
    Lost,
    in_slots,
    whole,
)
from obskit.workers import Member

if TYPE_CHECKING:
    from obskit.watch import Metrics
    from obskit.watch.scene import Scene

_EARLY_NS = 1_000_000_000
"""A worker gives its sign of life once a second: so much less than its last one may tell."""
_REMEMBERED = 1024
_REMEMBERED_CHARACTERS = 256
GROW_S = 0.05
"""How long a request waits for room that another one makes: that takes microseconds, unless its disk hangs."""


class Slot:
    """The place of one request in flight."""

    __slots__ = ("answer", "at", "exchange", "free", "left_to_heirs", "memory", "text")

    def __init__(self, memory: mmap.mmap, at: int, free: list[Slot], *, left_to_heirs: bool) -> None:
        """`free` is where it goes when its request has ended."""
        self.free = free
        self.memory = memory
        self.left_to_heirs = left_to_heirs
        """Whether it lies in a file: else nobody could read it after the death of this worker."""
        self.at = at
        self.answer = at + ANSWER_AT
        self.text = at + TEXT_AT
        self.exchange: Exchange | None = None


class FlightRecorder:
    """The slots of this worker. Opening, answering and closing take no lock: a list gives and takes one at a time."""

    def __init__(self, metrics: Metrics, is_secret: Callable[[str], bool] = is_secret_name) -> None:
        self._metrics = metrics
        self.is_secret = is_secret
        """Which keys name a secret: a path is kept without those."""
        self._scene: Scene | None = None
        self._since_unix_ns = 0
        self._file = -1
        self._reset()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    def _after_fork(self) -> None:
        # The mapping is the parent's: a request that a child carries on must not end, or change, in its file.
        for slot in self._slots:
            if slot.exchange is not None:
                slot.exchange.flight_slot = None
        self._growing = Lock()
        self.shutdown()
        self._reset()

    def _reset(self) -> None:
        self._growing = Lock()
        self._slots: list[Slot] = []
        self._free: list[Slot] = []
        # What comes again: paths without secrets, and what is noted of routes.
        self._paths: dict[str, str] = {}
        self._notes: dict[str, bytes] = {}

    @property
    def in_flight(self) -> list[Exchange]:
        """The requests that are open now, in no order."""
        return [one for slot in self._slots if (one := slot.exchange) is not None and not one.closed]

    def begin(self, scene: Scene) -> None:
        """Record from now on, for the heirs of this worker if it has any, and if there is room for a file."""
        self.shutdown()
        earlier = self._slots
        self._reset()
        self._scene = scene
        self._since_unix_ns = time_ns()
        if scene.workers.shared:
            try:
                path = scene.workers.path(KIND)
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                folders.fill(self._file, FIRST)
                os.pwrite(self._file, MAGIC, 0)
            except OSError as error:
                self._without_file(error)
        self._grow()
        for slot in earlier:
            exchange = slot.exchange
            if exchange is not None:
                self._take_over(exchange)

    def _take_over(self, exchange: Exchange) -> None:
        """A request that came when there was no file yet: from now on it is where an heir looks."""
        thread_id = exchange.thread_id
        self.opened(exchange)
        exchange.thread_id = thread_id
        if exchange.closed:  # meanwhile; where it closes right now, `note` sees it
            self.closed(exchange)

    def _without_file(self, error: OSError) -> None:
        # Requests in the slots to come are watched, but nobody could tell of them after this worker's death.
        if self._scene is not None:
            self._scene.pipeline.failed("watch.flight", error)
        self._close_file()

    def _grow(self) -> bool:
        """Room for more requests; false if there are as many as can be, or another thread hangs while it makes some."""
        if not self._growing.acquire(blocking=False):
            pause_until(lambda: bool(self._free), GROW_S)
            return bool(self._free)
        try:
            if self._free:
                return True  # another thread has just made it
            if len(self._slots) >= MAX_SLOTS:
                return False
            memory: mmap.mmap | None = None
            if self._file >= 0:
                size = FIRST + len(self._slots) // SLOTS * CHUNK
                try:
                    folders.fill(self._file, size + CHUNK)
                    memory = mmap.mmap(self._file, CHUNK, offset=size)
                except OSError as error:
                    self._without_file(error)
            inherited = memory is not None
            if memory is None:
                memory = mmap.mmap(-1, CHUNK)
            places = range(0, CHUNK, SLOT_SIZE)
            made = [Slot(memory, at, self._free, left_to_heirs=inherited) for at in places]
            self._slots.extend(made)
            self._free.extend(reversed(made))
            return True
        finally:
            self._growing.release()

    # ---- one request -----------------------------------------------------------------------------

    def opened(self, exchange: Exchange) -> None:
        while True:
            try:
                slot = self._free.pop()
                break
            except IndexError:
                if not self._grow():
                    exchange.pipeline.dropped("flight", "full")
                    return
        exchange.flight_slot = slot
        exchange.thread_id = threading.get_ident()  # looked up now: gevent may have replaced it
        slot.exchange = exchange
        if not slot.left_to_heirs:
            return
        path, prefix = exchange.url_path, exchange.path_prefix
        shown = exchange.shown_path = self._paths.get(path) or self._path(exchange)
        trace_id, request_id = exchange.trace_id, exchange.request_id
        text = (
            f"{exchange.started_unix_ns}\n{exchange.protocol}\n{exchange.method}\n{trace_id}\n{exchange.span_id}\n"
            f"{'' if request_id == trace_id else request_id}\n{prefix and scrub(prefix, self.is_secret)}\n{shown}\0"
        ).encode("utf-8", "replace")[:TEXT]
        memory, at = slot.memory, slot.text
        memory[at : at + len(text)] = text
        memory[slot.at] = OPEN

    def _path(self, exchange: Exchange) -> str:
        """The path of a request as it is shown; remembered if it may come again and holds no secret."""
        path = exchange.url_path
        shown = path_of(exchange, self.is_secret)
        if shown is path and len(path) <= _REMEMBERED_CHARACTERS:
            if len(self._paths) >= _REMEMBERED:
                self._paths.clear()
            self._paths[path] = path
        return shown

    def answering(self, exchange: Exchange) -> None:
        slot = exchange.flight_slot
        if slot is not None and slot.left_to_heirs:
            memory, status = slot.memory, exchange.status or 0
            ANSWER.pack_into(memory, slot.answer, time_ns(), status if 0 < status < 65_536 else 0)
            memory[slot.at] = ANSWERING

    def rests(self, exchange: Exchange) -> bool:
        """Keep how it ended, until it is closed; false where no heir could read it, or not all of it."""
        slot = exchange.flight_slot
        if slot is None or not slot.left_to_heirs:
            return False
        note = self._notes.get(exchange.http_route or "")
        if note is None and (note := self._noted(exchange.http_route or "")) is None:
            return False
        memory, first_byte_ns, status = slot.memory, exchange.first_byte_ns, exchange.status or 0
        if status > 999:
            return False
        started_ns = exchange.started_ns
        END.pack_into(
            memory,
            slot.answer,
            exchange.started_unix_ns
            + (exchange.last_byte_ns or exchange.ended_ns or started_ns)
            - started_ns,
            status,
            0 if first_byte_ns is None else first_byte_ns - started_ns,
            exchange.request_bytes,
            exchange.response_bytes,
        )
        at = slot.at + NOTED_AT
        memory[at : at + len(note)] = note
        memory[slot.at] = ENDED
        return True

    def _noted(self, route: str) -> bytes | None:
        """What is noted of a request with this route that has ended; None if it does not fit."""
        written = route.encode("utf-8", "replace")
        if len(written) > ROUTE:
            return None
        if len(self._notes) >= _REMEMBERED:
            self._notes.clear()
        note = self._notes[route] = NOTE.pack(0, False, len(written))[NOTED_AT - NOTE_AT :] + written
        return note

    def counted(self, exchange: Exchange) -> None:
        """Right behind its count: its heir does not count it again, and tells of it where there is no line yet."""
        slot = exchange.flight_slot
        if slot is not None and slot.left_to_heirs:
            slot.memory[slot.at] |= COUNTED

    def closed(self, exchange: Exchange) -> None:
        slot = exchange.flight_slot
        if slot is not None:
            exchange.flight_slot = None
            slot.memory[slot.at] = 0
            slot.exchange = None
            slot.free.append(slot)

    def note(self) -> None:
        """Write down what is known by now. Seldom: most requests are gone before it is asked for."""
        for slot in self._slots:
            exchange = slot.exchange
            if exchange is None:
                continue
            if exchange.closed:
                # Not if it waits to be shown: it closed while it was taken over, and nobody else gives this back.
                if slot.memory[slot.at] & ~COUNTED != ENDED and slot.exchange is exchange:
                    exchange.flight_slot = slot
                    self.closed(exchange)
                continue
            blocked = any(one.finding == "event_loop_blocked" for one in exchange.findings)
            route = (exchange.http_route or "").encode("utf-8", "replace")
            if len(route) > ROUTE:  # half a route would be another one
                route = b""
            if blocked or route:
                at = slot.at + ROUTE_AT
                slot.memory[at : at + len(route)] = route
                NOTE.pack_into(slot.memory, slot.at + NOTE_AT, exchange.started_unix_ns, blocked, len(route))

    # ---- after a death ---------------------------------------------------------------------------

    def inherit(self, member: Member) -> None:
        """Tell of what a dead worker had in flight. Raises OSError and ValueError for a file that cannot be read."""
        scene = self._scene
        if scene is None:
            return
        try:
            # Whatever lies there in its place (a link, a pipe) is neither followed nor waited for.
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            opened = os.open(member.path(KIND), flags)
        except FileNotFoundError:
            opened = -1  # it died before it had one
        try:
            data = whole(opened) if opened >= 0 else b""
            found = in_slots(data)
            lost = [one for one in found if one.phase != ENDED]
            ended_unix_ns = self._end_of(member)
            reason = self._reason(scene, member, lost, ended_unix_ns)
            for request in found:
                if not request.told:
                    if request.phase == ENDED:
                        scene.pipeline.inherited(request.exchange, member.pid, counted=request.counted)
                    else:
                        self._tell(scene, member, request, reason, ended_unix_ns)
                    os.pwrite(opened, b"\1", request.at + TOLD_AT)
            if not member.told:
                self._count_exit(scene, member, reason, len(lost))
                member.mark_told()
            # It may have died before it had written the first word.
            if data[: len(MAGIC)].strip(b"\0") not in (b"", MAGIC):
                raise ValueError(f"flight record of worker {member.pid}: no file of ours")
        finally:
            if opened >= 0:
                os.close(opened)

    def _end_of(self, member: Member) -> int:
        """When a dead worker ended (unix ns), as far as can be known: at its last sign of life.

        Unless it stood still (it was stopped, or in code that does not let go of the interpreter): one that this
        worker has looked at once a second until it was dead has ended just now.
        """
        now, timeout_ns = time_ns(), int(member.timeout_s * 1e9)
        still_ns = now - member.seen_unix_ns
        if self._since_unix_ns < member.seen_unix_ns and 0 < timeout_ns <= still_ns + 2 * _EARLY_NS:
            return now
        return member.seen_unix_ns

    def _reason(self, scene: Scene, member: Member, lost: list[Lost], ended_unix_ns: int) -> str:
        reason = member.exit_reason()
        if reason not in ("died", "unknown") or not member.timeout_s:
            return reason
        # It hung where no handler of a signal runs, until its server killed it. Where a worker serves many at once
        # a request may be as old for good reasons; its server gives up on it only when the worker stands still.
        for request in lost:
            too_old = ended_unix_ns - request.opened_unix_ns >= member.timeout_s * 1e9 - _EARLY_NS
            alone = scene.server.capacity == 1 or scene.server.name == "uwsgi" or request.blocked
            if too_old and (alone or ended_unix_ns != member.seen_unix_ns):
                return "timeout"
        return reason

    def _tell(self, scene: Scene, member: Member, request: Lost, reason: str, ended_unix_ns: int) -> None:
        exchange = request.exchange
        if not exchange.http_route and request.cut:
            exchange.http_route = names.UNMATCHED_ROUTE  # a part of a path may lead elsewhere
        route = exchange.http_route = scene.pipeline.route_now(exchange)
        self._metrics.count(names.REQUESTS_LOST, 1, route, reason)
        if request.phase == ANSWERING and not request.counted:
            # Its answer was on its way as a whole: the client has it, but for the one that died between two lines.
            self._metrics.count_answer(exchange.method, route, exchange.status or 0, request.answered_s)
        scene.pipeline.tell(
            "worker_died",
            exchange,
            {
                "http_request_method": exchange.method,
                "http_route": route,
                "url_path": exchange.url_path,
                "phase": PHASES[ENDED if request.counted else request.phase],
                "age_s": round(max(0, ended_unix_ns - request.opened_unix_ns) * 1e-9, 3),
                "reason": reason,
                "worker_pid": member.pid,
                **({"protocol": exchange.protocol} if exchange.protocol != "http" else {}),
            },
        )

    def _count_exit(self, scene: Scene, member: Member, reason: str, lost: int) -> None:
        self._metrics.count(names.WORKER_EXITS, 1, reason)
        if reason == "exited" and not lost:
            return
        scene.pipeline.logs.emit(
            # One that could not say goodbye may have ended in good order, and mostly has.
            "info" if reason == "unknown" and not lost else "warning",
            "worker.ended",
            "obskit",
            {
                "worker_pid": member.pid,
                "worker": member.number,
                "reason": reason,
                "requests_lost": lost,
                "lived_s": round(max(0, member.seen_unix_ns - member.started_unix_ns) * 1e-9, 1),
            },
        )

    def _close_file(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1

    def shutdown(self) -> None:
        """Let go of the file. What is still in flight stays in it: it is lost unless it ends before the process."""
        with self._growing:  # no other file may have taken the descriptor's place
            self._close_file()
