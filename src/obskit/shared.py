"""A memory of fixed size that the workers of one host share: a table of fingerprints in a mapped file.

A detector that must know what another worker has just served looks here. The table is a file, mapped into every
worker, of as many slots as it was made with; it never grows, and nobody waits for anybody: a slot is written in one
piece together with a check of itself, and a slot that two workers wrote at once reads as absent. What is lost that
way is one remembered request. A fingerprint is a hash keyed with random bytes that never leave the file, so it means
nothing to whoever finds one.

The file lies in a folder of the user's own (mode 0700) below the option `state_dir`, else in /dev/shm, else in the
folder for temporary files. Where none of them can be had the memory is this process's alone, and `Table.shared` is
false. What it cannot see: other hosts, other containers without a common folder, workers of another user. If
somebody deletes the file, workers that start later share a new one among themselves.

Times are those of the system's monotonic clock, which starts again when the host does: a table from before that is
replaced.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import stat
import struct
import time
from hashlib import blake2b
from typing import NamedTuple, Self
from zlib import crc32

from obskit import folders

LAYOUT = 2
MARKS = 4
_MAGIC = b"obskit\x00T"
_WAYS = 4
_SLOT = struct.Struct("<QQQHHI")  # fingerprint, started, ended, state, times, check
_SLOT_SIZE = _SLOT.size
_CHECKED = _SLOT_SIZE - 4
_FACTS = struct.Struct("<QQQHH")
_BUCKET = _SLOT_SIZE * _WAYS
_FINGERPRINTS = struct.Struct("<" + "Q24x" * _WAYS)
_NUMBER = struct.Struct("<Q")
_ENDS = struct.Struct("<" + "16xQ8x" * _WAYS)
_HEAD = struct.Struct("<8sII16s16s")  # magic, layout, slots, boot, key
_KEY_AT = _HEAD.size - 16
_MARKS_AT = 64
_SLOTS_AT = 128
# What another worker wrote after our own clock was read is later than it, by as long as we were kept waiting.
_SLACK_NS = 1_000_000_000
_FAR_NS = 3_600_000_000_000
MAX_TIMES = 0xFFFF


class Entry(NamedTuple):
    """What one slot remembers. Times are nanoseconds of the monotonic clock, `state` is the writer's own."""

    started_ns: int
    ended_ns: int
    state: int
    times: int


