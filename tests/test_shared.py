"""The memory that workers share: what is put is found, by everybody, and whatever is wrong reads as absent."""

from __future__ import annotations

import errno
import json
import mmap
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obskit import folders, shared
from obskit.shared import Entry, Table

SLOTS = 64
NOW = 10**15
# The tests of this project run without it: what one app remembers is no other one's.
PLACES = folders.places
Open = Callable[..., Table]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    tables: list[Table] = []

    def call(directory: str | None = str(tmp_path), service: str = "shop", slots: int = SLOTS) -> Table:
        tables.append(Table.open(directory, service, "tests", slots))
        return tables[-1]

    yield call
    for table in tables:
        table.close()


def file_of(place: Path) -> Path:
    (only,) = (place / f"obskit-{os.geteuid()}").iterdir()
    return only


def run(program: str, *arguments: str) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- a table is a dictionary that forgets ------------------------------------------------------------


def test_what_is_put_is_found(opened: Open) -> None:
    table = opened()
    table.put(7, NOW - 5, NOW - 2, state=3, times=2)
    assert table.get(7, NOW) == Entry(NOW - 5, NOW - 2, 3, 2)
    assert table.get(8, NOW) is None


def test_add_tells_what_is_there_and_leaves_it(opened: Open) -> None:
    table = opened()
    assert table.add(7, NOW - 9, NOW - 8, 1, NOW) is None
    assert table.add(7, NOW - 5, NOW - 2, 2, NOW) == Entry(NOW - 9, NOW - 8, 1, 1)
    assert table.get(7, NOW) == Entry(NOW - 9, NOW - 8, 1, 1)


def test_a_full_bucket_forgets_what_ended_first(opened: Open) -> None:
    table = opened(slots=4)
    for fingerprint, ended in ((1, 40), (2, 10), (3, 30), (4, 20)):
        table.put(fingerprint, 0, ended)
    table.put(5, 0, 50)
    assert [fingerprint for fingerprint in range(1, 6) if table.get(fingerprint, NOW)] == [1, 3, 4, 5]


def test_an_end_that_is_hours_ahead_is_forgotten_before_what_has_ended(opened: Open) -> None:
    table = opened(slots=4)
    for fingerprint in (1, 2, 3):
        table.put(fingerprint, NOW, NOW)
    table.put(4, NOW, NOW + 10**14)
    table.put(5, NOW, NOW + 1)
    assert [fingerprint for fingerprint in range(1, 6) if table.get(fingerprint, NOW)] == [1, 2, 3, 5]


def test_numbers_too_large_are_cut_and_not_refused(opened: Open) -> None:
    table = opened()
    table.put(7, 1, 2, state=0x12345, times=10**9)
    assert table.get(7, NOW) == Entry(1, 2, 0x2345, 0xFFFF)


fingerprints = st.integers(1, 40)
operations = st.lists(
    st.tuples(st.sampled_from(["put", "add"]), fingerprints, st.integers(0, 0xFFFF), st.integers(1, 0xFFFF)),
    max_size=200,
)


@given(operations)
@settings(max_examples=200, deadline=None)
def test_a_table_never_tells_what_a_dictionary_would_not(steps: list[tuple[str, int, int, int]]) -> None:
    table = Table(memory_of(16), 16, shared=False)
    model: dict[int, Entry] = {}
    for clock, (step, fingerprint, state, times) in enumerate(steps, start=1):
        if step == "put":
            table.put(fingerprint, clock, clock, state, times)
            model[fingerprint] = Entry(clock, clock, state, times)
        else:
            known = table.add(fingerprint, clock, clock, state, clock)
            assert known in (None, model.get(fingerprint))
            if known is None:
                model[fingerprint] = Entry(clock, clock, state, 1)
        # What was written last is always there, and a bucket keeps the four that ended last.
        for bucket in range(4):
            held = sorted((f for f in model if f % 4 == bucket), key=lambda f: model[f].ended_ns)
            for forgotten in held[:-4]:
                assert table.get(forgotten, clock) is None
                del model[forgotten]
            for kept in held[-4:]:
                assert table.get(kept, clock) == model[kept]
    table.close()


