"""Asyncio tasks, seen from another thread: in whose context they run, where they are suspended, what they wait for.

What the interpreter does not tell (the future behind an awaited one, before Python 3.12 the context of a task) its
garbage collector does: it has to know what refers to what.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable, Iterator
from concurrent import futures
from contextvars import Context
from itertools import islice
from types import FrameType
from typing import Any

_MAX_DEPTH = 200
_MAX_TASKS = 100
_TRIES = 8
_WRAPPERS = frozenset({"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"})


def all_tasks(loop: asyncio.AbstractEventLoop | None) -> list[asyncio.Task[Any]]:
    """The tasks of a loop that runs in another thread."""
    for _ in range(_TRIES if loop is not None else 0):
        try:
            return list(asyncio.all_tasks(loop))
        except RuntimeError:  # the loop has made or ended one meanwhile
            continue
    return []


def context_of(task: asyncio.Task[Any]) -> Context | None:
    """The context a task runs in; None if it cannot be found."""
    get_context = getattr(task, "get_context", None)  # Python 3.12 and later
    if get_context is not None:
        return get_context()  # type: ignore[no-any-return]
    return next((one for one in gc.get_referents(task) if isinstance(one, Context)), None)


def unwind(awaited: Any) -> tuple[list[FrameType], Any]:
    """The frames of a suspended coroutine and of the coroutines it awaits, and what the innermost of them awaits."""
    frames: list[FrameType] = []
    for _ in range(_MAX_DEPTH):
        for kind, awaits in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            if hasattr(awaited, f"{kind}_frame"):
                frame = getattr(awaited, f"{kind}_frame")
                if frame is not None:
                    frames.append(frame)
                awaited = getattr(awaited, awaits)
                break
        else:
            behind = _generator_behind(awaited)
            if behind is None:
                break
            awaited = behind
    return frames, awaited


def _generator_behind(awaited: Any) -> Any:
    """The async generator behind the awaitable of its next item, or the coroutine behind what `__await__` gave."""
    if type(awaited).__name__ not in _WRAPPERS:
        return None
    found = gc.get_referents(awaited)
    return next((one for one in found if hasattr(one, "ag_frame") or hasattr(one, "cr_frame")), None)


def awaited_future(awaited: Any) -> asyncio.Future[Any] | None:
    """The future that a suspended coroutine awaits in the end."""
    if awaited is None or asyncio.isfuture(awaited):
        return awaited
    return next((one for one in gc.get_referents(awaited) if asyncio.isfuture(one)), None)


def children(future: asyncio.Future[Any] | None, frames: Iterable[FrameType]) -> Iterator[asyncio.Task[Any]]:
    """The tasks that a task may be waiting for: the awaited one, and those that frames of libraries keep at hand."""
    if isinstance(future, asyncio.Task):
        yield future
    for known in (_some(getattr(future, "_children", ())), _kept_by_callbacks(future)):  # gather, shield
        yield from (one for one in known if isinstance(one, asyncio.Task))
    for frame in frames:
        for value in list(frame.f_locals.values()):
            if isinstance(value, asyncio.Task):  # asyncio.wait_for before 3.12
                yield value
            elif isinstance(value, set | frozenset | list | tuple):  # asyncio.wait
                yield from (one for one in _some(value) if isinstance(one, asyncio.Task))
            elif type(value).__name__ == "TaskGroup":  # of asyncio and of anyio
                tasks = _some(getattr(value, "_tasks", ()))
                yield from (one for one in tasks if isinstance(one, asyncio.Task))


def _some(values: Iterable[Any]) -> list[Any]:
    try:
        return list(islice(values, _MAX_TASKS))
    except (RuntimeError, TypeError):  # it has changed meanwhile
        return []


def pooled_work(future: asyncio.Future[Any] | None) -> futures.Future[Any] | None:
    """The work of a thread pool whose end an awaited future waits for (`loop.run_in_executor`)."""
    return next((one for one in _kept_by_callbacks(future) if isinstance(one, futures.Future)), None)


def _kept_by_callbacks(future: asyncio.Future[Any] | None) -> Iterator[Any]:
    """What the functions that are to be called when a future is done keep: asyncio ties futures together with them."""
    for callback, *_ in _some(getattr(future, "_callbacks", None) or ()):
        for cell in getattr(callback, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:
                continue
