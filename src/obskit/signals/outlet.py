"""Standard output as a place to write to without ever waiting for who reads it.

A pipe is full when its reader has stopped, a terminal when somebody has pressed Ctrl-S: a plain write then blocks for
as long as that lasts. Making the descriptor non-blocking is no way out: the flag belongs to all who share the pipe, and
the application's own `print` would begin to fail.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final

LOOK_EVERY_S: Final = 1.0
_NOT_THIS_WAY: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE})


class WouldBlock(Exception):
    """Nothing can be written without waiting."""


class Outlet:
    """One descriptor. It may come to mean another file meanwhile (`dup2`): that is noticed within a second."""

    def __init__(self, fd: int) -> None:
        """Raises OSError where there is no such descriptor."""
        self.fd = fd
        self._known: tuple[int, int] | None = None
        self._write: Callable[[bytes], int] = self._refuse
        self._own = -1
        self.never_full = False
        """Whether nobody has to read what is written: a file on a disk."""
        self.patient = False
        """Whether there is no way to write to it but to wait."""
        self._look()
        self._looked = monotonic()

    def write(self, data: bytes) -> int:
        """Write what can be written at once; returns how many bytes. Raises WouldBlock, or OSError."""
        now = monotonic()
        if now - self._looked >= LOOK_EVERY_S or now < self._looked:
            self._look()
            self._looked = now
        try:
            return self._write(data)
        except BlockingIOError:
            raise WouldBlock from None

    def wait(self, timeout_s: float) -> None:
        """Return when something may be written again, or after this many seconds."""
        select.select((), (self.fd,), (), timeout_s)

    def write_waiting(self, data: bytes) -> int:
        """Write and wait for the reader: where no other way is known. Raises OSError."""
        return os.write(self.fd, data)

    def _look(self) -> None:
        seen = os.fstat(self.fd)
        known = (seen.st_dev, seen.st_ino)
        if known == self._known:
            return
        self._known = known
        self.close()
        self.patient = False
        self.never_full = stat.S_ISREG(seen.st_mode) or _is_null(seen)
        if self.never_full:
            self._write = self._plain
        else:
            self._write = self._no_wait if hasattr(os, "RWF_NOWAIT") else self._by_reopening()

    def _plain(self, data: bytes) -> int:
        return os.write(self.fd, data)

    def _no_wait(self, data: bytes) -> int:
        """One call that does not wait, though the descriptor does (Linux 6.5 for pipes and sockets)."""
        try:
            return os.pwritev(self.fd, [data], -1, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_THIS_WAY:
                raise
        self._write = self._by_reopening()
        return self._write(data)

    def _by_reopening(self) -> Callable[[bytes], int]:
        """The same pipe or terminal opened once more, with a flag of its own; not for sockets, nor as another user."""
        with suppress(OSError):
            how = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self._own = os.open(f"/proc/self/fd/{self.fd}", how)
            return self._reopened
        self.patient = True
        return self._refuse

    def _reopened(self, data: bytes) -> int:
        return os.write(self._own, data)

    def _refuse(self, data: bytes) -> int:
        raise WouldBlock

    def close(self) -> None:
        """Let go of what was opened."""
        if self._own >= 0:
            own, self._own = self._own, -1
            with suppress(OSError):
                os.close(own)


def _is_null(seen: Any) -> bool:
    try:
        return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == os.stat(os.devnull).st_rdev
    except OSError:
        return False
