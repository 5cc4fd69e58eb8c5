"""What a worker had in flight is told by the next one, once, whatever happened to the file in between."""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from obskit import folders, workers
from obskit.detectors.worker_died import DETECTOR
from obskit.exchange import Exchange, Finding
from obskit.pipeline import Pipeline
from obskit.redact import make_redactor
from obskit.watch import flight, slots
from obskit.watch.flight import FlightRecorder
from obskit.watch.scene import Scene
from obskit.watch.server import ServerFacts
from obskit.watch.vantage import vantage
from obskit.workers import State, Workers
from tests.support.group import listening
from tests.support.recording import Notes, make_pipeline

SECOND = 1_000_000_000


class Killed(BaseException):
    """What a test ends an heir with."""


class Counts:
    """The metrics that a recorder is given."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, ...]] = Counter()
        self.answers: list[tuple[str, str, int, float]] = []

    def count(self, metric: Any, amount: float, *labels: str) -> None:
        self.counted[(metric.name, *labels)] += int(amount)

    def count_answer(self, method: str, route: str, status: int, duration_s: float) -> None:
        self.answers.append((method, route, status, duration_s))

    def lost(self) -> dict[tuple[str, ...], int]:
        return {key[1:]: number for key, number in self.counted.items() if "lost" in key[0]}

    def exits(self) -> dict[str, int]:
        return {key[1]: number for key, number in self.counted.items() if "exits" in key[0]}


class Worker:
    """One worker's recorder; several of them in one process."""

    def __init__(
        self, directory: Path, server: ServerFacts, *, detectors: Any = ((DETECTOR, None),), **join: Any
    ) -> None:
        self.workers = Workers.join(str(directory), "shop", timeout_s=server.timeout_s, **join)
        self.pipeline: Pipeline
        self.notes: Notes
        self.pipeline, self.notes = make_pipeline(detectors=detectors)
        self.metrics = cast(Any, Counts())
        self.flight = FlightRecorder(self.metrics)
        self.flight.begin(
            Scene(
                self.pipeline.config,
                self.pipeline,
                self.metrics,
                self.workers,
                server,
                self.flight,
                vantage(),
            )
        )

    def open(self, path: str = "/orders/7", number: int = 1, **facts: Any) -> Exchange:
        exchange = Exchange(facts.pop("protocol", "http"), facts.pop("method", "GET"), path)
        exchange.pipeline = self.pipeline
        exchange.trace_id, exchange.span_id = f"{number:032x}", f"{number:016x}"
        exchange.request_id = exchange.trace_id
        for name, value in facts.items():
            setattr(exchange, name, value)
        self.flight.opened(exchange)
        return exchange

    def answer(self, exchange: Exchange, status: int = 200) -> None:
        exchange.status = status
        self.flight.answering(exchange)

    def die(self) -> None:
        """SIGKILL: nothing is said, nothing is cleared."""
        os.close(self.workers._opened)
        self.workers._opened = -1

    def bury(self) -> int:
        return self.workers.bury([self.flight.inherit])

    def told(self) -> list[dict[str, Any]]:
        """The evidence of the worker_died lines."""
        return [line[3] for line in self.notes.lines if line[3].get("finding") == "worker_died"]

    def findings(self) -> list[Finding]:
        return [one for one in self.notes.counted if isinstance(one, Finding)]

    def ends(self) -> list[tuple[str, dict[str, Any]]]:
        return [(line[0], line[3]) for line in self.notes.lines if line[1] == "worker.ended"]

    def record(self) -> Path:
        return Path(self.workers.path("flight"))


Hire = Callable[..., Worker]


@pytest.fixture
def hire(tmp_path: Path) -> Iterator[Hire]:
    made: list[Worker] = []

    def call(capacity: int = 0, timeout_s: float = 0.0, name: str = "", **options: Any) -> Worker:
        made.append(Worker(tmp_path, ServerFacts(name, capacity, timeout_s), **options))
        return made[-1]

    with listening():
        yield call
    for worker in made:
        worker.flight.shutdown()
        worker.workers.leave()


# ---- what is told --------------------------------------------------------------------------------------


