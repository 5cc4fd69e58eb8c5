"""What threads that serve at once lose by obskit: requests a second, waits for locks, and the slowest answers.

    python benchmarks/threads.py [--threads 16] [--rounds N] [--rate R] [--quick] [--json FILE]

In one process, threads call a Flask application as fast as they can, bare and with obskit in turn, one thread and then
many: what counts is requests a second as a share of the bare application's with as many threads. That with many is a
share like that with one says that nothing but the processor is shared.

In another process every lock that is made is one that counts: whether it was free, who made it, and how long somebody
waited for it. So it is seen which locks a request takes, and how often another thread has one at that moment.

Then real servers, bare and with obskit in turn: uvicorn, and gunicorn's gthread worker with as many threads, 64
connections, requests at a fixed rate that both bear. A latency is from when a request was due.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, perf_counter_ns, process_time_ns, sleep
from types import TracebackType
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 64
WARM_UP = 300
SERVERS = {
    "uvicorn": ("fastapi", "uvicorn", "--port", "{port}", "--no-access-log", "--log-level", "error"),
    "gunicorn gthread": (
        *("flask", "gunicorn", "-k", "gthread", "--threads", "{threads}", "-b", "127.0.0.1:{port}"),
        *("--log-level", "error"),
    ),
}


# -- in the process that serves -----------------------------------------------------------------------------


class CountedLock:
    """A lock that knows who made it, how often it was taken, and how often and how long somebody waited for it."""

    waited_ns: ClassVar[Counter[str]] = Counter()
    waits: ClassVar[Counter[str]] = Counter()
    taken: ClassVar[Counter[str]] = Counter()

    def __init__(self, real: Any) -> None:
        self._real = real
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_code.co_filename == threading.__file__:
            frame = frame.f_back
        self._place = f"{Path(frame.f_code.co_filename).parent.name}/{Path(frame.f_code.co_filename).name}"

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.taken[self._place] += 1
        if self._real.acquire(False):
            return True
        if not blocking:
            return False
        began = perf_counter_ns()
        got = self._real.acquire(True, timeout)
        self.waits[self._place] += 1
        self.waited_ns[self._place] += perf_counter_ns() - began
        return bool(got)

    __enter__ = acquire

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._real.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Counted:
    """In the place of `threading.Lock`; an object, because a function in a class would become a method."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __call__(self) -> CountedLock:
        return CountedLock(self._make())


def applications() -> dict[str, Any]:
    from benchmarks.cost import bare  # noqa: PLC0415  (only the process that serves holds an application)

    plain, ours = bare.application("flask", 0), bare.application("flask", 0)
    import obskit  # noqa: PLC0415

    return {"bare": plain, "obskit": obskit.install(ours, service="shop", log_format="json")}


def caller(app: Any) -> Callable[[], None]:
    from benchmarks.cost import bare  # noqa: PLC0415

    template = bare.environ()

    def call() -> None:
        body = app({**template}, lambda status, headers, error=None: None)
        b"".join(body)
        close = getattr(body, "close", None)
        if close is not None:
            close()

    return call


