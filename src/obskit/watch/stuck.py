"""Requests that hang: told while they do, with the line they hang in, for they may never end by themselves.

A request is stuck when nothing of it has moved for its threshold: no byte came in, none went out. It is told of then,
and each time that the wait has doubled. A WebSocket and a stream of events wait by nature, and for what goes on behind
a whole answer nobody waits.
"""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import Any

from obskit import names
from obskit.exchange import Exchange
from obskit.watch.scene import Scene
from obskit.watch.stacks import Look, Stack

MAX_PER_TICK = 100
NOWHERE = "not to be seen: its server is at work on it, or it runs on trio"
LATE_NS = 1_000_000_000
"""A look that comes later than this does so because the process was stopped, or its interpreter was held."""


class _Progress:
    """How far a request had come, since when, and how long a wait was told of last."""

    __slots__ = ("moved", "since_ns", "told_s")

    def __init__(self, moved: tuple[int, ...], since_ns: int) -> None:
        self.moved = moved
        self.since_ns = since_ns
        self.told_s = 0.0


class StuckWatch:
    """Looks at what is in flight."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._known: dict[Exchange, _Progress] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self.every_s = min(1.0, scene.config.stuck_request_s / 4)
        self._ticked_ns = perf_counter_ns()

    def begin(self) -> None:
        """Called from any thread."""
        seen = self._scene.vantage
        self._loop, self._loop_thread = seen.loop, seen.thread if seen.loop is not None else 0

    def tick(self) -> None:
        scene = self._scene
        try:
            now = perf_counter_ns()
            self._take_off_sleep(now)
            in_flight = [one for one in scene.flight.in_flight if _waited_for(one)]
            oldest = min((one.started_ns for one in in_flight), default=now)
            scene.metrics.set(names.OLDEST_REQUEST_AGE, max(0, now - oldest) * 1e-9)
            self._known = {
                one: self._known.get(one) or _Progress(_moved(one), one.started_ns) for one in in_flight
            }
            stuck = [one for one in self._known.items() if self._is_stuck(*one, now)]
            if stuck:
                look = self.look()
                # The oldest first; the others are told of with the next ticks.
                stuck.sort(key=lambda one: one[1].since_ns)
                for exchange, progress in stuck[:MAX_PER_TICK]:
                    self._tell(exchange, progress, now, look)
        except Exception as error:
            scene.pipeline.failed("watch.stuck", error)

    def _take_off_sleep(self, now: int) -> None:
        """The time in which the whole process stood still is no wait of any request."""
        late = now - self._ticked_ns - round(self.every_s * 1e9)
        self._ticked_ns = now
        if late > LATE_NS:
            for progress in self._known.values():
                progress.since_ns += late

    def _is_stuck(self, exchange: Exchange, progress: _Progress, now: int) -> bool:
        """Whether it is to be told of now."""
        moved = _moved(exchange)
        if moved != progress.moved:
            progress.moved, progress.since_ns, progress.told_s = moved, now, 0.0
            return False
        waited_s = (now - progress.since_ns) * 1e-9
        threshold = exchange.stuck_after_s or self._scene.config.stuck_request_s
        return waited_s >= max(threshold, 2 * progress.told_s)

    def _tell(self, exchange: Exchange, progress: _Progress, now: int, look: Look) -> None:
        stack = look.stack(exchange)
        if stack is not None and stack.uploading:
            return  # a single read() of a long body by a slow client: it may well make progress
        waited_s = progress.told_s = (now - progress.since_ns) * 1e-9
        self._scene.pipeline.tell(
            "request_stuck",
            exchange,
            {
                "waited_s": round(waited_s, 1),
                "age_s": round((now - exchange.started_ns) * 1e-9, 1),
                "http_request_method": exchange.method,
                "http_route": self._scene.pipeline.route_now(exchange),
                "url_path": exchange.url_path,
                "phase": phase(exchange),
                **place(stack),
            },
        )

    def look(self) -> Look:
        """Where everything is now. Not to be kept."""
        return Look(self._loop, self._loop_thread)

    def shutdown(self) -> None:
        self._known = {}
        self._loop = None


def place(stack: Stack | None) -> dict[str, Any]:
    """Where a request is, as evidence."""
    if stack is None:
        return {"where": "", "doing": NOWHERE, "runs_in": "", "stack": ()}
    return stack.evidence()


def phase(exchange: Exchange) -> str:
    """How far the answer has come."""
    if exchange.response_complete:
        return "answered"  # work goes on behind the answer
    return "answering" if exchange.response_started or exchange.response_bytes else "open"


def _waited_for(exchange: Exchange) -> bool:
    """Whether somebody waits for its end."""
    if exchange.protocol != "http" or exchange.response_complete:
        return False
    if not exchange.response_started:
        return True
    return not (exchange.response_header("content-type") or "").startswith("text/event-stream")


def _moved(exchange: Exchange) -> tuple[int, ...]:
    return exchange.request_bytes, exchange.response_bytes, exchange.response_started
