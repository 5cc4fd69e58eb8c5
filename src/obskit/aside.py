"""Work that may block, done on a thread of its own: an event loop goes on meanwhile, and nobody waits for ever.

Not in the loop's default executor: that is the application's, which fills it with work of its own and waits at its
end until it is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any

WAIT_S = 1.0
"""How long a request waits for `Once`: what takes milliseconds has hung by then."""


class Once:
    """Does something once, aside, and lets those wait who need it done.

    What it does must not raise. `over` says that nobody waits any more: it is done, or it hangs.
    """

    def __init__(
        self, do: Callable[[Any], None], late: Callable[[], None], look: Callable[[], Any] = lambda: None
    ) -> None:
        """`look` is called in the thread that comes first, and `do` gets what it saw; `late` when `do` hangs."""
        self._do = do
        self._look = look
        self._late = late
        self._lock = Lock()
        self._started = False
        self._done = Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.over = False

    def wait(self) -> None:
        """Block until it is done, or `WAIT_S` have passed."""
        self._start()
        self._ended(in_time=self._done.wait(WAIT_S))

    async def awaited(self) -> None:
        """The same in an event loop, which goes on; under trio it blocks, for want of a way to wait."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.wait()
            return
        done = asyncio.Event()
        with self._lock:
            self._waiting.append((loop, done))
        self._start()
        if self._done.is_set():
            done.set()
        await _uncancelled(done, WAIT_S)
        self._ended(in_time=self._done.is_set())

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        seen = self._look()
        Thread(target=self._run, args=(seen,), name="obskit-begin", daemon=True).start()

    def _run(self, seen: Any) -> None:
        try:
            self._do(seen)
        finally:
            self._done.set()
            with self._lock:
                waiting, self._waiting = self._waiting, []
            for loop, done in waiting:
                _tell(loop, done)

    def _ended(self, *, in_time: bool) -> None:
        if not in_time and not self.over:
            self._late()
        self.over = True


async def aside(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call it on a thread of its own and wait for what it returns; under trio it is called here.

    `call` must not raise, or what it raised is lost and None comes back.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return call(*arguments)
    done = asyncio.Event()
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(call(*arguments))
        finally:
            _tell(loop, done)

    Thread(target=run, name="obskit-aside", daemon=True).start()
    await done.wait()
    return result[0] if result else None


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(done.set)
    except RuntimeError:  # the loop has been closed: nobody waits there any more
        return


async def _uncancelled(done: asyncio.Event, timeout_s: float) -> None:
    """Wait for it. A cancellation meanwhile is the application's to see, at its own first wait."""
    try:
        await asyncio.wait_for(done.wait(), timeout_s)
    except TimeoutError:
        return
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is None:
            raise
        task.uncancel()
        task.cancel(*cancelled.args)