def stretch(call: Callable[[], None], threads: int, seconds: float) -> dict[str, float]:
    """Requests a second of so many threads, processor time of a request, and how long one took."""
    ready, end = threading.Barrier(threads + 1), 0.0
    took: list[list[int]] = []

    def work() -> None:
        mine: list[int] = []
        ready.wait()
        while perf_counter() < end:
            began = perf_counter_ns()
            call()
            mine.append(perf_counter_ns() - began)
        took.append(mine)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    began, cpu = perf_counter(), process_time_ns()
    end = began + seconds
    ready.wait()
    for thread in running:
        thread.join()
    elapsed, cpu = perf_counter() - began, process_time_ns() - cpu
    every = sorted(ns for mine in took for ns in mine)
    return {
        "per_s": len(every) / elapsed,
        "cpu_us": cpu / len(every) / 1e3,
        "p50_us": every[len(every) // 2] / 1e3,
        "p99_us": every[len(every) * 99 // 100] / 1e3,
    }


def in_turn(threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    calls = {name: caller(app) for name, app in applications().items()}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    rows: dict[str, list[dict[str, float]]] = {f"{name} {n}": [] for name in calls for n in (1, threads)}
    for _ in range(rounds):
        for row in random.sample(sorted(rows), len(rows)):
            name, number = row.split()
            rows[row].append(stretch(calls[name], int(number), seconds))
    return {
        row: {key: statistics.median(one[key] for one in seen) for key in seen[0]}
        for row, seen in rows.items()
    }


def waits(threads: int, requests: int) -> dict[str, Any]:
    """By the file that made the lock: taken and waited for per request, and microseconds waited per request."""
    real_lock, real_rlock = threading.Lock, threading.RLock
    threading.Lock, threading.RLock = Counted(real_lock), Counted(real_rlock)  # type: ignore[assignment, misc]
    call = caller(applications()["obskit"])
    threading.Lock, threading.RLock = real_lock, real_rlock  # type: ignore[misc]
    for _ in range(WARM_UP):
        call()
    for counter in (CountedLock.taken, CountedLock.waits, CountedLock.waited_ns):
        counter.clear()

    def work() -> None:
        for _ in range(requests):
            call()

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    every = threads * requests
    return {
        place: {
            "taken": taken / every,
            "waits": CountedLock.waits[place] / every,
            "waited_us": CountedLock.waited_ns[place] / every / 1e3,
        }
        for place, taken in CountedLock.taken.most_common()
    }


if "BENCH_THREADS_APP" in os.environ:
    from benchmarks.cost import bare as _bare

    _kind, _way = os.environ["BENCH_THREADS_APP"].split()
    app = _bare.application(_kind, 0)
    if _way == "obskit":
        import obskit

        app = obskit.install(app, service="shop", log_format="json")


# -- what starts those ----------------------------------------------------------------------------------------


class Processes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sink = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cost.sink"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.sink.stdout is not None
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "OBSKIT_"))}
        self.env |= {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{self.sink.stdout.readline().strip()}/0/v1/traces",
            "OBSKIT_STATE_DIR": str(folder),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
        }
        self.servers: list[subprocess.Popen[bytes]] = []

    def ask(self, *words: str) -> Any:
        told = self.folder / "told"
        subprocess.run(
            [sys.executable, "-m", "benchmarks.threads", "served", *words, str(told)],
            cwd=ROOT, env=self.env, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        return json.loads(told.read_text())

    def serve(self, name: str, way: str, threads: int) -> int:
        """The port of a server that runs."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        kind, *words = (word.format(port=port, threads=threads) for word in SERVERS[name])
        self.servers.append(
            subprocess.Popen(
                [sys.executable, "-m", *words, "benchmarks.threads:app"],
                cwd=ROOT,
                env={**self.env, "BENCH_THREADS_APP": f"{kind} {way}"},
                stdout=subprocess.DEVNULL,
            )
        )
        return port

    def close(self) -> None:
        for process in [*self.servers, self.sink]:
            process.terminate()
        for process in [*self.servers, self.sink]:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def answers(processes: Processes, name: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Microseconds until an answer was there, bare and with obskit: the medians over the rounds."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.cost import load  # noqa: PLC0415

    ports = {way: processes.serve(name, way, options.threads) for way in ("bare", "obskit")}
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in ports}
    for port in ports.values():
        load.wait_for(port)
        load.drive(port, 0.5, CONNECTIONS, options.rate)
    for _ in range(options.rounds):
        for way in random.sample(sorted(ports), 2):
            sleep(0.1)
            found = sorted(load.drive(ports[way], options.seconds, CONNECTIONS, options.rate).latencies_s)
            cuts = {f"p{cut}_us": found[len(found) * cut // 100] * 1e6 for cut in (50, 95, 99)}
            rows[way].append(cuts)
    return {
        way: {key: statistics.median(r[key] for r in seen) for key in seen[0]} for way, seen in rows.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a stretch")
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second of a server")
    parser.add_argument("--quick", action="store_true", help="whether it runs, not what it says")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.3
    n = options.threads
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder))
        try:
            threads = processes.ask("turns", str(n), str(options.rounds), str(options.seconds))
            locks = processes.ask("waits", str(n), str(50 if options.quick else 1000), "0")
            print(f"{'in one process':26}{'requests/s':>12}{'CPU us':>9}{'p50 us':>9}{'p99 us':>10}")
            for row, of in sorted(threads.items()):
                print(f"{row + ' threads':26}{of['per_s']:12.0f}{of['cpu_us']:9.0f}", end="")
                print(f"{of['p50_us']:9.0f}{of['p99_us']:10.0f}")
            for number in (1, n):
                share = threads[f"obskit {number}"]["per_s"] / threads[f"bare {number}"]["per_s"]
                print(f"{number} threads with obskit serve {share:.2f} of what they serve without")
            print(f"{f'locks of a request, {n} threads':34}{'taken':>8}{'waited for':>12}{'us waited':>11}")
            for place, of in locks.items():
                print(f"{place:34}{of['taken']:8.2f}{of['waits']:12.5f}{of['waited_us']:11.3f}")
            served = {name: answers(processes, name, options) for name in SERVERS}
            print(f"{f'us, {options.rate:.0f} requests/s':34}{'p50':>10}{'p95':>10}{'p99':>10}")
            for name, ways in served.items():
                for way, of in ways.items():
                    print(f"{f'{name} {way}':34}" + "".join(f"{value:10.0f}" for value in of.values()))
        finally:
            processes.close()
    if options.json is not None:
        figures = {
            "threads": n,
            "in_process": threads,
            "locks": locks,
            "rate": options.rate,
            "served": served,
        }
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


def asked(what: str, threads: str, number: str, seconds: str, told: str) -> None:
    if what == "turns":
        found = in_turn(int(threads), int(number), float(seconds))
    else:
        found = waits(int(threads), int(number))
    Path(told).write_text(json.dumps(found))
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["served"]:
        asked(*sys.argv[2:])
    sys.exit(main())
