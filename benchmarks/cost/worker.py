"""One variant in one process, asked over two pipes: `python -m benchmarks.cost.worker FRAMEWORK VARIANT IN OUT`.

Standard output is where the variant's own lines go; the questions come and the answers go as JSON lines through the
file descriptors IN and OUT. `run N` serves N requests and says what they cost; `prove` says what has come out so far.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import json
import os
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from benchmarks.cost import bare
from benchmarks.cost.served import Served, make
from benchmarks.cost.variants import ASGI, BY_NAME, METRICS

CALM_S = 1.0
"""So long after a load, what it has brought along is over: records that wait, threads."""
Run = Callable[[int], None]
Get = Callable[[str], tuple[int, bytes]]


def asgi(app: Any) -> tuple[Run, Get]:
    try:
        import uvloop  # noqa: PLC0415  (where uvicorn takes it, so do we)

        loop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    template = bare.scope()

    async def serve(requests: int) -> None:
        for _ in range(requests):
            await app({**template, "state": {}}, receive, send)

    def get(path: str) -> tuple[int, bytes]:
        said: list[Any] = []

        async def keep(message: Any) -> None:
            said.append(message)

        loop.run_until_complete(app({**bare.scope(path), "state": {}}, receive, keep))
        return said[0]["status"], b"".join(message.get("body", b"") for message in said[1:])

    return lambda requests: loop.run_until_complete(serve(requests)), get


def wsgi(app: Any) -> tuple[Run, Get]:
    template = bare.environ()

    def start_response(status: str, headers: Any, error: Any = None) -> Any:
        return None

    def run(requests: int) -> None:
        for _ in range(requests):
            body = app({**template, "wsgi.input": io.BytesIO()}, start_response)
            b"".join(body)
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def get(path: str) -> tuple[int, bytes]:
        said: list[str] = []

        def keep(status: str, headers: Any, error: Any = None) -> Any:
            said.append(status)

        body = app({**bare.environ(path), "wsgi.input": io.BytesIO()}, keep)
        whole = b"".join(body)
        if hasattr(body, "close"):
            body.close()
        return int(said[0][:3]), whole

    return run, get


class Costs:
    """Serves blocks of requests, and says what one of them cost."""

    def __init__(self, served: Served, run: Run) -> None:
        self.served, self.run = served, run
        self.count = 0

    def warm(self, requests: int) -> None:
        self.run(requests)
        self.count += requests
        self.flush()

    def flush(self) -> None:
        # In a thread of its own, so that what it does is told apart from what the requests' thread does.
        if self.served.flush is not None:
            thread = threading.Thread(target=self.served.flush)
            thread.start()
            thread.join()

    def block(self, requests: int) -> dict[str, float]:
        """Microseconds per request: CPU of all threads with the last flush, of them the others than this, and wall."""
        gc.collect()
        wall, process, thread = time.perf_counter_ns(), time.process_time_ns(), time.thread_time_ns()
        self.run(requests)
        self.flush()
        thread = time.thread_time_ns() - thread
        process = time.process_time_ns() - process
        wall = time.perf_counter_ns() - wall
        self.count += requests
        each = requests * 1e3
        return {"cpu": process / each, "background": (process - thread) / each, "wall": wall / each}


def series(page: str) -> float:
    """How many requests the durations on a page of metrics have counted."""
    counted = re.findall(
        r"^(\w*(?:duration|latency|requests)\w*)_count(?:\{.*\})? ([0-9.e+]+)$", page, re.MULTILINE
    )
    return max((float(count) for _, count in counted), default=0.0)


def main(framework: str, name: str, questions: int, answers: int) -> None:
    # As every process has that serves: where there is none, obskit has no neighbours and shares nothing.
    listening = socket.create_server(("127.0.0.1", 0))
    served = make(framework, name)
    run, get = (asgi if framework in ASGI else wsgi)(served.app)
    costs = Costs(served, run)
    status, body = get(bare.PATH)
    if status != 200 or bare.BODY_HAS not in body:
        raise SystemExit(f"{framework} {name} answers {status} {body[:200]!r}")
    costs.count += 1
    with open(questions, encoding="utf-8") as asked, open(answers, "w", encoding="utf-8") as told:
        for line in asked:
            word, *numbers = line.split()
            answer: dict[str, Any] = {}
            if word == "run":
                costs.warm(int(numbers[1]))
                answer = costs.block(int(numbers[0]))
            elif word == "warm":
                costs.warm(int(numbers[0]))
            elif word == "prove":
                costs.flush()
                requests = costs.count
                answer = {"requests": requests, "counted": 0.0}
                if served.page is not None:
                    answer["counted"] = series(served.page())
                elif METRICS in BY_NAME[name].proves:
                    answer["counted"] = series(gzip.decompress(get("/metrics")[1]).decode())
            elif word == "bytecodes":
                answer = {"bytecodes": bytecodes(costs, int(numbers[0]))}
            elif word == "profile":
                answer = {"profile": profile(costs, int(numbers[0]))}
            told.write(json.dumps(answer) + "\n")
            told.flush()
    listening.close()
    # Threads of the variant may wait for a receiver that is gone.
    os._exit(0)


def bytecodes(costs: Costs, requests: int) -> list[list[Any]]:
    """What the interpreter does, whatever the machine is busy with: file, function, bytecodes per request.

    Of this thread and of all that begin from here on: those that a load brings along have ended before.
    """
    time.sleep(CALM_S)
    done: Counter[CodeType] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            done[frame.f_code] += 1
        return note

    threading.settrace(note)
    sys.settrace(note)
    try:
        costs.run(requests)  # under the watch requests still follow each other closely
        time.sleep(CALM_S)  # what waits is shown
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    costs.count += requests
    return [[code.co_filename, code.co_qualname, count / requests] for code, count in done.items()]


def profile(costs: Costs, requests: int) -> list[list[Any]]:
    """Where this thread's time goes: file, function, calls and microseconds per request, own and in all."""
    import cProfile  # noqa: PLC0415
    import pstats  # noqa: PLC0415

    profiler = cProfile.Profile()
    profiler.enable()
    costs.run(requests)
    profiler.disable()
    costs.count += requests
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    return [
        [file, function, calls / requests, own * 1e6 / requests, whole * 1e6 / requests]
        for (file, _, function), (_, calls, own, whole, _) in stats.items()
    ]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
