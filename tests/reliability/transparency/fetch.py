"""A suite made ready: its source distribution unpacked, and a virtual environment with what its tests need."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.transparency.suites import ROOT, Suite

INSIDE = Path(__file__).parent / "inside"
# The suites say themselves which of these they want.
_LEFT_TO_THE_SUITE = re.compile(r"^(pytest|pytest-cov|pytest-xdist|coverage|ruff|mypy)==", re.IGNORECASE)


@dataclass(frozen=True)
class Ready:
    """A suite that can be run."""

    suite: Suite
    source: Path
    python: str

    @property
    def folder(self) -> Path:
        return self.source / self.suite.folder


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "obskit-transparency"


def source_of(suite: Suite, cache: Path) -> Path:
    """The unpacked source distribution. Its name is the whole key: a published file does not change."""
    unpacked = cache / f"{suite.name}-{suite.version}"
    if not unpacked.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        _pip(
            sys.executable,
            *("download", "--no-deps", "--no-binary", ":all:"),
            *("--dest", str(cache), f"{suite.name}=={suite.version}"),
        )
        with tarfile.open(cache / f"{unpacked.name}.tar.gz") as archive:
            archive.extractall(cache / f"{unpacked.name}.new", filter="data")
        (cache / f"{unpacked.name}.new" / unpacked.name).rename(unpacked)
        (cache / f"{unpacked.name}.new").rmdir()
    return unpacked


def make_ready(suite: Suite, cache: Path, python: str) -> Ready:
    """Unpack the suite and install what it needs, unless both are there from an earlier run."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making the same one
        return _made_ready(suite, cache, python)


def _made_ready(suite: Suite, cache: Path, python: str) -> Ready:
    source = source_of(suite, cache)
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not _LEFT_TO_THE_SUITE.match(line)
    ]
    asked = [f"{suite.name}=={suite.version}", *(need.format(source=source) for need in suite.needs)]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    key = hashlib.sha256(repr((python, pins, asked, str(ROOT), ours)).encode()).hexdigest()[:12]
    home = cache / f"{suite.name}-{suite.version}-{key}"
    inside = str(home / "bin" / "python")
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(home)], check=True)
        (home / "pins.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
        _pip(inside, "install", "--upgrade", "pip>=25.1")  # the first that knows --group
        _pip(inside, "install", "-c", str(home / "pins.txt"), "-e", str(ROOT), *asked)
        # In each process of this environment, those that a test starts among them.
        site = next(home.glob("lib/python*/site-packages"))
        hook = f"{INSIDE}\nimport obskit_everywhere\n"
        (site / "obskit_everywhere.pth").write_text(hook, encoding="utf-8")
        (home / "ready").touch()
    return Ready(suite, source, inside)


def _pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
