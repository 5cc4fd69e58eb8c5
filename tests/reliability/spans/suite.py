"""The tests that OpenTelemetry's SDK has of its spans, run as they are and with spans of ours in their place."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from tests.reliability.transparency.fetch import cache_folder

ROOT = Path(__file__).resolve().parents[3]
INSIDE = Path(__file__).parent / "inside"


@dataclass(frozen=True)
class Run:
    """What came of the suite."""

    passed: frozenset[str]
    failed: frozenset[str]
    asleep: int
    """How many spans of the tests were ours."""
    woken: int
    said: str


def fetched() -> tuple[Path, Path]:
    """The unpacked source distribution of the SDK that is installed, and a folder with what its tests import."""
    sdk, beta = version("opentelemetry-sdk"), version("opentelemetry-semantic-conventions")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    source, helpers = cache / f"opentelemetry_sdk-{sdk}", cache / f"opentelemetry-test-utils-{beta}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not source.is_dir():
            _pip(
                "download", "--no-deps", "--no-binary", ":all:", "-d", str(cache), f"opentelemetry-sdk=={sdk}"
            )
            with tarfile.open(cache / f"{source.name}.tar.gz") as archive:
                archive.extractall(cache / f"{source.name}.new", filter="data")
            (cache / f"{source.name}.new" / source.name).rename(source)
        if not helpers.is_dir():
            new = f"{helpers}.new"
            _pip("install", "--no-deps", "--target", new, f"opentelemetry-test-utils=={beta}")
            Path(new).rename(helpers)
    return source, helpers


def run(*, asleep: bool, broken: str = "", tests: tuple[str, ...] = ("tests/trace",)) -> Run:
    """Run them; `broken` spoils our spans on purpose."""
    source, helpers = fetched()
    path = os.pathsep.join(map(str, (ROOT / "src", INSIDE, helpers)))
    # They start processes by the name of `python`.
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "OBSKIT_"))},
        "PYTHONPATH": path, "PATH": programs, "OBSKIT_BROKEN_SPANS": broken,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        plugins = ["-p", "no:obskit", "-p", "no:cacheprovider", *(["-p", "asleep_spans"] if asleep else [])]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugins, f"--junitxml={report}", *tests],
            cwd=source, env=environ, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if not report.exists():
            raise RuntimeError(done.stdout[-4000:] + done.stderr[-4000:])
        passed, failed = _outcomes(report)
    counted = re.search(r"spans asleep (\d+), woken (\d+)", done.stdout)
    ours, woken = (int(counted[1]), int(counted[2])) if counted else (0, 0)
    return Run(passed, failed, ours, woken, done.stdout)


def _outcomes(report: Path) -> tuple[frozenset[str], frozenset[str]]:
    passed, failed = set(), set()
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        (failed if {one.tag for one in case} & {"failure", "error"} else passed).add(name)
    return frozenset(passed), frozenset(failed)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)