def test_a_lost_request_is_told_with_all_that_its_line_would_have_held(hire: Hire) -> None:
    one, other = hire(), hire()
    other.pipeline.route_for = lambda method, path: f"{method} of {path}"
    one.open("/orders/7?", 5, method="POST", request_id="from-the-client")
    one.die()
    assert other.bury() == 1
    (finding,) = other.findings()
    assert (finding.finding, finding.http_route) == ("worker_died", "POST of /orders/7?")
    assert (finding.trace_id, finding.request_id) == (f"{5:032x}", "from-the-client")
    (line,) = other.told()
    assert (line["severity"], line["phase"], line["reason"]) == ("critical", "open", "died")
    assert (line["http_request_method"], line["http_route"]) == ("POST", "POST of /orders/7?")
    assert (line["url_path"], line["worker_pid"]) == ("/orders/7?", os.getpid())
    assert 0 <= line["age_s"] < 60
    assert "protocol" not in line
    assert other.metrics.lost() == {("POST of /orders/7?", "died"): 1}
    assert other.metrics.exits() == {"died": 1}
    assert [(level, said["requests_lost"]) for level, said in other.ends()] == [("warning", 1)]
    assert not one.record().exists()


def test_its_line_carries_its_own_ids(hire: Hire) -> None:
    one, other = hire(), hire()
    one.open(number=9)
    one.die()
    seen = []
    other.pipeline.logs = type(other.pipeline.logs)("logs", other.notes)  # type: ignore[call-arg]
    emit = other.pipeline.logs.emit

    def noting(*line: Any, **more: Any) -> None:
        from obskit.context import current

        seen.append(getattr(current(), "trace_id", None))
        emit(*line, **more)

    other.pipeline.logs.emit = noting  # type: ignore[method-assign]
    other.bury()
    assert seen == [f"{9:032x}", None]  # the request's line, and the worker's


def test_a_request_that_has_closed_is_not_lost(hire: Hire) -> None:
    one, other = hire(), hire()
    for number in range(3 * slots.SLOTS):
        exchange = one.open(number=number)
        one.answer(exchange)
        one.flight.closed(exchange)
        one.flight.closed(exchange)
    assert one.record().stat().st_size == slots.FIRST + slots.CHUNK  # its slot was taken again
    one.workers.end(State.EXITED)
    one.die()
    assert other.bury() == 1
    assert (other.told(), other.metrics.lost(), other.ends()) == ([], {}, [])
    assert other.metrics.exits() == {"exited": 1}


def test_a_worker_that_ended_in_order_with_a_request_in_flight_has_lost_it(hire: Hire) -> None:
    one, other = hire(), hire()
    one.open()
    one.workers.end(State.EXITED)
    one.die()
    other.bury()
    assert other.metrics.lost() == {("unmatched", "exited"): 1}
    assert [said["reason"] for _, said in other.ends()] == ["exited"]


def test_one_that_could_not_say_goodbye_and_lost_nothing_is_no_warning(hire: Hire) -> None:
    one, other = hire(promised=False), hire()
    one.die()
    other.bury()
    assert [(level, said["reason"]) for level, said in other.ends()] == [("info", "unknown")]


def test_an_answer_on_its_way_is_counted_as_one_and_told(hire: Hire) -> None:
    one, other = hire(), hire()
    exchange = one.open(http_route="/orders/{id}")
    exchange.started_unix_ns = time.time_ns() - SECOND
    one.flight.closed(exchange)
    one.flight.opened(exchange)
    one.answer(exchange, 404)
    one.flight.note()
    one.die()
    other.bury()
    ((method, route, status, duration),) = other.metrics.answers
    assert (method, route, status) == ("GET", "/orders/{id}", 404)
    assert 1.0 <= duration < 30
    assert other.metrics.lost() == {("/orders/{id}", "died"): 1}
    assert [line["phase"] for line in other.told()] == ["answering"]


def test_a_connection_that_was_none_of_http_is_named_so(hire: Hire) -> None:
    one, other = hire(), hire()
    one.open("/chat", protocol="websocket")
    one.die()
    other.bury()
    assert [(line["url_path"], line["protocol"]) for line in other.told()] == [("/chat", "websocket")]


def test_where_the_finding_is_switched_off_it_is_counted_all_the_same(hire: Hire) -> None:
    one, other = hire(), hire(detectors=())
    one.open()
    one.die()
    other.bury()
    assert (other.told(), other.metrics.lost()) == ([], {("unmatched", "died"): 1})


LONG = "/" + "x" * 400


