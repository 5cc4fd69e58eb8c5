"""Where numbers lie: in memory of this process alone, or in a file that the other workers of its server read.

A file grows by chunks that are taken from the disk before they are mapped, so that a full one is an error now and
not the end of the process later. An entry is its key and its numbers; it counts from the moment at which its chunk
says that it is used, and then stays where it is. Each number is eight bytes in their place, written at once: whoever
reads along, or comes when the writer was killed, sees each number as it was or as it is.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from obskit import folders

if TYPE_CHECKING:
    View = memoryview[float]
CHUNK = 65_536
MAX_KEY = 8_192
# A histogram of 20 buckets under the largest `max_series` is 0.9 GB; somebody else's file may be of any size.
MAX_FILE = 2**30
_MAGIC = b"obskitM\x01"
_CHUNK_HEAD = struct.Struct("<8sQ")  # magic, bytes in use
_USED = struct.Struct("<Q")
_ENTRY_HEAD = struct.Struct("<II")  # bytes of the key, numbers


class Shelf:
    """Room for numbers under keys. With a path it is a file's, else the process's own."""

    def __init__(self, path: str | None = None) -> None:
        """Raises OSError where the file cannot be had."""
        self._file = -1
        self._chunk: memoryview | None = None
        self._numbers: View | None = None
        self._used = CHUNK
        self._size = 0
        if path is not None:
            # A link that somebody has put there must not lead us to truncate another file.
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o600)

    def take(self, key: bytes, count: int) -> tuple[View, int]:
        """Room for `count` numbers, all 0: a view of eight-byte numbers, and where in it they begin.

        Raises OSError when there is none, and ValueError for what fits into no chunk.
        """
        padded = -len(key) % 8
        size = _ENTRY_HEAD.size + len(key) + padded + 8 * count
        if len(key) > MAX_KEY or size > CHUNK - _CHUNK_HEAD.size:
            raise ValueError(f"no entry can have a key of {len(key)} bytes and {count} numbers")
        if self._used + size > CHUNK:
            self._grow()
        chunk, numbers = self._chunk, self._numbers
        assert chunk is not None
        assert numbers is not None
        at = self._used
        _ENTRY_HEAD.pack_into(chunk, at, len(key), count)
        chunk[at + _ENTRY_HEAD.size : at + _ENTRY_HEAD.size + len(key)] = key
        self._used = at + size
        _USED.pack_into(chunk, 8, self._used)
        return numbers, (self._used - 8 * count) // 8

    def _grow(self) -> None:
        if self._file < 0:
            memory: bytearray | mmap.mmap = bytearray(CHUNK)
        else:
            folders.fill(self._file, self._size + CHUNK)
            memory = mmap.mmap(self._file, CHUNK, offset=self._size)
        self._chunk = memoryview(memory)
        self._numbers = self._chunk.cast("d")
        self._used = _CHUNK_HEAD.size
        self._size += CHUNK
        _CHUNK_HEAD.pack_into(self._chunk, 0, _MAGIC, self._used)

    def close(self) -> None:
        """Let go of the file; what has been taken stays valid for who holds its view."""
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1
        self._chunk = self._numbers = None
        self._used = CHUNK


def read(path: str) -> bytes:
    """A whole file as it is now. Raises OSError, and ValueError for what no worker of ours can have written."""
    opened = folders.readable(path)
    try:
        size = os.fstat(opened).st_size
        if size > MAX_FILE:
            raise ValueError(f"a file of {size} bytes")
        parts = []
        while size > 0 and (part := os.read(opened, size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
    finally:
        os.close(opened)


def entries(data: bytes, start: int = 0) -> Iterator[tuple[int, bytes, int, int]]:
    """The entries from `start`, a place where an entry ended: (end, key, place of the numbers in bytes, how many).

    Raises ValueError for what is no such file; an end that is cut off is not there.
    """
    at = start
    while True:
        base = at - at % CHUNK
        if base + CHUNK > len(data):
            return
        magic, used = _CHUNK_HEAD.unpack_from(data, base)
        if magic != _MAGIC:
            if not any(data[base : base + _CHUNK_HEAD.size]):  # it has only just grown
                return
            raise ValueError("no numbers of ours")
        if used > CHUNK:
            raise ValueError(f"a chunk with {used} bytes in use")
        at = max(at, base + _CHUNK_HEAD.size)
        end = base + used
        while at < end:
            length, count = _ENTRY_HEAD.unpack_from(data, at)
            place = at + _ENTRY_HEAD.size + length + -length % 8
            if place + 8 * count > end:
                raise ValueError("an entry that ends behind its chunk")
            key = data[at + _ENTRY_HEAD.size : at + _ENTRY_HEAD.size + length]
            at = place + 8 * count
            yield at, key, place, count
        if base + 2 * CHUNK > len(data):
            return
        at = base + CHUNK
