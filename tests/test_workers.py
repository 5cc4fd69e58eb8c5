"""Who belongs to a group of workers, who of them lives, and who buries the dead: with real locks and processes."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obskit import folders, listeners, workers
from obskit.workers import Member, State, Workers
from tests.support.group import listening

DEADLINE_S = 10.0


class Killed(BaseException):
    """What a test ends a burier with."""


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listening() as one:
        yield one


@pytest.fixture
def join(server: socket.socket, tmp_path: Path) -> Iterator[Callable[..., Workers]]:
    """Become a worker; all leave at the end."""
    made: list[Workers] = []

    def call(service: str = "shop", directory: Path = tmp_path, **options: Any) -> Workers:
        made.append(Workers.join(str(directory), service, **options))
        return made[-1]

    yield call
    for one in made:
        one.leave()


def die(worker: Workers) -> None:
    """The kernel lets go of its lock, and nothing else happens: SIGKILL."""
    os.close(worker._opened)
    worker._opened = -1


def living(worker: Workers) -> list[int]:
    return [member.number for member in worker.members() if member.alive]


def files(worker: Workers) -> set[str]:
    return {name for name in os.listdir(worker.folder) if name not in ("lock", "group.json")}


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := what()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return answer


class Heirs:
    """An heir that notes whom it was called for."""

    def __init__(self) -> None:
        self.of: list[str] = []

    def __call__(self, member: Member) -> None:
        self.of.append(member.token)


# ---- who belongs to it ---------------------------------------------------------------------------------


def test_a_process_that_listens_on_no_socket_is_alone_and_says_why(tmp_path: Path) -> None:
    worker = Workers.join(str(tmp_path), "shop")
    assert (worker.shared, worker.members(), list(tmp_path.iterdir())) == (False, [], [])
    assert "listens on no socket" in worker.why
    worker.touch()
    worker.end(State.EXITED)
    assert worker.bury([]) == worker.inherit([]) == 0


def test_workers_of_one_socket_are_a_group_and_take_the_lowest_free_number(
    join: Callable[..., Workers],
) -> None:
    first, second, third = join(), join(), join()
    assert [one.number for one in (first, second, third)] == [0, 1, 2]
    assert first.folder == second.folder
    die(second)
    assert living(first) == [0, 2]
    assert join().number == 1


def test_only_this_user_can_read_what_a_worker_keeps(join: Callable[..., Workers]) -> None:
    worker = join()
    assert os.stat(worker.folder).st_mode & 0o777 == 0o700
    assert os.stat(os.path.dirname(worker.folder)).st_mode & 0o777 == 0o700
    assert {os.stat(os.path.join(worker.folder, name)).st_mode & 0o077 for name in files(worker)} == {0}


def test_another_socket_another_service_and_another_install_are_other_groups(
    join: Callable[..., Workers],
) -> None:
    assert len({join().folder, join("bank").folder, join(install=1).folder}) == 3


def test_every_group_below_a_directory_is_found_with_what_is_known_of_it(
    join: Callable[..., Workers], tmp_path: Path
) -> None:
    join(), join(), join("bank")
    found = {about["service"]: len(members) for about, members in workers.groups(str(tmp_path))}
    assert found == {"shop": 2, "bank": 1}


@pytest.mark.parametrize("place", ["a file", "/proc", "/dev/null/x"])
def test_where_nothing_can_be_written_a_worker_is_alone(place: str, server: Any, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    worker = Workers.join(str(tmp_path / place), "shop")
    assert (worker.shared, worker.members()) == (False, [])
    assert place in worker.why


def test_on_a_full_disk_a_worker_is_alone_and_leaves_nothing(
    join: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = join()
    before = files(first)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    second = join()
    monkeypatch.undo()
    assert (second.shared, files(first)) == (False, before)
    assert "no room" in second.why


def test_what_a_worker_left_that_was_killed_while_it_joined_is_cleared_away(
    join: Callable[..., Workers],
) -> None:
    first = join()
    Path(first.folder, "0123456789abcdef.new").write_bytes(b"half")
    second = join()
    assert files(first) == {f"{first.token}.worker", f"{second.token}.worker"}


def test_a_lock_that_a_stopped_worker_holds_keeps_nobody_waiting_for_long(
    join: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = join()
    monkeypatch.setattr(folders, "_LOCK_TRIES", 3)
    with workers._alone(first.folder, wait=True):
        second = join()
    assert (second.shared, first.bury([])) == (False, 0)
    assert "another process holds" in second.why


# ---- who lives -----------------------------------------------------------------------------------------


def test_a_worker_is_dead_though_a_process_with_its_pid_lives(join: Callable[..., Workers]) -> None:
    """A container that starts anew gives the same pid again; so does the kernel, some day."""
    before = join()
    die(before)
    after = join()
    old, new = sorted(after.members(), key=lambda member: member.started_unix_ns)
    assert old.pid == new.pid == os.getpid()
    assert (old.alive, new.alive) == (False, True)
    heir = Heirs()
    assert after.bury([heir]) == 1
    assert heir.of == [before.token]
    assert living(after) == [0]


# A worker of its own: joins on the socket it is given, and forks, or starts, a child that outlives it.
WORKER = """
import os, signal, subprocess, sys, time
from obskit.workers import Workers

