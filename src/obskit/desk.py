"""One thread that answers scrapes for an event loop: one after the other, and only so many a second.

Not the loop's default executor, which is the application's, and not a thread for each: whoever may ask could make them
without bound. Who asks faster than `RATE` waits in line, which costs the loop nothing; who finds the line full is told.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Any

RATE = 100.0
"""Answers a second, when `BURST` have been given at once."""
BURST = 100.0
MAX_LINE = 256
IDLE_S = 5.0
LOOK_S = 0.25
WAIT_S = 30.0
"""Longer than that nobody stands in line."""


class Pace:
    """Lets `BURST` through at once, and `RATE` a second in the long run."""

    def __init__(self, clock: Callable[[], float] = monotonic, wait: Callable[[float], None] = sleep) -> None:
        self._clock = clock
        self._sleep = wait
        self._left, self._at = BURST, clock()

    def wait(self) -> None:
        """Block until the next one may go on."""
        now = self._clock()
        self._left, self._at = min(BURST, self._left + (now - self._at) * RATE), now
        if self._left < 1.0:
            self._sleep((1.0 - self._left) / RATE)
        self._left -= 1.0


class Desk:
    """Where the scrapes of one door stand in line. Its thread is there while there is something to do."""

    def __init__(self) -> None:
        self._restart()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._restart)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    def _restart(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._line: deque[_Asked] = deque()
        self._thread: threading.Thread | None = None
        self._pace = Pace()

    def __deepcopy__(self, memo: object) -> Desk:
        """A copy of what is served has a line of its own."""
        return Desk()

    async def ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What the call returns, made on the desk's thread; None if the line is full. The call must not raise.

        Under trio it is made here, for want of a way to wait.
        """
        try:
            asked = _Asked(asyncio.get_running_loop(), call, arguments)
        except RuntimeError:
            return call(*arguments)
        if not self._take(asked):
            return None
        try:
            until = asked.loop.time() + WAIT_S
            while not asked.over and asked.loop.time() < until:
                # Not for being told alone: whoever should tell may have failed at it.
                with suppress(TimeoutError):
                    await asyncio.wait_for(asked.done.wait(), min(LOOK_S, WAIT_S))
        finally:
            asked.wanted = False  # who was cancelled needs no page
        return asked.result

    def _take(self, asked: _Asked) -> bool:
        starting = None
        with self._changed:
            if len(self._line) >= MAX_LINE:
                return False
            self._line.append(asked)
            if self._thread is None:
                starting = self._thread = threading.Thread(
                    target=self._run, args=(self._changed,), name="obskit-desk", daemon=True
                )
            self._changed.notify()
        try:
            if starting is not None:
                starting.start()
        except RuntimeError:  # no more threads to be had
            with self._changed:
                self._thread = None
                self._line.clear()
            return False
        return True

    def _run(self, changed: threading.Condition) -> None:
        """Answer until nobody has asked for a while. Whatever goes wrong, nobody waits for a thread that is gone."""
        over, asked = False, None
        try:
            while True:
                with changed:
                    if not self._line and not changed.wait(IDLE_S) and not self._line:
                        self._thread, over = None, True
                        return
                    asked = self._line[0] if self._line else None
                    if asked is not None:
                        self._line.popleft()
                if asked is not None:
                    self._answer(asked)
        finally:
            # Who comes from here on starts another thread; who is in line and has missed that gets None.
            if not over and changed is self._changed:
                self._thread, line = None, list(self._line)
                self._line.clear()
                for one in (asked, *line):
                    if one is not None:
                        one.tell()

    def _answer(self, asked: _Asked) -> None:
        try:
            if asked.wanted:
                self._pace.wait()
                asked.result = asked.call(*asked.arguments)
        except BaseException:  # whoever asked gets None; there is nobody else to tell here
            return
        finally:
            asked.tell()


class _Asked:
    """One who stands in line."""

    __slots__ = ("arguments", "call", "done", "loop", "over", "result", "wanted")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[..., Any], arguments: Any) -> None:
        self.loop = loop
        self.call = call
        self.arguments = arguments
        self.done = asyncio.Event()
        self.result: Any = None
        self.wanted = True
        self.over = False

    def tell(self) -> None:
        self.over = True
        try:
            self.loop.call_soon_threadsafe(self.done.set)
        except Exception:  # the loop has been closed: nobody waits there any more
            return