def memory_of(slots: int) -> mmap.mmap:
    memory = mmap.mmap(-1, shared._SLOTS_AT + slots * shared._SLOT_SIZE)
    memory[: shared._HEAD.size] = shared._head(slots) + bytes(16)
    return memory


@given(st.binary(max_size=300), st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_fingerprints_tell_apart_and_fit_their_slot(one: bytes, other: bytes) -> None:
    table = Table(memory_of(16), 16, shared=False)
    assert 0 < table.fingerprint(one) < 2**64
    assert (table.fingerprint(one) == table.fingerprint(other)) == (one == other)
    table.close()


# ---- what is wrong reads as absent ---------------------------------------------------------------------


@pytest.mark.parametrize("at", range(32))
def test_a_torn_slot_reads_as_absent(opened: Open, at: int) -> None:
    table = opened(slots=4)
    table.put(0x0101010101010101, NOW - 5, NOW - 2, state=3, times=2)
    table._map[shared._SLOTS_AT + at] ^= 0x40
    assert table.get(0x0101010101010101, NOW) is None


def test_a_slot_half_of_which_another_worker_wrote_reads_as_absent(opened: Open) -> None:
    table = opened(slots=4)
    table.put(9, 1_000, 2_000, 1, 1)
    before = table._map[shared._SLOTS_AT : shared._SLOTS_AT + 32]
    table.put(9, 5_000, 6_000, 2, 7)
    for cut in (16, 24, 28):
        table._map[shared._SLOTS_AT : shared._SLOTS_AT + cut] = before[:cut]
        assert table.get(9, NOW) is None


def test_a_torn_slot_can_be_written_again(opened: Open) -> None:
    table = opened(slots=4)
    table.put(9, 1, 2)
    table._map[shared._SLOTS_AT + 12] ^= 0xFF
    assert table.add(9, 3, 4, 5, NOW) is None
    assert table.get(9, NOW) == Entry(3, 4, 5, 1)


def test_times_that_have_not_come_yet_read_as_absent(opened: Open) -> None:
    table = opened()
    table.put(7, NOW, NOW + 2 * 10**9)
    assert table.get(7, NOW) is None


def test_what_another_worker_wrote_a_moment_after_our_clock_was_read_is_there(opened: Open) -> None:
    table = opened()
    table.put(7, NOW, NOW + 10**6)
    assert table.get(7, NOW) is not None


def test_after_close_nothing_is_found_and_nothing_raises(opened: Open) -> None:
    table = Table.open(None, "shop", "closed", SLOTS)
    table.put(7, 1, 2)
    table.close()
    assert table.get(7, NOW) is None
    assert table.add(7, 1, 2, 3, NOW) is None
    table.put(7, 1, 2)


@pytest.mark.parametrize("slots", [0, 2, 3, 100])
def test_slots_that_are_no_power_of_two_are_refused(slots: int) -> None:
    with pytest.raises(ValueError, match=f"saw {slots}, expected a power of two"):
        Table.open(None, "shop", "tests", slots)


# ---- one file for all -----------------------------------------------------------------------------------

OTHER_WORKER = """
    import json, sys
    from obskit.shared import Table
    table = Table.open(sys.argv[1], "shop", "tests", 64)
    fingerprint = table.fingerprint(b"buy")
    found = table.get(fingerprint, 10**15)
    table.put(table.fingerprint(b"pay"), 3, 4, 5, 6)
    table.marks[2] = 77
    print(json.dumps([table.shared, fingerprint, found]))
"""


def test_two_processes_find_what_the_other_put(opened: Open, tmp_path: Path) -> None:
    table = opened()
    assert table.shared
    table.put(table.fingerprint(b"buy"), 1, 2, 3, 4)
    seen = json.loads(run(OTHER_WORKER, str(tmp_path)))
    assert seen == [True, table.fingerprint(b"buy"), [1, 2, 3, 4]]
    assert table.get(table.fingerprint(b"pay"), NOW) == Entry(3, 4, 5, 6)
    assert list(table.marks) == [0, 0, 77, 0]


def test_a_forked_child_and_its_parent_find_what_the_other_put(tmp_path: Path) -> None:
    seen = run(
        """
        import os, sys
        from obskit.shared import Table
        table = Table.open(sys.argv[1], "shop", "tests", 64)
        table.put(1, 1, 2)
        child = os.fork()
        if not child:
            known = table.get(1, 10**15) is not None
            table.put(2, 1, 2)
            os._exit(0 if known else 3)
        assert os.waitpid(child, 0)[1] == 0
        print(table.get(2, 10**15) is not None)
        """,
        str(tmp_path),
    )
    assert seen.strip() == "True"


def test_workers_that_start_together_share_one_file(tmp_path: Path) -> None:
    def open_one(_: int) -> Table:
        return Table.open(str(tmp_path), "shop", "tests", SLOTS)

    with ThreadPoolExecutor(16) as pool:
        tables = list(pool.map(open_one, range(48)))
    assert all(table.shared for table in tables)
    for number, table in enumerate(tables, start=1):
        table.put(1, 0, number)
        assert {one.get(1, NOW) for one in tables} == {Entry(0, number, 0, 1)}
    assert file_of(tmp_path)
    for table in tables:
        table.close()


def test_two_services_share_nothing(opened: Open) -> None:
    one, other = opened(service="shop"), opened(service="bank")
    one.put(1, 0, 1)
    assert one.shared
    assert other.shared
    assert other.get(1, NOW) is None
    assert one.fingerprint(b"buy") != other.fingerprint(b"buy")


def test_the_file_keeps_what_it_knows_when_a_worker_ends(opened: Open) -> None:
    table = opened()
    table.put(1, 0, 1)
    table.close()
    assert opened().get(1, NOW) == Entry(0, 1, 0, 1)


def test_nobody_else_may_read_the_file_or_its_folder(opened: Open, tmp_path: Path) -> None:
    opened()
    file = file_of(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "shop" not in file.name


def test_every_block_of_the_file_is_taken_when_it_is_made(opened: Open, tmp_path: Path) -> None:
    opened(slots=65_536)
    found = file_of(tmp_path).stat()
    assert found.st_blocks * 512 >= found.st_size == shared._SLOTS_AT + 65_536 * 32


# ---- what is no table of ours --------------------------------------------------------------------------


def spoil_magic(file: Path) -> None:
    file.write_bytes(b"X" + file.read_bytes()[1:])


def cut_short(file: Path) -> None:
    os.truncate(file, 100)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def open_to_all(file: Path) -> None:
    file.chmod(0o666)


def from_before_the_reboot(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[16] ^= 0xFF
    file.write_bytes(data)


def link_elsewhere(file: Path) -> None:
    other = file.parent.parent / "other"
    other.write_bytes(file.read_bytes())
    other.chmod(0o600)
    file.unlink()
    file.symlink_to(other)


@pytest.mark.parametrize(
    "spoil", [spoil_magic, cut_short, empty, open_to_all, from_before_the_reboot, link_elsewhere]
)
def test_a_file_that_is_no_table_of_today_is_replaced(
    opened: Open, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    before = opened()
    before.put(1, 0, 1)
    before.close()
    file = file_of(tmp_path)
    spoil(file)
    table, other = opened(), opened()
    assert table.shared
    assert table.get(1, NOW) is None
    table.put(2, 0, 1)
    assert other.get(2, NOW) is not None
    assert not file.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_a_killed_worker_left_unfinished_is_no_hindrance(opened: Open, tmp_path: Path) -> None:
    opened().close()
    file = file_of(tmp_path)
    file.rename(file.with_name(file.name + ".new"))
    assert opened().shared
    assert file_of(tmp_path) == file


def test_a_folder_in_place_of_the_file_leaves_the_worker_alone(opened: Open, tmp_path: Path) -> None:
    opened().close()
    file = file_of(tmp_path)
    file.unlink()
    file.mkdir()
    table = opened()
    assert not table.shared
    table.put(1, 0, 1)
    assert table.get(1, NOW) is not None


# ---- where nothing can be shared -----------------------------------------------------------------------


def alone(table: Table) -> str:
    """Why; the table works, for this process."""
    assert not table.shared
    table.put(table.fingerprint(b"buy"), 0, 1)
    assert table.get(table.fingerprint(b"buy"), NOW) is not None
    table.marks[0] = 5
    assert table.marks[0] == 5
    return table.why


def test_a_folder_that_is_not_there_leaves_the_worker_alone(opened: Open, tmp_path: Path) -> None:
    assert "No such file" in alone(opened(str(tmp_path / "nowhere")))


def test_a_link_in_place_of_our_folder_is_not_followed(opened: Open, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"obskit-{os.geteuid()}").symlink_to(elsewhere)
    alone(opened())
    assert list(elsewhere.iterdir()) == []


def test_a_file_in_place_of_our_folder_leaves_the_worker_alone(opened: Open, tmp_path: Path) -> None:
    (tmp_path / f"obskit-{os.geteuid()}").write_text("")
    alone(opened())


def test_a_folder_of_another_user_is_not_used(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    theirs = tmp_path / "obskit-4242"
    theirs.mkdir(mode=0o700)
    assert "another user" in alone(opened())
    assert list(theirs.iterdir()) == []


def test_our_folder_opened_to_others_is_closed_again(opened: Open, tmp_path: Path) -> None:
    ours = tmp_path / f"obskit-{os.geteuid()}"
    ours.mkdir()
    ours.chmod(0o777)
    assert opened().shared
    assert stat.S_IMODE(ours.stat().st_mode) == 0o700


def test_a_disk_without_room_leaves_the_worker_alone_and_no_file(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert "No space left" in alone(opened())
    assert list((tmp_path / f"obskit-{os.geteuid()}").iterdir()) == []


def test_a_file_that_may_not_grow_that_far_leaves_the_worker_alone(tmp_path: Path) -> None:
    # The kernel's own refusal, and not a stand-in for it.
    seen = run(
        """
        import os, resource, signal, sys
        from obskit.shared import Table
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        table = Table.open(sys.argv[1], "shop", "tests", 1024)
        for number in range(1, 3000):
            table.put(number, 0, number)
        print(table.shared, table.get(2999, 10**15) is not None)
        """,
        str(tmp_path),
    )
    assert seen.split() == ["False", "True"]


def test_without_a_clock_that_processes_have_in_common_nothing_is_shared(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "_one_clock", lambda: False)
    assert alone(opened()) == "no way to share memory on this system"


def test_the_record_and_the_host_have_one_clock() -> None:
    assert shared._one_clock()


def test_a_lock_that_nobody_gives_back_leaves_the_worker_alone(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(folders, "_LOCK_PAUSE_S", 0)
    ours = tmp_path / f"obskit-{os.geteuid()}"
    ours.mkdir(mode=0o700)
    held = os.open(ours, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another process holds the folder" in alone(opened())
    finally:
        os.close(held)
    assert opened().shared


def test_without_a_folder_named_the_first_place_that_works_is_taken(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "places", lambda directory: (str(tmp_path / "nowhere"), str(tmp_path)))
    assert opened(None).shared
    assert file_of(tmp_path)


def test_memory_comes_before_the_disk_and_a_named_folder_before_both() -> None:
    assert PLACES("/srv/state") == ("/srv/state",)
    assert PLACES(None)[-1] == tempfile.gettempdir()
    assert ("/dev/shm" in PLACES(None)[:-1]) == os.path.isdir("/dev/shm")


def test_without_a_folder_for_temporary_files_there_is_one_place_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert PLACES(None) in ((), ("/dev/shm",))
