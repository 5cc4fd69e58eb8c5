"""What a thread has had of the processor: the time it ran, and the time it wanted to and had to wait for others."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import NamedTuple


class Used(NamedTuple):
    """Seconds since the thread began; `known` false where the kernel does not tell (then both are 0)."""

    ran_s: float
    waited_s: float
    known: bool


NOTHING = Used(0.0, 0.0, False)


class Processor:
    """Tells of one thread of this process, from any other. Linux; elsewhere nothing is known."""

    def __init__(self, thread: int) -> None:
        """`thread` is the kernel's number of it (`threading.get_native_id`)."""
        self._file = -1
        with suppress(OSError):
            self._file = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            self._close = weakref.finalize(self, os.close, self._file)

    def used(self) -> Used:
        """Until now."""
        if self._file < 0:
            return NOTHING
        try:
            ran, waited, *_ = os.pread(self._file, 100, 0).split()
            return Used(int(ran) * 1e-9, int(waited) * 1e-9, True)
        except (OSError, ValueError):  # the thread has ended
            return NOTHING

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            self._file = -1
            with suppress(OSError):
                self._close()
