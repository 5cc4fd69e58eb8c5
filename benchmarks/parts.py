"""Where the time of a request goes: what three signals cost, and how much less with one part of obskit left out.

    python benchmarks/parts.py [--frameworks NAME ...] [--rounds N] [--python INTERPRETER]

Each in a process of its own, all alive side by side; in every round each serves a block of requests, in a new random
order, and what counts is CPU time of the thread that serves. A part is left out by doing nothing in its place, so what
it costs is seen where it runs: between the framework's code and the rest of ours, and not in a loop of its own. All of
them together save more or less than the sum of each, for one that is not there leaves the caches to the others.

INTERPRETER is another Python, in whose environment `benchmarks/cost/requirements/obskit.txt` is installed.
"""

from __future__ import annotations

import argparse
import importlib
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.cost import environments  # noqa: E402
from benchmarks.cost.inprocess import BLOCK, WARM  # noqa: E402
from benchmarks.cost.processes import Places, Sink, Worker  # noqa: E402
from benchmarks.cost.variants import ASGI, FRAMEWORKS  # noqa: E402

BARE, WHOLE, REST = "bare", "nothing left out", "all of them"
MESSAGES = "what is noted of the answer's messages (ASGI)"


def nothing(*_: Any) -> None:
    return


def opened(recorder: Any, exchange: Any) -> None:
    exchange.flight_slot = slot = recorder._free.pop()
    slot.exchange, exchange.shown_path = exchange, exchange.url_path


def closed_together(_: Any, exchanges: Iterable[Any]) -> None:
    for exchange in exchanges:
        exchange.shown_agent = exchange.user_agent


async def send(call: Any, message: Any) -> None:
    exchange = call.exchange
    exchange.status, exchange.response_bytes = 200, 20
    exchange.response_started = exchange.response_complete = True
    await call._send(message)


# Where a part is, and what stands in the place of its methods.
PARTS: dict[str, tuple[str, str, dict[str, Callable[..., Any]]]] = {
    "the line": ("obskit.signals.logs", "Logs", {"closed_together": closed_together}),
    "the counts": ("obskit.signals.metrics", "Metrics", {"counted": nothing}),
    "the span's bytes, and their way to the exporter": ("obskit.signals.traces", "Traces", {"closed": nothing}),
    "the flight recorder": (
        "obskit.watch.flight",
        "FlightRecorder",
        {"opened": opened, "answering": nothing, "rests": lambda *_: True, "counted": nothing},
    ),
    "the span's place in the context": ("obskit.pipeline", "Pipeline", {"enter": nothing}),
    "the gauge of requests in flight": (
        "obskit.signals.metrics", "Metrics", {"opened": nothing, "left": nothing},
    ),
    MESSAGES: ("obskit.asgi", "_HttpCall", {"send": send}),
}  # fmt: skip


def leave_out(part: str) -> None:
    module, kind, instead = PARTS[part]
    for name, function in instead.items():
        setattr(getattr(importlib.import_module(module), kind), name, function)


class Part(Worker):
    """A worker whose obskit leaves something out."""

    def __init__(self, framework: str, left_out: str, python: Path, sink: Sink, places: Places) -> None:
        self.left_out, self.python = left_out, python
        super().__init__(framework, "bare" if left_out == BARE else "signals", "obskit", sink, places)

    def command(self) -> list[str]:
        return [str(self.python), str(Path(__file__)), "--worker", self.left_out]


def measure(framework: str, python: Path, rounds: int, folder: Path) -> dict[str, float]:
    """Microseconds of a bare request, and what is added to it, by what is left out."""
    sink, places = Sink(), Places(folder)
    workers: dict[str, Worker] = {}
    try:
        for left_out in (BARE, WHOLE, *PARTS, REST):
            workers[left_out] = Part(framework, left_out, python, sink, places)
        for worker in workers.values():
            worker.ask(f"warm {4 * BLOCK}")
        took: dict[str, list[float]] = {name: [] for name in workers}
        order, chance = list(workers), random.Random(0)
        for _ in range(rounds):
            chance.shuffle(order)
            for name in order:
                said = workers[name].ask(f"run {2 * BLOCK} {WARM}")
                took[name].append(said["cpu"] - said["background"])
        bare = statistics.median(took[BARE])
        added = {
            name: statistics.median(one - other for one, other in zip(found, took[BARE], strict=True))
            for name, found in took.items()
        }
        return {**added, BARE: bare}
    finally:
        for worker in workers.values():
            worker.close()
        sink.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--python", type=Path, metavar="INTERPRETER")
    options = parser.parse_args()
    python = options.python or environments.ensure("obskit")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for framework in options.frameworks:
            places = Path(folder, framework)
            places.mkdir()
            found[framework] = measure(framework, python, options.rounds, places)

    def row(name: str, figures: Iterable[float | None]) -> None:
        print(f"{name:<66}" + "".join(f"{'':>11}" if one is None else f"{one:>11.1f}" for one in figures))

    print(f"{'microseconds per request':<66}" + "".join(f"{name:>11}" for name in found))
    row("a bare request", (one[BARE] for one in found.values()))
    row("three signals add", (one[WHOLE] for one in found.values()))
    for part in PARTS:
        left = (
            one[WHOLE] - one[part] if part != MESSAGES or framework in ASGI else None
            for framework, one in found.items()
        )  # fmt: skip
        row(f"  less without {part}", left)
    row("they add without all of these", (one[REST] for one in found.values()))


def serve(left_out: str, arguments: list[str]) -> None:
    """The worker: one framework, with a part left out."""
    from benchmarks.cost import worker  # noqa: PLC0415

    framework, name, questions, answers = arguments
    for part in PARTS:
        if left_out in (part, REST):
            leave_out(part)
    worker.main(framework, name, int(questions), int(answers))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(sys.argv[2], sys.argv[3:])
    else:
        main()
