"""Is the client still there? What each ASGI server lets us see while the application does not ask.

ASGI tells of a client that has left only to who calls receive(), and most applications never do. Nothing here takes
a message from the application: what is read early is kept and handed over when it asks.

* uvicorn: the cycle behind receive() carries a flag.
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

# A client that leaves within this many seconds of a request is not looked for on granian: a task for every short
# request would cost more than the request.
LISTEN_AFTER_S = 0.05
_PENDING_LIMIT = 16


class Presence:
    """A server that shows nothing."""

    # Whether `left` still means the client after a send: a queue or a receive() also ends with a finished response.
    valid_after_send = False

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    def left(self) -> bool:
        """Whether the client is known to have left; asked before each send."""
        return False

    def upload_arrived(self) -> bool:
        """Whether the server is known to hold the whole upload, read by the application or not."""
        return False

    async def receive(self) -> Message:
        """The application's next message."""
        return await self._receive()

    def close(self) -> None:
        """The application has returned."""


class _Flag(Presence):
    """uvicorn raises `disconnected` on its cycle, and only while the response is unfinished."""

    valid_after_send = True

    def __init__(self, receive: Receive, cycle: Any) -> None:
        super().__init__(receive)
        self._cycle = cycle

    def left(self) -> bool:
        return bool(self._cycle.disconnected)

    def upload_arrived(self) -> bool:
        # Once the client has left, receive() says only that: what had arrived is not handed out any more.
        return getattr(self._cycle, "more_body", True) is False


class _Queue(Presence):
    """hypercorn's receive() is the get() of an asyncio queue."""

    def __init__(self, receive: Receive, queue: asyncio.Queue[Message]) -> None:
        super().__init__(receive)
        self._queue = queue
        self._pending: deque[Message] = deque()

    def left(self) -> bool:
        while not self._queue.empty() and len(self._pending) < _PENDING_LIMIT:
            self._pending.append(self._queue.get_nowait())
        return any(message["type"] == "http.disconnect" for message in self._pending)

    async def receive(self) -> Message:
        return self._pending.popleft() if self._pending else await self._receive()


class _Listener(Presence):
    """Calls receive() itself after a moment, unless the application is waiting in it already."""

    def __init__(self, receive: Receive, *, has_body: bool) -> None:
        super().__init__(receive)
        # An upload is read at the application's pace and by it alone; what follows its end can only be the end.
        self._upload_read = not has_body
        self._late = False
        self._pending: deque[Message] = deque()
        self._failure: Exception | None = None
        self._application_waits = 0
        self._arrived: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(LISTEN_AFTER_S, self._moment_passed)

    def _moment_passed(self) -> None:
        self._late = True
        self._begin()

    def _begin(self) -> None:
        if self._late and self._upload_read and self._task is None and not self._application_waits:
            self._arrived = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._listen(self._arrived))

    async def _listen(self, arrived: asyncio.Event) -> None:
        try:
            while len(self._pending) < _PENDING_LIMIT:
                message = await self._receive()
                self._pending.append(message)
                arrived.set()
                if message["type"] == "http.disconnect":
                    return
        except Exception as error:
            self._failure = error  # the application's to meet, when it asks
        finally:
            self._task = None
            arrived.set()

    def left(self) -> bool:
        return any(message["type"] == "http.disconnect" for message in self._pending)

    async def receive(self) -> Message:
        while True:
            if self._pending:
                return self._pending.popleft()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._task is None or self._arrived is None:
                break
            self._arrived.clear()
            await self._arrived.wait()
        self._application_waits += 1
        try:
            message = await self._receive()
        finally:
            self._application_waits -= 1
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._upload_read = True
            self._begin()
        return message

    def close(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


_NOTHING, _FLAG, _QUEUE, _LISTEN = range(4)
_kinds: dict[type, int] = {}


def presence_of(receive: Receive, *, has_body: bool) -> Presence | None:
    """How to see whether the client of this request is still there; None where the server shows nothing."""
    owner = getattr(receive, "__self__", None)
    if owner is None:
        return None
    kind = _kinds.get(type(owner))
    if kind is None:
        kind = _kinds[type(owner)] = _kind_of(owner)
    if kind == _FLAG:
        return _Flag(receive, owner)
    if kind == _QUEUE:
        return _Queue(receive, owner)
    if kind == _LISTEN:
        return _Listener(receive, has_body=has_body)
    return None


def _kind_of(owner: Any) -> int:
    if isinstance(getattr(owner, "disconnected", None), bool):
        return _FLAG
    if isinstance(owner, asyncio.Queue):
        return _QUEUE
    if type(owner).__name__ == "ASGIHTTPProtocol":  # granian's, written in Rust
        return _LISTEN
    return _NOTHING
