"""The wheel that users install holds what an export hands out, and an export works from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from obskit.export import shipped

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel of this checkout lies unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_every_dashboard_and_runbook_as_it_is_here(unpacked: Path) -> None:
    for below, files in (("dashboards", "*.json"), ("runbooks", "*.md")):
        here = {file.name: file.read_bytes() for file in (shipped.find_folder() / below).glob(files)}
        there = {file.name: file.read_bytes() for file in (unpacked / "obskit/grafana" / below).iterdir()}
        assert there == here


def test_the_wheel_holds_neither_the_code_nor_the_tests_that_dashboards_and_rules_are_made_with(
    unpacked: Path,
) -> None:
    grafana = unpacked / "obskit/grafana"
    assert not (grafana / "source").exists()
    assert not (grafana / "rules/tests").exists()
    assert not [file for file in grafana.rglob("*") if file.suffix in (".py", ".pyc")]


def test_an_export_from_the_wheel_takes_the_files_of_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    dashboard = unpacked / "obskit/grafana/dashboards/obskit-slo.json"
    marked = dashboard.read_text("utf-8").replace('"obskit-slo"', '"obskit-slo-of-the-wheel"')
    assert "of-the-wheel" in marked
    dashboard.write_text(marked, "utf-8")
    # Measured, this second copy of the package would count as code that no test runs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "obskit.cli", "export", "out"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/dashboards/obskit-slo.json").read_text("utf-8") == marked