@pytest.mark.parametrize(
    ("path", "known", "asked", "route"),
    [
        ("/orders/7", "/orders/{id}", "/other", "/orders/{id}"),
        ("/orders/7", None, "/orders/{id}", "/orders/{id}"),
        ("/orders/7", None, None, "unmatched"),
        ("/orders/7", "/" + "r" * 116, "/other", "/" + "r" * 116),
        ("/orders/7", "/" + "r" * 117, "/asked", "/asked"),  # no room: half a route would be another one
        ("/" + "x" * 159, None, "/asked", "/asked"),
        (LONG, None, "/asked", "unmatched"),  # a part of a path may lead elsewhere
        (LONG, "/{name}", "/asked", "/{name}"),
        ("/" + "x" * 70_000, None, "/asked", "unmatched"),
        ("/ä", "/ö/{id}", None, "/ö/{id}"),
    ],
)
def test_the_route_is_the_one_it_had_or_the_one_it_would_meet(
    path: str, known: str | None, asked: str | None, route: str, hire: Hire
) -> None:
    one, other = hire(), hire()
    other.pipeline.route_for = lambda *_: asked
    exchange = one.open(path)
    exchange.http_route = known  # named while it runs
    one.flight.note()
    one.die()
    other.bury()
    assert other.metrics.lost() == {(route, "died"): 1}
    (line,) = other.told()
    assert line["url_path"] == path[: len(line["url_path"])]
    assert len(line["url_path"]) >= min(len(path), 160)


def test_a_route_that_has_no_room_takes_none_from_the_answer(hire: Hire) -> None:
    one, other = hire(), hire()
    exchange = one.open(http_route="/" + "r" * 300)
    one.answer(exchange, 204)
    one.flight.note()
    one.die()
    other.bury()
    assert [answer[2] for answer in other.metrics.answers] == [204]


def test_the_route_of_a_request_is_not_that_of_the_next_one_in_its_slot(hire: Hire) -> None:
    one, other = hire(), hire()
    exchange = one.open(http_route="/orders/{id}")
    one.flight.note()
    one.flight.closed(exchange)
    one.open("/secret")
    one.die()
    other.bury()
    assert other.metrics.lost() == {("unmatched", "died"): 1}


@pytest.mark.parametrize("path", ["/" + "ä" * 200, "/a" + "ä" * 200, "/\udcff" + "x" * 300, "/a\nb", ""])
@pytest.mark.parametrize("request_id", ["", "i" * 128])
def test_a_path_that_is_cut_or_cannot_be_written_is_text_all_the_same(
    path: str, request_id: str, hire: Hire
) -> None:
    one, other = hire(), hire()
    one.open(path, request_id=request_id)
    one.die()
    other.bury()
    (line,) = other.told()
    (finding,) = other.findings()
    assert finding.request_id == (request_id or finding.trace_id)
    shown = line["url_path"]
    assert shown == path.encode("utf-8", "replace").decode()[: len(shown)]
    assert len(shown.encode()) >= min(len(path), 150)


# ---- why it died ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "age_s", "silent_s", "blocked", "reason"),
    [
        ({"capacity": 1, "timeout_s": 30}, 29.5, 0, False, "timeout"),
        ({"capacity": 1, "timeout_s": 30}, 25, 0, False, "died"),
        ({"capacity": 1, "timeout_s": 0}, 500, 0, False, "died"),
        # Where many run at once, an old one is no sign; that the loop stood still, or the whole worker, is.
        ({"capacity": 0, "timeout_s": 30}, 500, 0, False, "died"),
        ({"capacity": 0, "timeout_s": 30}, 29.5, 0, True, "timeout"),
        ({"capacity": 0, "timeout_s": 30}, 5, 0, True, "died"),
        ({"capacity": 0, "timeout_s": 30}, 31, 29, False, "timeout"),
        ({"capacity": 1, "timeout_s": 30}, 31, 29, False, "timeout"),
        ({"capacity": 0, "timeout_s": 30}, 31, 10, False, "died"),
        ({"name": "uwsgi", "capacity": 8, "timeout_s": 30}, 30, 0, False, "timeout"),
    ],
)
def test_a_worker_whose_server_gave_up_on_it_was_timed_out(
    server: dict[str, Any], age_s: float, silent_s: float, blocked: bool, reason: str, hire: Hire
) -> None:
    one, other = hire(**server), hire(**server)
    now = time.time_ns()
    exchange = one.open(started_unix_ns=now - int(age_s * SECOND))
    if blocked:
        exchange.findings = (Finding("event_loop_blocked", "warning", "why", {}),)
        one.flight.note()
    with open(one.workers.path("worker"), "r+b") as file:
        file.seek(24)
        file.write((now - int(silent_s * SECOND)).to_bytes(8, "little"))
    other.flight._since_unix_ns = now - 100 * SECOND  # it has looked on all the time
    one.die()
    other.bury()
    assert other.metrics.exits() == {reason: 1}
    (line,) = other.told()
    assert line["reason"] == reason
    ended_s = 0 if silent_s and reason == "timeout" else silent_s
    assert line["age_s"] == pytest.approx(age_s - ended_s, abs=0.5)


