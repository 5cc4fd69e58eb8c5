"""What becomes of the files below a state folder, before a worker starts and while it serves: nobody's answer changes.

A worker is started, killed, and what it left is damaged; then another worker of the same group serves on top of that.
Root may open everything, so where the damage is one of rights the worker is another user.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

NOBODY = 65_534
VICTIM = b"not to be touched\n"


class Case(NamedTuple):
    """One kind of damage."""

    name: str
    harm: Callable[[Path, Path], None]
    """Called with the folder and a file elsewhere that nobody may touch."""
    live: bool = False
    """Whether it happens while the worker serves, and not before it starts."""
    as_nobody: bool = False


class Outcome(NamedTuple):
    """What came of one case."""

    name: str
    asked: int
    faults: list[str]
    internal_errors: list[str]


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _each(change: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    def harm(folder: Path, _victim: Path) -> None:
        for path in list(_files(folder)):
            change(path)

    return harm


def _cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def _wrong_version(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:7] + b"\x7f" + data[8:])


def _swap(make: Callable[[Path, Path], object]) -> Callable[[Path, Path], None]:
    """Something else in the place of each file."""

    def harm(folder: Path, victim: Path) -> None:
        for path in list(_files(folder)):
            path.unlink()
            make(path, victim)

    return harm


def _folders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))


def _folder_is(make: Callable[[Path, Path], object], depth: int) -> Callable[[Path, Path], None]:
    """Something else in the place of obskit's folder (depth 1) or a group's (depth 2)."""

    def harm(folder: Path, victim: Path) -> None:
        for path in _folders(folder):
            if len(path.relative_to(folder).parts) == depth:
                shutil.rmtree(path)
                make(path, victim)

    return harm


def _owner(user: int) -> Callable[[Path, Path], None]:
    def harm(folder: Path, _victim: Path) -> None:
        for path in folder.rglob("*"):
            os.chown(path, user, user, follow_symlinks=False)

    return harm


def _mode(mode: int, *, files: bool) -> Callable[[Path, Path], None]:
    def harm(folder: Path, _victim: Path) -> None:
        for path in list(_files(folder)) if files else _folders(folder)[-1:]:
            path.chmod(mode)

    return harm


def _locked_up(folder: Path, _victim: Path) -> None:
    """All of it held by a process that does not let go: the locks are taken for three seconds."""
    # Files of workers and the folder's own lock; a stopped worker looks like this from outside.
    held = list(folder.rglob("lock"))
    code = (
        "import fcntl, sys, time\nfiles = [open(p) for p in sys.argv[1:]]\n"
        "for f in files: fcntl.flock(f, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(3)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, *map(str, held)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.close()
    _children.append(child)


_children: list[subprocess.Popen[bytes]] = []


def _gone(folder: Path, _victim: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path)


def _fifo(path: Path, _victim: Path) -> None:
    os.mkfifo(path)


def _link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def _link_to_folder(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent / "theirs")


def _strangers(folder: Path, _victim: Path) -> None:
    """Many files of many kinds that no worker has written."""
    for place in _folders(folder):
        for number in range(200):
            (place / f"{number:016x}.worker").write_bytes(os.urandom(number))
            (place / f"{number:016x}.metrics").write_bytes(os.urandom(number * 50))
            (place / f"{number:016x}.flight").write_bytes(b"obskitF\x01" + os.urandom(5_000))


def _sparse(path: Path) -> None:
    _cut(path, 2**40)


CASES = (
    Case("nothing is damaged", lambda _folder, _victim: None),
    Case("each file cut in half", _each(lambda path: _cut(path, path.stat().st_size // 2))),
    Case("each file empty", _each(lambda path: _cut(path, 0))),
    Case("each file one byte", _each(lambda path: _cut(path, 1))),
    Case("each file random bytes", _each(lambda path: path.write_bytes(os.urandom(path.stat().st_size)) and None)),  # type: ignore[func-returns-value]
    Case("each file of another version", _each(_wrong_version)),
    Case("each file a terabyte, sparse", _each(_sparse)),
    Case("a folder in the place of each file", _swap(lambda path, _victim: path.mkdir())),
    Case("a link in the place of each file", _swap(_link)),
    Case("a pipe in the place of each file", _swap(_fifo)),
    Case("hundreds of strange files", _strangers),
    Case("a file in the place of obskit's folder", _folder_is(lambda path, _victim: path.write_bytes(b""), 1)),
    Case("a file in the place of the group's folder", _folder_is(lambda path, _victim: path.write_bytes(b""), 2)),
    Case("a link in the place of obskit's folder", _folder_is(_link_to_folder, 1)),
    Case("a link in the place of the group's folder", _folder_is(_link_to_folder, 2)),
    Case("files of another user", _owner(NOBODY)),
    Case("obskit's folder open to all", _mode(0o777, files=False)),
    Case("no right to any file", _mode(0, files=True), as_nobody=True),
    Case("no right to write into the folder", _mode(0o500, files=False), as_nobody=True),
    Case("the folder's lock held for seconds", _locked_up),
    Case("everything removed while it serves", _gone, live=True),
    Case("files of another user, while it serves", _owner(NOBODY), live=True),
    Case("hundreds of strange files, while it serves", _strangers, live=True),
    Case("the folder's lock held for seconds, while it serves", _locked_up, live=True),
)  # fmt: skip
# Half a page, some pages: full before there is a file, and in the midst of making one.
FULL = (0, 4_096, 65_536, 131_072, 200_704)


def _start(
    listening: socket.socket, folder: Path, seconds: float, user: int | None
) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "tests.reliability.fuzz.served",
        str(listening.fileno()),
        str(folder),
        str(seconds),
    ]
    if user is not None:
        command.append(str(user))
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,  # what waits in a buffer of ours would not wake us
        pass_fds=[listening.fileno()],
    )


def _await_line(process: subprocess.Popen[bytes], word: str, timeout_s: float = 60.0) -> str:
    """The next line of its that begins so; RuntimeError with what it said instead."""
    assert process.stderr is not None
    said = b""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if select.select([process.stderr], [], [], 0.5)[0]:
            line = process.stderr.readline()
            if not line:
                break
            if line.startswith(word.encode()):
                return line.decode()
            said += line
    raise RuntimeError(said.decode(errors="replace")[-2_000:] or f"nothing in {timeout_s} s")


def _leave_something(listening: socket.socket, folder: Path, user: int | None) -> None:
    """A worker that was killed while it served."""
    process = _start(listening, folder, 60, user)
    try:
        _await_line(process, "ready")
        # What it counts, and who it is, lies in files from its first request on.
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait(10)
        if process.stderr is not None:
            process.stderr.close()


def run(case: Case, seconds: float) -> Outcome:
    """One case from start to end."""
    with tempfile.TemporaryDirectory() as above, socket.create_server(("127.0.0.1", 0)) as listening:
        folder, elsewhere = Path(above, "state"), Path(above, "elsewhere")
        victim = elsewhere / "victim"
        (elsewhere / "theirs").mkdir(parents=True)
        victim.write_bytes(VICTIM)
        folder.mkdir()
        user = NOBODY if case.as_nobody and os.geteuid() == 0 else None
        if user is not None:
            os.chmod(above, 0o755)
            os.chown(folder, user, user)
        _leave_something(listening, folder, user)
        if not case.live:
            case.harm(folder, victim)
        outcome = _serve(case, listening, folder, victim, seconds, user)
        if victim.read_bytes() != VICTIM or list((elsewhere / "theirs").iterdir()):
            outcome.faults.append("a link was followed")
        return outcome


def _serve(
    case: Case, listening: socket.socket, folder: Path, victim: Path, seconds: float, user: int | None
) -> Outcome:
    process = _start(listening, folder, seconds, user)
    faults: list[str] = []
    report: dict[str, Any] = {}
    try:
        _await_line(process, "ready")
        if case.live:
            case.harm(folder, victim)
        report = json.loads(_await_line(process, "report").partition(" ")[2])
        if process.wait(30):
            faults.append(f"it ended with {process.returncode}")
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        faults.append(f"no report ({process.poll()}): {error}")
    finally:
        process.kill()
        process.wait(10)
        if process.stderr is not None:
            process.stderr.close()
        while _children:
            child = _children.pop()
            child.kill()
            child.wait(10)
    if report.get("wrong"):
        faults.append(f"{report['wrong']} of {report['asked']} answers were wrong")
    odd = set(report.get("scrapes", {})) - {"200 OK", "503 Service Unavailable"}
    if odd:
        faults.append(f"scrapes answered {odd}")
    if report.get("slowest_s", 0.0) > 2.5:
        faults.append(f"a request took {report['slowest_s']:.1f} s")
    return Outcome(case.name, report.get("asked", 0), faults, report.get("internal_errors", []))


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of so many bytes; false where this machine does not let us have one."""
    if os.geteuid() != 0:
        yield False
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={max(size, 4_096)}", "obskit-test", str(folder)],
        capture_output=True,
    )
    if mounted.returncode:
        yield False
        return
    try:
        if not size:
            with _ignored(), (folder / "all of it").open("wb") as file:
                file.write(bytes(8_192))
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True)


@contextmanager
def _ignored() -> Iterator[None]:
    try:
        yield
    except OSError:
        pass


def run_full(size: int, seconds: float) -> Outcome | None:
    """A worker whose disk has so many bytes; None where that cannot be had."""
    with tempfile.TemporaryDirectory() as above, socket.create_server(("127.0.0.1", 0)) as listening:
        folder = Path(above, "state")
        folder.mkdir()
        with _small_disk(folder, size) as had:
            if not had:
                return None
            case = Case(f"a disk of {size:,} bytes", lambda _folder, _victim: None)
            return _serve(case, listening, folder, folder, seconds, None)
