"""The benchmarks run, and measure every detector there is. What they say is for a quiet machine, not for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from obskit.detectors import shipped

ROOT = Path(__file__).parent.parent


def test_the_cost_of_every_detector_is_measured_beside_the_bare_app_and_the_signals_alone(
    tmp_path: Path,
) -> None:
    figures = tmp_path / "figures.json"
    command = [
        sys.executable,
        "benchmarks/detectors.py",
        "--kinds",
        "asgi",
        "--rounds",
        "2",
        "--json",
        str(figures),
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    written = json.loads(figures.read_text())
    names = {detector.name for detector in shipped()}
    variants = {"bare", "three signals, no detector", "all detectors"} | names
    for method in ("GET", "POST"):
        by_variant = written["kinds"]["asgi"][method]
        assert set(by_variant) == variants
        assert by_variant["bare"]["ratio"] == 1
        assert by_variant["three signals, no detector"]["added_us"] > 0
    assert set(written["memory_bytes"]) == names
    assert all(f"\n{name:28}" in ran.stdout for name in names)


def test_a_flood_of_scrapes_is_measured_beside_the_same_load_without_one(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/scrape_flood.py", "--servers", "uvicorn"]
    command += ["--seconds", "0.7", "--rounds", "1", "--lead", "0", "--json", str(figures)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(figures.read_text())["uvicorn"]
    assert {"none", "page", "page, 100 a second", "page, other port", "ping"} <= set(found)
    assert found["none"]["of_bare"] == 1
    assert all(one["requests_per_s"] > 0 for one in found.values())


def test_sending_a_span_is_measured_beside_the_official_exporter(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/exporter.py", "--rounds", "2", "--json", str(figures)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(figures.read_text())
    assert [one["of_official"] == 1 for one in found.values()] == [True, False, False]
    assert all(one["us"] > 0 for one in found.values())


def test_what_import_and_install_add_is_measured_and_no_thread_is_started(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "benchmarks/imports.py", "--apps", "Flask", "--rounds", "1"]
    command += ["--limit", "60000", "--json", str(figures)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    ways = json.loads(figures.read_text())["apps"]["Flask"]
    for way in ("obskit", "obskit, OTLP endpoint"):
        assert ways[way]["threads"] == 0
        assert ways[way]["modules"] > 0
        assert ways[way]["all_ms"] > 0


def test_a_benchmark_that_is_not_there_is_told_apart_from_one_that_fails() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    assert "no benchmark nothing; there are: detectors" in ran.stderr


def test_what_each_part_costs_is_told_beside_the_bare_request_and_the_whole() -> None:
    command = [sys.executable, "benchmarks/parts.py", "--rounds", "2", "--frameworks", "starlette"]
    command += ["--python", sys.executable]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    told = dict(line.strip().rsplit(maxsplit=1) for line in ran.stdout.splitlines()[1:])
    whole, rest = float(told["three signals add"]), float(told["they add without all of these"])
    assert 0 < rest < whole, told
    assert sum(name.startswith("less without") for name in told) == 7
