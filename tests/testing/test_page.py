"""docs/testing.md is executed: its files are written down as a reader would, and its tests are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from obskit.testing import Chaos, Request
from tests.testing.test_projects import pytest_in

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {
    match[1]: body
    for language, body in BLOCKS
    if language == "python" and (match := re.match(r"# (\S+\.py)\n", body))
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, body in FILES.items():
        (tmp_path / name).write_text(body, "utf-8")
    return tmp_path


def test_every_python_block_is_a_file() -> None:
    assert len(FILES) == sum(language == "python" for language, _ in BLOCKS) == 5


def test_the_tests_of_the_page_pass(project: Path) -> None:
    done = pytest_in(project, "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_the_program_without_pytest_prints_what_the_page_shows(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "without_pytest.py"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    shown = next(body for language, body in BLOCKS if language == "text")
    assert [line for line in done.stdout.splitlines() if not line.startswith("{")] == shown.splitlines()


def test_every_verb_is_on_the_page_and_none_that_is_not_there() -> None:
    named = set(re.findall(r"^\| `(?:chaos\(app\)\.)?(\w+)\(", PAGE, re.MULTILINE))
    verbs = {name for name in vars(Request) if not name.startswith("_")} | {"out_of_order"}
    assert named == verbs
    assert hasattr(Chaos, "out_of_order")
