"""The one thread that looks on: it calls what is to be looked at, each at its own interval.

A thread per process, not per install: it starts with the first entry in the process that serves, ends with the last,
and is not there in a forked child. It never keeps a process alive.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic
from typing import Any


class Ticker:
    """Calls bound methods at intervals, without keeping their objects alive."""

    def __init__(self) -> None:
        self._restart()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._restart)

    def _restart(self) -> None:
        self._changed = Condition()
        self._entries: list[list[Any]] = []  # [weak method, seconds, due]
        self._thread: Thread | None = None

    def add(self, call: Callable[[], None], every_s: float) -> None:
        """Call this bound method every `every_s` seconds, first after as many. It must not raise."""
        with self._changed:
            self._entries.append([weakref.WeakMethod(call), every_s, monotonic() + every_s])
            if self._thread is None:
                self._thread = Thread(
                    target=self._run, args=(self._changed,), name="obskit-watch", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def remove(self, owner: object) -> None:
        """Forget all methods of this object."""
        with self._changed:
            self._entries = [
                e for e in self._entries if (call := e[0]()) is not None and call.__self__ is not owner
            ]
            self._changed.notify()

    def _run(self, changed: Condition) -> None:
        while True:
            with changed:
                self._entries = [entry for entry in self._entries if entry[0]() is not None]
                if not self._entries:
                    self._thread = None
                    return
                now = monotonic()
                due = [entry for entry in self._entries if entry[2] <= now]
                if not due:
                    changed.wait(min(entry[2] for entry in self._entries) - now)
                    continue
                for entry in due:
                    # A clock that stood still (a suspended machine) is not made up for.
                    entry[2] = max(entry[2] + entry[1], now)
                calls = [entry[0]() for entry in due]
            for call in calls:
                if call is not None:
                    call()
            call = calls = None  # type: ignore[assignment]  # nothing here keeps them alive while we wait


ticker = Ticker()
