"""Where a request is right now: the stack of its thread, or of its asyncio task and what that waits for.

Asked for only when something is stuck. It reads frames of other threads as the interpreter keeps them: file, line and
name of the function, and of variables only those in which frames of libraries and of obskit keep the request, its
context or its tasks. No value of the application's own variables is looked at.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from contextvars import Context
from functools import partial
from itertools import dropwhile, takewhile
from types import FrameType
from typing import Any, NamedTuple

from obskit.context import _current
from obskit.exchange import Exchange
from obskit.watch.greenlets import greenlet_frames
from obskit.watch.tasks import all_tasks, awaited_future, children, context_of, pooled_work, unwind
from obskit.watch.whose import call_at, is_application, is_own, module_of, shown

MARK = "obskit.exchange"
MAX_FRAMES = 16
MAX_NAME = 60
_MAX_DEPTH = 5000
_POOLS = frozenset({"anyio", "concurrent", "asgiref"})
_UPLOAD = "wsgi_input.py"
_DOORS = ("asgi.py", "wsgi.py")


class Stack(NamedTuple):
    """What is known of one place in the code, and of who is there."""

    frames: tuple[str, ...]
    """The lines, outermost first."""
    runs_in: str
    """Such as "thread worker-1" or "task Task-7"."""
    where: str
    """The innermost line of the application's own code; empty without one."""
    doing: str
    """What the innermost line does: the function it has called, or what it awaits."""
    uploading: bool = False
    """It waits for a part of the request's body (WSGI): whether that comes in bit by bit is not to be seen."""

    def evidence(self) -> dict[str, Any]:
        """As a finding keeps it: the line, what it does, who runs it, the innermost lines."""
        kept = self.frames[-MAX_FRAMES:]
        return {"where": self.where, "doing": self.doing, "runs_in": self.runs_in, "stack": kept}


class _Chain(NamedTuple):
    frames: list[FrameType]
    future: asyncio.Future[Any] | None
    thread: int = 0


