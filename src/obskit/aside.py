"""Work that may block, done on a thread of its own: an event loop goes on meanwhile, and nobody waits for ever.

Not in the loop's default executor: that is the application's, which fills it with work of its own and waits at its
end until it is empty.
"""

from __future__ import annotations

import asyncio
import select
import threading  # looked up when used: gevent may replace what is in it after we were imported
from collections.abc import Callable
from time import monotonic
from typing import Any

WAIT_S = 1.0
"""How long a request waits for `Once`: what takes milliseconds has hung by then."""
LOOK_EVERY_S = 0.25
PAUSE_S = 0.1


class Once:
    """Does something once, aside. Who needs it done waits for a second at most, an event loop not at all.

    What it does must not raise. `over` says that no request has to care any more: it is done, on its way, or it hangs.
    """

    def __init__(
        self, do: Callable[[Any], None], late: Callable[[], None], look: Callable[[], Any] = lambda: None
    ) -> None:
        """`look` is called in the thread that comes first, and `do` gets what it saw; `late` when `do` hangs."""
        self._do = do
        self._look = look
        self._late = late
        self._lock = threading.Lock()
        self._started = self._was_late = False
        self._seen: tuple[Any, ...] = ()
        self._done = threading.Event()
        self.over = False

    def look(self) -> None:
        """Look now, in the thread of who comes first, for what may be done from another one later."""
        self._seen = (self._look(),)

    def start(self) -> None:
        """In an event loop: have it done, and go on: waiting for it, the application would see either way."""
        self.over = True
        self._start()

    def wait(self) -> None:
        """Block until it is done, or `WAIT_S` have passed; who comes after those waits no more."""
        if self._done.is_set() or self._was_late:
            return
        self._start()
        if not self._done.wait(WAIT_S) and not self._was_late:
            self._was_late = True
            self._late()
        self.over = True

    def settle(self) -> None:
        """It is about to be undone: let it come to its end, if it has been started."""
        if self._started:
            self.over = True
            self._done.wait(WAIT_S)

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        (seen,) = self._seen or (self._look(),)
        self._seen = ()
        threading.Thread(target=self._run, args=(seen,), name="obskit-begin", daemon=True).start()

    def _run(self, seen: Any) -> None:
        try:
            self._do(seen)
        finally:
            self._done.set()


def pause_until(done: Callable[[], bool], timeout_s: float | None = None) -> None:
    """Stand still until it is, `PAUSE_S` at most: in an event loop only where that is as good as no time."""
    until = monotonic() + (PAUSE_S if timeout_s is None else timeout_s)
    while not done() and monotonic() < until:
        select.select((), (), (), 0.0002)


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
    ended = False

    def run() -> None:
        nonlocal ended
        try:
            result.append(call(*arguments))
        finally:
            ended = True
            _tell(loop, done)

    threading.Thread(target=run, name="obskit-aside", daemon=True).start()
    while not ended:
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await done.wait()
        except TimeoutError:
            continue  # should it have ended and not been able to say so, that is seen here
    return result[0] if result else None


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(done.set)
    except Exception:  # the loop has been closed: nobody waits there any more; or he who waits looks himself
        return
