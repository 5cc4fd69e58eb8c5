"""What obskit keeps in memory, and what it allocates for a request.

    python benchmarks/footprint.py [--kinds fastapi flask django] [--requests N] [--blocks] [--limit MB] [--json FILE]

Each application serves in a process of its own, bare and with obskit: requests for ever new paths, by many clients and
browsers, spans to a receiver on this machine, lines to /dev/null. Memory is the process's proportional set size, read
after the application was made, after the install, after a thousand requests, and then in tenths of all. Added is what
is above the bare process at the same moment.

In a second process: what a request allocates at its peak (tracemalloc), how many objects it leaves that only the cyclic
collector can free, how many blocks stay, and how often the youngest generation is collected. With --blocks and valgrind
also how many blocks a request asks for and how many bytes (of malloc, PYTHONMALLOC=malloc; what the interpreter takes
from its own free lists is not in it). Exit status 1 if more is added than the limit, or garbage is left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("fastapi", "flask", "django")
FIRST = 1000
STEPS = 10
TRACED = 300
MEASURED = 2000
BROWSERS = 300
CLIENTS = 5000

Run = Callable[[int], None]


# -- in the process that serves -----------------------------------------------------------------------------


def resident_mb() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise OSError("no proportional set size in /proc/self/smaps_rollup")


def made(kind: str, installed: bool) -> tuple[Any, float]:
    """The application to serve, and the memory of the process before obskit was imported."""
    from benchmarks.cost import bare  # noqa: PLC0415  (only the process that serves holds an application)

    app = bare.application(kind, 0)
    before = resident_mb()
    if installed:
        import obskit  # noqa: PLC0415

        app = obskit.install(app, service="shop", log_format="json")
    return app, before


def asgi(app: Any) -> Run:
    from benchmarks.cost import bare  # noqa: PLC0415

    loop = asyncio.new_event_loop()
    template = bare.scope()
    headers = [(name, value) for name, value in template["headers"] if name != b"user-agent"]
    served = 0

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def serve(requests: int) -> None:
        nonlocal served
        for _ in range(requests):
            served += 1
            scope = {**template, "state": {}, "path": f"/items/{served}"}
            scope["client"] = (f"10.0.{served % CLIENTS >> 8}.{served % CLIENTS & 255}", served % 60000)
            scope["headers"] = [*headers, (b"user-agent", b"browser/%d" % (served % BROWSERS))]
            await app(scope, receive, send)

    return lambda requests: loop.run_until_complete(serve(requests))


def wsgi(app: Any) -> Run:
    from benchmarks.cost import bare  # noqa: PLC0415

    template = bare.environ()
    served = 0

    def start_response(status: str, headers: Any, error: Any = None) -> Any:
        return None

    def run(requests: int) -> None:
        nonlocal served
        for _ in range(requests):
            served += 1
            environ = {**template, "wsgi.input": io.BytesIO(), "PATH_INFO": f"/items/{served}"}
            environ["REMOTE_ADDR"] = f"10.0.{served % CLIENTS >> 8}.{served % CLIENTS & 255}"
            environ["HTTP_USER_AGENT"] = f"browser/{served % BROWSERS}"
            body = app(environ, start_response)
            b"".join(body)
            close = getattr(body, "close", None)
            if close is not None:
                close()

    return run


def over_time(kind: str, installed: bool, requests: int) -> dict[str, Any]:
    app, before = made(kind, installed)
    seen = {"application": before, "install": resident_mb()}
    run = (asgi if kind == "fastapi" else wsgi)(app)
    run(FIRST)
    seen[f"{FIRST} requests"] = resident_mb()
    for step in range(1, STEPS + 1):
        run(requests // STEPS)
        seen[f"{FIRST + requests // STEPS * step} requests"] = resident_mb()
    return seen


def per_request(kind: str, installed: bool) -> dict[str, Any]:
    app, _ = made(kind, installed)
    run = (asgi if kind == "fastapi" else wsgi)(app)
    run(FIRST)
    gc.collect()
    before = gc.get_stats()[0]["collections"]
    run(MEASURED)
    youngest = gc.get_stats()[0]["collections"] - before
    gc.disable()
    gc.collect()
    blocks = sys.getallocatedblocks()
    run(MEASURED)
    garbage = gc.collect()
    blocks = sys.getallocatedblocks() - blocks
    peaks = []
    tracemalloc.start()
    run(FIRST)
    for _ in range(TRACED):
        base = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        run(1)
        peaks.append(tracemalloc.get_traced_memory()[1] - base)
    return {
        "peak_bytes": statistics.median(peaks),
        "garbage_objects": garbage / MEASURED,
        "kept_blocks": blocks / MEASURED,
        "youngest_collections_per_1000": youngest * 1000 / MEASURED,
    }


def served(what: str, kind: str, installed: str, requests: str, told: str) -> None:
    with_it = installed == "obskit"
    if what == "time":
        found = over_time(kind, with_it, int(requests))
    elif what == "request":
        found = per_request(kind, with_it)
    else:
        (asgi if kind == "fastapi" else wsgi)(made(kind, with_it)[0])(int(requests))
        found = {}
    Path(told).write_text(json.dumps(found))
    os._exit(0)


# -- what starts those ----------------------------------------------------------------------------------------


class Processes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sink = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cost.sink"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.sink.stdout is not None
        self.address = self.sink.stdout.readline().strip()

    def ask(self, what: str, kind: str, way: str, requests: int, prefix: tuple[str, ...] = ()) -> Any:
        """What the process of this application says, and what it wrote to standard error."""
        told = self.folder / "told"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "OBSKIT_"))}
        # Modules are compiled already, as in a service that was started before.
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        env |= {
            "PYTHONPYCACHEPREFIX": str(self.folder / "compiled"),
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{self.address}/0/v1/traces",
            "OBSKIT_STATE_DIR": str(self.folder),
            "PYTHONHASHSEED": "0",
            **({"PYTHONMALLOC": "malloc"} if prefix else {}),
        }
        ours = [
            sys.executable,
            "-m",
            "benchmarks.footprint",
            "served",
            what,
            kind,
            way,
            str(requests),
            str(told),
        ]
        ran = subprocess.run(
            [*prefix, *ours],
            cwd=ROOT,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise SystemExit(f"{kind} {way}: {ran.stderr[-2000:]}")
        return json.loads(told.read_text()), ran.stderr

    def blocks(self, kind: str, way: str) -> dict[str, float]:
        """Of malloc, per request: the difference between two runs that differ in their requests alone."""
        totals = []
        for requests in (300, 600):
            dhat = ("valgrind", "--tool=dhat", "--dhat-out-file=/dev/null")
            said = self.ask("blocks", kind, way, requests, dhat)[1]
            found = re.search(r"Total:\s+([\d,]+) bytes in ([\d,]+) blocks", said)
            if found is None:
                raise SystemExit(f"valgrind says no total: {said[-1000:]}")
            totals.append([int(number.replace(",", "")) for number in found.groups()])
        (few_bytes, few), (many_bytes, many) = totals
        return {"blocks": (many - few) / 300, "bytes": (many_bytes - few_bytes) / 300}

    def close(self) -> None:
        self.sink.terminate()
        self.sink.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--blocks", action="store_true", help="count the calls of malloc, under valgrind")
    parser.add_argument("--limit", type=float, default=15.0, help="MB that obskit may add")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    options = parser.parse_args()
    if options.blocks and shutil.which("valgrind") is None:
        parser.error("--blocks needs valgrind")
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder))
        try:
            for kind in options.kinds:
                of: dict[str, Any] = {}
                processes.ask("time", kind, "obskit", STEPS)  # compiles
                for way in ("bare", "obskit"):
                    of[way] = processes.ask("time", kind, way, options.requests)[0]
                    of[way]["request"] = processes.ask("request", kind, way, 0)[0]
                    if options.blocks:
                        of[way]["request"] |= processes.blocks(kind, way)
                figures[kind] = of
                shown(kind, of)
        finally:
            processes.close()
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))
    over = [of for of in figures.values() if last(of["obskit"]) - last(of["bare"]) > options.limit]
    left = [of for of in figures.values() if garbage(of["obskit"]) - garbage(of["bare"]) > 0.5]
    return int(bool(over or left))


def last(of: dict[str, Any]) -> float:
    """Megabytes after the last request."""
    return float([value for name, value in of.items() if name != "request"][-1])


def garbage(of: dict[str, Any]) -> float:
    return float(of["request"]["garbage_objects"])


def shown(kind: str, of: dict[str, Any]) -> None:
    print(f"{kind}{'bare':>42}{'obskit':>10}{'added':>10}", flush=True)
    for name in of["bare"]:
        if name == "request":
            continue
        bare, ours = of["bare"][name], of["obskit"][name]
        print(f"  MB after {name:28}{bare:10.1f}{ours:10.1f}{ours - bare:10.1f}")
    for name, bare in of["bare"]["request"].items():
        ours = of["obskit"]["request"][name]
        print(f"  a request: {name:32}{bare:10.2f}{ours:10.2f}{ours - bare:10.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["served"]:
        served(*sys.argv[2:])
    sys.exit(main())
