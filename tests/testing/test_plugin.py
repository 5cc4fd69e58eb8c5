"""The plugin is imported in everybody's pytest: it weighs nothing and does nothing until it is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import obskit.testing
from tests.testing.test_projects import pytest_in

HEAVY = (
    "django flask werkzeug starlette fastapi uvicorn structlog prometheus_client opentelemetry wsgiref.simple_server "
    "obskit.install obskit.testing.telemetry obskit.testing.chaos obskit.testing.serving"
).split()


def test_importing_the_plugin_loads_neither_a_framework_nor_a_signal_library() -> None:
    program = "import json, sys, obskit.testing.plugin; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = json.loads(done.stdout)
    assert "obskit.testing.plugin" in loaded
    assert set(HEAVY) & set(loaded) == set()


def test_a_suite_without_our_fixtures_runs_as_without_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import sys\n\n\ndef test_mine():\n"
        f"    assert not set({HEAVY!r}) & set(sys.modules)\n    print('said once')\n"
    )
    done = pytest_in(tmp_path, "-q", "-s")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("said once\n.")
    assert "obskit" not in done.stdout + done.stderr


def test_a_fixture_of_the_users_own_wins(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n\n@pytest.fixture\ndef telemetry():\n    return 'mine'\n"
    )
    (tmp_path / "test_mine.py").write_text("def test_mine(telemetry):\n    assert telemetry == 'mine'\n")
    assert pytest_in(tmp_path, "-q").returncode == 0


def test_a_suite_whose_app_was_never_installed_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine(telemetry):\n    assert telemetry.findings == []\n")
    done = pytest_in(tmp_path, "-q")
    assert done.returncode == 1
    assert "no application of this process was installed with obskit" in done.stdout


def test_pytest_lists_the_fixtures_with_what_they_are_for(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("def test_mine():\n    pass\n")
    listed = pytest_in(tmp_path, "--fixtures", "-q").stdout
    for name in ("telemetry", "served", "chaos"):
        assert f"\n{name} -- " in listed


def test_the_package_offers_what_it_says_and_names_it_otherwise() -> None:
    for name in obskit.testing.__all__:
        assert getattr(obskit.testing, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Telemetri'; it offers Chaos"):
        obskit.testing.Telemetri  # noqa: B018
