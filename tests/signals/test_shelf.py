"""What is on a shelf can be read while it is written, after a kill, and when there is no room for more."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from obskit import folders
from obskit.signals import shelf
from obskit.signals.shelf import CHUNK, MAX_KEY, Shelf, entries, read


def numbers(path: Path) -> dict[bytes, list[float]]:
    """Everything that a reader sees."""
    data = read(str(path))
    return {
        key: memoryview(data)[place : place + 8 * count].cast("d").tolist()
        for _, key, place, count in entries(data)
    }


def test_what_is_written_is_there_at_once_in_its_place(tmp_path: Path) -> None:
    one = Shelf(str(tmp_path / "a"))
    first, at = one.take(b"first", 3)
    first[at + 1] = 2.5
    second, there = one.take(b"second!!", 1)
    second[there] += 1
    assert numbers(tmp_path / "a") == {b"first": [0, 2.5, 0], b"second!!": [1]}
    first[at + 2] = -1
    assert numbers(tmp_path / "a")[b"first"] == [0, 2.5, -1]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, MAX_KEY])
def test_a_key_of_any_length_up_to_the_longest(length: int, tmp_path: Path) -> None:
    one = Shelf(str(tmp_path / "a"))
    view, at = one.take(b"k" * length, 2)
    view[at], view[at + 1] = 1, 2
    assert numbers(tmp_path / "a") == {b"k" * length: [1, 2]}


@pytest.mark.parametrize(("length", "count"), [(MAX_KEY + 1, 1), (1, CHUNK // 8)])
def test_what_fits_into_no_chunk_is_refused_and_leaves_nothing(
    length: int, count: int, tmp_path: Path
) -> None:
    one = Shelf(str(tmp_path / "a"))
    with pytest.raises(ValueError, match="no entry can have"):
        one.take(b"k" * length, count)
    one.take(b"good", 1)
    assert numbers(tmp_path / "a") == {b"good": [0]}


def test_it_grows_by_chunks_and_is_read_on_from_where_the_reader_was(tmp_path: Path) -> None:
    one = Shelf(str(tmp_path / "a"))
    seen: list[bytes] = []
    end = 0
    for n in range(1000):
        view, at = one.take(b"%d" % n, 40)
        view[at] = n
        if n % 7 == 0:
            found = list(entries(read(str(tmp_path / "a")), end))
            seen += [key for _, key, _, _ in found]
            end = found[-1][0]
    assert os.stat(tmp_path / "a").st_size > 4 * CHUNK
    seen += [key for _, key, _, _ in entries(read(str(tmp_path / "a")), end)]
    assert seen == [b"%d" % n for n in range(1000)]
    assert [first for first, *_ in numbers(tmp_path / "a").values()] == list(range(1000))


def test_a_reader_never_sees_an_entry_before_it_is_whole(tmp_path: Path) -> None:
    """At every place where the writer can be killed, all that is shown has been written."""
    one = Shelf(str(tmp_path / "a"))
    one.take(b"whole", 1)
    used = shelf._USED
    seen = []

    class Looking:
        @staticmethod
        def pack_into(*to: object) -> None:
            seen.append(list(numbers(tmp_path / "a")))
            used.pack_into(*to)  # type: ignore[arg-type]
            seen.append(list(numbers(tmp_path / "a")))

    shelf._USED = Looking  # type: ignore[assignment]
    try:
        one.take(b"next", 1)
    finally:
        shelf._USED = used
    assert seen == [[b"whole"], [b"whole", b"next"]]


def test_a_full_disk_is_an_error_before_the_memory_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Shelf(str(tmp_path / "a"))
    view, at = one.take(b"good", 1)

    def full(opened: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders, "fill", full)
    one._used = CHUNK - 16
    with pytest.raises(OSError, match="No space"):
        one.take(b"more", 10)
    view[at] = 7
    assert numbers(tmp_path / "a")[b"good"] == [7]
    monkeypatch.undo()
    one.take(b"later", 1)
    assert b"later" in numbers(tmp_path / "a")


def test_every_block_of_a_chunk_is_the_files_own(tmp_path: Path) -> None:
    """A hole would be filled when it is written to, and on a full disk that is SIGBUS."""
    Shelf(str(tmp_path / "a")).take(b"k", 1)
    assert os.stat(tmp_path / "a").st_blocks * 512 >= CHUNK


def test_after_it_is_closed_what_was_taken_can_still_be_written(tmp_path: Path) -> None:
    one = Shelf(str(tmp_path / "a"))
    opened = one._file
    view, at = one.take(b"k", 1)
    one.close()
    one.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(opened)
    view[at] = 3
    assert numbers(tmp_path / "a") == {b"k": [3]}
    private, there = one.take(b"of this process", 1)
    private[there] = 1
    assert numbers(tmp_path / "a") == {b"k": [3]}


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Shelf(str(tmp_path / "missing" / "a"))


def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        view, at = Shelf(str(tmp_path / "a")).take(b"k", 1)
        for n in range(1, 101):
            view[at] = n
        os.write(write_end, b".")
        signal.pause()
    os.read(read_end, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert numbers(tmp_path / "a") == {b"k": [100]}


def test_a_file_cut_off_anywhere_is_read_as_far_as_whole_chunks_go(tmp_path: Path) -> None:
    one = Shelf(str(tmp_path / "a"))
    for n in range(2000):
        one.take(json.dumps(["m", str(n)]).encode(), 3)
    data = read(str(tmp_path / "a"))
    whole = len(list(entries(data)))
    assert whole == 2000
    for length in (0, 1, 15, 16, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 8):
        found = len(list(entries(data[:length])))
        assert (found > 0) == (length >= CHUNK)
        assert found < whole
