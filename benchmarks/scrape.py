"""What it costs that all workers of a server are one truth, beside prometheus_client's multiprocess mode.

    python benchmarks/scrape.py [--workers 8] [--series 2000] [--json FILE]

Four questions: what the numbers of one request cost, what a scrape costs (a page of so many series, and so many
label sets of a histogram), what is left when a thousand workers have come and gone, and what a thread that serves in
the same process notices of a scrape. Times are of the CPU but for the last. All workers live in one process here:
they share what processes share, which is files. prometheus_client chooses its mode when it is imported, so each
side runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from obskit.exchange import Exchange, Outcome
from obskit.signals.merge import KIND
from obskit.signals.metrics import Metrics
from obskit.workers import Workers

ROUNDS = 20
RECYCLED = 1_000
RECYCLED_THEIRS = 100  # a scrape of theirs takes minutes after a thousand
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LINES_OF_A_HISTOGRAM = len(BUCKETS) + 3


def median_ms(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Milliseconds of CPU a call takes."""
    taken = []
    for _ in range(rounds):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return statistics.median(taken) * 1e3


def each_us(work: Callable[[], Any], times: int = 20_000) -> float:
    """Microseconds a call takes, the median of nine blocks."""
    return median_ms(lambda: [work() for _ in range(times)], 9) / times * 1e3


# ---- obskit -------------------------------------------------------------------------------------------


