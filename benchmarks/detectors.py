"""What the detectors cost: microseconds added to a small JSON request, and memory at their bounds.

    python benchmarks/detectors.py [--kinds asgi flask] [--rounds 80] [--json FILE]

For each kind of app one process holds it many times over: bare, with the three signals and every detector switched
off, with each detector alone, and with all. Blocks of requests go through all of them in a new random order in every
round, so that what slows the machine down slows all of them down. A figure is the median over the rounds of the
process's CPU time per request (all threads: the export of the spans is in it) above that of the same round's
reference: the bare app for the signals, the signals alone for the detectors; in brackets the distance between the
quartiles. Every request is sampled, spans go to an exporter that drops them, log lines to /dev/null. No POST repeats
another, and no route is ever empty: what is measured is the price of finding nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time_ns
from typing import Any, NamedTuple

import obskit
from obskit.config import Config
from obskit.detectors import shipped
from obskit.exchange import Exchange, Outcome
from obskit.findings import Setting

BARE, SIGNALS, ALL = "bare", "three signals, no detector", "all detectors"
KINDS = ("asgi", "fastapi", "flask", "django")
METHODS = ("GET", "POST")
BLOCK = 120
REFERENCES = 3
WARM_UP_ROUNDS = 3
GOAL_US = 5.0

HEADERS = {
    "host": "shop.example",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "accept": "application/json",
    "accept-language": "en-GB,en;q=0.8",
    "accept-encoding": "gzip, deflate, br",
    "cookie": "theme=dark; visitor=6f1d2c3b4a5968778695a4b3c2d1e0f0",
    "referer": "https://shop.example/",
}
ITEM = {"id": 42, "name": "tea", "price_cents": 1299, "in_stock": True}

Run = Callable[[str, int], None]
"""Serve so many requests of a method."""


# -- the apps ---------------------------------------------------------------------------------------------


def _asgi_app() -> Any:
    answer = json.dumps(ITEM).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange = obskit.current()
        if exchange is not None:
            exchange.name_route("/items/{id}" if scope["method"] == "GET" else "/items")
        if scope["method"] == "POST":
            json.loads((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


def _fastapi_app() -> Any:
    from fastapi import FastAPI  # noqa: PLC0415  (only what this process measures is imported)
    from pydantic import BaseModel  # noqa: PLC0415

    class New(BaseModel):
        name: str
        number: int

    # Annotations of functions in functions are looked up in the module.
    globals()["New"] = New
    # Of its own accord FastAPI opens spans as soon as there is a provider; the bare app is to have none.
    app = FastAPI(telemetry={"tracing": False})

    @app.get("/items/{item_id}")
    async def show(item_id: int) -> dict[str, Any]:
        return ITEM

    @app.post("/items")
    async def create(new: New) -> dict[str, Any]:
        return ITEM

    return app


def _flask_app() -> Any:
    from flask import Flask, request  # noqa: PLC0415

    app = Flask("shop")

    @app.get("/items/<int:item_id>")
    def show(item_id: int) -> dict[str, Any]:
        return ITEM

    @app.post("/items")
    def create() -> dict[str, Any]:
        request.get_json()
        return ITEM

    return app


def _django_app() -> Any:
    import django  # noqa: PLC0415
    from django.conf import settings  # noqa: PLC0415
    from django.core.wsgi import get_wsgi_application  # noqa: PLC0415
    from django.http import JsonResponse  # noqa: PLC0415
    from django.urls import path  # noqa: PLC0415

    def show(request: Any, item_id: int) -> Any:
        return JsonResponse(ITEM)

    def create(request: Any) -> Any:
        json.loads(request.body)
        return JsonResponse(ITEM)

    if not settings.configured:
        urls = type(sys)("urls")
        urls.urlpatterns = [path("items/<int:item_id>", show), path("items", create)]  # type: ignore[attr-defined]
        sys.modules["urls"] = urls
        settings.configure(
            SECRET_KEY="only for measuring",
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF="urls",
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        )
        django.setup()
    return get_wsgi_application()


MAKE: dict[str, Callable[[], Any]] = {
    "asgi": _asgi_app,
    "fastapi": _fastapi_app,
    "flask": _flask_app,
    "django": _django_app,
}


# -- the servers: as little as the protocols ask for -----------------------------------------------------------


def _bodies() -> Iterator[bytes]:
    for number in itertools.count():
        yield b'{"name": "tea", "number": %d}' % number


def _path(method: str) -> str:
    return "/items/42" if method == "GET" else "/items"


def _asgi_run(app: Any, loop: asyncio.AbstractEventLoop, bodies: Iterator[bytes]) -> Run:
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def send(message: Any) -> None:
        return None

    async def serve(method: str, requests: int) -> None:
        path = _path(method)
        for _ in range(requests):
            body = next(bodies) if method == "POST" else b""
            own = [*headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            scope = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.1",
                "method": method,
                "scheme": "http",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
                "root_path": "",
                "headers": own if body else headers,
                "client": ("203.0.113.9", 50_000),
                "server": ("192.0.2.1", 8000),
                "state": {},
            }
            messages = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def receive(messages: Iterator[Any] = messages) -> Any:
                return next(messages)

            await app(scope, receive, send)

    return lambda method, requests: loop.run_until_complete(serve(method, requests))


def _wsgi_run(app: Any, bodies: Iterator[bytes]) -> Run:
    fixed = {
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "192.0.2.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "203.0.113.9",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **{"HTTP_" + name.upper().replace("-", "_"): value for name, value in HEADERS.items()},
    }

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        assert status.startswith("200"), status
        return lambda data: None

    def serve(method: str, requests: int) -> None:
        path = _path(method)
        for _ in range(requests):
            body = next(bodies) if method == "POST" else b""
            environ = {**fixed, "REQUEST_METHOD": method, "PATH_INFO": path, "wsgi.input": io.BytesIO(body)}
            if body:
                environ["CONTENT_LENGTH"], environ["CONTENT_TYPE"] = str(len(body)), "application/json"
            answer = app(environ, start_response)
            for _part in answer:
                pass
            if hasattr(answer, "close"):
                answer.close()

    return serve


# -- one process, one kind of app, all variants --------------------------------------------------------------------


def variants() -> dict[str, tuple[str, ...] | None]:
    """By name: the detectors that are switched off, None for no obskit at all."""
    names = [detector.name for detector in shipped()]
    alone = {name: tuple(other for other in names if other != name) for name in names}
    return {BARE: None, SIGNALS: tuple(names), **alone, ALL: ()}


def _drop_spans() -> None:
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )

    class Drop(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Drop()))
    trace.set_tracer_provider(provider)


def measure(kind: str, rounds: int, state_dir: str) -> dict[str, dict[str, list[float]]]:
    """By variant and method: the CPU time of a request in each round, in microseconds."""
    _drop_spans()
    loop = asyncio.new_event_loop()
    bodies = _bodies()
    runs: dict[str, Run] = {}
    for name, off in variants().items():
        app = MAKE[kind]()
        if off is not None:
            options = {"log_format": "json", "instrumentation": False, "state_dir": state_dir}
            app = obskit.install(app, service="benchmark", disabled_detectors=off, **options)
        runs[name] = _wsgi_run(app, bodies) if kind in ("flask", "django") else _asgi_run(app, loop, bodies)
    taken: dict[str, dict[str, list[float]]] = {name: {method: [] for method in METHODS} for name in runs}
    order = [*runs, *[BARE, SIGNALS] * (REFERENCES - 1)]
    gc.collect()
    gc.freeze()
    for number in range(rounds + WARM_UP_ROUNDS):
        for method in METHODS:
            random.shuffle(order)
            blocks: dict[str, list[float]] = {}
            for name in order:
                run = runs[name]
                run(method, 10)
                gc.collect()
                begun = process_time_ns()
                run(method, BLOCK)
                blocks.setdefault(name, []).append((process_time_ns() - begun) / BLOCK / 1000)
            if number >= WARM_UP_ROUNDS:
                for name, block in blocks.items():
                    taken[name][method].append(statistics.median(block))
    return taken


# -- memory ---------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    mapped: int
    """Bytes of the tables that workers share; one of each per host."""
    held: int
    """Bytes of the process's own heap, one of each per worker."""


