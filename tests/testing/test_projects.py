"""A user's test suite, run as a user runs it: the same one over Flask, FastAPI and Django, passing and failing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECTS = Path(__file__).parent / "projects"
FRAMEWORKS = ["flask", "fastapi", "django"]


def run_suite(
    tmp_path: Path, framework: str, suite: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    shutil.copy(PROJECTS / "orders.py", tmp_path / "orders.py")
    shutil.copy(PROJECTS / f"{framework}_shop.py", tmp_path / "shop.py")
    shutil.copy(PROJECTS / suite, tmp_path / "test_shop.py")
    return pytest_in(tmp_path, *arguments)


def pytest_in(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a project of its own, with our plugin and no setting of this one."""
    (directory / "pytest.ini").touch()
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OBSKIT_", "OTEL_", "PYTEST_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env={**env, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_suite_sees_what_its_app_does_wrong(tmp_path: Path, framework: str) -> None:
    done = run_suite(tmp_path, framework, "suite.py", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_suite_that_expects_too_little_fails_with_what_was_seen(tmp_path: Path, framework: str) -> None:
    done = run_suite(tmp_path, framework, "broken_suite.py", "-q", "-rN", "--tb=short")
    assert "7 failed" in done.stdout, done.stdout + done.stderr
    told = re.sub(r"\nE\s+", " ", done.stdout)
    for said in (
        "assert ['partial_write'] == []",
        "expected one finding 'soft_error', saw none; seen were 1 request(s)",
        ": POST /orders 200 completed ['partial_write']",
        "waited 0.1 s for 2 request(s); seen were 1 request(s): GET /stock 200 completed ['soft_error']",
        "there is no metric 'obskit_finding_total'; did you mean obskit_findings_total",
        "metric 'obskit_findings_total' has no label route; its labels are: finding, http_route",
        "'192.0.2.1' is at 192.0.2.1, which is not on loopback",
        "expected one canonical line, saw 2",
    ):
        assert said in told
    assert "Traceback" not in done.stderr
