"""Lines leave in one piece through stdout as it is at that moment; what cannot leave is counted, never raised."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from obskit.signals import outlet
from obskit.signals import writer as writer_module
from obskit.signals.writer import Writer
from tests.signals.conftest import read_lines, run_python

Lost = list[tuple[str, str]]


def until(what: Callable[[], bool]) -> None:
    deadline = monotonic() + 10
    while not what():
        assert monotonic() < deadline
        threading.Event().wait(0.002)


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


class Pipe:
    """Standard output is a pipe, and the test reads it when it wants to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.readable, writable = os.pipe()
        os.set_blocking(self.readable, False)
        self.file = os.fdopen(writable, "w")
        self.patch = monkeypatch

    def open(self) -> None:
        """From the test itself: what a fixture puts in place of standard output, pytest takes away again."""
        _as_stdout(self.patch, self.file, real=True)

    def read(self) -> bytes:
        """All there is now."""
        taken = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.readable, 1 << 20):
                taken += part
        return taken

    def read_until(self, enough: Callable[[bytes], bool]) -> bytes:
        taken, deadline = b"", monotonic() + 10
        while not enough(taken):
            assert monotonic() < deadline, taken[-200:]
            select.select([self.readable], [], [], 1)
            taken += self.read()
        return taken

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
            os.close(self.readable)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    made = Pipe(monkeypatch)
    yield made
    made.close()


# The kernel's own way; a second opening of the pipe, as on older kernels; and none at all (a pipe of another user).
WAYS = {
    "at once": lambda patch: None,
    "reopened": lambda patch: patch.delattr(os, "RWF_NOWAIT"),
    "refused by the kernel": lambda patch: patch.setattr(os, "pwritev", _refuse(errno.EOPNOTSUPP)),
    "by a patient thread": lambda patch: (
        patch.delattr(os, "RWF_NOWAIT"),
        patch.setattr(os, "open", _refuse(errno.EACCES)),
    ),
}


