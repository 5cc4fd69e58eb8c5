"""A wall clock that jumps: the served processes read an offset from a small file that the run writes.

`time.monotonic` and `time.perf_counter` go on as they do on a real machine whose clock is set.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

FILE = "LONGHAUL_CLOCK"
_OFFSET = struct.Struct("d")


def follow() -> None:
    """Let `time.time` and `time.time_ns` of this process jump; before anything has imported them by name."""
    with open(os.environ[FILE], "rb") as file:
        memory = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    real, real_ns, read = time.time, time.time_ns, _OFFSET.unpack_from
    time.time = lambda: real() + read(memory)[0]  # type: ignore[assignment]
    time.time_ns = lambda: real_ns() + int(read(memory)[0] * 1e9)  # type: ignore[assignment]


class Clock:
    """The file, and when the clock was set to what."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.settings: list[tuple[float, float]] = []
        """(real seconds since the epoch, offset from then on)."""
        self.set(0.0)

    def set(self, offset_s: float) -> None:
        with open(self.path, "r+b" if os.path.exists(self.path) else "w+b") as file:
            file.write(_OFFSET.pack(offset_s))
        self.settings.append((time.time(), offset_s))

    def follows(self, stamp: float, since: float, now: float, slack_s: float = 2.0) -> bool:
        """Whether a line of this timestamp may have been written between the real times `since` and `now`."""
        last = max((one for one in self.settings if one[0] <= since), default=self.settings[0])
        offsets = [last[1], *(offset for at, offset in self.settings if since < at <= now)]
        return any(since - slack_s <= stamp - offset <= now + slack_s for offset in offsets)
