"""Is the client still there? What each ASGI server lets us see while the application does not ask.

ASGI tells of a client that has left only to who calls receive(), and most applications never do. Nothing here takes
a message from the application: what is read early is kept and handed over when it asks.

* uvicorn: the cycle behind receive() carries a flag, raised only while the response is unfinished.
* hypercorn: receive() is a queue's get(); what waits in the queue can be looked at.
* granian: only receive() tells, so once a request has been read and takes longer than a moment we listen.
* others: nothing to see; only what the application itself receives counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Failed = Callable[[str, BaseException], None]

# A client that leaves within this many seconds of a request is not looked for on granian: a task for every short
# request would cost more than the request.
LISTEN_AFTER_S = 0.05
_PENDING_LIMIT = 16


class Presence:
    """A server that shows nothing."""

    early: tuple[asyncio.Task[Message], ...] = ()
    """Messages asked for before the application did, oldest first: it is handed them when it asks."""
    awaited = 0
    """How many callers of the application's wait in receive() now."""

    def left(self) -> bool:
        """Whether the client is known to have left; asked before each send."""
        return False

    def received(self, message: Message) -> None:
        """The application has been given this message."""

    def close(self) -> None:
        """The application has returned."""


class _Queue(Presence):
    """hypercorn's receive() is the get() of an asyncio queue: what waits in it is looked at, and left there."""

    def __init__(self, waiting: deque[Message]) -> None:
        self._waiting = waiting

    def left(self) -> bool:
        return any(message["type"] == "http.disconnect" for message in self._waiting)


class _Listener(Presence):
    """Calls receive() itself after a moment, unless the application is waiting in it already.

    Each message has a task of its own: what the server gave, or raised, is the task's until the application asks.
    """

    def __init__(self, receive: Receive, failed: Failed, *, has_body: bool) -> None:
        self._receive = receive
        self._failed = failed
        # An upload is read at the application's pace and by it alone.
        self._upload_read = not has_body
        self._late = False
        self._timer = asyncio.get_running_loop().call_later(LISTEN_AFTER_S, self._moment_passed)

    def _moment_passed(self) -> None:
        self._late = True
        try:
            self._begin()
        except Exception as error:
            self._failed("asgi.presence", error)

    def _begin(self) -> None:
        if self._late and self._upload_read and not self.early and not self.awaited:
            self.early = (asyncio.get_running_loop().create_task(self._listen()),)

    async def _listen(self) -> Message:
        message = await self._receive()
        try:
            if message["type"] != "http.disconnect" and len(self.early) < _PENDING_LIMIT:
                self.early = (*self.early, asyncio.get_running_loop().create_task(self._listen()))
        except Exception as error:
            self._failed("asgi.presence", error)
        return message

    def left(self) -> bool:
        return any(
            one.done()
            and not one.cancelled()
            and one.exception() is None
            and one.result()["type"] == "http.disconnect"
            for one in self.early
        )

    def received(self, message: Message) -> None:
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._upload_read = True
            self._begin()

    def close(self) -> None:
        self._timer.cancel()
        for one in self.early:
            if not one.cancel() and not one.cancelled():
                one.exception()  # seen: an error that the application never asked for is nobody's to report


_NOTHING, _FLAG, _QUEUE, _LISTEN = range(4)
_kinds: dict[type, int] = {}
FLAGGED: set[type] = set()
"""The kinds of owner, of those that `sight` was asked about, whose flag it gives back."""


def sight(receive: Receive, failed: Failed, *, has_body: bool) -> tuple[Any, Presence | None]:
    """How to see whether the client of this request is still there: what carries the server's flag, or another way.

    Of the flag's owner `disconnected` counts before and after each send. Both are None where the server shows nothing.
    """
    owner: Any = getattr(receive, "__self__", None)
    if owner is None:
        return None, None
    kind = _kinds.get(type(owner))
    if kind is None:
        kind = _kinds[type(owner)] = _kind_of(owner)
        if kind == _FLAG:
            FLAGGED.add(type(owner))
    if kind == _FLAG:
        return owner, None
    if kind == _QUEUE:
        return None, _Queue(owner._queue)
    if kind == _LISTEN:
        return None, _Listener(receive, failed, has_body=has_body)
    return None, None


def _kind_of(owner: Any) -> int:
    if isinstance(getattr(owner, "disconnected", None), bool):
        return _FLAG
    if isinstance(owner, asyncio.Queue) and isinstance(getattr(owner, "_queue", None), deque):
        return _QUEUE
    if type(owner).__name__ == "ASGIHTTPProtocol":  # granian's, written in Rust
        return _LISTEN
    return _NOTHING