def test_who_comes_later_does_not_take_silence_for_standing_still(hire: Hire) -> None:
    one, other = hire(timeout_s=30), hire(timeout_s=30)
    exchange = one.open(started_unix_ns=time.time_ns() - 40 * SECOND)
    with open(one.workers.path("worker"), "r+b") as file:
        file.seek(24)
        file.write((time.time_ns() - 39 * SECOND).to_bytes(8, "little"))
    one.die()
    other.bury()
    assert exchange.flight_slot is not None
    assert other.metrics.exits() == {"died": 1}
    assert [line["age_s"] for line in other.told()] == [pytest.approx(1, abs=0.5)]


# ---- exactly once --------------------------------------------------------------------------------------


def test_of_a_group_that_is_over_each_request_is_told_by_the_next(tmp_path: Path) -> None:
    with listening():
        before = Worker(tmp_path, ServerFacts())
        for number in range(5):
            before.open(number=number)
        before.die()
    with listening():
        after = Worker(tmp_path, ServerFacts())
        assert after.workers.folder != before.workers.folder
        assert after.workers.inherit([after.flight.inherit]) == 1
    after.die()
    assert after.metrics.lost() == {("unmatched", "died"): 5}
    assert not os.path.exists(before.workers.folder)


def test_two_that_would_tell_at_once_tell_each_request_once(hire: Hire) -> None:
    gone, here = [hire() for _ in range(4)], [hire(), hire()]
    for index, one in enumerate(gone):
        for number in range(25):
            one.open(number=100 * index + number)
        one.die()
    start = threading.Barrier(2)

    def bury(worker: Worker) -> None:
        start.wait()
        while any(not member.alive for member in worker.workers.members()):
            worker.bury()

    threads = [threading.Thread(target=bury, args=(worker,)) for worker in here]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    told = [one.trace_id for worker in here for one in worker.findings()]
    assert sorted(told) == sorted(f"{100 * i + n:032x}" for i in range(4) for n in range(25))
    assert sum(worker.metrics.exits()["died"] for worker in here if worker.metrics.exits()) == 4


@pytest.mark.parametrize("killed_at", range(1, 7))
def test_what_a_killed_heir_was_just_telling_is_told_again_and_nothing_else(
    killed_at: int, hire: Hire
) -> None:
    one, first, second = hire(), hire(), hire()
    for number in range(5):
        one.open(number=number)
    one.die()
    emit, said = first.pipeline.logs.emit, 0

    def kill(*line: Any, **more: Any) -> None:
        nonlocal said
        emit(*line, **more)
        said += 1
        if said == killed_at:
            raise Killed

    first.pipeline.logs.emit = kill  # type: ignore[method-assign]
    with pytest.raises(Killed):
        first.bury()
    first.die()
    assert second.bury() == 2
    traces = Counter(one.trace_id for worker in (first, second) for one in worker.findings())
    again = {f"{killed_at - 1:032x}": 2} if killed_at <= 5 else {}  # the sixth line is the worker's
    assert traces == {f"{number:032x}": 1 for number in range(5)} | again
    assert sum(len(worker.ends()) for worker in (first, second)) == 2 + (killed_at == 6)


def test_a_worker_that_has_no_record_is_counted_once_all_the_same(hire: Hire) -> None:
    one, other = hire(), hire()
    one.record().unlink()
    one.die()
    (dead, _) = other.workers.members()
    other.flight.inherit(dead)
    (dead, _) = other.workers.members()
    other.flight.inherit(dead)
    assert other.metrics.exits() == {"died": 1}


# ---- the file ------------------------------------------------------------------------------------------


def test_only_this_user_reads_the_record_and_nothing_of_a_query_or_header_is_in_it(hire: Hire) -> None:
    one = hire()
    one.open(
        "/orders", request={"QUERY_STRING": "token=secret", "HTTP_COOKIE": "secret"}, user_agent="secret"
    )
    one.flight.note()
    assert one.record().stat().st_mode & 0o777 == 0o600
    assert b"secret" not in one.record().read_bytes()


def test_a_slot_that_was_never_finished_is_empty(hire: Hire) -> None:
    """The state word comes last: everything else may be there or not."""
    one, other = hire(), hire()
    exchange = one.open()
    exchange.flight_slot.memory[exchange.flight_slot.at] = 0
    one.open("/whole", 2)
    one.die()
    other.bury()
    assert [found.trace_id for found in other.findings()] == [f"{2:032x}"]


