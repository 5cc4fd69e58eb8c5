"""The workers of one server count as one: whichever dies when, whoever looks, nothing is lost and nothing twice."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest

from obskit import folders, names
from obskit.exchange import Exchange
from obskit.signals import shelf
from obskit.signals.cells import OVERFLOW_SETS
from obskit.signals.merge import ARCHIVE, KIND
from obskit.signals.page import BREATH_EVERY
from tests.support.group import Worker, in_child, listening

KILLS = 40
pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with listening() as one:
        yield one


def files(worker: Worker) -> list[str]:
    return sorted(os.listdir(worker.workers.folder))


def errors(worker: Worker) -> float:
    return worker.number("obskit_internal_errors_total", "metrics.merge") or 0.0


def test_any_worker_tells_of_all(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    one.serve(count=3)
    two.serve(count=4)
    two.serve("/only-here", 2)
    assert [worker.served() for worker in (one, two)] == [7, 7]
    assert one.served("/only-here") == 2
    assert one.number("obskit_workers") == 2


def test_what_was_counted_before_the_process_knew_with_whom_it_serves_is_counted(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path, joins=False)
    two.serve(count=5)
    two.metrics.join(two.workers)
    assert one.served() == 5


def test_the_dead_are_counted_before_and_after_they_are_folded_in(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    one.serve(count=3)
    two.serve(count=4)
    two.die()
    assert one.served() == 7
    assert one.bury() == 1
    assert one.served() == 7
    assert one.bury() == 0
    assert [name for name in files(one) if two.workers.token in name] == []
    three = Worker(tmp_path)
    three.serve()
    assert three.served() == one.served() == 8


def test_gauges_are_of_the_living(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    for worker, (capacity, age) in ((one, (4.0, 1.0)), (two, (8.0, 9.0))):
        worker.metrics.opened(Exchange())
        worker.metrics.set(names.REQUEST_CAPACITY, capacity)
        worker.metrics.set(names.OLDEST_REQUEST_AGE, age)
    assert one.number("http_server_active_requests", "GET") == 2
    assert one.number("obskit_http_server_request_capacity") == 12
    assert one.number("obskit_http_server_oldest_request_age_seconds") == 9
    two.die()
    for _ in ("before it is buried", "and after"):
        assert one.number("http_server_active_requests", "GET") == 1
        assert one.number("obskit_http_server_request_capacity") == 4
        assert one.number("obskit_http_server_oldest_request_age_seconds") == 1
        assert one.number("obskit_workers") == 1
        one.bury()


def test_a_gauge_that_is_not_known_any_more_is_gone_for_all(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    assert one.number("obskit_http_server_request_capacity") is None
    two.metrics.set(names.REQUEST_CAPACITY, 8)
    assert one.number("obskit_http_server_request_capacity") == 8
    two.metrics.forget(names.REQUEST_CAPACITY)
    assert one.number("obskit_http_server_request_capacity") is None
    assert two.number("obskit_http_server_request_capacity") is None


def test_a_process_has_its_own_numbers_under_the_number_of_its_worker(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    two.metrics.publish()
    one.metrics.set(names.PROCESS_OPEN_FDS, 7)
    for worker in ("0", "1"):
        assert one.number("process_resident_memory_bytes", worker)
        assert one.number("python_gc_collections_total", "2", worker) is not None
    two.die()
    assert one.number("process_resident_memory_bytes", "1") is None
    one.bury()
    three = Worker(tmp_path)
    three.metrics.publish()
    assert three.workers.number == 1, "a successor takes the number over: the label stays bounded"
    assert one.number("process_resident_memory_bytes", "1")


def test_exemplars_come_from_every_worker_and_the_newest_wins(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    cells = [
        w.metrics.store.histograms(names.REQUEST_DURATION).child("GET", "/a", "200", "") for w in (one, two)
    ]
    cells[0].observe(0.02, ("aa" * 16, 0.02, 1000.0))
    cells[0].observe(3.0, ("bb" * 16, 3.0, 1000.0))
    cells[1].observe(0.02, ("cc" * 16, 0.021, 1001.0))
    two.metrics.publish()
    for _ in ("alive", "dead", "folded"):
        found = one.metrics.store.look()["http_server_request_duration_seconds"][
            "GET", "/a", "200", ""
        ].exemplars
        assert found is not None
        assert [seen[0][:2] for seen in found if seen is not None] == ["cc", "bb"]
        if two.workers.shared:
            two.die()
        else:
            one.bury()


def test_a_limit_is_one_for_all_workers_and_what_is_folded_in(tmp_path: Path) -> None:
    one = Worker(tmp_path, max_series=10)
    for n in range(10):
        one.metrics.count(names.REQUESTS_LOST, 1, f"/{n}", "died")
    two = Worker(tmp_path, max_series=10)
    two.metrics.count(names.REQUESTS_LOST, 1, "/3", "died")
    two.metrics.count(names.REQUESTS_LOST, 5, "/new", "died")
    page = one.metrics.store.look()["obskit_requests_lost_total"]
    assert page["/3", "died"].numbers == [2]
    assert page["other", "other"].numbers == [5]
    one.die()
    two.bury()
    three = Worker(tmp_path, max_series=10)
    three.metrics.count(names.REQUESTS_LOST, 1, "/newer", "died")
    page = two.metrics.store.look()["obskit_requests_lost_total"]
    assert len(page) <= 11
    assert sum(one.numbers[0] for one in page.values()) == 17


def test_two_services_and_two_installs_in_one_folder_are_strangers(tmp_path: Path) -> None:
    shop, other, second = Worker(tmp_path), Worker(tmp_path, "mail"), Worker(tmp_path, install=1)
    for worker in (shop, other, second):
        worker.serve()
    assert [worker.served() for worker in (shop, other, second)] == [1, 1, 1]
    other.die()
    assert shop.bury() == 0


def test_a_sum_does_not_fall_in_its_last_digit_in_whatever_order_workers_die(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    chance = random.Random(2)
    dying = [Worker(tmp_path) for _ in range(12)]
    for worker in (one, *dying):
        for _ in range(9):
            worker.metrics.observe(names.QUEUE_DURATION, chance.random() * 10 ** chance.randrange(-6, 3))
    before = one.metrics.store.look()[names.QUEUE_DURATION.name][()].numbers
    chance.shuffle(dying)
    for worker in dying:
        worker.die()
        one.bury()
        assert one.metrics.store.look()[names.QUEUE_DURATION.name][()].numbers == before


# ---- deaths at every moment ----------------------------------------------------------------------------


def test_one_that_is_buried_while_another_looks_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every order of reading and folding: the fold happens right before the n-th file is read."""
    one, two, three = Worker(tmp_path), Worker(tmp_path), Worker(tmp_path)
    two.serve(count=2)
    three.serve(count=3)
    read = shelf.read
    for moment in range(1, 5):
        dying = Worker(tmp_path)
        dying.serve(count=10)
        dying.die()
        expected = 5 + 10 * moment
        seen = 0

        def reading(path: str, moment: int = moment) -> bytes:
            nonlocal seen
            seen += 1
            if seen == moment:
                monkeypatch.setattr(shelf, "read", read)
                three.bury()
                monkeypatch.setattr(shelf, "read", reading)
            return read(path)

        monkeypatch.setattr(shelf, "read", reading)
        assert one.served() == expected, f"folded before read {moment}"
        monkeypatch.setattr(shelf, "read", read)
        assert one.served() == expected


