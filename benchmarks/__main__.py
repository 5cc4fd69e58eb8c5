"""What obskit costs: without a name, what it adds to a request beside what the field adds (`benchmarks.cost`).

python -m benchmarks [--keep] [--quick] [...]     as python -m benchmarks.cost
python -m benchmarks all [--quick]                the other benchmarks of this folder, one after the other
python -m benchmarks NAME ... [--quick]           those named
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.cost.__main__ import main as cost

HERE = Path(__file__).parent
NAMES = sorted(file.stem for file in HERE.glob("*.py") if not file.stem.startswith("_"))
# Ten minutes of healthy load: only when it is asked for.
BY_NAME_ALONE = frozenset({"healthy"})
QUICK = {
    "healthy": ("--minutes", "0.3"),
    "idle": ("--seconds", "5"),
    "imports": ("--rounds", "3"),
    "exporter": ("--rounds", "3"),
    "detectors": ("--rounds", "10"),
    "parts": ("--rounds", "3"),
    "memory_of_repeats": ("--operations", "500000"),
    "scrape": ("--workers", "2"),
    "scrape_flood": ("--quick",),
    "watch": ("--rounds", "10"),
}


def main(arguments: list[str]) -> int:
    first = arguments[0] if arguments else ""
    if first == "cost" or (first not in ("-h", "--help") and first.startswith("-")) or not arguments:
        return cost(arguments[1:] if first == "cost" else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help=f"cost, or {', '.join(NAMES)}, or all of these but healthy"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds: whether they run, not what they say"
    )
    options = parser.parse_args(arguments)
    if options.names == ["all"]:
        options.names = [one for one in NAMES if one not in BY_NAME_ALONE]
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    failed = []
    for name in options.names:
        more = QUICK.get(name, ()) if options.quick else ()
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{name}.py"), *more], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