directory, child, fd = sys.argv[1:4]
worker = Workers.join(directory, "shop")
assert worker.shared, worker.why
pid = 0
if child == "fork":
    pid = os.fork()
    if pid == 0:
        assert not worker.shared and worker.why == "forked"
        worker.touch(), worker.end(1), worker.leave()
        time.sleep(60)
        os._exit(0)
elif child == "exec":
    pid = subprocess.Popen(["sleep", "60"], close_fds=False).pid
print(pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("child", ["fork", "exec", ""])
def test_a_child_that_outlives_its_worker_does_not_keep_it_alive(
    child: str, server: socket.socket, join: Callable[..., Workers], tmp_path: Path
) -> None:
    here = join()
    fd = server.fileno()
    command = [sys.executable, "-c", WORKER, str(tmp_path), child, str(fd)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[fd])
    assert worker.stdout is not None
    orphan = int(worker.stdout.readline())
    try:
        assert living(here) == [0, 1]
        worker.kill()
        worker.wait(DEADLINE_S)
        assert not orphan or os.path.exists(f"/proc/{orphan}")
        # A forked child lets go when it first gets to run.
        assert until(lambda: living(here) == [0])
        (dead,) = [member for member in here.members() if not member.alive]
        assert (dead.pid, dead.state) == (worker.pid, State.RUNNING)
    finally:
        worker.kill()
        worker.stdout.close()
        if orphan:
            os.kill(orphan, signal.SIGKILL)


def test_a_sign_of_life_is_seen_by_the_others(join: Callable[..., Workers]) -> None:
    one, other = join(), join()
    before = other.members()[0].seen_unix_ns
    one.touch()
    assert other.members()[0].seen_unix_ns > before


@pytest.mark.parametrize(
    ("said", "options", "killed", "reason"),
    [
        ((State.EXITED,), {}, 0, "exited"),
        ((State.TIMED_OUT, State.EXITED), {}, 0, "timeout"),
        ((State.EXITED, State.TIMED_OUT), {}, 0, "exited"),
        ((), {}, 0, "died"),
        ((), {}, 1, "oom"),
        ((State.EXITED,), {}, 1, "exited"),
        ((), {"promised": False}, 0, "unknown"),
        ((State.EXITED,), {"promised": False}, 0, "exited"),
    ],
)
def test_why_a_worker_ended_is_what_it_said_first_or_what_can_be_concluded(
    said: tuple[State, ...],
    options: dict[str, Any],
    killed: int,
    reason: str,
    join: Callable[..., Workers],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "oom_kills", lambda: 3)
    one, other = join(**options), join()
    for state in said:
        one.end(state)
    die(one)
    monkeypatch.setattr(workers, "oom_kills", lambda: 3 + killed)
    assert other.members()[0].exit_reason() == reason
    assert reason in workers.EXIT_REASONS


def test_out_of_memory_kills_are_read_where_the_kernel_tells_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 2\noom_kill 7\noom_group_kill 0\n")
    really = open

    def elsewhere(path: Any, *more: Any, **options: Any) -> Any:
        return really(events if str(path).endswith("memory.events'") else path, *more, **options)

    monkeypatch.setattr("builtins.open", elsewhere)
    cgroup_2 = any(line.startswith("0::") for line in Path("/proc/self/cgroup").read_text().splitlines())
    assert workers.oom_kills() == (7 if cgroup_2 else 0)


def test_after_it_left_a_worker_writes_into_no_file_that_took_the_place_of_its_own(
    join: Callable[..., Workers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = join()
    taken = worker._opened
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        asked.set()
        assert go_on.wait(DEADLINE_S)
        return 0

    monkeypatch.setattr(workers, "oom_kills", slow)
    toucher = threading.Thread(target=worker.touch)
    toucher.start()
    assert asked.wait(DEADLINE_S)
    worker.leave()
    with open(tmp_path / "of somebody else", "w+b") as file:
        file.write(bytes(64))
        file.flush()
        os.dup2(file.fileno(), taken)
        go_on.set()
        toucher.join(DEADLINE_S)
        worker.end(State.EXITED)
        os.close(taken)
        file.seek(0)
        assert file.read() == bytes(64)


# ---- who buries ----------------------------------------------------------------------------------------


def test_what_a_dead_worker_left_is_for_every_heir_and_then_gone(join: Callable[..., Workers]) -> None:
    one, other = join(), join()
    Path(one.path("metrics")).write_text("what it counted")
    seen = []

    def heir(member: Member) -> None:
        seen.append((member.token, Path(member.path("metrics")).read_text()))

    assert other.bury([heir, heir]) == 0
    die(one)
    assert other.bury([heir, heir]) == 1
    assert seen == [(one.token, "what it counted")] * 2
    assert files(other) == {f"{other.token}.worker"}
    assert other.bury([heir, heir]) == 0


def test_an_heir_that_fails_stops_nobody_and_is_heard_of(join: Callable[..., Workers]) -> None:
    gone, here = [join(), join()], join()
    for one in gone:
        die(one)
    heir = Heirs()

    def failing(member: Member) -> None:
        raise ValueError("cannot be read")

    with pytest.raises(ValueError, match="cannot be read"):
        here.bury([failing, heir])
    assert heir.of == [one.token for one in gone]
    assert files(here) == {f"{here.token}.worker"}


def test_of_many_that_would_bury_at_once_one_does(join: Callable[..., Workers]) -> None:
    gone, here = [join() for _ in range(20)], [join() for _ in range(4)]
    for one in gone:
        die(one)
    heir, start = Heirs(), threading.Barrier(len(here))

    def slow(member: Member) -> None:
        heir(member)
        time.sleep(0.001)

    def bury(worker: Workers) -> None:
        start.wait()
        while any(not member.alive for member in worker.members()):
            worker.bury([slow])

    threads = [threading.Thread(target=bury, args=(worker,)) for worker in here]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(heir.of) == sorted(one.token for one in gone)


def test_what_a_killed_burier_had_begun_is_done_again_by_the_next(join: Callable[..., Workers]) -> None:
    gone, one, other = [join(), join()], join(), join()
    for worker in gone:
        die(worker)
    heir = Heirs()

    def killed(member: Member) -> None:
        heir(member)
        raise Killed

    with pytest.raises(Killed):
        one.bury([killed])
    die(one)
    assert other.bury([heir]) == 3
    assert heir.of == [gone[0].token, gone[0].token, gone[1].token, one.token]


def test_that_an_end_was_told_is_known_to_the_next_burier(join: Callable[..., Workers]) -> None:
    one, other = join(promised=False), join()
    die(one)
    (dead, _) = other.members()
    assert (dead.told, dead.promised) == (False, False)
    dead.mark_told()
    assert [member.told for member in other.members()] == [True, False]
    assert other.members()[0] == dead._replace(told=True)


@pytest.mark.parametrize("seed", range(12))
def test_a_file_that_somebody_else_has_written_into_is_a_worker_of_whom_only_its_lock_tells(
    seed: int, join: Callable[..., Workers]
) -> None:
    one, other = join(), join()
    source = random.Random(seed)
    with open(one.path("worker"), "r+b") as file:
        if seed % 2:
            file.truncate(source.randrange(48))
        else:
            file.write(source.randbytes(48))
    assert (living(other), len(other.members())) == ([0, 1], 2)
    die(one)
    assert living(other) == [1]
    heir = Heirs()
    assert other.bury([heir]) == 1
    assert heir.of == [one.token]


# ---- groups that are over ------------------------------------------------------------------------------


@pytest.fixture
def group_before(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A group of a service on a socket of its own, whose one worker is dead; its folder."""
    holders = []

    def make(service: str = "shop", *, open_still: bool = False, seen_s_ago: float = 0, **about: Any) -> Path:
        with socket.create_server(("127.0.0.1", 0)) as server:
            worker = Workers.join(str(tmp_path), service)
            die(worker)
            if open_still:
                holders.append(subprocess.Popen(["sleep", "60"], pass_fds=[server.fileno()]))
        folder = Path(worker.folder)
        known = json.loads((folder / "group.json").read_text())
        (folder / "group.json").write_text(json.dumps(known | about))
        if seen_s_ago:
            with open(worker.path("worker"), "r+b") as file:
                file.seek(24)
                file.write(int((time.time() - seen_s_ago) * 1e9).to_bytes(8, "little"))
            os.utime(folder, (0, time.time() - seen_s_ago))
        return folder

    yield make
    for holder in holders:
        holder.kill()
        holder.wait()


HOUR = 3600.0


@pytest.mark.parametrize(
    ("facts", "found", "stays"),
    [
        ({}, 1, False),
        ({"open_still": True}, 0, True),  # its server will start another worker
        ({"open_still": True, "seen_s_ago": 25 * HOUR}, 0, True),
        ({"service": "bank"}, 0, True),
        ({"boot": "0" * 32}, 1, False),  # the machine was started anew
        ({"boot": "0" * 32, "host": "another"}, 0, True),  # another machine's, on the same storage
        ({"boot": "0" * 32, "host": "another", "seen_s_ago": 25 * HOUR}, 1, False),
        ({"network": 1}, 1, True),  # another container's
        ({"network": 1, "seen_s_ago": 23 * HOUR}, 1, True),
        ({"network": 1, "seen_s_ago": 25 * HOUR}, 1, False),
        ({"socket": 0, "parent": [os.getpid(), "0"]}, 1, False),  # that pid is another process now
        ({"socket": 0, "parent": [os.getpid(), workers._started(os.getpid())]}, 0, True),
        ({"socket": 0, "parent": [os.getpid(), "0"], "processes": 1}, 1, True),
        ({"socket": "x"}, 1, False),
        ({"socket": 0, "parent": 7}, 0, True),
    ],
)
def test_a_group_that_is_over_is_inherited_by_the_next_of_its_service(
    facts: dict[str, Any],
    found: int,
    stays: bool,
    group_before: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = group_before(**facts)
    heir = Heirs()

    def telling(member: Member) -> None:
        heir(member)
        member.mark_told()

    with listening():
        here = Workers.join(str(tmp_path), "shop")
        try:
            assert (here.inherit([telling]), len(heir.of), folder.exists()) == (found, found, stays)
            # What was told stays told, though the files are there for whoever may come back to them.
            here.inherit([telling])
            assert len(heir.of) == found
            assert not stays or any(name.suffix == ".worker" for name in folder.iterdir())
        finally:
            here.leave()


def test_a_group_with_a_living_worker_is_left_alone(tmp_path: Path) -> None:
    with listening():
        other = Workers.join(str(tmp_path), "shop")
    with listening():
        here = Workers.join(str(tmp_path), "shop")
        heir = Heirs()
        assert (here.folder != other.folder, here.inherit([heir])) == (True, 0)
        other.leave()
        assert here.inherit([heir]) == 1
        here.leave()


def test_a_socket_that_listens_is_found_whatever_its_family(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as local, socket.socket(socket.AF_INET6) as six, listening() as four:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        inodes = {os.fstat(one.fileno()).st_ino for one in (local, four, six)}
        quiet = {os.fstat(six.fileno()).st_ino}
        assert workers._sockets() & inodes == inodes - quiet
        assert {one.inode for one in workers.listeners()} == inodes - quiet
    assert not workers._sockets() & inodes


def test_a_socket_of_ours_is_none_of_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with listening() as ours, listening() as theirs:
        listeners.keep_apart(ours)
        assert [one.fd for one in listeners.listeners() if one.fd in (ours.fileno(), theirs.fileno())] == [
            theirs.fileno()
        ]


def test_what_the_parent_has_open_too_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as first, listening() as second:
        own = {one.fileno(): os.fstat(one.fileno()).st_ino for one in (first, second)}
        for inode in own.values():
            monkeypatch.setattr(listeners, "_sockets_of", lambda pid, inode=inode: {inode})
            assert next(iter(listeners.listeners())).inode == inode
    # Asked in earnest: a child finds in its parent, which is this process, what this process listens on.
    with listening() as one:
        inode = os.fstat(one.fileno()).st_ino
        code = f"import os; from obskit.listeners import _sockets_of; print({inode} in _sockets_of(os.getppid()))"
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert asked.stdout == "True\n"


def test_workers_with_a_socket_each_for_one_port_are_a_group_by_their_parent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as first:
        one = Workers.join(str(tmp_path), "shop")
    with socket.create_server(first_address(one), reuse_port=True):
        other = Workers.join(str(tmp_path), "shop")
    assert first.fileno() == -1
    assert (one.folder, one.number, other.number) == (other.folder, 0, 1)
    one.leave()
    other.leave()


def first_address(worker: Workers) -> tuple[str, int]:
    about = json.loads(Path(worker.folder, "group.json").read_text())
    host, port = about["address"].strip("()").split(",")
    return host.strip("' "), int(port)


def test_a_socket_that_cannot_be_given_back_is_not_closed_either(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(listeners._socket.socket):
        def detach(self) -> int:
            raise OSError("not given back")

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(listeners._socket, "socket", Kept)
        with pytest.raises(OSError, match="given back"), listeners.borrowed(server.fileno()):
            pass
        monkeypatch.undo()
        gc.collect()
        socket.create_connection(server.getsockname()).close()
        kept = listeners._lent.pop()
        listeners._socket.socket.detach(kept)
