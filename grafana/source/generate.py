"""Writes every generated file below `grafana/`, or, with --check, says which of them are not what they should be.

python grafana/source/generate.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from obskit_dashboards.build import dashboard_files

from obskit.export import bundle

GRAFANA = Path(__file__).resolve().parents[1]

# Each gives path below grafana/ -> text. A file that none of them gives, in a folder of GENERATED, is a leftover.
GENERATORS: tuple[Callable[[Path], dict[str, str]], ...] = (dashboard_files, lambda _: bundle.default_files())
GENERATED = ("dashboards/*.json", "rules/*.yaml", "alertmanager/*.yaml", "provisioning/**/*.yaml")


def wanted() -> dict[str, str]:
    """Path below grafana/ -> text, of all generated files."""
    files: dict[str, str] = {}
    for generator in GENERATORS:
        for path, text in generator(GRAFANA).items():
            if path in files:
                raise ValueError(f"{path} is generated twice")
            files[path] = text
    return files


def differences(files: dict[str, str]) -> list[str]:
    """One line for each file on disk that is missing, different or left over."""
    found = []
    for path, text in sorted(files.items()):
        file = GRAFANA / path
        if not file.is_file():
            found.append(f"missing: {path}")
        elif file.read_bytes() != text.encode():
            found.append(f"differs: {path}")
    return found + [f"left over: {path}" for path in leftovers(files)]


def leftovers(files: dict[str, str]) -> list[str]:
    """Generated files of before that nothing generates any more."""
    present = {
        file.relative_to(GRAFANA).as_posix() for pattern in GENERATED for file in GRAFANA.glob(pattern)
    }
    return sorted(present - files.keys())


def write(files: dict[str, str]) -> None:
    """Makes the folder what it should be."""
    for path in leftovers(files):
        (GRAFANA / path).unlink()
    for path, text in files.items():
        file = GRAFANA / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 when a file is not as generated"
    )
    check = parser.parse_args().check
    files = wanted()
    if not check:
        write(files)
        return 0
    found = differences(files)
    for line in found:
        sys.stderr.write(f"{line}\n")
    if found:
        sys.stderr.write("run: python grafana/source/generate.py\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