def test_who_buries_may_die_in_the_midst_of_it(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    two.serve(count=4)
    two.die()
    (dead,) = [member for member in one.workers.members() if not member.alive]
    one.metrics.inherit(dead)  # and then it is killed, before the files are gone
    assert one.served() == 4
    assert one.bury() == 1
    assert one.served() == 4


def test_a_worker_killed_while_it_counts_has_counted_all_it_answered(tmp_path: Path) -> None:
    """A real process and SIGKILL, again and again: what it said it had answered is there, at most one is more."""
    one = Worker(tmp_path)
    answered, counted = [0], [0.0]
    stop = threading.Event()
    backwards: list[tuple[float, float]] = []

    def total() -> float:
        series = one.metrics.store.look()["http_server_request_duration_seconds"].values()
        return sum(sum(numbers.numbers[:-1]) for numbers in series)

    def look() -> None:
        while not stop.is_set():
            before, counted[0] = counted[0], total()
            if counted[0] < before:
                backwards.append((before, counted[0]))
            one.bury()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(KILLS):
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                child = Worker(tmp_path)
                for n in itertools.count():
                    child.serve(f"/{n % 9}")
                    os.write(write, b".")
            os.close(write)
            with os.fdopen(read, "rb") as pipe:
                answered[0] += len(pipe.read(random.randrange(1, 2000)))
                os.kill(pid, signal.SIGKILL)
                answered[0] += len(pipe.read())
            os.waitpid(pid, 0)
    finally:
        stop.set()
        looking.join(30)
    assert not looking.is_alive()
    one.bury()
    assert backwards == []
    assert answered[0] <= total() <= answered[0] + KILLS, "one may have been counted and not yet told"
    kept = [ARCHIVE, "group.json", "lock", *(f"{one.workers.token}.{kind}" for kind in (KIND, "worker"))]
    assert files(one) == sorted(kept)


def test_a_thousand_recycled_workers_leave_neither_files_nor_time(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    sizes = []
    for turn in range(1000):
        path = one.workers.path(KIND)
        token = f"{turn:016x}"
        member = one.workers.members()[0]._replace(token=token, alive=False)
        os.link(path, member.path(KIND))
        one.metrics.inherit(member)
        os.unlink(member.path(KIND))
        if turn in (300, 999):
            sizes.append(os.stat(os.path.join(one.workers.folder, ARCHIVE)).st_size)
    assert sizes[0] == sizes[1]
    assert len(files(one)) == 5


# ---- what should not be there --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * shelf.CHUNK,
        random.Random(5).randbytes(3 * shelf.CHUNK),
        b"obskitM\x01" + b"\xff" * (shelf.CHUNK - 8),
        b"obskitM\x01" + (64).to_bytes(8, "little") + b"\xff" * (shelf.CHUNK - 16),
        b"obskitM\x01" + (40).to_bytes(8, "little") + b"\2\0\0\0\1\0\0\0{}" + b"\0" * (shelf.CHUNK - 26),
        b"obskitM\x01" + (40).to_bytes(8, "little") + b"\2\0\0\0\1\0\0\0[]" + b"\0" * (shelf.CHUNK - 26),
    ],
    ids=["empty", "short", "ones", "random", "no end", "no entry", "no list", "no name"],
)
@pytest.mark.parametrize("which", ["worker", "archive"])
def test_a_file_that_is_none_of_ours_costs_its_own_numbers_alone(
    content: bytes, which: str, tmp_path: Path
) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    one.serve(count=3)
    bad = two.workers.path(KIND) if which == "worker" else os.path.join(one.workers.folder, ARCHIVE)
    Path(bad).write_bytes(content)
    assert one.served() == 3
    two.die()
    with suppress(ValueError):
        one.bury()
    assert one.served() == 3
    three = Worker(tmp_path)
    three.serve()
    three.die()
    one.bury()
    assert one.served() == 4, "what was broken is not in the way of those who come later"


