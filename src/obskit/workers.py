"""The processes that answer at one address: who they are, who of them lives, and who buries the dead.

No server tells its workers of each other, but all of them, and nobody else, accept on one listening socket: its inode
names the group. It stays over a reload and an upgrade of the binary (USR2), and a service that starts anew has a new
one. Where each worker has a socket of its own (SO_REUSEPORT), address and parent process name it.

The group has a folder. Each worker keeps a file in it, `<token>.worker`, and holds a lock on that for as long as it
lives: the kernel lets it go however the process ends, so neither a pid that is used again nor a container that
starts with the same one is mistaken for a living worker. What else a worker keeps lies beside it under the same
token. A dead worker is buried by one of the living, alone with the folder's lock: its heirs (metrics, flight
recorder) read what it left, then its files go; once more, if the one that buried it died meanwhile.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import socket
import struct
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, IntEnum
from hashlib import blake2b
from threading import Lock
from typing import Any, NamedTuple, Self

from obskit import folders
from obskit.listeners import listeners

LAYOUT = 1
_PREFIX = f"workers-{LAYOUT}"
_MEMBER = ".worker"
_ABOUT, _MAX_ABOUT = "group.json", 65_536
_LOCK = "lock"
# magic, pid, number, state, flags, started, seen (unix ns), out-of-memory kills at that time, server's timeout
_HEAD = struct.Struct("<8sIHBBQQQd")
_STATE_AT, _FLAGS_AT, _SEEN_AT = 14, 15, 24
_PROMISED, _TOLD = 1, 2
_MAGIC = b"obskitW" + bytes([LAYOUT])
_FORGET_S = 86_400.0

Heir = Callable[["Member"], None]


class State(IntEnum):
    """How far a worker's life has come, as it said itself."""

    RUNNING = 0
    EXITED = 1
    """It ended in good order."""
    TIMED_OUT = 2
    """Its server told it to stop, because a request took too long."""


