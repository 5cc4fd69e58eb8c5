"""Folders of our own: what somebody else has put into one is neither followed, nor waited for, nor believed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from obskit import folders
from obskit.signals import app_metrics, merge, shelf
from obskit.workers import Workers
from tests.support.group import listening


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    return path


def test_a_link_is_not_read_and_a_pipe_not_waited_for(tmp_path: Path, victim: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(victim)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path):
        with pytest.raises(OSError, match=r".+"):
            folders.readable(str(path))


def test_a_file_larger_than_any_of_ours_is_refused_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(ValueError, match="1099511627776 bytes"):
        shelf.read(str(path))


def test_numbers_are_not_written_where_a_link_leads(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / "0.metrics"
    link.symlink_to(victim)
    with pytest.raises(OSError, match=r".+"):
        shelf.Shelf(str(link))
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "write", [lambda path: merge._write(path, [], {}), lambda path: app_metrics._write(path, b"x")]
)
def test_an_archive_is_not_written_where_a_link_leads(write: object, tmp_path: Path, victim: Path) -> None:
    (tmp_path / "archive.new").symlink_to(victim)
    for _ in range(2):  # the first may refuse; what was in the way is gone then
        try:
            write(str(tmp_path / "archive"))  # type: ignore[operator]
            break
        except OSError:
            continue
    assert (tmp_path / "archive").stat().st_size
    assert victim.read_bytes() == b"precious"


@pytest.fixture
def server() -> socket.socket:  # type: ignore[misc]
    with listening() as one:
        yield one


def _joined(place: Path) -> Workers:
    return Workers.join(str(place), "shop")


@pytest.mark.usefixtures("server")
def test_a_link_in_the_place_of_a_groups_folder_is_no_folder_of_ours(tmp_path: Path) -> None:
    first = _joined(tmp_path)
    first.leave()
    folder, theirs = Path(first.folder), tmp_path / "theirs"
    theirs.mkdir()
    folder.rename(tmp_path / "away")
    folder.symlink_to(theirs)
    second = _joined(tmp_path)
    assert not second.shared
    assert "no folder of ours" in second.why
    assert list(theirs.iterdir()) == []


@pytest.mark.usefixtures("server")
def test_what_is_known_of_a_group_is_not_written_where_a_link_leads(tmp_path: Path, victim: Path) -> None:
    first = _joined(tmp_path)
    first.leave()
    about = Path(first.folder, "group.json")
    about.unlink()
    about.symlink_to(tmp_path / "not there")
    second = _joined(tmp_path)
    assert second.shared
    second.leave()
    assert not (tmp_path / "not there").exists()


@pytest.mark.usefixtures("server")
def test_strange_things_named_like_workers_are_none(tmp_path: Path, victim: Path) -> None:
    worker = _joined(tmp_path)
    folder = Path(worker.folder)
    (folder / "1.worker").symlink_to(victim)
    os.mkfifo(folder / "2.worker")
    (folder / "3.worker").mkdir()
    assert [member.token for member in worker.members()] == [worker.token]
    assert worker.bury([]) == 0
    worker.leave()


@pytest.mark.usefixtures("server")
def test_without_a_descriptor_left_no_worker_is_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = _joined(tmp_path)

    def none_left(path: str) -> int:
        raise OSError(24, "Too many open files", path)

    monkeypatch.setattr(folders, "readable", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        worker.members()
    worker.leave()
