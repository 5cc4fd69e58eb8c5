"""The command line by itself: what it accepts, what it says, and the status it ends with."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from obskit.cli import main


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"obskit {version('obskit-web')}\n"


@pytest.mark.parametrize("argv", [["--help"], ["demo", "--help"]])
def test_help_goes_to_stdout_and_is_no_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: obskit")
    assert "xit status" in said.out
    assert said.err == ""


def test_without_a_command_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "demo" in said.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["serve"], "'serve'"),
        (["demo", "--service", "bottle"], "'bottle'"),
        (["demo", "--duration", "0"], "argument --duration: saw '0', expected seconds above 0"),
        (["demo", "--duration", "-3"], "argument --duration: saw '-3', expected seconds above 0"),
        (["demo", "--duration", "soon"], "argument --duration: saw 'soon', expected seconds above 0"),
        (["demo", "--duration", "inf"], "argument --duration: saw 'inf', expected seconds above 0"),
        (
            ["demo", "--rate", "nan"],
            "argument --rate: saw 'nan', expected requests per second above 0, at most 200",
        ),
        (
            ["demo", "--rate", "201"],
            "argument --rate: saw '201', expected requests per second above 0, at most 200",
        ),
        (
            ["demo", "--rate", "0"],
            "argument --rate: saw '0', expected requests per second above 0, at most 200",
        ),
        (["demo", "--port", "65536"], "argument --port: saw '65536', expected a port from 1 to 65535"),
        (["demo", "--port", "http"], "argument --port: saw 'http', expected a port from 1 to 65535"),
        (["demo", "--port", "²"], "argument --port: saw '²', expected a port from 1 to 65535"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_without_rich_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err.endswith("pip install 'obskit-web[cli]'\n")


def test_the_command_line_loads_neither_rich_nor_a_framework_until_a_command_needs_them() -> None:
    report = "import sys, obskit.cli; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert "obskit" in loaded
    assert not loaded & {
        "rich",
        "django",
        "flask",
        "fastapi",
        "structlog",
        "prometheus_client",
        "opentelemetry",
    }


def test_a_reader_that_leaves_is_no_traceback() -> None:
    # The first print meets a pipe whose other end is closed.
    program = (
        "import os, sys, obskit.cli as cli\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "def run(options):\n    print('x' * 100_000)\n    return 0\n"
        "cli._demo = run\n"
        "sys.exit(cli.main(['demo']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == ""
