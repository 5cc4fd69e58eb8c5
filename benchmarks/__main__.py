"""python -m benchmarks [NAME ...] [--quick]: the benchmarks of this folder, or those named, one after the other."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

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
    "memory_of_repeats": ("--operations", "500000"),
    "scrape": ("--workers", "2"),
    "scrape_flood": ("--quick",),
    "watch": ("--rounds", "10"),
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What obskit costs.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)} (default: all but healthy)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds: whether they run, not what they say"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    failed = []
    for name in options.names or [one for one in NAMES if one not in BY_NAME_ALONE]:
        more = QUICK.get(name, ()) if options.quick else ()
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{name}.py"), *more], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