def _refuse(number: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    WAYS[request.param](monkeypatch)
    return str(request.param)


def test_a_pipe_nobody_reads_holds_nobody_up_and_each_line_is_written_or_counted(
    way: str, pipe: Pipe, lost: Lost
) -> None:
    pipe.open()
    told: list[int] = []
    writer = Writer(lambda signal, reason: lost.append((signal, reason)), recovered=told.append)
    offered = 2_000
    for number in range(offered):  # 10 MB, of which a pipe and a backlog take the half
        writer.write(f"{number} " + "x" * 5_000)
    assert set(lost) == {("logs", "queue_full")}
    kept = offered - len(lost)
    assert_whole_and_in_order(pipe, kept, 5_001)
    writer.flush(5)
    until(lambda: told == [len(lost)])
    writer.write("again")
    assert pipe.read_until(lambda taken: b"\n" in taken) == b"again\n"


def test_a_line_that_has_to_wait_comes_as_soon_as_somebody_reads(way: str, pipe: Pipe, lost: Lost) -> None:
    pipe.open()
    writer = Writer(lambda signal, reason: lost.append((signal, reason)))
    for _ in range(40):
        writer.write("y" * 4_000)
    began = monotonic()
    pipe.read_until(lambda taken: taken.count(b"\n") == 40)
    assert monotonic() - began < 1
    assert lost == []


def test_a_reader_that_leaves_while_lines_wait_costs_those_and_no_other(
    way: str, pipe: Pipe, lost: Lost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe.open()
    writer = Writer(lambda signal, reason: lost.append((signal, reason)))
    for _ in range(40):
        writer.write("y" * 4_000)
    until(lambda: not select.select((), (pipe.file,), (), 0)[1])  # full
    os.close(pipe.readable)
    writer.flush(5)
    until(lambda: bool(lost))
    assert {reason for _, reason in lost} == {"write_failed"}
    assert 1 <= len(lost) < 40, "what the pipe held has been written"
    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        writer.write("elsewhere")
        writer.flush(5)
    assert (tmp_path / "out").read_text().strip() == "elsewhere"


def test_what_still_waits_at_the_end_is_counted(pipe: Pipe, writer: Writer, lost: Lost) -> None:
    pipe.open()
    for _ in range(40):
        writer.write("y" * 4_000)
    writer.flush(0.01)
    writer.give_up()
    written = len(pipe.read()) // 4_001
    assert lost == [("logs", "shutdown")] * (40 - written)
    assert 0 < written < 40


def test_with_the_option_the_application_waits_for_the_reader_and_no_line_is_lost(
    pipe: Pipe, lost: Lost
) -> None:
    pipe.open()
    writer = Writer(lambda signal, reason: lost.append((signal, reason)), when_full="block")
    pipe.file.write("printed first\n")
    writes = threading.Thread(target=lambda: [writer.write("z" * 4_000) for _ in range(40)])
    writes.start()
    writes.join(0.2)
    assert writes.is_alive(), "nobody reads"
    taken = pipe.read_until(lambda taken: taken.count(b"\n") == 41)
    writes.join(5)
    assert taken.startswith(b"printed first\nzzz")
    assert (writes.is_alive(), lost) == (False, [])


def test_a_forked_child_writes_its_own_lines_and_not_those_that_wait_in_its_parent(
    pipe: Pipe, writer: Writer, lost: Lost
) -> None:
    pipe.open()
    for _ in range(40):
        writer.write("parent " + "y" * 4_000)
    child = os.fork()
    if child == 0:
        try:
            writer.write("child")
            writer.flush(10)
        finally:
            os._exit(0)
    taken = pipe.read_until(lambda taken: taken.count(b"\n") == 41)
    os.waitpid(child, 0)
    lines = [line.split()[0] for line in taken.decode().splitlines()]
    assert (lines.count("parent"), lines.count("child"), lost) == (40, 1, [])


def test_a_descriptor_that_comes_to_mean_another_file_is_noticed(
    writer: Writer, pipe: Pipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe.open()
    now = [100.0]
    monkeypatch.setattr(outlet, "monotonic", lambda: now[0])
    monkeypatch.setattr(writer_module, "monotonic", lambda: now[0])
    writer.write("into the pipe")
    with (tmp_path / "log").open("w") as file:
        os.dup2(file.fileno(), pipe.file.fileno())
    now[0] += outlet.LOOK_EVERY_S
    writer.write("into the file")
    assert (tmp_path / "log").read_text() == "into the file\n"
    assert pipe.read() == b"into the pipe\n"


def test_a_file_that_was_turned_over_goes_on_at_its_end(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # logrotate's copytruncate, with the append mode it asks for.
    with (tmp_path / "log").open("a") as file:
        _as_stdout(monkeypatch, file, real=True)
        writer.write("before")
        os.truncate(tmp_path / "log", 0)
        writer.write("after")
    assert (tmp_path / "log").read_text() == "after\n"


def assert_whole_and_in_order(pipe: Pipe, kept: int, length: int) -> None:
    """So many lines arrive, each once and in one piece: a number, and `length` characters behind it."""
    taken = pipe.read_until(lambda taken: taken.count(b"\n") >= kept)
    lines = taken.decode().splitlines()
    numbers = [int(line.split()[0]) for line in lines]
    assert (numbers, len(set(numbers))) == (sorted(numbers), kept), "each once, in order"
    assert {len(line) - len(line.split()[0]) for line in lines} == {length}, "in one piece"


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
            obskit.shutdown()  # some lines may wait: the pipe is full at times
            os._exit(0)
        """
    )
    lines = read_lines(done.stdout)
    assert sorted(line["n"] for line in lines) == sorted([*range(200), *range(200)])


# ---- many threads -------------------------------------------------------------------------------------


def test_of_many_threads_every_line_comes_once_whole_and_in_its_threads_order(
    way: str, pipe: Pipe, lost: Lost
) -> None:
    pipe.open()
    writer = Writer(lambda signal, reason: lost.append((signal, reason)))
    threads, each = 16, 150

    def write(name: int) -> None:
        for number in range(each):  # some of more than a pipe takes at once, and all of more than it holds
            size = 9_000 if number % 10 == name % 10 else 60
            writer.write(f"{name} {number} " + f"{name % 10}" * size)

    writing = [threading.Thread(target=write, args=(name,)) for name in range(threads)]
    for thread in writing:
        thread.start()
    taken = pipe.read_until(lambda taken: taken.count(b"\n") >= threads * each)
    for thread in writing:
        thread.join(10)
    seen: dict[int, list[int]] = {name: [] for name in range(threads)}
    for line in taken.decode().splitlines():
        name, number, body = line.split(" ")
        assert set(body) == {str(int(name) % 10)}, "none within another"
        assert len(body) in (60, 9_000)
        seen[int(name)].append(int(number))
    assert seen == {name: list(range(each)) for name in range(threads)}
    assert lost == []


def test_of_many_threads_every_line_is_in_the_file(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: Lost
) -> None:
    with (tmp_path / "out").open("a") as file:
        _as_stdout(monkeypatch, file, real=True)
        writing = [
            threading.Thread(target=lambda n=n: [writer.write(f"{n} " + f"{n}" * 500) for _ in range(200)])  # type: ignore[misc]
            for n in range(10)
        ]
        for thread in writing:
            thread.start()
        for thread in writing:
            thread.join(10)
    lines = (tmp_path / "out").read_text().splitlines()
    assert sorted(lines) == sorted(f"{n} " + f"{n}" * 500 for n in range(10) for _ in range(200))
    assert lost == []


class _Passing:
    """A thread that is writing a short line, held in the midst of its write until it is let go."""

    def __init__(self, writer: Writer, patch: pytest.MonkeyPatch, line: str) -> None:
        self._there, self._go = threading.Event(), threading.Event()
        pwritev = os.pwritev
        patch.setattr(os, "pwritev", lambda *how: (self._hold(), pwritev(*how))[1])
        self._thread = threading.Thread(target=writer.write, args=(line,))
        self._thread.start()
        assert self._there.wait(10)
        patch.setattr(os, "pwritev", pwritev)

    def _hold(self) -> None:
        self._there.set()
        assert self._go.wait(10)

    def let_go(self) -> None:
        self._go.set()
        self._thread.join(10)


def test_an_ordinary_line_waits_for_no_thread_that_is_in_the_midst_of_its_own(
    pipe: Pipe, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.open()
    writer.write("first")
    passing = _Passing(writer, monkeypatch, "held")
    writer.write("short")
    assert pipe.read() == b"first\nshort\n"
    passing.let_go()
    assert pipe.read() == b"held\n"


def test_a_line_that_may_be_taken_in_parts_begins_when_none_passes_by(
    pipe: Pipe, writer: Writer, monkeypatch: pytest.MonkeyPatch, lost: Lost
) -> None:
    pipe.open()
    writer.write("first")
    passing = _Passing(writer, monkeypatch, "held")
    writer.write("x" * 10_000)
    writer.write("behind it")
    assert pipe.read() == b"first\n", "it and what is behind it wait"
    passing.let_go()
    taken = pipe.read_until(lambda taken: taken.count(b"\n") == 3)
    assert taken == b"held\n" + b"x" * 10_000 + b"\nbehind it\n"
    assert lost == []


def test_a_thread_that_was_thrown_out_of_its_write_holds_up_no_long_line_for_ever(
    pipe: Pipe, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obskit.signals.writer._PASSINGS", 3)
    pipe.open()
    writer.write("first")
    writer._passing.append(None)
    writer.write("x" * 10_000)
    assert len(pipe.read_until(lambda taken: taken.count(b"\n") == 2)) == 10_007
    writer.flush(10)
    writer.write("y" * 10_000)
    assert len(pipe.read()) == 10_001, "at once again"


def test_no_line_passes_by_one_that_is_being_written_in_parts(
    pipe: Pipe, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.open()
    writer.write("first")
    pwritev, short = os.pwritev, threading.Thread(target=writer.write, args=("short",))

    def in_parts(fd: int, buffers: Any, *how: int) -> int:
        monkeypatch.setattr(os, "pwritev", pwritev)
        taken = pwritev(fd, [buffers[0][:100]], *how)
        short.start()
        short.join(0.2)
        assert short.is_alive(), "it comes in its turn"
        return taken

    monkeypatch.setattr(os, "pwritev", in_parts)
    writer.write("x" * 10_000)
    short.join(10)
    assert pipe.read() == b"first\n" + b"x" * 10_000 + b"\nshort\n"


@pytest.mark.parametrize("then", ["room again", "still full"])
def test_a_line_that_a_full_disk_takes_in_parts_is_ended_or_mended(
    then: str, writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: Lost
) -> None:
    write = os.write
    then_does = _refuse(errno.ENOSPC) if then == "still full" else write

    def in_parts(fd: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", then_does)
        return write(fd, data[:7])

    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        writer.write("first")
        monkeypatch.setattr(os, "write", in_parts)
        writer.write("0123456789")
        monkeypatch.setattr(os, "write", write)
        writer.write("next")
    whole = then == "room again"
    assert (tmp_path / "out").read_text() == f"first\n{'0123456789' if whole else '0123456'}\nnext\n"
    assert lost == ([] if whole else [("logs", "write_failed")])


def test_a_pipe_opened_once_more_is_closed_when_standard_output_means_something_else(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, writer: Writer, tmp_path: Path
) -> None:
    WAYS["reopened"](monkeypatch)
    pipe.open()
    now = [100.0]
    monkeypatch.setattr(outlet, "monotonic", lambda: now[0])
    monkeypatch.setattr(writer_module, "monotonic", lambda: now[0])
    writer.write("into the pipe")
    with (tmp_path / "log").open("w") as file:
        os.dup2(file.fileno(), pipe.file.fileno())
    now[0] += outlet.LOOK_EVERY_S
    writer.write("into the file")
    assert pipe.read() == b"into the pipe\n"
    assert os.read(pipe.readable, 1) == b"", "nobody has its other end open"


# ---- several lines at once ----------------------------------------------------------------------------


def _writes(patch: pytest.MonkeyPatch) -> list[bytes]:
    """What each call to the kernel from now on is given."""
    seen: list[bytes] = []
    write, pwritev = os.write, os.pwritev
    patch.setattr(os, "write", lambda fd, data: (seen.append(bytes(data)), write(fd, data))[1])
    patch.setattr(os, "pwritev", lambda fd, parts, *how: (seen.append(parts[0]), pwritev(fd, parts, *how))[1])
    return seen


def test_into_a_file_several_lines_go_in_one_write_behind_what_was_printed(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: Lost
) -> None:
    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        writer.write_together([])
        writer.write_together(["first", "second"])
        seen = _writes(monkeypatch)
        file.write("printed\n")
        writer.write_together([f"{number} é" for number in range(30)])
        assert len(seen) == 1
        writer.write_together(["y" * 10_000] * 30)
        assert len(seen) == 1 + 5, "in pieces of 64 KiB at most"
    numbers = "".join(f"{number} é\n" for number in range(30))
    assert (tmp_path / "out").read_text() == f"first\nsecond\nprinted\n{numbers}" + ("y" * 10_000 + "\n") * 30
    assert lost == []


def test_into_a_pipe_several_lines_go_in_pieces_that_the_kernel_keeps_whole(
    pipe: Pipe, writer: Writer, monkeypatch: pytest.MonkeyPatch, lost: Lost
) -> None:
    pipe.open()
    writer.write("first")
    seen = _writes(monkeypatch)
    writer.write_together(["a" * 999] * 9 + ["b" * 9_000, "c", "d" * (select.PIPE_BUF - 1), "e"])
    sizes = [len(piece) for piece in seen]
    assert sizes == [4_000, 4_000, 1_000, 9_001, 2, 4_096, 2]
    assert all(piece.endswith(b"\n") for piece in seen)
    taken = pipe.read_until(lambda taken: taken.endswith(b"e\n"))
    assert taken == b"first\n" + b"".join(seen)
    assert lost == []


def test_of_several_lines_for_a_pipe_nobody_reads_each_is_written_or_counted(
    way: str, pipe: Pipe, lost: Lost
) -> None:
    pipe.open()
    writer = Writer(lambda signal, reason: lost.append((signal, reason)))
    offered = 20_000
    for begin in range(0, offered, 20):
        writer.write_together([f"{number} " + "x" * 500 for number in range(begin, begin + 20)])
    assert set(lost) == {("logs", "queue_full")}
    kept = offered - len(lost)
    assert_whole_and_in_order(pipe, kept, 501)


@pytest.mark.parametrize("blocks", [False, True])
def test_several_lines_come_out_of_a_stream_of_somebody_elses(
    blocks: bool, monkeypatch: pytest.MonkeyPatch, lost: Lost
) -> None:
    writer = Writer(
        lambda signal, reason: lost.append((signal, reason)), when_full="block" if blocks else "drop"
    )
    mine = io.StringIO()
    _as_stdout(monkeypatch, mine)
    writer.write_together(["a", "b\r", "\ud800"])
    assert (mine.getvalue(), lost) == ("a\nb\r\n?\n", [])


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize(
    ("break_stdout", "reason"),
    [
        (lambda: None, "stdout_closed"),
        (lambda: _closed(io.StringIO()), "write_failed"),
        (lambda: _Broken(RuntimeError("a stream of somebody's own")), "write_failed"),
    ],
    ids=["none", "closed", "any error"],
)
def test_of_several_lines_that_cannot_be_written_each_is_counted(
    break_stdout: Callable[[], Any], reason: str, real: bool, writer: Writer, monkeypatch: pytest.MonkeyPatch,
    lost: Lost, tmp_path: Path,
) -> None:  # fmt: skip
    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        writer.write("before")
    _as_stdout(monkeypatch, break_stdout(), real=real)
    writer.write_together(["a", "b", "c"])
    assert lost == [("logs", reason)] * 3


def test_a_stream_closed_since_the_last_line_costs_each_line_and_raises_nothing(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: Lost
) -> None:
    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        writer.write("before")
    writer.write_together(["a", "b", "c"])
    assert lost == [("logs", "write_failed")] * 3


@pytest.mark.parametrize("then", ["room again", "still full"])
@pytest.mark.parametrize("taken", [3, 7, 12])
def test_several_lines_that_a_full_disk_takes_in_parts_are_ended_or_mended_and_counted_one_by_one(
    then: str, taken: int, writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: Lost
) -> None:
    write = os.write
    then_does = _refuse(errno.ENOSPC) if then == "still full" else write

    def in_parts(fd: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", then_does)
        return write(fd, data[:taken])

    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        writer.write("0")
        monkeypatch.setattr(os, "write", in_parts)
        writer.write_together(["11111", "22222", "33333"])
        monkeypatch.setattr(os, "write", write)
        writer.write("4")
    if then == "room again":
        assert (tmp_path / "out").read_text() == "0\n11111\n22222\n33333\n4\n"
        assert lost == []
    else:
        # One that was taken but for its newline is whole when the next one has mended it.
        first = {3: "111\n", 7: "11111\n2\n", 12: "11111\n22222\n"}[taken]
        assert (tmp_path / "out").read_text() == f"0\n{first}4\n"
        assert lost == [("logs", "write_failed")] * {3: 3, 7: 2, 12: 1}[taken]


def test_what_throws_us_out_of_several_lines_passes_through_and_costs_none_uncounted(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: Lost
) -> None:
    written: list[bytes] = []

    def write(fd: int, data: bytes) -> int:
        if written:
            raise SystemExit
        written.append(data)
        return len(data)

    with (tmp_path / "out").open("w") as file:
        _as_stdout(monkeypatch, file, real=True)
        writer.write("first")
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(SystemExit):
            writer.write_together(["x" * 10_000] * 10)
        monkeypatch.undo()
    assert len(lost) == 10 - written[0].count(b"\n")
    assert set(lost) == {("logs", "write_failed")}
