"""Lines leave in one piece through stdout as it is at that moment; what cannot leave is counted, never raised."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from obskit.signals.writer import Writer
from tests.signals.conftest import read_lines, run_python

Lost = list[tuple[str, str]]


@pytest.fixture
def lost() -> Lost:
    return []


@pytest.fixture
def writer(lost: Lost) -> Writer:
    return Writer(lambda signal, reason: lost.append((signal, reason)))


def _as_stdout(monkeypatch: pytest.MonkeyPatch, stream: Any, *, real: bool = False) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    if real:
        monkeypatch.setattr(sys, "__stdout__", stream)


def test_a_line_ends_with_one_newline(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    writer.write('{"a":1}')
    assert capsys.readouterr().out == '{"a":1}\n'


def test_a_stdout_that_was_replaced_gets_the_lines(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, lost: Lost
) -> None:
    mine = io.StringIO()
    _as_stdout(monkeypatch, mine)
    writer.write("\ud800é")
    assert (mine.getvalue(), lost) == ("?é\n", [])


def test_on_the_real_stdout_what_the_application_printed_stays_in_front(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        file.write("printed first\n")
        writer.write("line")
    assert (tmp_path / "out").read_text() == "printed first\nline\n"


def test_the_real_stdout_gets_a_line_in_one_write(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: list[int] = []
    write = os.write
    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        monkeypatch.setattr(os, "write", lambda fd, data: (written.append(len(data)), write(fd, data))[1])
        writer.write("x" * 10_000)
    assert written == [10_001]


def test_a_line_that_is_taken_in_parts_is_written_to_its_end(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: Lost
) -> None:
    write = os.write
    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
        writer.write("0123456789" * 3)
    assert (tmp_path / "out").read_text() == "0123456789" * 3 + "\n"
    assert lost == []


def test_lines_stay_apart_when_a_full_pipe_that_does_not_block_takes_only_part_of_one(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, lost: Lost
) -> None:
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    os.set_blocking(readable, False)
    with os.fdopen(writable, "w") as file, os.fdopen(readable, "rb") as reader:
        _as_stdout(monkeypatch, file, real=True)
        line = "x" * 10_000  # no whole number of them fills a pipe
        while not lost:
            writer.write(line)
        taken = reader.read()
        writer.write("y")
        taken += reader.read()
    assert lost == [("logs", "write_failed")]
    assert taken.decode().split("\n")[-2] == "y"


@pytest.mark.parametrize(
    ("break_stdout", "reason"),
    [
        (lambda: None, "stdout_closed"),
        (lambda: _closed(io.StringIO()), "write_failed"),
        (lambda: _Broken(OSError("gone")), "write_failed"),
        (lambda: _Broken(BrokenPipeError()), "write_failed"),
        (lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"), "write_failed"),
        (lambda: _Broken(RuntimeError("a stream of somebody's own")), "write_failed"),
        (object, "write_failed"),
    ],
    ids=["none", "closed", "os error", "pipe", "ascii only", "any error", "no stream"],
)
def test_a_line_that_cannot_be_written_is_counted_and_nothing_raised(
    break_stdout: Callable[[], Any], reason: str, writer: Writer, monkeypatch: pytest.MonkeyPatch, lost: Lost
) -> None:
    _as_stdout(monkeypatch, break_stdout())
    writer.write("é")
    assert lost == [("logs", reason)]


class _Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def _closed(stream: Any) -> Any:
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: None, False),
        (io.StringIO, False),
        (lambda: _closed(io.StringIO()), False),
        (lambda: _Tty(), True),  # noqa: PLW0108  (defined below)
        (object, False),
    ],
    ids=["none", "file", "closed", "tty", "no stream"],
)
def test_only_a_terminal_is_a_tty(
    make: Callable[[], Any], expected: bool, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _as_stdout(monkeypatch, make())
    assert writer.isatty() is expected


class _Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


SURVIVES = """
house = obskit.install(app, interface="wsgi", instrumentation=False)
{breaks}
for _ in range(3):
    logging.getLogger("app").warning("still here")
    serve(house.pipeline)
page = house.pipeline.endpoints["/metrics"]("GET", {{}}, "127.0.0.1").body.decode()
sys.stderr.write([l for l in page.splitlines() if l.startswith("obskit_telemetry_dropped_total")][0])
sys.stdout = None
"""


@pytest.mark.parametrize(
    ("stdout", "breaks"),
    [
        ("full", ""),
        ("pipe", ""),
        ("file", "os.close(1)"),
        ("file", "sys.stdout.close()"),
        ("file", "sys.stdout = None"),
    ],
    ids=["device full", "reader gone", "descriptor closed", "stream closed", "no stream"],
)
def test_a_process_whose_stdout_is_broken_serves_on_and_counts_every_lost_line(
    stdout: str, breaks: str, tmp_path: Path
) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    with Path("/dev/full").open("w") as full, (tmp_path / "out").open("w") as file:
        targets = {"full": full.fileno(), "pipe": writable, "file": file.fileno()}
        done = run_python(SURVIVES.format(breaks=breaks), stdout=targets[stdout], check=False)
    os.close(writable)
    assert "Traceback" not in done.stderr
    name, _, count = done.stderr.rpartition(" ")
    assert 'signal="logs"' in name
    assert float(count) >= 6


def test_lines_of_two_processes_on_one_pipe_stay_apart() -> None:
    done = run_python(
        """
        house = obskit.install(app, interface="wsgi", instrumentation=False)
        child = os.fork()
        for n in range(200):
            logging.getLogger("app").warning("x" * 2000, extra={"n": n})
        if child:
            os.waitpid(child, 0)
        else:
            os._exit(0)
        """
    )
    lines = read_lines(done.stdout)
    assert sorted(line["n"] for line in lines) == sorted([*range(200), *range(200)])
