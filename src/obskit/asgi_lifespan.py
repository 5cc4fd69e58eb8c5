"""The lifespan protocol, seen from the ASGI door: when a server begins and, above all, when it is about to end."""

from __future__ import annotations

from asyncio import get_running_loop, sleep
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any

from obskit.aside import aside
from obskit.pipeline import Pipeline

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# The collector may be away: give up after this many seconds rather than hold the server's shutdown.
FLUSH_TIMEOUT_S = 2.0
SETTLE_TIMEOUT_S = 0.5
SETTLE_POLL_S = 0.005


class Lifespan:
    """That of one door."""

    def __init__(self, pipeline: Pipeline, in_flight: Callable[[], int]) -> None:
        self.pipeline = pipeline
        self._in_flight = in_flight

    def __deepcopy__(self, memo: object) -> Lifespan:
        return self  # as the way that requests take

    def flushing(self, send: Send) -> Send:
        """The send of a lifespan, which hears how far that has come."""

        async def flushing_send(message: Message) -> None:
            try:
                kind = message.get("type", "")
                if kind == "lifespan.startup.complete":
                    self.pipeline.hears_shutdown = True
                    await self.pipeline.serve_early()
                # uvicorn re-raises SIGTERM after this message and atexit never runs: the last chance to flush.
                elif kind.startswith("lifespan.shutdown."):
                    await self._say_goodbye()
            except Exception as error:
                self.pipeline.failed("asgi.send", error)
            await send(message)

        return flushing_send

    async def answer(self, receive: Receive, send: Send) -> None:
        """In place of an application that knows no lifespan."""
        while True:
            kind = (await receive())["type"]
            if kind in ("lifespan.startup", "lifespan.shutdown"):
                await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return

    async def _say_goodbye(self) -> None:
        await self._settle()
        await aside(self.pipeline.flush, FLUSH_TIMEOUT_S)
        await aside(self.pipeline.goodbye)

    async def _settle(self) -> None:
        """Let requests that the server has just cancelled end: their records are to be flushed, too.

        Django needs some turns of the loop for that, and uvicorn ends the process right behind the lifespan.
        """
        try:
            get_running_loop()
        except RuntimeError:  # not asyncio (trio)
            return
        deadline = monotonic() + SETTLE_TIMEOUT_S
        while self._in_flight() and monotonic() < deadline:
            await sleep(SETTLE_POLL_S)
