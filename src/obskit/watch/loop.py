"""The event loop: how late it is, and who blocks it, seen while it is blocked.

A heartbeat asks the loop to be called at a time; by how much it is late is the lag. The watching thread sees a
heartbeat that does not come at all, and looks at what the loop's thread runs meanwhile. It looks twice: only code
that is there both times, in the same call, blocks. A loop that is merely busy has gone on to something else by then,
and an idle one shows nothing but its own waiting. Time in which the loop's thread wanted to run and got no processor
is taken off where the kernel tells it, and so is time in which the watching thread did not run either (the process was
stopped, the machine suspended).

Code that holds the interpreter's lock all the while (a C extension that does not let go of it) keeps the watching
thread from looking, too; the lag that it leaves is in the histogram.
"""

from __future__ import annotations

import asyncio
import sys
from contextvars import Context
from itertools import dropwhile
from time import monotonic
from types import FrameType
from typing import Any

from obskit import names
from obskit.exchange import Exchange
from obskit.watch.processor import NOTHING, Processor
from obskit.watch.scene import Scene
from obskit.watch.stacks import Look, behind_door, outermost_first, stack_in, thread_name
from obskit.watch.vantage import of_the_loop

BEAT_S = 0.1
LATE_S = 0.1
"""A watching thread that is later than this has not been running: it judges nobody."""


class LoopWatch:
    """Watches the loop in which the process got its first request; under WSGI and trio there is none."""

    every_s = BEAT_S

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._due = 0.0
        self._processor = Processor(0)
        self._used = NOTHING
        """What its thread had used of the processor, and had waited for it, when the loop was last on time."""
        self._stopped_s = 0.0
        """For how long the watching thread has not been running since then."""
        self._outside = 0
        self._ticked = monotonic()
        # The beat that is overdue, and the call that was there at the first look. The frame itself and not its id,
        # which the next one's may have; it is let go with the next tick or beat.
        self._suspect: tuple[float, FrameType] | None = None
        self._told_s = 0.0

    def begin(self) -> None:
        """Called from any thread."""
        seen = self._scene.vantage
        loop = seen.loop
        if loop is None:
            self.every_s = 0.0
            return
        self._loop, self._thread, self._outside = loop, seen.thread, seen.outside
        self._processor = Processor(seen.native_thread)
        self._used = self._processor.used()
        self._due = monotonic() + BEAT_S
        try:
            loop.call_soon_threadsafe(self._ask, loop, context=Context())
        except RuntimeError:  # it has been closed since it made its first request
            self.shutdown()
            self.every_s = 0.0

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        # Our own clock: uvloop's stands still while the loop is blocked. An empty context: the one of the first
        # request would live as long as the loop.
        self._due = monotonic() + BEAT_S
        loop.call_later(BEAT_S, self._beat, context=Context())

    def _beat(self) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            self._suspect = None
            self._told_s = 0.0
            self._outside = _outside_of_beat(sys._getframe())
            self._scene.metrics.observe(names.EVENT_LOOP_LAG, max(0.0, monotonic() - self._due))
        except Exception as error:
            self._scene.pipeline.failed("watch.loop", error)
        self._ask(loop)

    def tick(self) -> None:
        """Called by the watching thread."""
        loop = self._loop
        if loop is None:
            return
        try:
            now = monotonic()
            before, self._ticked = self._ticked, now
            suspect, self._suspect = self._suspect, None
            if loop.is_closed():
                self.shutdown()
            elif now - before > BEAT_S + LATE_S:
                self._stopped_s += now - before - BEAT_S
            elif loop.is_running():
                self._look(loop, suspect, now)
        except Exception as error:
            self._scene.pipeline.failed("watch.loop", error)

    def _look(
        self, loop: asyncio.AbstractEventLoop, suspect: tuple[float, FrameType] | None, now: float
    ) -> None:
        due, used = self._due, self._processor.used()
        if now <= due:
            self._used, self._stopped_s = used, 0.0
            return
        blocked_s = now - due - self._stopped_s
        if used.known:
            blocked_s -= used.waited_s - self._used.waited_s
        if blocked_s < max(self._scene.config.loop_blocked_s, 2 * self._told_s):
            return
        frame = sys._current_frames().get(self._thread)
        call = self._called_by_the_loop(frame)
        if frame is None or call is None or self._due != due:
            return
        if suspect is None or suspect[0] != due or suspect[1] is not call:
            self._suspect = (due, call)
            return
        self._told_s = blocked_s
        exchange = Look(loop, self._thread).at_work_on(frame)
        frames = list(dropwhile(lambda one: one is not call, outermost_first(frame)))
        evidence = {
            "blocked_s": round(blocked_s, 2),
            **({"cpu_s": round(used.ran_s - self._used.ran_s, 2)} if used.known else {}),
            **stack_in(behind_door(frames), thread_name(self._thread)).evidence(),
        }
        self._tell(exchange, evidence)

    def _tell(self, exchange: Exchange | None, evidence: dict[str, Any]) -> None:
        pipeline = self._scene.pipeline
        if exchange is None or exchange.closed:
            pipeline.report("event_loop_blocked", None, evidence)
            return
        whose = {
            "http_request_method": exchange.method,
            "http_route": pipeline.route_now(exchange),
            "url_path": exchange.url_path,
        }
        pipeline.tell("event_loop_blocked", exchange, {**whose, **evidence})

    def _called_by_the_loop(self, frame: FrameType | None) -> FrameType | None:
        """The outermost frame of what the loop has called; None while it waits for something to do."""
        called = outermost_first(frame)[self._outside :]
        return next((one for one in called if not of_the_loop(one)), None)

    def shutdown(self) -> None:
        self._loop = None  # the next beat is the last
        self._processor.close()
        self._suspect = None


def _outside_of_beat(frame: FrameType) -> int:
    """Seen from what the loop has called itself."""
    innermost_first = reversed(outermost_first(frame.f_back))
    return len(list(dropwhile(of_the_loop, innermost_first)))