class Member(NamedTuple):
    """One worker of a group, as its file tells. Times are nanoseconds since 1970."""

    folder: str
    token: str
    number: int
    """Its place among the workers, from 0: the lowest that no living worker had. Bounded, and taken again."""
    pid: int
    alive: bool
    state: State
    promised: bool
    """Whether its server lets it say goodbye when it ends in good order."""
    started_unix_ns: int
    seen_unix_ns: int
    """Its last sign of life: at most about a second before its end, unless it hung."""
    oom_kills: int
    timeout_s: float
    """After how long its server gives up on it; 0 if it does not, or nobody knows."""
    told: bool
    """Whether its end has been told of."""

    def mark_told(self) -> None:
        """Its end has been told of: an heir that comes after a killed one need not do it again. Raises OSError."""
        opened = os.open(os.path.join(self.folder, self.token + _MEMBER), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(opened, bytes([self.promised * _PROMISED | _TOLD]), _FLAGS_AT)
        finally:
            os.close(opened)

    def path(self, kind: str) -> str:
        """Where this worker keeps what it has of this kind."""
        return os.path.join(self.folder, f"{self.token}.{kind}")

    def exit_reason(self) -> str:
        """Why a dead worker ended: exited, timeout, oom, died, or unknown where it could not have said goodbye.

        `died` is a signal (SIGKILL, a segmentation fault) or `os._exit`: only its parent could tell which.
        """
        if self.state is State.EXITED:
            return "exited"
        if self.state is State.TIMED_OUT:
            return "timeout"
        if oom_kills() > self.oom_kills:
            return "oom"
        return "died" if self.promised else "unknown"


EXIT_REASONS = ("exited", "timeout", "oom", "died", "unknown")


class _Fate(Enum):
    """What is to be expected of a group."""

    LIVES = 0
    """Somebody serves its socket, or will."""
    DEAD = 1
    """Nobody lives, but from here it cannot be seen whether somebody comes back to it."""
    OVER = 2
    """Nobody will come back to it."""


class Workers:
    """This process in its group. Made by `Workers.join`; `shared` false: there is no group, and `why`."""

    def __init__(self, folder: str, token: str, number: int, opened: int, why: str = "") -> None:
        self.folder = folder
        self.token = token
        self.number = number
        self.why = why
        self._opened = opened
        self._lock = Lock()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    @property
    def shared(self) -> bool:
        """Whether other workers can see what this one keeps."""
        return self._opened >= 0

    @classmethod
    def join(
        cls,
        directory: str | None,
        service: str,
        *,
        install: int = 0,
        promised: bool = True,
        timeout_s: float = 0.0,
    ) -> Self:
        """Become a member of the group of this process, below `directory` (None: in memory).

        `install` counts the installs of a process, which are strangers to each other. Never raises for what it finds
        on the host: a process without a listening socket, or without a folder to write in, is alone. Call it when the
        process serves (its first request); it may wait up to a second for another worker.
        """
        why = "no way to share on this system"
        if folders.UNIX:
            try:
                key, about = _group(service, install)
            except (OSError, LookupError) as error:
                return cls("", "", 0, -1, str(error))
            for place in folders.places(directory):
                try:
                    return cls(*_enter(place, key, about, promised, timeout_s))
                except OSError as error:
                    why = f"{place}: {error}"
        return cls("", "", 0, -1, why)

    def _after_fork(self) -> None:
        # The child is no worker yet, and must not keep its parent's lock alive.
        self._lock = Lock()
        if self._opened >= 0:
            with suppress(OSError):
                os.close(self._opened)
            self._opened = -1
            self.why = "forked"

    def path(self, kind: str) -> str:
        """Where this worker keeps what it has of this kind."""
        return os.path.join(self.folder, f"{self.token}.{kind}")

    def members(self) -> list[Member]:
        """All workers of the group whose files are there, this one and the dead among them, by number."""
        return _members(self.folder, self.token) if self.shared else []

    def touch(self) -> None:
        """Give a sign of life."""
        sign = struct.pack("<QQ", time.time_ns(), oom_kills()) if self.shared else b""
        with self._lock:  # no other file may have taken the descriptor's place
            if self.shared:
                os.pwrite(self._opened, sign, _SEEN_AT)

    def end(self, state: State) -> None:
        """Say why this process is about to end; the first word counts."""
        with self._lock:
            if self.shared and os.pread(self._opened, 1, _STATE_AT) == b"\0":
                os.pwrite(self._opened, bytes([state]), _STATE_AT)

    def leave(self) -> None:
        """Give up the membership; what this worker kept is for its heirs."""
        with self._lock:
            if self.shared:
                opened, self._opened, self.why = self._opened, -1, "left"
                folders.unlock(opened)
                os.close(opened)

    def bury(self, heirs: Sequence[Heir]) -> int:
        """Let the heirs have what the dead of this group left, and clear it away. Returns how many there were.

        Does nothing while another worker is at it. What an heir raises is raised when all is done; a worker of whom
        one could not take over (OSError: a full disk) stays for the next time.
        """
        if not self.shared or all(member.alive for member in self.members()):
            return 0
        return _bury(self.folder, heirs, self.token)

    def inherit(self, heirs: Sequence[Heir]) -> int:
        """The same for groups of this service that nobody will come back to, whose folders go, too.

        Of a group that is dead as far as can be seen from here (another container's) the heirs are told once, and
        its files stay for a day: its own workers may come back to what they have counted.
        """
        if not self.shared:
            return 0
        above, own = os.path.split(self.folder)
        found = 0
        for name in os.listdir(above):
            folder = os.path.join(above, name)
            if not name.startswith(own.rpartition("-")[0]) or name == own:
                continue
            fate = _fate(folder)
            if fate is not _Fate.LIVES:
                found += _bury(folder, heirs, "", keep=fate is _Fate.DEAD)
            if fate is _Fate.OVER:
                shutil.rmtree(folder, ignore_errors=True)
        return found


def groups(directory: str | None) -> Iterator[tuple[dict[str, Any], list[Member]]]:
    """Every group of this user below `directory` (None: the usual places): what is known of it, and its members."""
    for place in folders.places(directory):
        above = os.path.join(place, f"obskit-{os.geteuid()}")
        with suppress(OSError):
            for name in sorted(os.listdir(above)):
                if name.startswith(_PREFIX):
                    folder = os.path.join(above, name)
                    yield _about(folder), _members(folder, "")


def oom_kills() -> int:
    """How often the kernel has killed a process of this control group for memory; 0 where nobody tells."""
    try:
        with open("/proc/self/cgroup", "rb") as file:
            own = next(line[3:].strip() for line in file if line.startswith(b"0::"))
        with open(b"/sys/fs/cgroup" + own + b"/memory.events", "rb") as file:
            return next(int(line[9:]) for line in file if line.startswith(b"oom_kill "))
    except (OSError, ValueError, StopIteration):
        return 0


def _group(service: str, install: int) -> tuple[str, dict[str, Any]]:
    """The name of this process's group, and what is to be known of it. LookupError: it does not serve a socket."""
    found = listeners()
    if not found:
        raise LookupError("this process listens on no socket")
    first = found[0]
    named: tuple[Any, ...] = (first.inode,)
    parent = os.getppid()
    if first.reused:
        named = (first.address, parent, _started(parent))
    boot = folders.boot().hex()
    about = {
        "service": service,
        "address": first.address,
        "boot": boot,
        "host": socket.gethostname(),
        "network": _inode("/proc/self/ns/net"),
        "socket": 0 if first.reused else first.inode,
        "processes": _inode("/proc/self/ns/pid"),
        "parent": [parent, _started(parent)] if first.reused else None,
    }
    digest = blake2b(repr((boot, install, *named)).encode(), digest_size=8).hexdigest()
    whose = blake2b(service.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{_PREFIX}-{whose}-{digest}", about


def _enter(
    place: str, key: str, about: dict[str, Any], promised: bool, timeout_s: float
) -> tuple[str, str, int, int]:
    os.close(folders.own(place))
    folder = folders.made(os.path.join(place, f"obskit-{os.geteuid()}", key))
    with _alone(folder, wait=True):
        folders.write_new(os.path.join(folder, _ABOUT), json.dumps(about).encode())
        for name in os.listdir(folder):
            if name.endswith(".new") and name.count(".") == 1:  # of one that was killed in these lines
                with suppress(OSError):
                    os.unlink(os.path.join(folder, name))
        token = secrets.token_hex(8)
        taken = {member.number for member in _members(folder, "") if member.alive}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        now = time.time_ns()
        path = os.path.join(folder, token)
        opened = os.open(f"{path}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if not folders.try_lock(opened):
                raise OSError(f"{path}: another process holds it")
            head = _HEAD.pack(
                _MAGIC, os.getpid(), number, State.RUNNING, promised, now, now, oom_kills(), timeout_s
            )
            if os.pwrite(opened, head, 0) != len(head):
                raise OSError(f"{path}: no room")
            os.rename(f"{path}.new", path + _MEMBER)
        except BaseException:
            os.close(opened)
            with suppress(OSError):
                os.unlink(f"{path}.new")
            raise
    return folder, token, number, opened


def _members(folder: str, own: str) -> list[Member]:
    found = []
    for name in os.listdir(folder):
        if not name.endswith(_MEMBER):
            continue
        token = name.removesuffix(_MEMBER)
        try:
            opened = folders.readable(os.path.join(folder, name))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise  # it is there, and must not be left out
            continue  # buried meanwhile, or nothing that a worker has put there
        try:
            alive = token == own or not folders.try_lock(opened, alone=False)
            head = os.pread(opened, _HEAD.size, 0)
        finally:
            os.close(opened)
        found.append(_member(folder, token, alive, head))
    return sorted(found, key=lambda member: member.number)


def _member(folder: str, token: str, alive: bool, head: bytes) -> Member:
    try:
        magic, pid, number, state, flags, started, seen, killed, timeout_s = _HEAD.unpack(head)
        if magic != _MAGIC:
            raise ValueError("no file of ours")
        promised, told = bool(flags & _PROMISED), bool(flags & _TOLD)
        return Member(
            folder, token, number, pid, alive, State(state), promised, started, seen, killed, timeout_s, told
        )
    except (struct.error, ValueError):
        # Its disk was full, or something wrote into it: all that is sure is whether somebody holds it.
        return Member(folder, token, 0, 0, alive, State.RUNNING, False, 0, 0, 0, 0.0, False)


def _bury(folder: str, heirs: Sequence[Heir], own: str, *, keep: bool = False) -> int:
    failure: Exception | None = None
    buried = 0
    with _alone(folder, wait=False) as alone:
        if not alone:
            return 0
        for member in _members(folder, own):
            if member.alive or (keep and member.told):
                continue
            for heir in heirs:
                try:
                    heir(member)
                except Exception as error:
                    # A full disk may have room tomorrow; what is damaged will not be better: it goes, and we say so.
                    failure, keep = error, keep or isinstance(error, OSError)
            buried += 1
            if keep:
                continue
            for name in os.listdir(folder):
                if name.startswith(member.token) and not name.endswith(_MEMBER):
                    os.unlink(os.path.join(folder, name))
            os.unlink(os.path.join(folder, member.token + _MEMBER))
    if failure is not None:
        raise failure
    return buried


def _about(folder: str) -> dict[str, Any]:
    try:
        with open(folders.readable(os.path.join(folder, _ABOUT)), encoding="utf-8") as file:
            about = json.loads(file.read(_MAX_ABOUT))
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _fate(folder: str) -> _Fate:
    try:
        members = _members(folder, "")
        if any(member.alive for member in members):
            return _Fate.LIVES
        about = _about(folder)
        last = max([*(member.seen_unix_ns * 1e-9 for member in members), os.stat(folder).st_mtime])
        forgotten = time.time() - last > _FORGET_S
        if about.get("boot") != folders.boot().hex():
            # Another machine's, on storage that is shared: its locks may not be seen here.
            over = forgotten or about.get("host") == socket.gethostname()
            return _Fate.OVER if over else _Fate.LIVES
        if about.get("socket") and about.get("network") == _inode("/proc/self/ns/net"):
            return _Fate.LIVES if about["socket"] in _sockets() else _Fate.OVER
        if about.get("parent") and about.get("processes") == _inode("/proc/self/ns/pid"):
            pid, started = about["parent"]
            return _Fate.LIVES if _started(pid) == started else _Fate.OVER
        return _Fate.OVER if forgotten else _Fate.DEAD
    except (OSError, ValueError, TypeError):
        return _Fate.LIVES


def _sockets() -> set[int]:
    """The inodes of all sockets that listen in this network namespace."""
    found = set()
    for table, state, listening, inode in (
        ("tcp", 3, b"0A", 9),
        ("tcp6", 3, b"0A", 9),
        ("unix", 5, b"01", 6),
    ):
        with suppress(FileNotFoundError), open(f"/proc/net/{table}", "rb") as file:
            for line in file:
                words = line.split()
                if len(words) > inode and words[state] == listening and words[inode].isdigit():
                    found.add(int(words[inode]))
    return found


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _started(pid: int) -> str:
    """When a process began, as the kernel counts it: with the pid it names one process for ever."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""


@contextmanager
def _alone(folder: str, *, wait: bool) -> Iterator[bool]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opened = os.open(os.path.join(folder, _LOCK), flags, 0o600)
    try:
        if wait:
            folders.lock(opened)
        elif not folders.try_lock(opened):
            yield False
            return
        try:
            yield True
        finally:
            folders.unlock(opened)
    finally:
        os.close(opened)
