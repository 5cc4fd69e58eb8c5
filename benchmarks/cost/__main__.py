"""What obskit adds to a request, beside what the field adds: one table, and the goals met or missed.

    python -m benchmarks.cost [--keep] [--quick] [--frameworks fastapi ...] [--variants NAME ...]
    python -m benchmarks.cost --profile obskit [--frameworks flask]
    python -m benchmarks.cost --instructions
    python -m benchmarks.cost --bytecodes [NAME ...]

Exit status 0 when it could tell (goals missed or not), 1 when a variant does not do what it is measured for, 2 when
the machine was too noisy to tell: then nothing is reported or written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.cost import environments, figures, inprocess, instructions, report, servers
from benchmarks.cost.environments import FOLDER, ROOT
from benchmarks.cost.processes import Failed
from benchmarks.cost.variants import BY_NAME, FRAMEWORKS, of

DOCS = ROOT / "docs" / "performance"
COUNTED = ["assembled", "careful", "floor", "floor-lean", "signals", "obskit", "obskit-unsampled"]


def options_of(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known, told = sorted(BY_NAME), ", ".join(BY_NAME)
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument(
        "--variants", nargs="+", choices=known, default=(), metavar="NAME", help=f"only these of {told}"
    )
    parser.add_argument(
        "--servers", nargs="*", choices=sorted(servers.KINDS), metavar="SERVER", default=tuple(servers.KINDS)
    )
    parser.add_argument("--rounds", type=int, default=24, help="of the variants in process (24)")
    parser.add_argument("--server-rounds", type=int, default=8, help="of the variants under each server (8)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of load on a server in each round (1)")
    parser.add_argument(
        "--quick", action="store_true", help="whether it runs, not what it says: 3 rounds, no servers"
    )
    parser.add_argument("--newest", action="store_true", help="make the pins of all environments anew first")
    parser.add_argument("--keep", action="store_true", help="write figures and chart for docs/performance.md")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", default=FOLDER / "cost.json", help="where the figures go"
    )
    parser.add_argument(
        "--noise-limit",
        metavar="US",
        type=float,
        default=figures.NOISE_LIMIT_US,
        help="microseconds a request that the machine may make up (%(default)s)",
    )
    parser.add_argument(
        "--profile", choices=known, metavar="NAME", help="where the time of this one goes, and nothing else"
    )
    parser.add_argument(
        "--instructions",
        nargs="*",
        choices=known,
        metavar="NAME",
        help="count instructions of these, and nothing else",
    )
    parser.add_argument(
        "--bytecodes",
        nargs="*",
        choices=known,
        metavar="NAME",
        help="count bytecodes of these, and nothing else",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.servers = min(options.rounds, 3), ()
    if options.variants:
        options.servers = ()
    return options


def main(arguments: list[str]) -> int:
    options = options_of(arguments)
    # In memory where there is such a place: a disk's own work would come between.
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=shared if os.access(shared, os.W_OK) else None))
    try:
        if options.newest:
            for environment in environments.ENVIRONMENTS:
                environments.ensure(environment, newest=True)
        if options.profile:
            for framework in options.frameworks:
                print(instructions.profile(framework, options.profile, folder / framework))
            return 0
        if options.bytecodes is not None:
            for framework in options.frameworks:
                names = options.bytecodes or COUNTED
                print(instructions.bytecodes(framework, names, folder / framework))
            return 0
        if options.instructions is not None:
            return _instructions(options, folder)
        return _table(options, folder)
    except Failed as failed:
        print(failed, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _instructions(options: argparse.Namespace, folder: Path) -> int:
    if not instructions.available():
        print("counting needs valgrind (Debian, Ubuntu: apt-get install valgrind)", file=sys.stderr)
        return 2
    found: dict[str, Any] = {}
    for framework in options.frameworks:
        names = options.instructions or COUNTED
        found[framework] = instructions.count(framework, names, folder / framework)
        print(f"{framework}, added to the bare application's", instructions.told(found[framework]), sep="\n")
    kept = DOCS / "cost.json"
    if options.keep and kept.exists():
        whole = json.loads(kept.read_text(encoding="utf-8"))
        _write({**whole, "instructions": whole.get("instructions", {}) | found}, kept)
    return 0


def _table(options: argparse.Namespace, folder: Path) -> int:
    began = time.monotonic()
    seed = random.SystemRandom().getrandbits(32)
    measured = {}
    for framework in options.frameworks:
        variants = of(framework, tuple(options.variants))
        if variants:
            measured[framework] = inprocess.measure(
                framework, variants, options.rounds, folder / framework, seed
            )
    by_framework = {framework: figures.figures(one) for framework, one in measured.items()}
    if reasons := figures.too_noisy(by_framework, options.noise_limit):
        return _refuse(reasons)
    under: dict[str, Any] = {}
    for server in options.servers:
        one = servers.measure(
            server, options.server_rounds, options.seconds, folder / server.replace(" ", "-"), seed
        )
        under[server] = {
            "framework": one["framework"],
            "rate": one["rate"],
            "figures": figures.figures(one),
            "waited": one["waited"],
        }
    # Who bears more noise in process bears as much more under a server.
    bearable = figures.SERVER_NOISE_LIMIT * options.noise_limit / figures.NOISE_LIMIT_US
    if reasons := figures.servers_too_noisy(under, bearable):
        return _refuse(reasons)
    used = {BY_NAME[key].environment for one in by_framework.values() for key in one if key in BY_NAME}
    found = {
        "title": "What obskit adds to a request",
        "command": _command(sys.argv[1:]),
        "date": str(date.today()),
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "took_s": round(time.monotonic() - began),
        "rounds": options.rounds,
        "block": inprocess.BLOCK,
        "noise_us": {framework: figures.noise(one) for framework, one in by_framework.items()},
        "versions": _versions(used),
        "frameworks": {
            framework: {"figures": one, "seen": measured[framework]["seen"]}
            for framework, one in by_framework.items()
        },
        "servers": under,
        "goals": [one._asdict() for one in figures.judge(by_framework, under)],
    }
    print(report.text(found))
    _write(found, options.json)
    if options.keep:
        DOCS.mkdir(exist_ok=True)
        _write(found, DOCS / "cost.json")
        report.chart(found, DOCS / "cost.svg")
        print("now run: python docs/generate.py")
    return 0


def _command(arguments: list[str]) -> str:
    """What repeats this run. Where its figures went is nobody else's business."""
    words = list(arguments)
    if "--json" in words:
        at = words.index("--json")
        del words[at : at + 2]
    return f'make bench BENCH_ARGS="{" ".join(words)}"' if words else "make bench"


def _refuse(reasons: list[str]) -> int:
    print("this machine is too noisy to tell what anything costs:", *reasons, sep="\n  ", file=sys.stderr)
    return 2


def _versions(used: set[str]) -> dict[str, str]:
    """The peers' versions; where environments differ, both are said."""
    pinned = {one: environments.versions(one) for one in environments.ENVIRONMENTS if one in used}
    found = {}
    for name in report.PEERS:
        by_version: dict[str, list[str]] = {}
        for environment, versions in pinned.items():
            if name in versions:
                by_version.setdefault(versions[name], []).append(environment)
        if len(by_version) == 1:
            found[name] = next(iter(by_version))
        elif by_version:
            found[name] = ", ".join(
                f"{version} ({', '.join(where)})" for version, where in by_version.items()
            )
    return found


def _write(found: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    # What is kept in a repository has no digits that mean nothing.
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