def memory_at_bound() -> dict[str, Memory]:
    """What each detector holds after three times as many routes as it will count, each with many operations."""
    config = Config()
    found = {}
    with tempfile.TemporaryDirectory() as state_dir:
        setting = Setting(Config(state_dir=state_dir), "benchmark", lambda stage, error: None)
        for detector in shipped():
            if detector.make is None:
                found[detector.name] = Memory(0, 0)
                continue
            judge = detector.make(setting)
            begin, opened = getattr(judge, "begin", None), getattr(judge, "opened", None)
            if begin is not None:
                begin()
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for number in range(3 * config.max_series):
                exchange = _record(number)
                if opened is not None:
                    opened(exchange)
                judge.closed(exchange)
                del exchange
            gc.collect()
            held = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            found[detector.name] = Memory(
                _mapped(Path(state_dir)) - sum(m.mapped for m in found.values()), held
            )
            shutdown = getattr(judge, "shutdown", None)
            if shutdown is not None:
                shutdown()
    return found


def _record(number: int) -> Exchange:
    exchange = Exchange("http", "POST", f"/items/{number}")
    exchange.request = {"REQUEST_METHOD": "POST", "QUERY_STRING": "", "REMOTE_ADDR": "203.0.113.9"}
    exchange.http_route = f"/items/{number}"
    exchange.http_version = "1.1"
    exchange.status, exchange.outcome = 200, Outcome.COMPLETED
    exchange.response_head, exchange.response_bytes = b"{}", 2
    exchange.ended_ns = exchange.last_byte_ns = exchange.started_ns + 1_000_000
    return exchange


