"""Inputs that atheris finds by looking which lines of obskit an input reaches, in an environment of its own.

`python guided.py TARGET RUNS` in that environment; `run` makes it (a virtual environment beside the cache of this
project's tools) and starts one process per target.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "obskit-atheris"
WANTED = "atheris>=3.0"


def environment() -> Path | None:
    """The interpreter of an environment with atheris and all that this one has; None where there is none for it."""
    folder = HOME / f"{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import atheris"], capture_output=True).returncode:
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", WANTED], capture_output=True
        )
        if done.returncode:
            return None
    # What this environment has is not installed again: it is seen from there.
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "here.pth").write_text("\n".join([*here, str(ROOT), str(ROOT / "src")]) + "\n")
    return python


def run(python: Path, target: str, runs: int) -> tuple[int, str]:
    """How many inputs a target was given, and what broke (empty: nothing)."""
    done = subprocess.run(
        [python, __file__, target, str(runs)], cwd=ROOT, capture_output=True, text=True, errors="replace"
    )
    seen = re.findall(r"Done (\d+) |stat::number_of_executed_units:\s*(\d+)", done.stderr)
    inputs = max((int(a or b) for a, b in seen), default=0)
    broke = "" if done.returncode == 0 else _told(done.stdout + done.stderr)
    return inputs, broke


def _told(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(("INFO:", "{")))[-3_000:]


def main(name: str, runs: int) -> None:
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=["obskit"]):
        from tests.reliability.fuzz.run import ALL
    import logging

    from tests.reliability.fuzz.draw import Draw

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    target = ALL[name]()
    options = [
        sys.argv[0],
        f"-runs={runs}",
        "-max_len=192",
        "-print_final_stats=1",
        "-verbosity=0",
        "-timeout=20",
    ]
    atheris.Setup(options, lambda data: target(Draw(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
