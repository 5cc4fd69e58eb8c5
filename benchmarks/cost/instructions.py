"""Instructions per request, counted by valgrind's callgrind, and a profile by stage: what explains a figure.

Counting begins when the application is warm and ends after a flush, so that start and imports are not in it; all
threads are. It needs valgrind and says so where it is missing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.cost import environments
from benchmarks.cost.environments import ROOT
from benchmarks.cost.processes import Failed, Places, Sink, Worker
from benchmarks.cost.variants import BY_NAME

COUNTED = 512
WARM = 200
Asked = TypeVar("Asked", bound=Worker)
Found = TypeVar("Found")


class Counted(Worker):
    """A worker under callgrind, which counts nothing until it is told to."""

    def command(self) -> list[str]:
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"]
        return [*valgrind, f"--callgrind-out-file={self.counts_file}", *super().command()]

    @property
    def counts_file(self) -> Path:
        return self.lines.with_suffix(".callgrind")

    def count(self, requests: int) -> float:
        """Instructions per request."""
        self.ask(f"warm {WARM}")
        self._control("--instr=on")
        self.ask(f"warm {requests}")
        # Before counting is switched off, which forgets what was counted.
        self._control("--dump")
        # The dump that was asked for has a number behind its name; the one at the end would have none.
        dumped = sorted(self.counts_file.parent.glob(f"{self.counts_file.name}.*"))
        found = (
            re.search(r"^(?:totals|summary): (\d+)", dumped[-1].read_text(), re.MULTILINE) if dumped else None
        )
        if found is None:
            raise Failed(f"callgrind has counted nothing for {self.name}")
        if not int(found[1]):
            raise Failed(f"callgrind was not counting {self.name}")
        return int(found[1]) / requests

    def _control(self, word: str) -> None:
        command = ["callgrind_control", word, str(self.process.pid)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise Failed(f"{' '.join(command)}: {ran.stderr.strip() or ran.stdout.strip()}")


def available() -> bool:
    return shutil.which("valgrind") is not None and shutil.which("callgrind_control") is not None


def _beside_bare(
    framework: str, names: list[str], folder: Path, kind: type[Asked], ask: Callable[[Asked], Found]
) -> Iterator[tuple[str, Found, Found]]:
    """Each name with what a worker of it answers, and what the bare application in the same environment does."""
    folder.mkdir()
    sink, places = Sink(), Places(folder)
    bare: dict[str, Found] = {}

    def asked(name: str, environment: str) -> Found:
        worker = kind(framework, name, environment, sink, places)
        try:
            return ask(worker)
        finally:
            worker.close()

    try:
        for name in names:
            variant = BY_NAME[name]
            environments.ensure(variant.environment)
            if variant.bare not in bare:
                bare[variant.bare] = asked("bare+routes" if variant.routes else "bare", variant.environment)
            yield name, asked(name, variant.environment), bare[variant.bare]
    finally:
        sink.close()


def count(framework: str, names: list[str], folder: Path) -> dict[str, float]:
    """Instructions per request of each, above those of the bare application in the same environment."""
    found = _beside_bare(framework, names, folder, Counted, lambda worker: worker.count(COUNTED))
    return {name: counted - bare for name, counted, bare in found}


def profile(framework: str, name: str, folder: Path, requests: int = 3000) -> str:
    """Where the time of the requests' thread goes under cProfile: by stage, then the dearest functions.

    Its microseconds are larger than life, for each call pays for being watched; their shares are what it tells.
    """
    folder.mkdir()
    sink, places = Sink(), Places(folder)
    variant = BY_NAME[name]
    environments.ensure(variant.environment)
    worker = Worker(framework, name, variant.environment, sink, places)
    try:
        worker.ask("warm 500")
        rows = worker.ask(f"profile {requests}")["profile"]
    finally:
        worker.close()
        sink.close()
    stages: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for file, _, calls, own, _ in rows:
        stages[_stage(file)][0] += own
        stages[_stage(file)][1] += calls
    whole = sum(own for own, _ in stages.values())
    out = [f"{framework}, {variant.title}: {whole:.1f} µs a request under the profiler", ""]
    out += [f"{'stage':44} {'own µs':>8} {'share':>6} {'calls':>7}"]
    for stage, (own, calls) in sorted(stages.items(), key=lambda item: -item[1][0])[:25]:
        out.append(f"{stage:44} {own:8.2f} {own / whole:6.1%} {calls:7.2f}")
    out += ["", f"{'function':64} {'own µs':>8} {'in all':>8} {'calls':>7}"]
    for file, function, calls, own, under in sorted(rows, key=lambda row: -row[3])[:40]:
        out.append(f"{_stage(file) + ' ' + function:64.64} {own:8.2f} {under:8.2f} {calls:7.2f}")
    return "\n".join(out) + "\n"


def bytecodes(framework: str, names: list[str], folder: Path, requests: int = 640) -> str:
    """How many bytecodes of Python each executes for a request, of its own and of others, and where its own are.

    Not a time, but the same on any machine; what C code does is not in it.
    """

    def ask(worker: Worker) -> list[list[Any]]:
        worker.ask("warm 500")
        rows: list[list[Any]] = worker.ask(f"bytecodes {requests}")["bytecodes"]
        return rows

    out: list[str] = []
    for name, rows, bare_rows in _beside_bare(framework, names, folder, Worker, ask):
        whole, bare = (sum(count for _, _, count in one) for one in (rows, bare_rows))
        out.append(
            f"{framework}, {BY_NAME[name].title}: {whole - bare:,.0f} bytecodes a request "
            f"beside {bare:,.0f} of the bare application"
        )
        own = [row for row in rows if str(ROOT) + "/" in row[0] and "site-packages/" not in row[0]]
        for file, function, count in sorted(own, key=lambda row: -row[2])[:25]:
            out.append(f"  {_stage(file) + ' ' + function:64.64} {count:8.1f}")
    return "\n".join(out) + "\n"


def _stage(file: str) -> str:
    """The file of ours, or the package of others."""
    if "site-packages/" in file:
        parts = file.split("site-packages/")[1].split("/")
        return ".".join(part.removesuffix(".py") for part in parts[: 3 if parts[0] == "opentelemetry" else 1])
    for root in (str(ROOT / "src") + "/", str(ROOT) + "/"):
        if file.startswith(root):
            return file.removeprefix(root)
    return "built in" if file == "~" else "standard library"


def told(counts: dict[str, Any]) -> str:
    return (
        "\n".join(f"{name:32} {count:12,.0f} instructions a request" for name, count in counts.items()) + "\n"
    )