def test_a_file_that_is_damaged_further_on_keeps_what_lies_before(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    two.serve(count=4)
    for n in range(400):
        two.serve(f"/{n}")
    path = Path(two.workers.path(KIND))
    data = path.read_bytes()
    assert len(data) > shelf.CHUNK
    path.write_bytes(data[: shelf.CHUNK] + b"\xff" * (len(data) - shelf.CHUNK))
    two.die()
    assert one.served() == 4
    with pytest.raises(ValueError, match="no numbers of ours"):
        one.bury()
    assert one.served() == 4
    assert errors(one) > 0


def test_a_metric_of_another_version_is_left_to_it(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    two.serve()
    two.metrics.store._shelf.take(b'["obskit_of_tomorrow_total","x"]', 1)
    two.metrics.store._shelf.take(b'["obskit_workers","surplus"]', 1)
    assert one.served() == 1
    assert errors(one) == 0
    assert "obskit_of_tomorrow_total" not in one.metrics.store.look()


def test_on_a_full_disk_every_worker_counts_for_itself_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)

    def full(opened: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders, "fill", full)
    for n in range(150):
        two.serve(f"/{n}")
    assert all(two.served(f"/{n}") == 1 for n in (0, 149))
    assert two.number("obskit_internal_errors_total", "metrics.shelf")
    two.die()
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            one.bury()
        assert one.served("/0") == 1, "what had room is read where it is"
    monkeypatch.undo()
    assert one.bury() == 1
    assert one.served("/0") == 1


def test_a_folder_that_is_gone_leaves_each_worker_its_own_numbers(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    one.serve(count=3)
    for name in files(one):
        os.unlink(os.path.join(one.workers.folder, name))
    assert one.served() == 3
    one.serve()
    assert one.served() == 4


def test_a_damaged_sum_that_no_grid_holds_is_no_503(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    two.serve()
    for wrong in (1e308, float("inf"), float("nan")):
        cell = two.metrics.store.histograms(names.REQUEST_DURATION).child("GET", f"/{wrong}", "200", "")
        cell.view[cell.sum_at] = wrong
    assert one.served() == 1
    assert b"1e+308" in generate_latest(one.metrics.registry)


# ---- threads and forks ---------------------------------------------------------------------------------------------


def test_a_child_counts_from_nothing_and_never_in_its_parents_file(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    one.serve(count=5)
    one.metrics.set(names.REQUEST_CAPACITY, 4)
    one.metrics.describe_app("shop", "1", "test", "none")

    def work() -> object:
        before = one.served()
        one.serve(count=7)
        kept = len(one.metrics.store.look()["obskit_app_info"])
        return before, one.served(), kept, one.number("obskit_http_server_request_capacity")

    assert in_child(work) == "(0.0, 7.0, 1, None)"
    assert one.served() == 5


def test_two_scrapes_at_once_do_not_read_a_series_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stands still while it reads the file of another worker, until the second is at it, too."""
    one, two = Worker(tmp_path), Worker(tmp_path)
    two.serve("/new", 5)
    entries, inside, second = shelf.entries, threading.Event(), threading.Event()

    def slow(*data: Any) -> Iterator[tuple[int, bytes, int, int]]:
        for entry in entries(*data):
            if not inside.is_set():
                inside.set()
                second.wait(0.5)
            yield entry

    monkeypatch.setattr(shelf, "entries", slow)
    found: list[float] = []
    first = threading.Thread(target=lambda: found.append(one.served("/new")))
    first.start()
    assert inside.wait(10)
    monkeypatch.setattr(shelf, "entries", entries)
    found.append(one.served("/new"))
    second.set()
    first.join(10)
    assert [*found, one.served("/new")] == [5, 5, 5]


def test_a_child_forked_during_a_scrape_shows_its_own_page(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    one.serve()
    merger = one.metrics._look.__self__  # type: ignore[attr-defined]

    def work() -> object:
        one.serve(count=2)
        return one.served(), one.number("obskit_workers")

    with merger._lock:
        assert in_child(work) == "(2.0, 1.0)"


def test_a_child_does_not_hold_its_parents_file(tmp_path: Path) -> None:
    one = Worker(tmp_path)
    kept = os.stat(one.workers.path(KIND)).st_ino

    def held() -> bool:
        found = set()
        for fd in os.listdir("/dev/fd"):
            with suppress(OSError):
                found.add(os.fstat(int(fd)).st_ino)
        return kept in found

    assert held()
    assert in_child(held) == "False"


def test_a_worker_that_leaves_is_counted_by_the_others_and_goes_on_alone(tmp_path: Path) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    two.serve(count=2)
    two.metrics.leave()
    two.workers.leave()
    two.serve()
    assert two.served() == 3
    assert one.served() == 2
    one.bury()
    assert one.served() == 2


def test_a_scrape_lets_the_threads_that_serve_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Worker(tmp_path), Worker(tmp_path)
    for n in range(3 * BREATH_EVERY):
        two.metrics.count(names.REQUESTS_LOST, 1, f"/{n}", "died")
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    one.metrics.store.look()
    assert len(pauses) >= 3


def test_many_statuses_of_many_dead_workers_stay_within_the_limit_and_its_overflow(tmp_path: Path) -> None:
    heir = Worker(tmp_path, max_series=10)
    for generation in range(3):
        worker = Worker(tmp_path, max_series=10)
        family = worker.metrics._duration
        for status in range(100, 600):
            family.add(1.0, "GET", f"/{generation}/{status}", str(status), "")
        worker.die()
        heir.bury()
    series = heir.metrics._look()[names.REQUEST_DURATION.name]
    assert len(series) <= 10 + OVERFLOW_SETS + 1
    assert sum(sum(one.numbers[:-1]) for one in series.values()) == 3 * 500
