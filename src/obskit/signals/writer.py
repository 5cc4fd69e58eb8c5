"""Where lines go: standard output, one write per line, never an exception into the application, never a wait.

A line is written when it happens, so that the last one before a crash is there. Only when nobody reads does it wait, in
a backlog of fixed size that a thread empties as soon as somebody reads again; what does not fit is dropped, counted,
and told when there is room. With `log_when_full="block"` the application waits instead.

An ordinary line passes by the lock: the kernel keeps it whole and apart from those of other threads, and a thread that
has written and waits for the interpreter would make all the others wait for it. In turn, under the lock, goes what may
be taken in parts, and what comes while something waits.
"""

from __future__ import annotations

import os
import sys
import threading  # looked up when used: gevent may replace what is in it after we were imported
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, TextIO

from obskit.signals.outlet import LOOK_EVERY_S, Outlet, WouldBlock

# One write of a whole line keeps the lines of several workers apart on one pipe.
MAX_LINE_BYTES: Final = 16_384
# Several lines at once are written in pieces of at most this, and of what the kernel keeps whole.
_TOGETHER_BYTES: Final = 65_536
MAX_BACKLOG_BYTES: Final = 4 * 1024 * 1024
# How long the thread waits before it looks again whether it is still wanted.
_WAIT_S: Final = 0.5
# So often, and so long each time, the thread waits for lines that pass by: they need microseconds.
_PASSINGS: Final = 500
_PASSING_S: Final = 0.001
# An empty backlog keeps its thread for so long: where each line takes this way, it is not started for each.
_IDLE_S: Final = 5.0


