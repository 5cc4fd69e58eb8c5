"""The ways in which a call of ours is made to fail: it raises, gives back garbage, raises when it is done, hangs."""

from __future__ import annotations

import asyncio
import builtins
import errno
import re
import time
import types
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

Make = Callable[[Any], Any]


class Injected(Exception):
    """What an armed call raises."""


class Unusable:
    """An object whose every use raises."""

    def _raise(self, *_: Any, **__: Any) -> Any:
        raise Injected("every use of this object raises")

    __getattr__ = __call__ = __iter__ = __next__ = __len__ = __bool__ = __str__ = __repr__ = __format__ = (
        _raise
    )
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _raise
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = __truediv__ = _raise
    __and__ = __or__ = __rand__ = __ror__ = __int__ = __float__ = __index__ = __contains__ = __getitem__ = (
        _raise
    )
    __setitem__ = __delitem__ = __enter__ = __exit__ = __await__ = __aenter__ = __aexit__ = __bytes__ = _raise


def raising(error: Callable[[], BaseException]) -> Make:
    """The call raises what `error` makes."""

    def make(_callee: Any) -> Any:
        def armed(*_: Any, **__: Any) -> Any:
            raise error()

        return armed

    return make


def returning(value: Callable[[], Any]) -> Make:
    """The call does nothing and gives back what `value` makes, where the callee could give back anything."""

    def make(callee: Any) -> Any:
        return callee if _keeps_its_word(callee) else lambda *_, **__: value()

    return make


_DOORS = tuple(
    f"/obskit/{name}.py"
    for name in (
        "wsgi",
        "asgi",
        "asgi_lifespan",
        "asgi_scope",
        "answering",
        "aside",
        "desk",
        "wsgi_input",
        "presence",
        "pipeline",
        "context",
    )
)
_ANYTHING = ("next",)
_PYTHON = ("asyncio", "_asyncio", "threading", "_thread")
_CONTAINERS = (dict, list, tuple, set, frozenset, str, bytes, deque, ContextVar, re.Match, re.Pattern)


def _keeps_its_word(callee: Any) -> bool:
    """What can raise, and cannot give back garbage: a class, `len`, `dict.get`, a door's own function."""
    if isinstance(callee, type) or str(callee.__module__).partition(".")[0] in _PYTHON:
        return True
    if type(getattr(callee, "__self__", None)) in _CONTAINERS:
        return True
    if getattr(callee, "__module__", None) == "builtins" and getattr(callee, "__self__", None) is builtins:
        return callee.__name__ not in _ANYTHING
    code = getattr(callee, "__code__", None)
    return code is not None and code.co_filename.endswith(_DOORS)


def late(callee: Any) -> Any:
    """The call is made, and raises when it is done."""

    def armed(*args: Any, **kwargs: Any) -> Any:
        result = callee(*args, **kwargs)
        if asyncio.iscoroutine(result):
            result.close()
        raise Injected("late")

    return armed


HANG_S = 1.6
_WAITS = frozenset(
    {
        "write",
        "writev",
        "pwritev",
        "open",
        "flock",
        "lockf",
        "ftruncate",
        "fsync",
        "flush",
        "mmap",
        "connect",
        "sendall",
    }
)


def hanging(callee: Any) -> Any:
    """The call takes its time, where it is one that may: into the operating system."""
    if getattr(callee, "__name__", "") not in _WAITS or not _is_builtin(callee):
        return callee

    def armed(*args: Any, **kwargs: Any) -> Any:
        time.sleep(HANG_S)
        return callee(*args, **kwargs)

    return armed


def _is_builtin(callee: Any) -> bool:
    return isinstance(callee, types.BuiltinFunctionType) or getattr(callee, "__module__", "") == "mmap"


RAISES: dict[str, Make] = {
    "Exception": raising(lambda: Injected("armed")),
    "ENOSPC": raising(lambda: OSError(errno.ENOSPC, "No space left on device")),
    "EBADF": raising(lambda: OSError(errno.EBADF, "Bad file descriptor")),
    "EPIPE": raising(lambda: BrokenPipeError(errno.EPIPE, "Broken pipe")),
    "MemoryError": raising(MemoryError),
    "RecursionError": raising(lambda: RecursionError("maximum recursion depth exceeded")),
    "late": late,
}
GARBAGE: dict[str, Make] = {
    "None": returning(lambda: None),
    "unusable": returning(Unusable),
    "NaN": returning(lambda: float("nan")),
    "bytes": returning(lambda: b"\xff"),
    "-1": returning(lambda: -1),
    "huge": returning(lambda: 2**200),
}
FAULTS: dict[str, Make] = {**RAISES, **GARBAGE, "hang": hanging}
# What asks the process or the task to end is nobody's error: it passes through our code as through the application's.
ENDINGS: dict[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": SystemExit,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
}
