"""What is done to the servers: signals to workers and masters, and requests that kill or hang their worker."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from tests.torture.visitors import Visitors

START_S = 30.0


def children(parent: int) -> list[int]:
    """The living children of a process, the oldest first, without multiprocessing's own helper."""
    found = []
    for pid in _processes():
        try:
            state, ppid, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes() if int(ppid) == parent else b""
            if command and state not in "ZX" and b"resource_tracker" not in command:
                found.append(pid)
        except (OSError, ValueError):  # gone meanwhile
            continue
    return sorted(found)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def resident_bytes(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


KINDS = (
    "term", "kill", "abort", "kill_two", "die", "crash", "hang", "stop_worker", "reload", "one_more_and_one_less",
    "upgrade",
)  # fmt: skip


class Faults:
    """Faults of all kinds in a shuffled order, over and over, in a thread of its own until `stop`."""

    def __init__(
        self,
        master: int,
        visitors: Visitors,
        every_s: float,
        seed: int,
        *,
        upgrades: bool,
        hang_s: float,
        only: Collection[str] = (),
    ) -> None:
        """`upgrades`: the server knows USR2. `hang_s`: a worker that hangs is killed by its server after about that.

        `only` these kinds (names of methods); all of them when empty.
        """
        self.master = master
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self.resident: list[tuple[float, int, int]] = []
        """Now and then: seconds since the start, workers, bytes of memory they have together."""
        self._visitors = visitors
        self._every_s = every_s
        self._hang_s = hang_s
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)
        self._kinds: list[Callable[[], None]] = [
            self.term,
            self.kill,
            self.abort,
            self.kill_two,
            self.die,
            self.crash,
            self.hang,
            self.stop_worker,
            self.reload,
            self.one_more_and_one_less,
        ]
        if upgrades:
            self._kinds.append(self.upgrade)
        self._kinds = [kind for kind in self._kinds if not only or kind.__name__ in only]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(3 * START_S)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stopping.is_set():
            kinds = list(self._kinds)
            self._random.shuffle(kinds)
            for kind in kinds:
                if self._stopping.wait(self._random.uniform(0.5, 1.5) * self._every_s):
                    return
                try:
                    kind()
                    self.done[kind.__name__] += 1
                except Exception as error:
                    self.problems.append(f"{kind.__name__}: {error!r}")
                workers = children(self.master)
                resident = sum(resident_bytes(pid) for pid in workers)
                self.resident.append((time.monotonic() - began, len(workers), resident))

    def _send(self, number: signal.Signals) -> None:
        workers = children(self.master)
        if workers:
            os.kill(self._random.choice(workers), number)

    def term(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def abort(self) -> None:
        self._send(signal.SIGABRT)

    def kill_two(self) -> None:
        """One is to find the other before it has buried it itself."""
        for pid in children(self.master)[:2]:
            os.kill(pid, signal.SIGKILL)

    def die(self) -> None:
        self._visitors.plant("die")

    def crash(self) -> None:
        self._visitors.plant("crash")

    def hang(self) -> None:
        """Its server is to time it out; the other workers are to go on."""
        self._visitors.plant("hang")
        self._stopping.wait(self._hang_s)

    def stop_worker(self) -> None:
        """Hung, too, but from outside, with whatever lock it may hold."""
        self._send(signal.SIGSTOP)
        self._stopping.wait(self._hang_s)

    def reload(self) -> None:
        os.kill(self.master, signal.SIGHUP)

    def one_more_and_one_less(self) -> None:
        os.kill(self.master, signal.SIGTTIN)
        self._stopping.wait(self._every_s)
        os.kill(self.master, signal.SIGTTOU)

    def upgrade(self) -> None:
        """A new master on the same socket beside the old one, then the old one ends."""
        old = self.master
        os.kill(old, signal.SIGUSR2)
        deadline = time.monotonic() + START_S
        while True:
            # Only a master has children that serve.
            masters = [pid for pid in children(old) if len(children(pid)) >= 2]
            if masters:
                break
            if time.monotonic() > deadline:
                raise TimeoutError("no new master")
            time.sleep(0.1)
        self._stopping.wait(1.0)  # both answer
        self.master = masters[0]
        os.kill(old, signal.SIGQUIT)
        while lives(old):
            if time.monotonic() > deadline:
                raise TimeoutError("the old master stays")
            time.sleep(0.05)
