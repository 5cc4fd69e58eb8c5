"""What importing obskit costs over what it stands on.

    python benchmarks/imports.py [--rounds N] [--limit MS]

Fresh interpreters, in turn: with the libraries alone that obskit depends on, and with obskit on top of them, as
`import obskit` and as all that `install` loads for a plain application. What counts is the CPU time inside the
process around the import, the median over the rounds, warm disk cache. Exit status 1 if obskit adds more than the
limit.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

LIBRARIES = (
    "import structlog, prometheus_client, opentelemetry.sdk.trace.export, opentelemetry.instrumentation.utils\n"
    "import opentelemetry.exporter.otlp.proto.http.trace_exporter, opentelemetry.sdk.resources\n"
)
TOLD = """
import time
{before}
began = time.process_time()
{timed}
print(time.process_time() - began)
"""
VARIANTS = {
    "the libraries": ("", LIBRARIES),
    "import obskit": ("", "import obskit"),
    "all of an install, over the libraries": (LIBRARIES, "import obskit.install"),
    "an install, over the imports": (
        LIBRARIES + "import obskit.install",
        "obskit.install(lambda environ, start_response: [], instrumentation=False, log_level='critical')",
    ),
}
LIMITED = "all of an install, over the libraries"


def measured(rounds: int) -> dict[str, float]:
    """Milliseconds of each variant, the median."""
    seen: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, (before, timed) in VARIANTS.items():
            program = TOLD.format(before=before, timed=timed)
            ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            seen[name].append(float(ran.stdout) * 1e3)
    return {name: statistics.median(values) for name, values in seen.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=150.0, help="milliseconds that obskit may add")
    options = parser.parse_args()
    figures = measured(options.rounds)
    for name, milliseconds in figures.items():
        print(f"{name:40} {milliseconds:8.1f} ms")
    return int(figures[LIMITED] > options.limit)


if __name__ == "__main__":
    sys.exit(main())
