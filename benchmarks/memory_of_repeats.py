"""What the memory of repeats costs: time per request, and memory after ten million distinct operations.

    python benchmarks/memory_of_repeats.py [--operations N]

Every operation goes through the duplicate detector's own `opened` and `closed`, as a record with an environ and a body
of its own. The resident memory is that of this process, read from /proc/self/statm. Exit status 1 if it grew by more
than a megabyte after the table was full.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from time import perf_counter_ns, process_time_ns
from typing import Any

from obskit.config import Config
from obskit.detectors import duplicate_request, retry_storm
from obskit.exchange import Exchange, Outcome, digested
from obskit.findings import Setting

SAMPLES = 10
ALLOWED_GROWTH = 1 << 20
HEADERS = {
    "HTTP_HOST": "shop.example",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "HTTP_ACCEPT": "application/json",
    "HTTP_ACCEPT_LANGUAGE": "en-GB,en;q=0.8",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate, br",
    "HTTP_COOKIE": "session=6f1d2c3b4a5968778695a4b3c2d1e0f0",
    "CONTENT_TYPE": "application/json",
    "REMOTE_ADDR": "203.0.113.9",
}
BODY = b'{"items": [{"sku": "A-1001", "count": 2}, {"sku": "B-2002", "count": 1}]}'


def environ(method: str, query: str) -> dict[str, Any]:
    return {"REQUEST_METHOD": method, "QUERY_STRING": query, **HEADERS}


def scope(method: str, query: str) -> dict[str, Any]:
    headers = [
        (key.removeprefix("HTTP_").replace("_", "-").lower().encode(), value.encode())
        for key, value in HEADERS.items()
        if key != "REMOTE_ADDR"
    ]
    return {"type": "http", "method": method, "query_string": query.encode(), "headers": headers}


def record(method: str, request: Any) -> Exchange:
    exchange = Exchange("http", method, "/orders")
    exchange.client_address = "203.0.113.9"
    exchange.request = request
    exchange.http_route = "/orders"
    exchange.status = 200
    exchange.outcome = Outcome.COMPLETED
    exchange.request_complete = method == "GET"
    return exchange


class Judged:
    """Both detectors, as the pipeline asks them."""

    def __init__(self, directory: str) -> None:
        setting = Setting(Config(state_dir=directory), "benchmark", _complain)
        self.repeats = duplicate_request.Repeats(setting)
        self.storms = retry_storm.Storms(setting)
        self.repeats.begin()
        self.storms.begin()

    def once(self, exchange: Exchange, body: bytes) -> None:
        if exchange.method in duplicate_request.DETECTOR.digests:
            exchange.body_checksum = digested(body, 0, 0)
            exchange.request_bytes = len(body)
            exchange.request_complete = True
        self.repeats.closed(exchange)

    def shutdown(self) -> None:
        self.repeats.shutdown()
        self.storms.shutdown()


def _complain(stage: str, error: BaseException) -> None:
    sys.exit(f"{stage}: {error}")


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def remember(judged: Judged, operations: int) -> bool:
    """Whether memory stayed flat once every slot had been written."""
    exchange = record("POST", environ("POST", ""))
    request = exchange.request
    filled = None
    print(f"{'operations':>12}  {'resident MiB':>12}  {'ns each':>8}")
    step = max(operations // SAMPLES, 1)
    for first in range(0, operations, step):
        began = perf_counter_ns()
        for number in range(first, first + step):
            request["QUERY_STRING"] = str(number)
            exchange.request_complete = False
            exchange.started_ns = perf_counter_ns()
            exchange.ended_ns = exchange.started_ns + 1_000
            judged.once(exchange, BODY)
        each = (perf_counter_ns() - began) / step
        now = resident()
        filled = now if filled is None else filled
        print(f"{first + step:>12,}  {now / (1 << 20):>12.2f}  {each:>8.0f}")
    growth = resident() - (filled or 0)
    print(f"growth after the first sample: {growth / 1024:.0f} KiB")
    return growth <= ALLOWED_GROWTH


def timed(exchange: Exchange, ask: Callable[[Exchange, bytes], None], *, same: bool, body: bytes) -> float:
    """Nanoseconds of processor time for one call, the best of nine rounds, without what the loop takes itself."""
    request = exchange.request
    name, encode = ("QUERY_STRING", str) if "QUERY_STRING" in request else ("query_string", _digits)
    numbers = iter(range(10_000_000))

    def one_round(call: Callable[[Exchange, bytes], None], count: int = 20_000) -> float:
        began = process_time_ns()
        for _ in range(count):
            request[name] = encode(0 if same else next(numbers))
            exchange.request_complete = not body
            call(exchange, body)
        return (process_time_ns() - began) / count

    return min(one_round(ask) for _ in range(9)) - min(one_round(_nothing) for _ in range(9))


def _digits(number: int) -> bytes:
    return b"%d" % number


def _nothing(exchange: Exchange, body: bytes) -> None:
    pass


def costs(judged: Judged) -> None:
    def storms(exchange: Exchange, body: bytes) -> None:
        judged.storms.closed(exchange)

    def show(what: str, exchange: Exchange, ask: Callable[[Exchange, bytes], None], **how: Any) -> None:
        exchange.ended_ns = exchange.started_ns + 1_000_000
        print(f"{what:<34}  {timed(exchange, ask, **how):>6.0f}")

    print(f"{'request':<34}  {'ns':>6}")
    for kind, request in (("WSGI", environ), ("ASGI", scope)):
        show(f"{kind} GET, healthy", record("GET", request("GET", "")), judged.once, same=False, body=b"")
        show(f"{kind} POST, new", record("POST", request("POST", "")), judged.once, same=False, body=BODY)
        show(f"{kind} POST, repeated", record("POST", request("POST", "")), judged.once, same=True, body=BODY)
    show("retry_storm, any of these", record("GET", environ("GET", "")), storms, same=False, body=b"")
    slow = record("GET", environ("GET", "slow"))
    slow.ended_ns = slow.started_ns + 2_000_000_000
    judged.repeats.closed(slow)
    show("WSGI GET, after a slow one", record("GET", environ("GET", "")), judged.once, same=False, body=b"")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        judged = Judged(directory)
        costs(judged)
        print()
        flat = remember(judged, options.operations)
        judged.shutdown()
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