CHILD_SLOTS = 4


def work_until_killed(directory: Path, ready: int, current: memoryview) -> None:
    """Requests whose parts all hold one number, opened, answered and closed in several threads."""
    worker = Worker(directory, ServerFacts())

    def serve(first: int) -> None:
        number = first
        while True:
            current[first] = number
            path = f"/{number}/" + "y" * (number % 150)
            exchange = worker.open(path, number, request_id=f"r{number}", http_route=f"/{number}")
            worker.flight.note()
            if number % 2:
                worker.answer(exchange, 200 + number % 100)
            worker.flight.closed(exchange)
            number += CHILD_SLOTS

    for first in range(CHILD_SLOTS):
        threading.Thread(target=serve, args=(first,), daemon=True).start()
    os.write(ready, b"1")
    time.sleep(60)


def test_a_worker_killed_at_any_moment_leaves_whole_slots_or_empty_ones(hire: Hire, tmp_path: Path) -> None:
    here = hire()
    found = 0
    shared = mmap.mmap(-1, 8 * CHILD_SLOTS)
    current = memoryview(shared).cast("Q")
    for round_ in range(10):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                work_until_killed(tmp_path, writing, current)
            finally:
                os._exit(1)
        os.close(writing)
        assert os.read(reading, 1) == b"1"
        os.close(reading)
        time.sleep(0.002 * round_)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert here.bury() == 1
        told = list(zip(here.findings()[found:], here.told()[found:], strict=True))
        found += len(told)
        assert len(told) <= CHILD_SLOTS
        for finding, line in told:
            number = int(finding.trace_id, 16)
            assert number == current[number % CHILD_SLOTS]  # and none that has ended
            assert finding.request_id == f"r{number}"
            assert line["url_path"] == f"/{number}/" + "y" * (number % 150)
            assert line["http_route"] in (f"/{number}", "unmatched")
            assert line["phase"] == "open" or number % 2
    assert found  # most were killed in the midst of requests


@pytest.mark.parametrize("seed", range(30))
def test_a_record_that_was_damaged_harms_nobody(seed: int, hire: Hire) -> None:
    one, other = hire(), hire()
    for number in range(20):
        one.open(number=number)
    source = random.Random(seed)
    data = bytearray(one.record().read_bytes())
    if seed % 3 == 0:
        del data[source.randrange(len(data)) :]
    elif seed % 3 == 1:
        data[slots.FIRST :] = source.randbytes(len(data) - slots.FIRST)
    else:
        for _ in range(400):
            data[source.randrange(slots.FIRST, len(data))] = source.randrange(256)
    one.record().unlink()
    one.record().write_bytes(data)
    one.die()
    foreign = bytes(data[:8]).strip(b"\0") not in (b"", slots.MAGIC)
    with pytest.raises(ValueError, match="no file of ours") if foreign else nullcontext():
        assert other.bury() == 1
    assert len(other.told()) <= len(data) // 400
    for finding in other.findings():
        assert (finding.trace_id + finding.request_id).isprintable()
    assert other.metrics.exits() == {"died": 1}
    assert not one.record().exists()


def test_a_file_of_somebody_else_is_told_as_an_error_of_ours(hire: Hire) -> None:
    one, other = hire(), hire()
    one.record().unlink()
    one.record().write_bytes(b"#!/bin/sh\n" * 2000)
    one.die()
    with pytest.raises(ValueError, match="no file of ours"):
        other.bury()
    assert (other.told(), other.metrics.exits()) == ([], {"died": 1})
    assert not one.record().exists()


# ---- room ----------------------------------------------------------------------------------------------


def test_there_is_room_for_thousands_and_each_is_lost_with_the_worker(hire: Hire) -> None:
    one, other = hire(), hire()
    exchanges = [one.open(number=number) for number in range(slots.MAX_SLOTS)]
    assert one.notes.lost == []
    more = one.open(number=-1 % 2**64)
    assert one.notes.lost == [("flight", "full")]
    one.answer(more)
    one.flight.closed(more)
    assert set(one.flight.in_flight) == set(exchanges)
    one.flight.closed(exchanges[0])
    one.open(number=0)
    assert len(one.notes.lost) == 1  # there is room again
    one.die()
    other.bury()
    assert other.metrics.lost() == {("unmatched", "died"): slots.MAX_SLOTS}
    assert len({finding.trace_id for finding in other.findings()}) == slots.MAX_SLOTS


