"""What watching costs a request: the flight recorder alone, and all of the watch in the midst of a whole request.

    python benchmarks/watch.py [--rounds N]

The worker shares a socket, so its records lie in a mapped file. The recorder is called as the pipeline calls it, for
requests that exist already. The whole request is a small JSON answer of a bare WSGI app, through two installs that
differ in the watch alone, in blocks of random order; there its code is as cold as it is in service. CPU time of the
thread that serves (what the watch does once a second is in another); medians over the rounds, in microseconds.
Exit status 1 if a request pays more than 2 microseconds.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import sys
import tempfile
from collections.abc import Callable
from time import thread_time_ns
from typing import Any

import obskit
from obskit.exchange import Exchange
from obskit.parts import Blind
from obskit.watch import Watch

ALLOWED_US = 2.0
BLOCK = 2000
BODY = b'{"id": 7, "name": "a thing", "price": "12.50"}'
ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/items/7",
    "QUERY_STRING": "",
    "SERVER_NAME": "shop.example",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "203.0.113.9",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "wsgi.url_scheme": "http",
    "wsgi.multithread": True,
}


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    exchange = obskit.current()
    if exchange is not None:
        exchange.name_route("/items/{id}")
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))])
    return [BODY]


def installed(directory: str) -> Any:
    def one(environ: dict[str, Any], start_response: Any) -> list[bytes]:  # an app can be installed once
        return app(environ, start_response)

    return obskit.install(
        one,
        interface="wsgi",
        service="benchmark",
        state_dir=directory,
        instrumentation=False,
        log_format="json",
        disabled_detectors=["duplicate_request"],
    )


def serve(door: Any, count: int) -> None:
    for _ in range(count):
        body = door(dict(ENVIRON), lambda *_: None)
        for _ in body:
            pass
        body.close()


def without_watch(door: Any) -> None:
    pipeline, blind = door.pipeline, Blind()
    pipeline.watch = blind
    pipeline._closers = tuple(
        (stage, blind.closed if stage == "watch.close" else closed) for stage, closed in pipeline._closers
    )


def recorder(watch: Watch, count: int) -> Callable[[], None]:
    """Opens, answers and closes requests, as many at a time as a busy worker has."""
    exchanges = []
    for number in range(40):
        exchange = Exchange("http", "GET", f"/items/{number}")
        exchange.pipeline, exchange.request, exchange.status = watch.pipeline, dict(ENVIRON), 200
        exchange.trace_id = exchange.request_id = f"{number:032x}"
        exchange.span_id = f"{number:016x}"
        exchanges.append(exchange)

    def run() -> None:
        opened, answering, closed = watch.opened, watch.answering, watch.closed
        for _ in range(count // len(exchanges)):
            for exchange in exchanges:
                opened(exchange)
            for exchange in exchanges:
                answering(exchange)
            for exchange in exchanges:
                closed(exchange)

    return run


def microseconds(run: Callable[[], None], count: int) -> float:
    began = thread_time_ns()
    run()
    return (thread_time_ns() - began) / count / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description="What watching costs a request.")
    parser.add_argument("--rounds", type=int, default=60, help="of 2000 requests of each kind (default 60)")
    rounds = parser.parse_args().rounds
    said = os.fdopen(os.dup(1), "w")  # log lines go to /dev/null
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)):
        watched, blind = installed(directory), installed(directory)
        serve(watched, BLOCK)
        serve(blind, BLOCK)
        without_watch(blind)
        watch = watched.pipeline.watch
        if not watch.scene.workers.shared:
            print(f"this worker is alone: {watch.scene.workers.why}", file=said)
            return 1
        runs: dict[str, Callable[[], None]] = {
            "recorder": recorder(watch, BLOCK),
            "watched": lambda: serve(watched, BLOCK),
            "blind": lambda: serve(blind, BLOCK),
        }
        found: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name in random.sample(sorted(runs), len(runs)):
                found[name].append(microseconds(runs[name], BLOCK))
        obskit.shutdown()
    added = statistics.median(a - b for a, b in zip(found["watched"], found["blind"], strict=True))
    alone = statistics.median(found["recorder"])
    print(f"whole request, watched     {statistics.median(found['watched']):7.2f} us", file=said)
    print(f"whole request, unwatched   {statistics.median(found['blind']):7.2f} us", file=said)
    print(f"flight recorder and watch  {added:7.2f} us more ({alone:.2f} us by themselves)", file=said)
    return 0 if max(added, alone) <= ALLOWED_US else 1


if __name__ == "__main__":
    sys.exit(main())
