"""The threads that look on: each calls what is to be looked at, each at its own interval.

A thread per process, not per install: it starts with the first entry in the process that serves, ends with the last,
and is not there in a forked child. It never keeps a process alive.

There are two. `ticker` is for what only looks, and waits for nobody; `housekeeper` is for what works on files, whose
disk may hang for ever. A thread that hangs is left to itself, and another one goes on with what waits behind it
(`obskit.watch.oversight`).
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from threading import Condition, Lock
from time import monotonic

HUNG_S = 5.0
"""A call that takes longer hangs."""
REMOVE_S = 1.0
"""How long `remove` waits for a call that has begun."""


class _Entry:
    """One method, how often it is called, and when next."""

    __slots__ = ("began", "call", "due", "every_s")

    def __init__(self, call: Callable[[], None], every_s: float) -> None:
        self.call = weakref.WeakMethod(call)
        self.every_s = every_s
        self.due = monotonic() + every_s
        self.began = 0.0
        """When the call that runs has begun."""

    def is_of(self, owner: object) -> bool:
        call = self.call()
        return call is not None and getattr(call, "__self__", None) is owner


class Ticker:
    """Calls bound methods at intervals, without keeping their objects alive."""

    def __init__(self, name: str = "obskit-watch") -> None:
        self._name = name
        self._restart()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._restart)

    def _restart(self) -> None:
        # No RLock, which a Condition would make: it may be made before gevent replaces threads by greenlets, and then
        # takes all of them for one thread.
        self._changed = Condition(Lock())
        self._entries: list[_Entry] = []
        self._running: _Entry | None = None
        self._hung: list[_Entry] = []
        self._thread: threading.Thread | None = None

    def add(self, call: Callable[[], None], every_s: float) -> None:
        """Call this bound method every `every_s` seconds, first after as many. It must not raise."""
        with self._changed:
            self._entries.append(_Entry(call, every_s))
            begun = self._begin() if self._thread is None else None
            self._changed.notify_all()
        self._start(begun)

    def _begin(self) -> threading.Thread:
        # Looked up now: gevent may have replaced the class since this was imported.
        thread = threading.Thread(target=self._run, args=(self._changed,), name=self._name, daemon=True)
        self._thread = thread
        return thread

    def _start(self, thread: threading.Thread | None) -> None:
        """Called without the lock: a greenlet runs in the midst of its own start."""
        if thread is not None:
            try:
                thread.start()
            except BaseException:
                self._thread = None  # no thread to be had: the next one to come tries again
                raise

    def remove(self, owner: object) -> bool:
        """Forget all methods of this object. None of them runs any more when this returns; false: one hangs."""
        deadline = monotonic() + REMOVE_S
        with self._changed:
            self._entries = [entry for entry in self._entries if not entry.is_of(owner)]
            hung, self._hung = self._hung, [entry for entry in self._hung if not entry.is_of(owner)]
            self._changed.notify_all()
            if len(hung) > len(self._hung):
                return False
            if threading.current_thread() is self._thread:
                return True
            while self._running is not None and self._running.is_of(owner):
                left_s = deadline - monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def running_s(self, owner: object) -> float:
        """For how many seconds a call of this object has been running; 0 if none does."""
        with self._changed:
            running = [*self._hung, *([self._running] if self._running is not None else [])]
            began = [entry.began for entry in running if entry.is_of(owner)]
        return monotonic() - min(began) if began else 0.0

    def rescue(self) -> None:
        """Leave a call that hangs to itself: another thread goes on with the others. It comes back when it ends."""
        with self._changed:
            hung = self._running
            if hung is not None and monotonic() - hung.began >= HUNG_S:
                self._entries = [entry for entry in self._entries if entry is not hung]
                self._hung.append(hung)
                self._running = self._thread = None
            begun = self._begin() if self._thread is None and self._entries else None
        self._start(begun)

    def _run(self, changed: Condition) -> None:
        entry: _Entry | None = None
        while True:
            with changed:
                if not self._goes_on(entry):
                    return
                self._running = None
                changed.notify_all()
                self._entries = [one for one in self._entries if one.call() is not None]
                if not self._entries:
                    self._thread = None
                    return
                now = monotonic()
                # One at a time: what is removed meanwhile is not called any more.
                entry = min(self._entries, key=lambda one: one.due)
                if entry.due > now:
                    changed.wait(entry.due - now)
                    continue
                # A clock that stood still (a suspended machine) is not made up for.
                entry.due = max(entry.due + entry.every_s, now)
                self._running, entry.began = entry, now
                call = entry.call()
            try:
                if call is not None:
                    call()
            except Exception:
                pass  # each tells of its own failures: this is one in the telling, and the others are to be called
            call = None  # nothing here keeps them alive while we wait

    def _goes_on(self, entry: _Entry | None) -> bool:
        """Whether this thread is still the one that calls; `entry` is what it has called last."""
        this = threading.current_thread()
        if this is self._thread:
            return True
        if entry in self._hung:  # it has ended after all
            self._hung.remove(entry)
            entry.due = monotonic() + entry.every_s
            self._entries.append(entry)
            self._changed.notify_all()
        if self._thread is None:  # the one in its place has found nothing to do
            self._thread = this
            return True
        return False


ticker = Ticker()
housekeeper = Ticker("obskit-house")