def test_threads_that_need_room_at_the_same_time_all_get_it(hire: Hire) -> None:
    one = hire()
    start = threading.Barrier(8)
    opened: list[Exchange] = []

    def serve(first: int) -> None:
        start.wait()
        for number in range(100):
            exchange = one.open(number=1000 * first + number)
            opened.append(exchange)
            if number % 3 == 0:
                one.flight.closed(exchange)
                opened.remove(exchange)

    threads = [threading.Thread(target=serve, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert set(one.flight.in_flight) == set(opened)
    slots = [exchange.flight_slot for exchange in opened]
    assert len({id(slot) for slot in slots}) == len(opened)
    before = len(one.flight._slots)
    assert one.flight._free
    assert one.flight._grow()  # as one that comes second finds it
    assert len(one.flight._slots) == before


def no_room(opened: int, size: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("begun", [True, False])
def test_on_a_full_disk_requests_are_watched_and_nobody_hears_of_it_but_our_own_errors(
    begun: bool, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not begun:
        monkeypatch.setattr(folders, "fill", no_room)
    one, other = hire(), hire()
    monkeypatch.setattr(folders, "fill", no_room)
    exchanges = [one.open(number=number) for number in range(slots.SLOTS + 1)]
    assert len(one.flight.in_flight) == len(exchanges)
    assert one.notes.stages == ["watch.flight"]
    for exchange in exchanges[:-1]:
        one.flight.closed(exchange)
    one.die()
    assert other.bury() == 1
    assert other.metrics.exits() == {"died": 1}


def test_a_disk_that_is_full_for_real_ends_no_request(tmp_path: Path) -> None:
    """The kernel's own limit on the size of files: growing the record fails as on a full disk."""
    import resource

    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (slots.FIRST + slots.CHUNK, resource.RLIM_INFINITY))
            with listening():
                worker = Worker(tmp_path, ServerFacts())
                for number in range(slots.SLOTS + 1):
                    worker.open(number=number)
                worked = worker.workers.shared and len(worker.flight.in_flight) == slots.SLOTS + 1
                os._exit(0 if worked and worker.notes.stages == ["watch.flight"] else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


def test_alone_a_worker_keeps_nothing_on_disk_and_sees_what_is_in_flight(tmp_path: Path) -> None:
    alone = Worker(tmp_path, ServerFacts())
    exchange = alone.open()
    assert (alone.workers.shared, alone.flight.in_flight) == (False, [exchange])
    assert exchange.thread_id == threading.get_ident()
    alone.answer(exchange)
    alone.flight.note()
    alone.flight.closed(exchange)
    assert (alone.flight.in_flight, list(tmp_path.iterdir()), alone.notes.stages) == ([], [], [])


# ---- forks ---------------------------------------------------------------------------------------------


def test_a_child_that_carries_a_request_on_changes_nothing_in_its_parents_record(hire: Hire) -> None:
    one, other = hire(), hire()
    exchange = one.open()
    before = one.record().read_bytes()
    pid = os.fork()
    if pid == 0:
        try:
            one.answer(exchange)
            one.flight.note()
            one.flight.closed(exchange)
            one.open("/of the child", 2)
            os._exit(0 if one.flight._file == -1 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert one.record().read_bytes() == before
    assert (exchange.flight_slot is not None, one.flight.in_flight) == (True, [exchange])
    one.die()
    other.bury()
    assert [finding.trace_id for finding in other.findings()] == [exchange.trace_id]


def test_a_worker_that_begins_again_in_a_child_has_a_record_of_its_own(hire: Hire, tmp_path: Path) -> None:
    one = hire()
    one.open()
    pid = os.fork()
    if pid == 0:
        try:
            mine = Workers.join(str(tmp_path), "shop")
            facts = (
                one.pipeline.config,
                one.pipeline,
                one.metrics,
                mine,
                ServerFacts(),
                one.flight,
                vantage(),
            )
            one.flight.begin(Scene(*facts))
            one.open("/of the child", 2)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(2)
    os.waitpid(pid, 0)
    assert one.bury() == 1
    assert [line["url_path"] for line in one.told()] == ["/of the child"]


def test_what_is_in_flight_is_counted_from_outside(hire: Hire) -> None:
    one, other = hire(), hire()
    for number in range(3):
        one.open(number=number)
    (member, _) = other.workers.members()
    assert slots.count(member) == 3
    assert slots.count(member._replace(token="nobody")) == 0
    assert workers.EXIT_REASONS[-1] == "unknown"


@pytest.mark.parametrize(
    ("path", "prefix", "asked"),
    [
        ("/front/orders/7", "/front", "/orders/7"),
        ("/frönt/orders/7", "/frönt", "/orders/7"),
        ("/orders/7", "", "/orders/7"),
    ],
)
def test_the_prefix_the_server_serves_under_is_no_part_of_the_path_whose_route_is_asked_for(
    path: str, prefix: str, asked: str, hire: Hire
) -> None:
    one, other = hire(), hire()
    one.pipeline.route_for = other.pipeline.route_for = lambda method, path: path
    exchange = one.open(path, path_prefix=prefix)
    assert one.pipeline.route_now(exchange) == asked
    one.die()
    other.bury()
    (line,) = other.told()
    assert (line["http_route"], line["url_path"]) == (asked, path)


def test_whatever_lies_in_place_of_a_record_hangs_nobody_and_is_not_followed(
    hire: Hire, tmp_path: Path
) -> None:
    one, other = hire(), hire()
    one.open()
    member = next(member for member in other.workers.members() if member.token == one.workers.token)
    record, path = tmp_path / "elsewhere", Path(member.path(slots.KIND))
    path.rename(record)
    path.symlink_to(record)
    with pytest.raises(OSError, match="symbolic links"):
        slots.count(member)
    path.unlink()
    os.mkfifo(path)  # an open of a pipe that nobody writes to waits for ever
    with pytest.raises(OSError, match="no regular file"):
        slots.count(member)
    path.unlink()
    record.rename(path)
    os.truncate(path, 2**40)
    assert slots.count(member) == 1, "no more is read of it than a worker may have written"


def test_a_secret_in_a_path_is_in_no_file(hire: Hire) -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    one = hire()
    one.open(f"/reset/{token}")
    assert token.encode() not in Path(one.workers.path(slots.KIND)).read_bytes()


def test_a_request_does_not_wait_for_room_that_a_hanging_disk_makes_for_another(
    hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "GROW_S", 0.01)
    one = hire()
    while one.flight._free:
        one.open()
    with one.flight._growing:
        exchange = one.open("/without a slot")
    assert exchange.flight_slot is None
    assert one.notes.lost == [("flight", "full")]
    one.flight.closed(exchange)


def test_a_request_that_came_before_there_was_a_file_is_where_an_heir_looks(hire: Hire) -> None:
    one = hire()
    recorder = FlightRecorder(one.metrics)
    before = one.flight
    one.flight = recorder
    early, gone = one.open("/early", 1), one.open("/gone", 2)
    recorder.closed(gone)
    assert before._scene is not None
    recorder.begin(before._scene)
    slot = early.flight_slot
    assert slot in recorder._slots
    assert recorder.in_flight == [early]
    recorder.closed(early)
    assert (recorder.in_flight, slot in recorder._free) == ([], True)


def test_a_request_that_closed_while_it_was_taken_over_is_given_back(hire: Hire) -> None:
    one = hire()
    exchange = one.open()
    exchange.flight_slot = None  # its own thread has just let go of the slot it had before
    exchange.closed = True
    assert exchange in [slot.exchange for slot in one.flight._slots]
    one.flight.note()
    assert exchange not in [slot.exchange for slot in one.flight._slots]


# ---- ended, and not shown yet -------------------------------------------------------------------


def rested(worker: Worker, path: str = "/orders/7", number: int = 1, **facts: Any) -> Exchange:
    """A request that has ended in this worker and waits to be shown."""
    exchange = worker.open(path, number)
    exchange.status, exchange.response_started, exchange.response_complete = 200, True, True
    exchange.http_route = "/orders/{id}"
    exchange.request_bytes, exchange.response_bytes = 5, 1234
    exchange.first_byte_ns = exchange.started_ns + 2_000_000
    exchange.last_byte_ns = exchange.started_ns + 3_000_000
    for name, value in facts.items():
        setattr(exchange, name, value)
    exchange.end(exchange.last_byte_ns + 1000)
    assert worker.flight.rests(exchange)
    exchange.closed = True
    return exchange


def test_what_a_dead_worker_had_ended_and_not_shown_is_shown_by_its_heir_and_lost_by_nobody(
    hire: Hire,
) -> None:
    one, two = hire(), hire()
    rested(one)
    assert one.flight.in_flight == []
    one.die()
    assert two.bury() == 1
    (exchange, pid), *others = two.notes.inherited
    assert (others, pid) == ([], os.getpid())
    assert (exchange.method, exchange.http_route, exchange.url_path) == ("GET", "/orders/{id}", "/orders/7")
    assert (exchange.status, exchange.outcome, exchange.level) == (200, "completed", "info")
    assert (exchange.trace_id, exchange.request_id) == (f"{1:032x}", f"{1:032x}")
    assert (exchange.request_bytes, exchange.response_bytes) == (5, 1234)
    assert (exchange.duration_s, exchange.first_byte_s) == (pytest.approx(0.003), pytest.approx(0.002))
    assert (two.metrics.lost(), two.told(), two.metrics.answers) == ({}, [], [])
    assert two.notes.calls.count("metrics.counted") == 1


def test_a_request_in_flight_beside_one_that_waits_is_lost_alone(hire: Hire) -> None:
    one, two = hire(), hire()
    rested(one, number=1)
    one.open("/orders/8", number=2)
    (member, _) = two.workers.members()
    assert slots.count(member) == 1
    one.die()
    two.bury()
    assert [line["url_path"] for line in two.told()] == ["/orders/8"]
    assert len(two.notes.inherited) == 1
    ((_, end),) = two.ends()
    assert end["requests_lost"] == 1


def test_of_one_that_was_counted_and_has_no_line_the_line_alone_is_missing(hire: Hire) -> None:
    one, two = hire(), hire()
    one.flight.counted(rested(one))
    one.flight.note()
    (member, _) = two.workers.members()
    assert slots.count(member) == 0
    one.die()
    two.bury()
    assert len(two.notes.inherited) == 1
    assert "metrics.counted" not in two.notes.calls
    assert (two.metrics.lost(), two.told(), two.metrics.answers) == ({}, [], [])


@pytest.mark.parametrize("answered", [True, False])
def test_of_one_with_a_story_that_was_counted_and_has_no_line_there_is_a_trace_at_least(
    hire: Hire, *, answered: bool
) -> None:
    one, two = hire(), hire()
    exchange = one.open(number=7)
    if answered:
        one.answer(exchange, 500)
    one.flight.counted(exchange)
    one.die()
    two.bury()
    (finding,), (line,) = two.findings(), two.told()
    assert (finding.trace_id, line["phase"]) == (f"{7:032x}", "ended")
    assert (two.metrics.lost(), two.metrics.answers) == ({("unmatched", "died"): 1}, []), (
        "it is counted already"
    )


def test_what_has_been_shown_is_not_shown_by_an_heir_too(hire: Hire) -> None:
    one, two = hire(), hire()
    one.flight.closed(rested(one))
    one.die()
    two.bury()
    assert two.notes.inherited == []


def test_what_waits_is_not_taken_for_one_that_was_left_over(hire: Hire) -> None:
    one = hire()
    exchange = rested(one)
    one.flight.note()
    assert exchange.flight_slot is not None


def test_where_no_heir_could_read_all_of_it_nothing_waits(hire: Hire) -> None:
    one = hire()
    exchange = one.open(status=200, http_route="/" + "x" * 200)
    exchange.end(exchange.started_ns)
    assert not one.flight.rests(exchange), "its route does not fit in"
    exchange.flight_slot = None
    assert not one.flight.rests(exchange)


def test_a_time_that_cannot_be_is_read_as_none(hire: Hire) -> None:
    one, two = hire(), hire()
    exchange = rested(one, first_byte_ns=None)
    assert exchange.first_byte_s is None
    one.die()
    two.bury()
    ((found, _),) = two.notes.inherited
    assert found.first_byte_s is None


def test_the_memory_of_routes_is_bounded(hire: Hire) -> None:
    one = hire()
    for number in range(3 * flight._REMEMBERED):
        one.flight._noted(f"/{number}")
    assert len(one.flight._notes) <= flight._REMEMBERED


def test_names_of_the_option_redact_count_in_paths_too(hire: Hire) -> None:
    one, two = hire(), hire()
    one.flight.is_secret = make_redactor(["iban"])
    for number in range(2):
        exchange = one.open("/pay/iban=DE0012", number, path_prefix="/iban=DE0034")
        assert exchange.shown_path == "/pay/iban=[redacted]"
    assert b"DE0012" not in one.record().read_bytes()
    assert b"DE0034" not in one.record().read_bytes()
    assert one.flight._paths == {}, "what holds a secret is not remembered"
    one.die()
    two.bury()
    assert {line["url_path"] for line in two.told()} == {"/pay/iban=[redacted]"}


def test_the_memory_of_paths_is_bounded(hire: Hire) -> None:
    one = hire()
    for number in range(3 * flight._REMEMBERED):
        one.flight.closed(one.open(f"/{number}"))
    one.flight.closed(one.open("/" + "x" * 300))
    assert 0 < len(one.flight._paths) <= flight._REMEMBERED
    assert max(map(len, one.flight._paths)) < 300
