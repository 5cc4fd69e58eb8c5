"""What only the thread that has the first request can see: its event loop, and how deep in the stack that begins."""

from __future__ import annotations

import asyncio
import sys
import threading
from inspect import CO_COROUTINE
from types import FrameType
from typing import Any, NamedTuple

from obskit.watch.stacks import outermost_first


class Vantage(NamedTuple):
    """`loop` is None under WSGI and trio; `thread` serves there, `native_thread` is its kernel's number."""

    loop: asyncio.AbstractEventLoop | None
    thread: int
    native_thread: int
    outside: int
    """How many frames lie outside the loop: those of its server, which started it."""
    limiter: Any
    """anyio's limit of threads in this loop; None without."""


def vantage() -> Vantage:
    """Look around. Opens no file; never raises."""
    try:
        loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    outside = 0 if loop is None else _outside_of_request(sys._getframe())
    return Vantage(loop, threading.get_ident(), threading.get_native_id(), outside, _thread_limiter())


def _thread_limiter() -> Any:
    """anyio's limit of threads in this loop, which Starlette and FastAPI run synchronous code in; None without.

    Django's asynchronous handler gives each request a thread of its own: there is no limit to be seen.
    """
    to_thread = sys.modules.get("anyio.to_thread")
    if to_thread is None:
        return None
    try:
        return to_thread.current_default_thread_limiter()
    except Exception:  # no loop here (WSGI): each version of anyio says so with an exception of its own
        return None


# uvloop has no frames of its own, so the place where the loop begins cannot be seen in the stack of what it has called.
def _outside_of_request(frame: FrameType) -> int:
    """Seen from within a request: the loop begins at its own frame, or else at that of the request's task."""
    inner = (one for one in enumerate(outermost_first(frame)) if of_the_loop(one[1]) or _is_coroutine(one[1]))
    return next((number for number, _ in inner), 0)


def _is_coroutine(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & CO_COROUTINE)


def of_the_loop(frame: FrameType) -> bool:
    """Whether this frame is the event loop's own."""
    module = frame.f_globals.get("__name__", "")
    return module == "selectors" or module.partition(".")[0] in ("asyncio", "uvloop")