class Look:
    """One look at every thread and task of the process. Not to be kept: it keeps frames alive."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None, loop_thread: int = 0) -> None:
        """`loop` is the one in which the application is called (ASGI), None without one (WSGI, trio)."""
        self._loop = loop
        self._loop_thread = loop_thread
        self._threads = sys._current_frames() | greenlet_frames()
        self._pools: dict[int, Exchange] | None = None
        self._tasks: dict[int, list[asyncio.Task[Any]]] | None = None

    def stack(self, exchange: Exchange) -> Stack | None:
        """Where this request is; None if it cannot be found (it has just ended, or the server is at work on it)."""
        if self._loop is None:
            return self._in_its_thread(exchange)
        for ident, other in self._in_pools().items():
            if other is exchange:
                return stack_in(_behind_pool(self._threads[ident]), thread_name(ident))
        on_loop = self._threads.get(self._loop_thread)
        if on_loop is not None and self.at_work_on(on_loop) is exchange:
            return stack_in(behind_door(outermost_first(on_loop)), thread_name(self._loop_thread))
        return self._suspended(exchange)

    def at_work_on(self, frame: FrameType) -> Exchange | None:
        """The request whose code the loop's thread, which is at `frame`, runs now."""
        found = request_on(frame)
        if found is None and self._loop is not None:
            try:
                task = asyncio.current_task(self._loop)
            except RuntimeError:
                return None
            context = context_of(task) if task is not None else None
            found = context.get(_current) if context is not None else None
        return found

    def _in_its_thread(self, exchange: Exchange) -> Stack | None:
        frame = self._threads.get(exchange.thread_id)
        if frame is None:
            return None
        at_work_on = request_on(frame)
        if at_work_on is exchange:
            return stack_in(behind_door(outermost_first(frame)), thread_name(exchange.thread_id))
        if at_work_on is not None or _is_asgi(exchange):
            return None  # the thread has gone on to another one
        # Its server has what the application gave it, and hands it to a client that is slow to take it.
        known = stack_in(outermost_first(frame), thread_name(exchange.thread_id))
        return known._replace(where="")

    def _in_pools(self) -> dict[int, Exchange]:
        """By thread: the request for which a thread of a pool runs code."""
        if self._pools is None:
            self._pools = {}
            for ident, frame in self._threads.items():
                if ident != self._loop_thread and (found := _working_for(frame)) is not None:
                    self._pools[ident] = found
        return self._pools

    def _suspended(self, exchange: Exchange) -> Stack | None:
        if self._tasks is None:
            self._tasks = {}
            for task in all_tasks(self._loop):
                context = context_of(task)
                owner = context.get(_current) if context is not None else None
                if owner is not None:
                    self._tasks.setdefault(id(owner), []).append(task)
        found = [self._follow(task, exchange) for task in self._tasks.get(id(exchange), ())]
        # The one that came through the door, and what it waits for; else the one that knows most.
        return max(
            found, key=lambda one: (one[0], bool(one[1].where), len(one[1].frames)), default=(0, None)
        )[1]

    def _follow(self, task: asyncio.Task[Any], exchange: Exchange) -> tuple[bool, Stack]:
        """Whether a task is the request's own one, and where it waits."""
        chain = self._chain(task, exchange, set())
        own = any(_is_door(one) for one in chain.frames)
        if chain.thread:
            return own, stack_in(behind_door(chain.frames), thread_name(chain.thread))
        kind = type(chain.future).__name__.strip("_") if chain.future is not None else ""
        return own, stack_in(
            behind_door(chain.frames),
            f"task {task.get_name()[:MAX_NAME]}",
            f"awaits a {kind}" if kind else "awaits",
        )

    def _chain(self, task: asyncio.Task[Any], exchange: Exchange, seen: set[asyncio.Task[Any]]) -> _Chain:
        """The frames of a task, and behind them those of a task, or a thread, that it waits for."""
        seen.add(task)
        frames, awaited = unwind(task.get_coro())
        future = awaited_future(awaited)
        work = pooled_work(future)
        thread = self._thread_of(work) if work is not None else None
        if thread is not None:
            return _Chain([*frames, *_behind_pool(self._threads[thread])], future, thread)
        library = list(takewhile(lambda one: not is_application(one.f_code.co_filename), reversed(frames)))
        best: _Chain | None = None
        for child in children(future, library):
            context = context_of(child)
            if child in seen or child.done() or context is None or context.get(_current) is not exchange:
                continue
            found = self._chain(child, exchange, seen)
            if any(is_application(one.f_code.co_filename) for one in found.frames):
                best = found
                break
            best = best or found
        if best is None:
            return _Chain(frames, future)
        return best._replace(frames=[*frames, *best.frames])

    def _thread_of(self, work: futures.Future[Any]) -> int | None:
        for ident, frame in self._threads.items():
            for one in _outwards(frame):
                if one.f_code.co_name == "run" and not is_application(one.f_code.co_filename):
                    item = one.f_locals.get("self")
                    if type(item).__name__ == "_WorkItem" and getattr(item, "future", None) is work:
                        return ident
        return None


def stack_in(frames: Iterable[FrameType], runs_in: str, awaits: str = "") -> Stack:
    """Of frames, outermost first. `awaits` is for the innermost one of a task that is suspended."""
    kept = list(frames)
    where = next((_line(one) for one in reversed(kept) if is_application(one.f_code.co_filename)), "")
    return Stack(
        tuple(_line(one) for one in kept),
        runs_in,
        where,
        _doing(kept[-1], awaits) if kept else awaits,
        any(is_own(one.f_code.co_filename) and one.f_code.co_filename.endswith(_UPLOAD) for one in kept),
    )