def _mapped(state_dir: Path) -> int:
    return sum(file.stat().st_size for file in state_dir.rglob("*") if file.is_file())


# -- the report -----------------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    added_us: float
    spread_us: float
    ratio: float
    """To the bare app."""


def figures(taken: dict[str, dict[str, list[float]]], method: str) -> dict[str, Figure]:
    out = {}
    for name, by_method in taken.items():
        reference = taken[SIGNALS if name not in (BARE, SIGNALS) else BARE][method]
        added = [one - other for one, other in zip(by_method[method], reference, strict=True)]
        low, middle, high = statistics.quantiles(added, n=4)
        bare = statistics.median(taken[BARE][method])
        out[name] = Figure(middle, high - low, statistics.median(by_method[method]) / bare)
    return out


def table(kind: str, taken: dict[str, dict[str, list[float]]]) -> str:
    by_method = {method: figures(taken, method) for method in METHODS}
    heads = f"{kind:28}" + "".join(f"{'µs added':>18} {'of bare':>8}" for _ in METHODS)
    lines = [f"{'':28}" + "".join(f"{method:>18} {'':8}" for method in METHODS), heads]
    for name in taken:
        cells = ""
        for method in METHODS:
            figure = by_method[method][name]
            added = f"{figure.added_us:.1f} ({figure.spread_us:.1f})"
            if name == BARE:
                added = f"{statistics.median(taken[BARE][method]):.1f} in all"
            cells += f"{added:>18} {figure.ratio:8.2f}"
        lines.append(f"{name:28}{cells}")
    return "\n".join(lines)


def memory_table(found: dict[str, Memory]) -> str:
    lines = [f"{'memory at its bound':28}{'KiB per host':>16}{'KiB per worker':>16}"]
    for name, memory in found.items():
        lines.append(f"{name:28}{memory.mapped / 1024:16.0f}{memory.held / 1024:16.0f}")
    return "\n".join(lines)


def _in_a_process_of_its_own(kind: str, rounds: int, cpu: int) -> dict[str, dict[str, list[float]]]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "taken.json"
        command = [
            sys.executable,
            __file__,
            "--measure",
            kind,
            "--rounds",
            str(rounds),
            "--json",
            str(result),
        ]
        environ = {
            **os.environ,
            "OTEL_BSP_MAX_QUEUE_SIZE": "65536",
            "PYTHONHASHSEED": "0",
            "BENCH_CPU": str(cpu),
        }
        subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
        taken: dict[str, dict[str, list[float]]] = json.loads(result.read_text())
        return taken


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="What the detectors cost.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--json", type=Path, help="write all figures to this file as well")
    parser.add_argument("--cpu", type=int, default=0, help="which core to stay on")
    parser.add_argument("--measure", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {int(os.environ.get("BENCH_CPU", "0"))})
        # In memory, as by default: a file on a disk would be paid for when its pages are written back.
        shared_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(dir=shared_memory) as state_dir:
            options.json.write_text(json.dumps(measure(options.measure, options.rounds, state_dir)))
        return 0
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {options.rounds} rounds of {BLOCK} requests"
    )
    out: dict[str, Any] = {"rounds": options.rounds, "block": BLOCK, "kinds": {}}
    for kind in options.kinds:
        taken = _in_a_process_of_its_own(kind, options.rounds, options.cpu)
        out["kinds"][kind] = {
            method: {name: figure._asdict() for name, figure in figures(taken, method).items()}
            for method in METHODS
        }
        print(f"\n{table(kind, taken)}")
    memory = memory_at_bound()
    out["memory_bytes"] = {name: one._asdict() for name, one in memory.items()}
    print(f"\n{memory_table(memory)}")
    dear = [
        f"{kind} {method}: {by_name[ALL]['added_us']:.1f} µs"
        for kind, by_method in out["kinds"].items()
        for method, by_name in by_method.items()
        if by_name[ALL]["added_us"] > GOAL_US
    ]
    print(f"\nall detectors add at most {GOAL_US:g} µs: {'no, ' + ', '.join(dear) if dear else 'yes'}")
    if options.json:
        options.json.write_text(json.dumps(out, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