class Writer:
    """Writes whole lines to standard output as it is at that moment (a test or a server may replace it)."""

    def __init__(
        self,
        dropped: Callable[[str, str], None],
        *,
        when_full: str = "drop",
        recovered: Callable[[int], None] = lambda lost: None,
    ) -> None:
        """`recovered` hears how many lines were dropped once there is room again."""
        self._dropped = dropped
        self._recovered = recovered
        self._blocks = when_full == "block"
        self._after_fork()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    def _after_fork(self) -> None:
        # What waits is the parent's to write; its lock may have been held by a thread that is not here.
        self._changed = threading.Condition()
        self._backlog: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._outlet: Outlet | None = None
        self._torn = False
        # One for each thread that is passing by; and whether none may begin to.
        self._passing: list[None] = []
        self._one_by_one = False

    def write(self, line: str) -> None:
        """Write one line (without its newline). Never raises; a line that cannot be written is counted."""
        try:
            line += "\n"
            data = line.encode("utf-8", "replace")
            outlet = self._outlet
            written = 0 if outlet is None else self._pass_by(outlet, data)
            if written != len(data):
                self._go_on(outlet, data, written)
        except Exception:  # a stream the application put there may raise anything
            self._dropped("logs", "write_failed")

    def write_together(self, lines: Sequence[str]) -> None:
        """The same of several lines, in their order, with as few calls as keep each of them whole."""
        left = len(lines)
        try:
            data = "\n".join([*lines, ""]).encode("utf-8", "replace")
            at = 0
            while at < len(data):
                end = self._end_of_whole(data, at)
                if end <= at:  # or this would go on for ever
                    raise ValueError(f"lines that end at {end}, behind {at}")
                self._write_chunk(data[at:end])
                left -= data.count(b"\n", at, end)
                at = end
            left = 0
        except Exception:
            return  # what is left is counted
        finally:  # also where something throws us out
            for _ in range(left):
                self._dropped("logs", "write_failed")

    def _end_of_whole(self, data: bytes, at: int) -> int:
        """The end of the lines from here on that one call keeps whole; of one line, where it keeps none."""
        outlet = self._outlet
        most = 0 if outlet is None else min(outlet.whole, _TOGETHER_BYTES)
        return (data.rfind(b"\n", at, at + most) + 1) or (data.index(b"\n", at) + 1)

    def _write_chunk(self, chunk: bytes) -> None:
        """Write lines at once, or else one by one, so that of those that cannot be written each is counted."""
        outlet, written = self._outlet, 0
        try:
            written = 0 if outlet is None else self._pass_by(outlet, chunk)
        except Exception:  # nothing is written; each of them will say the same
            written = 0
        if written == len(chunk):
            return
        for text in chunk.split(b"\n")[:-1]:
            line = text + b"\n"
            if written < len(line):
                try:
                    self._go_on(outlet, line, written)
                except Exception:  # as above
                    self._dropped("logs", "write_failed")
            written = max(0, written - len(line))

    def _pass_by(self, outlet: Outlet, data: bytes) -> int:
        """Write lines beside other threads, if the kernel keeps them whole and nothing waits; how much was written."""
        stream = outlet.stream
        if stream is not sys.stdout or stream is not sys.__stdout__ or len(data) > outlet.whole:
            return 0
        passing = self._passing
        passing.append(None)  # before we look: who is about to write in parts sees us, or we see him
        try:
            if self._one_by_one or self._backlog or self._torn:
                return 0
            if not 0.0 <= monotonic() - outlet.looked < LOOK_EVERY_S:
                return 0
            if outlet.never_full:
                stream.flush()  # as below
                return os.write(outlet.fd, data)
            return outlet.write_at_once(data) if stream.fileno() == outlet.fd else 0
        except (OSError, WouldBlock):
            return 0  # nothing is written: in turn it may be, or wait, or fail for good
        finally:
            passing.pop()

    def _go_on(self, outlet: Outlet | None, data: bytes, written: int) -> None:
        """Write what has not passed by: the rest of a line, or all of it in its turn."""
        if outlet is not None and 0 < written < len(data):
            self._finish(outlet, data[written:])
        else:
            self._in_turn(data)

    def _finish(self, outlet: Outlet, rest: bytes) -> None:
        """Write the rest of a line that a file took in parts: its disk is full, or nearly. Raises OSError."""
        with self._changed:
            try:
                left = self._written(outlet, rest)  # goes on where it ended
            except OSError:
                self._torn = True
                raise
            starting = self._keep(left) if left else None
        if starting is not None:
            self._start(starting)

    def _in_turn(self, data: bytes) -> None:
        stream: TextIO | None = sys.stdout
        if stream is None:
            self._dropped("logs", "stdout_closed")
        elif sys.__stdout__ is None or stream is not sys.__stdout__:
            stream.write(data.decode("utf-8"))
            stream.flush()
        elif self._blocks:
            stream.flush()  # what the application has printed so far stays in front of it
            self._write_all(stream.fileno(), data)
        else:
            self._offer(stream, data)

    def _write_all(self, fd: int, data: bytes) -> None:
        data = self._mended(data)
        self._torn = False
        written = os.write(fd, data)
        while written < len(data):
            self._torn = True
            written += os.write(fd, data[written:])
        self._torn = False

    def _mended(self, data: bytes) -> bytes:
        return b"\n" + data if self._torn else data  # the line before ends in the middle

    def _offer(self, stream: TextIO, data: bytes) -> None:
        """Write now what goes without waiting, and leave the rest to the thread. Raises OSError."""
        with self._changed:
            outlet, fd = self._outlet, stream.fileno()
            if outlet is None or outlet.stream is not stream or outlet.fd != fd:
                outlet = self._outlet = Outlet(stream, fd)
            if outlet.never_full:
                stream.flush()  # what the application has printed so far stays in front; into a pipe this could wait
            before, in_parts = self._one_by_one, len(data) > outlet.whole
            self._one_by_one = before or in_parts
            try:
                if not self._backlog and not (in_parts and self._passing):
                    data = self._written(outlet, data)
                starting = self._keep(data) if data else None
            finally:
                self._one_by_one = (
                    before  # what is left is in the backlog now, and none passes by that either
                )
        if starting is not None:
            self._start(starting)  # not under the lock: under gevent the new thread runs at once, as this one

    def _written(self, outlet: Outlet, data: bytes) -> bytes:
        """Write without waiting; returns what is left. Raises OSError."""
        data = self._mended(data)
        whole = len(data)
        try:
            while data:
                written = outlet.write(data)
                if not 0 < written <= len(data):  # or this would go on for ever
                    raise OSError(f"wrote {written} of {len(data)} bytes")
                data = data[written:]
        except WouldBlock:
            pass
        except OSError:
            self._torn = self._torn or len(data) < whole
            raise
        self._torn = False  # what is left comes next
        return data

    def _keep(self, data: bytes) -> threading.Thread | None:
        """Let it wait; returns a thread that is to be started."""
        if self._waiting_bytes + len(data) > MAX_BACKLOG_BYTES:
            self._lost += 1
            self._dropped("logs", "queue_full")
            return None
        self._backlog.append(data)
        self._waiting_bytes += len(data)
        self._changed.notify_all()
        if self._thread is not None:
            return None
        self._thread = threading.Thread(
            target=self._empty, args=(self._changed,), name="obskit-logs", daemon=True
        )
        return self._thread

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had: the next line that has to wait tries again
            self._thread = None

    def _empty(self, changed: threading.Condition) -> None:
        """The thread: write what waits, as fast as it is read."""
        idle_since = monotonic()
        while True:
            with changed:
                if changed is not self._changed:
                    return
                outlet = self._outlet
                if not self._backlog or outlet is None:
                    if monotonic() - idle_since >= _IDLE_S:
                        self._thread = None
                        return
                    changed.wait(_IDLE_S)
                    continue
            try:
                self._empty_into(outlet, changed)
            except Exception:  # an error of one descriptor: the next line may go to another
                with changed:
                    self._take_first()
                self._dropped("logs", "write_failed")
            idle_since = monotonic()
            self._tell_lost()

    def _empty_into(self, outlet: Outlet, changed: threading.Condition) -> None:
        if outlet.patient:
            with changed:
                first = self._backlog[0] if self._backlog else b""
            taken = outlet.write_waiting(first)
            with changed:
                self._take_first(first[taken:])
            return
        with changed:
            for _ in range(_PASSINGS):  # none begins to pass by while something waits
                if not self._passing:
                    break
                changed.wait(_PASSING_S)
            else:
                self._passing = []  # one of them was thrown out of its call, and is on its way no more
            while self._backlog:
                first = self._backlog[0]
                left = self._written(outlet, first)
                self._take_first(left)
                if left:
                    break
        if self._backlog:
            outlet.wait(_WAIT_S)

    def _take_first(self, left: bytes = b"") -> None:
        if not self._backlog:
            return
        self._waiting_bytes -= len(self._backlog.popleft()) - len(left)
        if left:
            self._backlog.appendleft(left)
        if not self._backlog:
            self._changed.notify_all()

    def _tell_lost(self) -> None:
        with self._changed:
            if self._backlog or not self._lost:
                return
            lost, self._lost = self._lost, 0
        self._recovered(lost)

    def flush(self, timeout_s: float) -> None:
        """Wait until nothing waits to be written, at most this many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._backlog, timeout_s)

    def give_up(self) -> None:
        """Nobody reads and the process ends: count what still waits."""
        with self._changed:
            left = len(self._backlog)
            self._backlog.clear()
            self._waiting_bytes = 0
        for _ in range(left):
            self._dropped("logs", "shutdown")

    def isatty(self) -> bool:
        """Whether a person is looking."""
        try:
            return sys.stdout is not None and sys.stdout.isatty()
        except Exception:  # as above
            return False