def request_on(frame: FrameType | None) -> Exchange | None:
    """The request whose code a thread runs now, by the frames of the doors and of frameworks; None for none."""
    for one in _outwards(frame):
        found = _request_in(one)
        if found is not None:
            return found
    return None


def thread_name(ident: int) -> str:
    """As evidence names a thread."""
    name = next((one.name for one in threading.enumerate() if one.ident == ident), "")
    if not name and ident not in sys._current_frames():
        return "a greenlet"
    return f"thread {name[:MAX_NAME] or ident}"


# ---- frames ----------------------------------------------------------------------------------------------


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(_MAX_DEPTH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def outermost_first(frame: FrameType | None) -> list[FrameType]:
    """The frames of a thread that is at this one."""
    return list(reversed(list(_outwards(frame))))


def _is_door(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.endswith(_DOORS) and is_own(file)


def behind_door(frames: list[FrameType]) -> list[FrameType]:
    """Without the server and whatever started it, which is not at work on the request; all where there is no door."""
    for number, one in enumerate(frames):
        if _is_door(one):
            return list(dropwhile(lambda frame: is_own(frame.f_code.co_filename), frames[number:]))
    return frames


def _behind_pool(frame: FrameType) -> list[FrameType]:
    """What a thread of a pool has been given to do."""
    frames = list(dropwhile(lambda one: not _runs_for_others(one), outermost_first(frame)))
    return list(dropwhile(_runs_for_others, frames))


def _runs_for_others(frame: FrameType) -> bool:
    """Whether it is what a pool calls things with: anyio's worker, concurrent.futures, asgiref."""
    return frame.f_globals.get("__name__", "").partition(".")[0] in _POOLS


def _line(frame: FrameType) -> str:
    return f"{shown(frame.f_code.co_filename)}:{frame.f_lineno or 0} in {frame.f_code.co_qualname}"


def _doing(frame: FrameType, awaits: str) -> str:
    file = frame.f_code.co_filename
    if not is_application(file):
        verb = "awaits" if awaits else "in"
        return f"{verb} {module_of(file)}.{frame.f_code.co_qualname}"
    if awaits:
        return awaits
    called = call_at(frame)
    return f"in {called}" if called else "runs this line"


def _is_asgi(exchange: Exchange) -> bool:
    return isinstance(exchange.request, dict) and "type" in exchange.request


def _request_in(frame: FrameType) -> Exchange | None:
    """The request that a frame of obskit or of a library works on."""
    file = frame.f_code.co_filename
    if is_application(file):
        return None
    known = frame.f_locals
    if is_own(file):
        for name in ("exchange", "call", "self"):
            for found in (known.get(name), _of(known.get(name), "exchange")):
                if isinstance(found, Exchange):
                    return found
            found = _of(_of(known.get(name), "_call"), "exchange")
            if isinstance(found, Exchange):
                return found
        return None
    for name in ("scope", "request", "environ"):
        found = known.get(name)
        for one in (found, _of(found, "scope"), _of(found, "environ")):
            if type(one) is dict and isinstance(one.get(MARK), Exchange):
                return one[MARK]  # type: ignore[no-any-return]
    return None


def _of(thing: Any, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # a proxy of something that is not here
        return None


def _working_for(frame: FrameType) -> Exchange | None:
    """The request in whose context a thread of a pool runs code."""
    for one in _outwards(frame):
        if _runs_for_others(one):
            for value in list(one.f_locals.values()):
                context = _context_in(value)
                found = context.get(_current) if context is not None else None
                if found is not None:
                    return found
    return None


def _context_in(value: Any) -> Context | None:
    if type(value).__name__ == "_WorkItem":
        value = _of(value, "fn")
    while isinstance(value, partial):
        bound = (arg for arg in value.args if isinstance(getattr(arg, "__self__", None), Context))
        value = next(bound, value.func)
    if isinstance(value, Context):
        return value
    owner = _of(value, "__self__")
    return owner if isinstance(owner, Context) else None
