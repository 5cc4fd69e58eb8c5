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
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, TextIO

LOOK_EVERY_S: Final = 1.0
_NOT_THIS_WAY: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE})


class WouldBlock(Exception):
    """Nothing can be written without waiting."""


class Outlet:
    """One descriptor. It may come to mean another file meanwhile (`dup2`): that is noticed within a second."""

    def __init__(self, stream: TextIO, fd: int) -> None:
        """`fd` is that of `stream`. Raises OSError where there is no such descriptor."""
        self.stream = stream
        self.fd = fd
        self._known: tuple[int, int] | None = None
        self.write_at_once: Callable[[bytes], int] = self._refuse
        """Write what goes without waiting, for any number of threads at a time. Raises OSError or WouldBlock."""
        self._by_flag = False
        self.never_full = False
        """Whether nobody has to read what is written: a file on a disk."""
        self.patient = False
        """Whether there is no way to write to it but to wait."""
        self.whole = 0
        """Up to how many bytes one call takes all or nothing, and keeps apart from those of other threads.

        A pipe does that up to PIPE_BUF (POSIX), a file for any number, unless its disk is full.
        """
        self._look()
        self.looked = monotonic()
        """When it was last seen what the descriptor means."""

    def write(self, data: bytes) -> int:
        """Write what can be written at once; returns how many bytes. Raises WouldBlock, or OSError.

        For one thread at a time.
        """
        now = monotonic()
        if not 0.0 <= now - self.looked < LOOK_EVERY_S:
            self._look()
            self.looked = now
        try:
            return self._written(data)
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
        self.whole, self.patient = 0, False
        self.never_full = stat.S_ISREG(seen.st_mode) or _is_null(seen)
        self._by_flag = not self.never_full and hasattr(os, "RWF_NOWAIT")
        if self.never_full:
            self.write_at_once = self._plain
        elif self._by_flag:
            self.write_at_once = self._no_wait
        else:
            self._reopen()
        if self.never_full:
            self.whole = sys.maxsize
        elif stat.S_ISFIFO(seen.st_mode) and not self.patient:
            self.whole = select.PIPE_BUF

    def _written(self, data: bytes) -> int:
        try:
            return self.write_at_once(data)
        except OSError as error:
            if not self._by_flag or error.errno not in _NOT_THIS_WAY:
                raise
        self._by_flag = False
        self._reopen()
        return self.write_at_once(data)

    def _plain(self, data: bytes) -> int:
        return os.write(self.fd, data)

    def _no_wait(self, data: bytes) -> int:
        """One call that does not wait, though the descriptor does (Linux 6.5 for pipes and sockets)."""
        return os.pwritev(self.fd, [data], -1, os.RWF_NOWAIT)

    def _reopen(self) -> None:
        try:
            self.write_at_once = _Reopened(self.fd).write
        except OSError:
            self.patient, self.whole = True, 0
            self.write_at_once = self._refuse

    def _refuse(self, data: bytes) -> int:
        raise WouldBlock


class _Reopened:
    """The same pipe or terminal opened once more, with a flag of its own; not for sockets, nor as another user."""

    def __init__(self, fd: int) -> None:
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)

    def write(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def __del__(self) -> None:
        # Not sooner: a thread may still be writing when another one sees that the descriptor means something else.
        try:
            os.close(self._fd)
        except Exception:  # it was never opened
            return


def _is_null(seen: Any) -> bool:
    try:
        return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == os.stat(os.devnull).st_rdev
    except OSError:
        return False
