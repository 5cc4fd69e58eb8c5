"""Records that have ended under load, shown to the signals a few at a time.

Each for itself, a record finds the code of all signals cold and asks the kernel to take one line; together they pay for
that once. So where requests follow each other closely, one that went as it should waits for those behind it: for `FEW`,
and not longer than `LONGEST_S`. What an heir could not tell of does not wait (see `watch/flight.py`).

A thread says whether they may wait, a moment at a time. Where it does not come to run, each record is shown at once.
"""

from __future__ import annotations

import os
import threading  # looked up when used: gevent may replace what is in it after we were imported
import time
import weakref
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns

from obskit.exchange import Exchange

FEW = 32
LONGEST_S = 0.05
BUSY = 16
"""So many requests that end within `LONGEST_S`: from here on it is worth while to wait for the next ones."""
MOST = 1024
"""More do not wait where showing them fails again and again: an heir shows those that had no room."""
QUIET_ROUNDS = 4
"""After so many rounds of the thread in which fewer than that were shown, each is shown at once again."""

_WITHIN_NS = round(LONGEST_S * 1e9)
# Two rounds of the thread: who comes late by one is still awaited.
_LEASE_NS = 2 * _WITHIN_NS
_LONG_AGO = -(1 << 62)


class Together:
    """The records of one install that wait to be shown. Whoever adds one shows them when there are `FEW`."""

    def __init__(
        self,
        show: Callable[[list[Exchange]], None],
        may_wait: Callable[[], bool],
        failed: Callable[[str, BaseException], None],
    ) -> None:
        """`may_wait` is asked again and again whether any record may."""
        self._show = show
        self._may_wait = may_wait
        self._failed = failed
        self._over = False
        self._restart()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._restart)
            os.register_at_fork(after_in_child=lambda: (restart := child()) and restart())

    def _restart(self) -> None:
        # What waits when a process forks is its parent's to show, and its thread is not here.
        self.waiting: deque[Exchange] = deque()
        self.until_ns = _LONG_AGO
        """Who ends before that (`perf_counter_ns`) may wait."""
        self._ends = deque([_LONG_AGO] * BUSY, maxlen=BUSY)
        self._shown = 0
        self._thread: threading.Thread | None = None

    def ended(self, ended_ns: int) -> None:
        """One is shown at once. Sees to it that the next ones may wait, where they follow closely."""
        ends = self._ends
        oldest = ends[0]
        ends.append(ended_ns)
        if ended_ns - oldest < _WITHIN_NS and self._thread is None and not self._over:
            self._begin()

    def show(self) -> None:
        """Show all that wait now."""
        waiting, records = self.waiting, []
        try:
            while waiting:
                records.append(waiting.popleft())
        except IndexError:
            pass  # another thread was faster
        if records:
            self._shown += len(records)
            self._show(records)

    def put_back(self, records: list[Exchange]) -> None:
        """These have not been shown after all: they come first, as far as there is room for them."""
        self.waiting.extendleft(reversed(records[: max(0, MOST - len(self.waiting))]))

    def stop(self) -> None:
        """From now on each is shown at once, until the thread says otherwise."""
        self.until_ns = _LONG_AGO
        self.show()

    def end(self) -> None:
        """Show what waits, and nothing waits any more."""
        self._over = True
        self.stop()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._let_wait, name="obskit-together", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: nothing waits, and a later one tries again
            self._thread = None

    def _let_wait(self) -> None:
        """The thread: let records wait as long as it is busy, and show what has waited long enough."""
        quiet = 0
        while quiet < QUIET_ROUNDS and self._thread is threading.current_thread():
            shown, may_wait = self._shown, False
            try:
                may_wait = self._may_wait() and not self._over
            except Exception as error:
                self._failed("close", error)
            self.until_ns = perf_counter_ns() + _LEASE_NS if may_wait else _LONG_AGO
            time.sleep(LONGEST_S)
            self.show()
            quiet = 0 if self._shown - shown >= BUSY else quiet + 1
        if self._thread is threading.current_thread():
            self.until_ns = _LONG_AGO
            self._thread = None
            self.show()
