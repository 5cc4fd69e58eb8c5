"""How often a page of metrics is made anew: whoever asks, it takes a bounded part of the application's CPU.

A page costs milliseconds of a processor that the application has only one of (the interpreter's lock). So pages are
made one at a time, one serves all who came before it was begun, and making them takes a tenth of the time in the long
run. Up to there every answer is fresh; beyond it the last page is given, with its age, while it is young.
"""

from __future__ import annotations

import gzip
import os
import weakref
from collections.abc import Callable
from threading import Condition, Lock
from time import monotonic, thread_time

SHARE = 0.1
"""Seconds of CPU per second that making pages may take in the long run."""
BURST_S = 1.0
"""Seconds of CPU that may be taken at once before the share counts: dozens of scrapes."""
MAX_AGE_S = 1.0
"""A page older than this is not given. Of several workers another one may have answered the scrape before, with a page
younger than ours, and then a counter would seem to fall; but nobody scrapes more often than once a second."""
REST = 3.0
"""So many times as long as a page took, no other is made when the share is used up and there is none to give: large
pages take a quarter of the time at the worst."""
WAIT_S = 5.0
"""How long a page may be in the making before nobody waits for it any more."""
MAX_WAITING = 2
"""So many wait for the next page; each holds a thread of the application's server, so others get the last one."""
MAX_FORMATS = 12


class Budget:
    """A bucket that fills with the time taken and leaks at a constant rate."""

    def __init__(self, share: float = SHARE, clock: Callable[[], float] = monotonic) -> None:
        self._share = share
        self._clock = clock
        self._level = 0.0
        self._at = clock()

    def level(self) -> float:
        """Seconds taken and not yet leaked."""
        now = self._clock()
        self._level = max(0.0, self._level - max(0.0, now - self._at) * self._share)
        self._at = now
        return self._level

    def take(self, seconds: float) -> None:
        """Note that so much was taken."""
        self._level = self.level() + max(0.0, seconds)


class Page:
    """One page in one format, and what it is compressed: once, and only if somebody wants it so."""

    __slots__ = ("_gzipped", "_took", "age_s", "body")

    def __init__(self, body: bytes, took: Callable[[float], None], age_s: float | None = None) -> None:
        self.body = body
        self.age_s = age_s
        """Seconds since it was made; None if it was made for who asked."""
        self._took = took
        self._gzipped: list[bytes] = []

    def aged(self, age_s: float) -> Page:
        """The same page for somebody who comes later."""
        page = Page(self.body, self._took, age_s)
        page._gzipped = self._gzipped
        return page

    def compressed(self) -> bytes:
        """The body in gzip."""
        if not self._gzipped:
            began = thread_time()
            self._gzipped.append(gzip.compress(self.body, compresslevel=1))
            self._took(thread_time() - began)
        return self._gzipped[0]


class _Made:
    """The last page of one format: which making it was, counted, and when that began."""

    __slots__ = ("began", "number", "page")

    def __init__(self, page: Page, number: int, began: float) -> None:
        self.page = page
        self.number = number
        self.began = began


class Pages:
    """The pages of one endpoint, by format."""

    def __init__(
        self, clock: Callable[[], float] = monotonic, cpu_clock: Callable[[], float] = thread_time
    ) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._restart()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._restart)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    def _restart(self) -> None:
        self._changed = Condition(Lock())
        self._budget = Budget(clock=self._clock)
        self._made: dict[str, _Made] = {}
        self._begun = 0
        self._making = False
        self._waiting = 0
        self._ended = self._cost = 0.0
        self._since = 0.0
        """When the page that is in the making was begun."""

    def get(self, kind: str, make: Callable[[], bytes]) -> Page | None:
        """A page of this format: made now, or the last one if pages have taken their share; None if that is too old.

        Raises what `make` raises.
        """
        with self._changed:
            came_after = self._begun  # the makings that had begun by now may have missed what we are to see
            while True:
                made = self._made.get(kind)
                if made is not None and made.number > came_after:
                    return made.page
                if not self._making:
                    break
                left = self._since + WAIT_S - self._clock()
                crowded = self._waiting >= MAX_WAITING and self._old(made) is not None
                if crowded or left <= 0.0 or not self._wait(left):
                    return self._old(made)
            if self._budget.level() >= BURST_S:
                old = self._old(made)
                if old is not None or self._clock() - self._ended < REST * self._cost:
                    return old
            number, began, began_cpu = self._begun + 1, self._clock(), self._cpu_clock()
            self._making = True  # nothing behind it may raise: others wait for the one who makes
            self._begun = number
            self._since = began
        page = None
        try:
            page = Page(make(), self._budget.take)
        finally:
            self._making = False  # first, and without a lock: whatever fails below, others go on
            with self._changed:
                try:
                    self._note(kind, page, number, began, began_cpu)
                finally:
                    self._changed.notify_all()
        return page

    def _note(self, kind: str, page: Page | None, number: int, began: float, began_cpu: float) -> None:
        self._ended, self._cost = self._clock(), self._cpu_clock() - began_cpu
        self._budget.take(self._cost)
        if page is not None:
            self._made.pop(kind, None)
            self._made[kind] = _Made(page, number, began)
            if len(self._made) > MAX_FORMATS:
                del self._made[next(iter(self._made))]

    def _wait(self, seconds: float) -> bool:
        self._waiting += 1
        try:
            return self._changed.wait(seconds)
        finally:
            self._waiting -= 1

    def _old(self, made: _Made | None) -> Page | None:
        if made is None:
            return None
        age = self._clock() - made.began
        return made.page.aged(age) if age <= MAX_AGE_S else None
