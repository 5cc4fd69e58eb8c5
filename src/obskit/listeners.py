"""The sockets that this process listens on: which of them is the one that its server serves the application on."""

from __future__ import annotations

import _socket
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

_lent: list[_socket.socket] = []
_ours: set[int] = set()


class Listener(NamedTuple):
    """A listening socket of this process. Not to be kept open by us: its server closes it to end the service."""

    fd: int
    inode: int
    address: str
    reused: bool


def listeners() -> list[Listener]:
    """The listening sockets of this process that its server has, or the application: those of its parent's first.

    What the parent has open too is what workers share. The rest comes in the order of the inodes, which is that of
    their making only on one processor: each processor of a machine hands out numbers of its own.
    """
    found = []
    for name in os.listdir("/dev/fd"):
        with suppress(OSError, ValueError, AttributeError):
            fd, known = int(name), os.fstat(int(name))
            if stat.S_ISSOCK(known.st_mode) and known.st_ino not in _ours:
                with borrowed(fd) as one:
                    if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        tcp = one.family != socket.AF_UNIX
                        reused = tcp and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
                        found.append(Listener(fd, known.st_ino, repr(one.getsockname()), reused))
    if len(found) > 1:
        shared = _sockets_of(os.getppid())
        found.sort(key=lambda listener: (listener.inode not in shared, listener.inode))
    return found


def keep_apart(one: socket.socket) -> None:
    """Say that this socket is obskit's own: nobody serves the application on it."""
    _ours.add(os.fstat(one.fileno()).st_ino)


def _sockets_of(pid: int) -> set[int]:
    """The inodes of the sockets that a process has open; none where it is not ours to ask."""
    found: set[int] = set()
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(entry.path)
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return found


@contextmanager
def borrowed(fd: int) -> Iterator[_socket.socket]:
    """The socket of a descriptor, to be asked something; it stays open, and as it is. Raises OSError."""
    # The class that gevent does not replace. Said to be non-blocking, or a default timeout would really make it so.
    one = _socket.socket(-1, socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0), -1, fd)
    try:
        yield one
    finally:
        _lent.append(one)  # were it not given back, its end would close the socket of the server
        one.detach()
        _lent.remove(one)
