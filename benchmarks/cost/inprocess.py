"""What a request costs without a server: CPU of the whole process, variants interleaved in one run.

In every round each variant, in a new random order, serves a block of requests between two blocks of its own bare
application: what slows the machine down slows all three. One bare application lives twice, and its twin is measured
like a variant: what the twin seems to add is what the machine makes up.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from benchmarks.cost import environments
from benchmarks.cost.processes import Failed, Places, Sink, Worker
from benchmarks.cost.variants import LINES, METRICS, SPANS, Variant, bare_key

BLOCK = 512
"""Requests in a block: as many as the spans of one export."""
WARM = 64
TWIN = "bare, again"
Rows = dict[str, list[dict[str, float]]]


def measure(
    framework: str, variants: list[Variant], rounds: int, folder: Path, seed: int, block: int = BLOCK
) -> dict[str, Any]:
    """The rows of each variant (and of the twin), and what each has been seen to write.

    Raises Failed when one of them does not write what it is measured for.
    """
    folder.mkdir()
    sink, places = Sink(), Places(folder)
    workers: dict[str, Worker] = {}

    def start(key: str, name: str, environment: str) -> None:
        workers[key] = Worker(framework, name, environment, sink, places)

    try:
        for variant in variants:
            environments.ensure(variant.environment)
            if variant.bare not in workers:
                start(variant.bare, "bare+routes" if variant.routes else "bare", variant.environment)
            start(variant.name, variant.name, variant.environment)
        twin_of = variants[0].environment
        start(TWIN, "bare", twin_of)
        bares = {variant.name: variant.bare for variant in variants} | {TWIN: bare_key(twin_of, 0)}
        for worker in workers.values():
            worker.ask(f"warm {2 * WARM}")
        rows: Rows = {key: [] for key in bares}
        order, chance = list(bares), random.Random(seed)
        for done in range(rounds + 1):  # the first is warm-up
            chance.shuffle(order)
            for key in order:
                before, own, after = (
                    workers[one].ask(f"run {block} {WARM}") for one in (bares[key], key, bares[key])
                )
                if done:
                    rows[key].append(
                        {
                            **own,
                            "bare_cpu": (before["cpu"] + after["cpu"]) / 2,
                            "bare_wall": (before["wall"] + after["wall"]) / 2,
                        }
                    )
            print(f"\r{framework}: round {done} of {rounds} ", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        seen = {variant.name: proof(variant, workers[variant.name], sink) for variant in variants}
        return {"rows": rows, "seen": seen}
    finally:
        for worker in workers.values():
            worker.close()
        sink.close()


def proof(variant: Variant, worker: Worker, sink: Sink) -> dict[str, float]:
    """What has come out of a variant per request it served: spans received, requests counted, lines written.

    Raises Failed where that is less than it should be.
    """
    said = worker.ask("prove")
    requests = said["requests"]
    lines = worker.lines.read_bytes().splitlines()
    found = {
        "spans": sink.counts().get(str(worker.number), 0) / requests,
        "counted": said["counted"] / requests,
        "lines": len(lines) / requests,
    }
    wanted = {SPANS: "spans", METRICS: "counted", LINES: "lines"}
    short = [what for one, what in wanted.items() if one in variant.proves and found[what] < 1]
    if LINES in variant.proves and "lines" not in short:
        json.loads(lines[-1])
    if short or (not variant.sampled and found["spans"]):
        what = f"{worker.framework} {variant.name}"
        raise Failed(f"{what} does not do what it is measured for: {requests} requests, {found}")
    return found