class Table:
    """Fingerprints and what is remembered of each, in `slots` slots of 32 bytes. Made by `Table.open`.

    `shared`  whether other workers of this host see the same memory
    `why`     if they do not: the reason, as a short text
    `marks`   four 64-bit numbers beside the slots, 0 in a new table, for the owner's use
    """

    __slots__ = ("_keyed", "_map", "_mask", "marks", "shared", "slots", "why")

    def __init__(self, memory: mmap.mmap, slots: int, *, shared: bool, why: str = "") -> None:
        self._map = memory
        self._mask = slots // _WAYS - 1
        # A key before the data, as BLAKE2's own keyed mode has it, which fills a whole block with it: a third of the
        # time of a hash as short as ours. (Nothing can be appended to what BLAKE2 has hashed, unlike SHA-2.)
        self._keyed = blake2b(memory[_KEY_AT : _KEY_AT + 16], digest_size=8)
        self.marks = memoryview(memory)[_MARKS_AT : _MARKS_AT + 8 * MARKS].cast("Q")
        self.slots = slots
        self.shared = shared
        self.why = why

    @classmethod
    def open(cls, directory: str | None, service: str, name: str, slots: int = 65_536) -> Self:
        """The table `name` of `service` below `directory` (None: in memory), which its workers share.

        `slots` is a power of two, at least 4; a table with another number of them is another table. Falls back
        to memory of this process alone, and never raises for what it finds on the host. Call it in the process that
        serves: it may wait up to a second while another worker makes the file.
        """
        if slots < _WAYS or slots & (slots - 1):
            raise ValueError(f"slots of a table: saw {slots}, expected a power of two from {_WAYS}")
        size = _SLOTS_AT + slots * _SLOT_SIZE
        why = "no way to share memory on this system"
        if folders.UNIX and _one_clock():
            # A name of ours for whatever the service is called, and none that a folder's listing gives away.
            whose = blake2b(service.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
            file = f"{name}-{LAYOUT}-{slots}-{whose}"
            for place in folders.places(directory):
                try:
                    return cls(_shared(place, file, size, slots), slots, shared=True)
                except (OSError, ValueError) as error:
                    why = f"{place}: {error}"
        memory = mmap.mmap(-1, size)
        memory[: _HEAD.size] = _head(slots) + secrets.token_bytes(16)
        return cls(memory, slots, shared=False, why=why)

    def fingerprint(self, data: bytes) -> int:
        """A 64-bit hash of `data`, the same in every worker that shares the table; never 0."""
        keyed = self._keyed.copy()
        keyed.update(data)
        (number,) = _NUMBER.unpack(keyed.digest())
        return number or 1

    def get(self, fingerprint: int, now_ns: int) -> Entry | None:
        """What is remembered of a fingerprint; None for nothing, for a torn slot, and after `close`."""
        at = _SLOTS_AT + (fingerprint & self._mask) * _BUCKET
        try:
            known = _FINGERPRINTS.unpack_from(self._map, at)
            if fingerprint not in known:
                return None
            at += _SLOT_SIZE * known.index(fingerprint)
            raw = self._map[at : at + _SLOT_SIZE]
        except ValueError:  # closed by another thread
            return None
        found, started_ns, ended_ns, state, times, check = _SLOT.unpack(raw)
        if found != fingerprint or check != crc32(raw[:_CHECKED]):
            return None
        if started_ns > ended_ns or ended_ns > now_ns + _SLACK_NS:  # from before the clock began anew
            return None
        return Entry(started_ns, ended_ns, state, times)

    def put(self, fingerprint: int, started_ns: int, ended_ns: int, state: int = 0, times: int = 1) -> None:
        """Remember this of a fingerprint instead of what was; a full bucket forgets what ended first.

        `state` is a number of 16 bits, and `times` beyond them stays at its highest.
        """
        at = _SLOTS_AT + (fingerprint & self._mask) * _BUCKET
        try:
            known = _FINGERPRINTS.unpack_from(self._map, at)
            if fingerprint in known or 0 in known:
                at += _SLOT_SIZE * known.index(fingerprint if fingerprint in known else 0)
            else:
                at = self._forgotten(at, ended_ns)
            times = times if times < MAX_TIMES else MAX_TIMES
            facts = _FACTS.pack(fingerprint, started_ns, ended_ns, state & 0xFFFF, times)
            self._map[at : at + _SLOT_SIZE] = facts + crc32(facts).to_bytes(4, "little")
        except ValueError:  # closed by another thread
            return

    def add(self, fingerprint: int, started_ns: int, ended_ns: int, state: int, now_ns: int) -> Entry | None:
        """What is remembered of a fingerprint, as `get` tells it; with nothing there, remember this.

        One look where `get` and `put` would take two: less time, and less of it for another worker to come between.
        """
        at = _SLOTS_AT + (fingerprint & self._mask) * _BUCKET
        try:
            memory = self._map
            known = _FINGERPRINTS.unpack_from(memory, at)
            if fingerprint in known:
                entry = self.get(fingerprint, now_ns)
                if entry is not None:
                    return entry
                at += _SLOT_SIZE * known.index(fingerprint)
            elif 0 in known:
                at += _SLOT_SIZE * known.index(0)
            else:
                at = self._forgotten(at, ended_ns)
            facts = _FACTS.pack(fingerprint, started_ns, ended_ns, state & 0xFFFF, 1)
            memory[at : at + _SLOT_SIZE] = facts + crc32(facts).to_bytes(4, "little")
        except ValueError:  # closed by another thread
            pass
        return None

    def _forgotten(self, at: int, ended_ns: int) -> int:
        """Which slot of the full bucket at `at` a new fingerprint takes."""
        ends = _ENDS.unpack_from(self._map, at)
        latest = max(ends)
        # An end that far ahead is a leftover or torn: it would never be the oldest.
        return at + _SLOT_SIZE * ends.index(latest if latest > ended_ns + _FAR_NS else min(ends))

    def close(self) -> None:
        """Let go of the memory; the file stays for the other workers. Later calls find nothing."""
        self.marks.release()
        self._map.close()


def _one_clock() -> bool:
    # The record's clock must be the system's: one that counts from the start of a process compares to no other.
    clocks = (time.get_clock_info(name).implementation for name in ("perf_counter", "monotonic"))
    return len(set(clocks)) == 1


def _head(slots: int) -> bytes:
    """What the head of a table of today must begin with: all of it but the key."""
    return _HEAD.pack(_MAGIC, LAYOUT, slots, folders.boot(), b"")[:_KEY_AT]


def _shared(place: str, file: str, size: int, slots: int) -> mmap.mmap:
    """The file mapped, made if it is not there. Raises OSError where that cannot be had safely."""
    folder = folders.own(place)
    try:
        head = _head(slots)
        memory = _existing(folder, file, size, head)
        if memory is not None:
            return memory
        folders.lock(folder)
        try:
            # Another worker may have made it while this one waited.
            return _existing(folder, file, size, head) or _made(folder, file, size, head)
        finally:
            folders.unlock(folder)
    finally:
        os.close(folder)


def _existing(folder: int, file: str, size: int, head: bytes) -> mmap.mmap | None:
    """The file mapped; None when there is none, or one of ours that is no table of today."""
    try:
        opened = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        # Anything else (no descriptor left, no permission) says nothing about the file: leave it to the others.
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return None
        raise
    try:
        found = os.fstat(opened)
        if found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "belongs to another user", file)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_size != size:
            return None
        if os.pread(opened, len(head), 0) != head:
            return None
        return mmap.mmap(opened, size)
    finally:
        os.close(opened)


def _made(folder: int, file: str, size: int, head: bytes) -> mmap.mmap:
    """A new file, whole before it has its name. The caller holds the lock."""
    new = f"{file}.new"
    try:
        os.unlink(new, dir_fd=folder)  # of a worker that was killed while it held the lock
    except FileNotFoundError:
        pass
    opened = os.open(
        new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
    )
    try:
        folders.fill(opened, size)
        os.pwrite(opened, head + secrets.token_bytes(16), 0)
        memory = mmap.mmap(opened, size)
        os.replace(new, file, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(new, dir_fd=folder)
        raise
    finally:
        os.close(opened)
    return memory