def ours(workers: int, series: int) -> dict[str, float]:
    def worker(folder: str) -> tuple[Metrics, Workers]:
        one = Metrics(10 * series), Workers.join(folder, "bench")
        assert one[1].shared, one[1].why
        one[0].join(one[1])
        return one

    def served(metrics: Metrics) -> Callable[[], None]:
        exchange = Exchange()
        exchange.trace_id, exchange.sampled, exchange.http_route = "ab" * 16, True, "/orders/{id}"
        exchange.status, exchange.outcome = 200, Outcome.COMPLETED
        exchange.first_byte_ns = exchange.ended_ns = exchange.started_ns + 1_000_000
        exchange.settle()

        def request() -> None:
            metrics.opened(exchange)
            metrics.closed(exchange)

        return request

    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=_memory()) as folder, _listening():
        alone = Metrics(series)
        metrics, joined = worker(folder)
        found["a request's numbers, memory of one process (us)"] = each_us(served(alone))
        found["a request's numbers (us)"] = each_us(served(metrics))
        group = [(metrics, joined), *(worker(folder) for _ in range(workers - 1))]
        for one, _ in group:
            for n in range(series // LINES_OF_A_HISTOGRAM):
                one._duration.child("GET", f"/{n}", "200", "").observe(0.01, ("ab" * 16, 0.01, 1e9))
            one.publish()
        page = generate_latest(metrics.registry)
        found["lines of the page"] = sum(not line.startswith(b"#") for line in page.splitlines())
        found["scrape (ms)"] = median_ms(lambda: generate_latest(metrics.registry))
        found.update(_noticed(lambda: generate_latest(metrics.registry)))
        for one, _ in group:
            for n in range(series):
                one._duration.child("GET", f"/{n}", "200", "").observe(0.01)
        label_sets = "scrape of as many label sets of a histogram (ms)"
        found[label_sets] = median_ms(lambda: generate_latest(metrics.registry), 5)

    with tempfile.TemporaryDirectory(dir=_memory()) as folder, _listening():
        metrics, joined = worker(folder)
        for n in range(series // LINES_OF_A_HISTOGRAM):
            metrics._duration.child("GET", f"/{n}", "200", "").observe(0.01)
        (member,) = joined.members()
        began = time.perf_counter()
        for turn in range(RECYCLED):
            dead = member._replace(token=f"{turn:016x}", alive=False)
            os.link(joined.path(KIND), dead.path(KIND))
            metrics.inherit(dead)
            os.unlink(dead.path(KIND))
            if turn == 0:
                found["scrape after 1 recycled worker (ms)"] = median_ms(
                    lambda: generate_latest(metrics.registry)
                )
                began = time.perf_counter()
        found["to fold a dead worker in (ms)"] = (time.perf_counter() - began) / (RECYCLED - 1) * 1e3
        found["scrape after 1000 recycled workers (ms)"] = median_ms(
            lambda: generate_latest(metrics.registry)
        )
        found["files after 1000 recycled workers"] = len(os.listdir(joined.folder))
        found["bytes after 1000 recycled workers"] = _bytes(joined.folder)
    return found


# ---- prometheus_client --------------------------------------------------------------------------------


def theirs(workers: int, series: int) -> dict[str, float]:
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    pid = [1]
    values.ValueClass = values.MultiProcessValue(lambda: pid[0])
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]

    def make() -> tuple[Any, ...]:
        of: dict[str, Any] = {"registry": None}
        two = ["method", "route"]
        four = [*two, "status", "error"]
        return (
            Gauge("active", "h", ["method"], multiprocess_mode="livesum", **of),
            Histogram("duration_seconds", "h", four, buckets=BUCKETS, **of),
            Histogram("first_seconds", "h", two, buckets=BUCKETS, **of),
            Histogram("request_bytes", "h", two, buckets=BUCKETS[:8], **of),
            Histogram("response_bytes", "h", two, buckets=BUCKETS[:8], **of),
            Counter("outcomes", "h", ["route", "outcome"], **of),
        )

    active, duration, first, requests, responses, outcomes = make()
    route = ("GET", "/orders/{id}")
    cells = (
        active.labels("GET"), duration.labels(*route, "200", ""), first.labels(*route), requests.labels(*route),
        responses.labels(*route), outcomes.labels("/orders/{id}", "completed"),
    )  # fmt: skip

    def request() -> None:  # the label sets are looked up once, as ours are
        cells[0].inc()
        cells[1].observe(0.001)
        cells[2].observe(0.001)
        cells[3].observe(0)
        cells[4].observe(0)
        cells[5].inc()
        cells[0].dec()

    found = {"a request's numbers (us)": each_us(request)}

    def fill(number: int, label_sets: int) -> None:
        pid[0] = number
        for n in range(label_sets):
            duration.labels("GET", f"/{n}", "200", "").observe(0.01)

    for number in range(1, workers + 1):
        fill(number, series // LINES_OF_A_HISTOGRAM)
    found["lines of the page"] = sum(
        not line.startswith(b"#") for line in generate_latest(registry).splitlines()
    )
    found["scrape (ms)"] = median_ms(lambda: generate_latest(registry))
    found.update(_noticed(lambda: generate_latest(registry)))
    for number in range(1, workers + 1):
        fill(number, series)
    label_sets = "scrape of as many label sets of a histogram (ms)"
    found[label_sets] = median_ms(lambda: generate_latest(registry), 3)
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    template = workers + 1
    fill(template, series // LINES_OF_A_HISTOGRAM)
    found["scrape after 1 recycled worker (ms)"] = median_ms(lambda: generate_latest(registry))
    for number in range(RECYCLED_THEIRS):
        for kind in ("histogram", "counter"):
            path = os.path.join(folder, f"{kind}_{template}.db")
            if os.path.exists(path):
                os.link(path, os.path.join(folder, f"{kind}_{100 + number}.db"))
        mark_process_dead(100 + number)  # type: ignore[no-untyped-call]
    found["scrape after 100 recycled workers (ms)"] = median_ms(lambda: generate_latest(registry), 1)
    found["files after 100 recycled workers"] = len(os.listdir(folder))
    found["bytes after 100 recycled workers"] = _bytes(folder)
    return found


# ---- both ---------------------------------------------------------------------------------------------


def _noticed(scrape: Callable[[], Any]) -> dict[str, float]:
    """How long a thread that serves takes for a short piece of work, alone and while its process answers a scrape."""
    stop, scraping = threading.Event(), threading.Event()

    def scrapes() -> None:
        while not stop.wait(0.05):
            scraping.set()
            scrape()
            scraping.clear()

    thread = threading.Thread(target=scrapes)
    thread.start()
    taken: dict[bool, list[float]] = {False: [], True: []}
    end = time.monotonic() + 6.0
    while time.monotonic() < end:
        time.sleep(0.0005)  # it waits for a socket, say
        scraped = scraping.is_set()
        began = time.perf_counter()
        for _ in range(3_000):
            pass
        taken[scraped or scraping.is_set()].append(time.perf_counter() - began)
    stop.set()
    thread.join()
    found = {}
    for scraped, name in ((False, "alone"), (True, "during a scrape")):
        ordered = sorted(taken[scraped])
        for share in (50, 99):
            found[f"a short piece of work {name}, p{share} (ms)"] = ordered[len(ordered) * share // 100] * 1e3
    return found


def _bytes(folder: str) -> int:
    return sum(os.stat(os.path.join(folder, name)).st_blocks * 512 for name in os.listdir(folder))


def _memory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


@contextmanager
def _listening() -> Any:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description="What it costs that all workers are one truth.")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--series", type=int, default=2_000)
    parser.add_argument("--json", help="write all figures to this file")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side = ours if options.side == "ours" else theirs
        print(json.dumps(side(options.workers, options.series)))
        return
    figures = {}
    for side_name in ("ours", "theirs"):
        with tempfile.TemporaryDirectory(dir=_memory()) as folder:
            own = {} if side_name == "ours" else {"PROMETHEUS_MULTIPROC_DIR": folder}
            command = [sys.executable, __file__, "--side", side_name]
            command += ["--workers", str(options.workers), "--series", str(options.series)]
            done = subprocess.run(command, env={**os.environ, **own}, stdout=subprocess.PIPE, check=True)
            figures[side_name] = json.loads(done.stdout)
    print(f"{options.workers} workers, {options.series} series, Python {sys.version.split()[0]}")
    print(f"{'':60} {'obskit':>14} {'multiprocess':>14}")
    for name in {**figures["ours"], **figures["theirs"]}:
        shown = [f"{side[name]:14,.2f}" if name in side else " " * 14 for side in figures.values()]
        print(f"{name:60}", *shown)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
