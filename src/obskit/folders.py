"""Folders of our own on this host: where they may lie, whose they are, and who may write in them now."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time

try:
    import fcntl

    UNIX = True
except ImportError:  # every process is alone
    UNIX = False

_LOCK_TRIES = 200
_LOCK_PAUSE_S = 0.005


def places(directory: str | None) -> tuple[str, ...]:
    """Where to look for room, best first; what the user chose is the only place."""
    if directory is not None:
        return (directory,)
    places = ["/dev/shm"] if os.path.isdir("/dev/shm") else []
    try:
        places.append(tempfile.gettempdir())
    except OSError:
        pass
    return tuple(places)


def boot() -> bytes:
    """16 bytes that change when the host starts anew; empty where no one tells."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return bytes.fromhex(file.read(64).decode("ascii").strip().replace("-", ""))[:16]
    except (OSError, ValueError):
        return b""


def own(place: str) -> int:
    """An open descriptor of our own folder: what is done through it cannot be led elsewhere by a link."""
    path = os.path.join(place, f"obskit-{os.geteuid()}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "belongs to another user", path)
        if found.st_mode & 0o077:
            os.fchmod(folder, 0o700)
    except BaseException:
        os.close(folder)
        raise
    return folder


def made(path: str) -> str:
    """The path of a folder inside our own, made if it is not there. Raises OSError for anything else of that name."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        # Our own folder may have been open to others before we closed it: this may be their link.
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise OSError(errno.ENOTDIR, "is no folder of ours", path) from None
    return path


def write_new(path: str, data: bytes) -> None:
    """A file with this in it, unless there is something of that name. Raises OSError."""
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        os.write(opened, data)
    finally:
        os.close(opened)


def readable(path: str) -> int:
    """An open descriptor of a file of ours, to read it. Raises OSError, for a link or a pipe in its place, too."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    raise OSError(errno.EINVAL, "is no regular file", path)


def fill(opened: int, size: int) -> None:
    """Give a new file its size. Raises OSError where there is no room."""
    # Every block is taken now: on a full disk a later write to the mapping would end the process with SIGBUS.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(opened, 0, size)
    else:
        zeros = memoryview(bytes(size))
        done = 0
        while done < size:
            done += os.pwrite(opened, zeros[done:], done)


def lock(folder: int) -> None:
    """Be alone with an open folder (or file). Raises TimeoutError after a second: its holder may be stopped."""
    for _ in range(_LOCK_TRIES):
        if try_lock(folder):
            return
        time.sleep(_LOCK_PAUSE_S)
    raise TimeoutError(errno.ETIMEDOUT, "another process holds the folder")


def try_lock(opened: int, *, alone: bool = True) -> bool:
    """Take the lock of an open file or folder if nobody holds it (`alone` false: if nobody is alone with it)."""
    try:
        fcntl.flock(opened, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(opened: int) -> None:
    """Let go of the lock at once, also where a forked child still holds the descriptor."""
    fcntl.flock(opened, fcntl.LOCK_UN)
