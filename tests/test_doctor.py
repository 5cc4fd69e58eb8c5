"""`obskit doctor`: which workers there are, and what one of them does, answered by its watching thread."""

from __future__ import annotations

import argparse
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from obskit import doctor
from obskit.cli import main
from obskit.exchange import Exchange
from obskit.watch import inquiry
from obskit.watch.flight import FlightRecorder
from obskit.watch.scene import Scene
from obskit.watch.server import ServerFacts
from obskit.watch.stuck import NOWHERE, StuckWatch
from obskit.watch.vantage import vantage
from obskit.workers import Workers
from tests.support.group import listening
from tests.support.recording import make_pipeline


class Worker:
    """A worker of this process, whose watching thread answers when a test says so."""

    def __init__(self, directory: Path, install: int = 0) -> None:
        self.workers = Workers.join(str(directory), "shop", install=install)
        self.pipeline, _ = make_pipeline()
        self.flight = FlightRecorder(SimpleNamespace())  # type: ignore[arg-type]
        self.scene = Scene(
            self.pipeline.config,
            self.pipeline,
            SimpleNamespace(),  # type: ignore[arg-type]
            self.workers,
            ServerFacts(),
            self.flight,
            vantage(),
        )
        self.flight.begin(self.scene)
        self.stuck = StuckWatch(self.scene)
        self.stuck.begin()
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, path: str) -> Exchange:
        exchange = Exchange("http", "GET", path)
        exchange.pipeline = self.pipeline
        exchange.trace_id = exchange.request_id = "0af7651916cd43dd8448eb211c80319c"
        exchange.span_id = "b7ad6b7169203331"
        self.flight.opened(exchange)
        return exchange

    def answers(self) -> None:
        """Look for questions from now on, as once a second in a server."""

        def look() -> None:
            while not self._ends.wait(0.01):
                inquiry.answer(self.scene, self.stuck)

        self._thread = threading.Thread(target=look)
        self._thread.start()

    def end(self) -> None:
        self._ends.set()
        if self._thread is not None:
            self._thread.join(10)
        self.flight.shutdown()
        self.workers.leave()


Hire = Callable[..., Worker]


@pytest.fixture
def hire(tmp_path: Path) -> Iterator[Hire]:
    made: list[Worker] = []

    def call(**options: Any) -> Worker:
        made.append(Worker(tmp_path, **options))
        return made[-1]

    with listening():
        yield call
    for worker in made:
        worker.end()


@pytest.fixture
def doctor_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["doctor", "--state-dir", str(tmp_path), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


Says = Callable[..., tuple[int, str, str]]


def test_every_worker_is_listed_with_what_it_has_in_flight(hire: Hire, doctor_says: Says) -> None:
    one, other = hire(), hire()
    one.open("/a")
    one.open("/b")
    os.close(other.workers._opened)  # it is killed
    other.workers._opened = -1
    status, out, _ = doctor_says("--json")
    found = json.loads(out)
    assert (status, found["foreign_distribution"]) == (0, None)
    (service,) = found["services"]
    assert service["service"] == "shop"
    assert "127.0.0.1" in service["address"]
    facts = [(w["worker"], w["pid"], w["alive"], w["in_flight"]) for w in service["workers"]]
    assert facts == [(0, os.getpid(), True, 2), (1, os.getpid(), False, 0)]
    assert all(0 <= worker["seen_s"] < 60 and 0 <= worker["age_s"] < 60 for worker in service["workers"])
    status, out, _ = doctor_says()
    assert status == 0
    assert f"worker 0  pid {os.getpid()}" in out
    assert "2 in flight" in out
    assert "dead, not yet cleared away" in out


def test_where_there_is_nobody_it_says_why_that_may_be(doctor_says: Says) -> None:
    status, out, _ = doctor_says()
    assert status == 0
    assert "no service of this user" in out
    status, _, err = doctor_says("--stacks", "1")
    assert status == 2
    assert "no worker with pid 1" in err
    assert "there are none" in err


def test_a_pid_that_is_no_worker_is_refused_with_those_that_are(hire: Hire, doctor_says: Says) -> None:
    hire()
    status, _, err = doctor_says("--stacks", "1")
    assert status == 2
    assert f"workers are {os.getpid()}" in err


def test_a_worker_tells_of_each_request_with_its_stack_the_oldest_first(
    hire: Hire, doctor_says: Says, tmp_path: Path
) -> None:
    worker = hire()
    worker.pipeline.route_for = lambda method, path: f"route of {path}"
    first, second = worker.open("/first"), worker.open("/second")
    first.started_ns -= 5_000_000_000
    second.thread_id = 0  # nowhere to be found
    worker.answers()
    status, out, _ = doctor_says("--stacks", str(os.getpid()), "--json")
    report = json.loads(out)
    assert (status, report["pid"], report["in_flight"]) == (0, os.getpid(), 2)
    one, two = report["requests"]
    assert (one["url_path"], one["http_route"], one["phase"]) == ("/first", "route of /first", "open")
    assert one["age_s"] >= 5 > two["age_s"]
    assert one["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    # This very thread opened it, and waits for the answer.
    assert any("doctor.py" in line and "_ask" in line for line in one["stack"])
    assert one["runs_in"] == "thread MainThread"
    assert (two["stack"], two["doing"]) == ([], NOWHERE)
    status, out, _ = doctor_says("--stacks", str(os.getpid()))
    assert status == 0
    assert "2 in flight" in out
    assert "GET /first" in out
    assert "doctor.py" in out
    left = {name.partition(".")[2] for _, _, names in os.walk(tmp_path) for name in names}
    assert not left & {"ask", "stacks", "stacks.new"}, "nothing is left behind"


def test_each_install_of_a_process_answers(hire: Hire, doctor_says: Says) -> None:
    for install in (0, 1):
        worker = hire(install=install)
        worker.open(f"/{install}")
        worker.answers()
    status, out, _ = doctor_says("--stacks", str(os.getpid()), "--json")
    assert status == 0
    assert {one["requests"][0]["url_path"] for one in json.loads(out)} == {"/0", "/1"}


def test_a_worker_that_does_not_answer_is_told_within_the_time(hire: Hire, doctor_says: Says) -> None:
    worker = hire()
    began = time.monotonic()
    status, _, err = doctor_says("--stacks", str(os.getpid()), "--timeout", "0.2")
    assert 0.2 <= time.monotonic() - began < 5
    assert status == 1
    assert "did not answer within 0.2 s" in err
    assert not os.path.exists(worker.workers.path(inquiry.ASK)), "the question is taken back"


def test_an_answer_to_somebody_before_is_not_taken_for_this_one(hire: Hire, doctor_says: Says) -> None:
    worker = hire()
    Path(worker.workers.path(inquiry.ANSWER)).write_text('{"pid": 1, "in_flight": 99, "requests": []}')
    status, out, _ = doctor_says("--stacks", str(os.getpid()), "--timeout", "0.2")
    assert (status, out) == (1, "")


def test_a_folder_that_cannot_be_written_is_no_traceback(
    hire: Hire, doctor_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    hire()

    def refused(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr(doctor, "_ask", refused)
    status, _, err = doctor_says("--stacks", str(os.getpid()))
    assert status == 1
    assert "cannot be asked" in err
    assert "Permission denied" in err


def test_the_answer_is_for_its_user_alone_and_whole_at_once(hire: Hire) -> None:
    worker = hire()
    question, reply = Path(worker.workers.path(inquiry.ASK)), Path(worker.workers.path(inquiry.ANSWER))
    inquiry.answer(worker.scene, worker.stuck)
    assert not reply.exists(), "nobody has asked"
    question.touch()
    old = os.umask(0)
    try:
        inquiry.answer(worker.scene, worker.stuck)
    finally:
        os.umask(old)
    assert stat.S_IMODE(reply.stat().st_mode) == 0o600
    assert json.loads(reply.read_text()) == {"pid": os.getpid(), "in_flight": 0, "requests": []}
    assert not question.exists()


def test_a_worker_that_shares_nothing_is_asked_nothing() -> None:
    scene: Any = SimpleNamespace(workers=Workers("", "", 0, -1, "alone"))
    inquiry.answer(scene, SimpleNamespace())  # type: ignore[arg-type]


def test_a_foreign_package_of_our_name_is_told_with_the_way_out(
    doctor_says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "distribution", lambda name: SimpleNamespace(version="1.1.0"))
    status, out, _ = doctor_says()
    assert status == 1
    assert "the distribution 'obskit' 1.1.0 is installed" in out
    assert "pip install obskit-web" in out
    status, out, _ = doctor_says("--json")
    assert (status, json.loads(out)["foreign_distribution"]) == (1, "1.1.0")


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "soon"])
def test_a_time_that_is_none_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--timeout", wrong]) == 2
    assert f"saw {wrong!r}, expected seconds above 0" in capsys.readouterr().err


def test_the_folder_of_the_environment_is_looked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBSKIT_STATE_DIR", str(tmp_path))
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    assert parser.parse_args([]).state_dir == str(tmp_path)
    monkeypatch.delenv("OBSKIT_STATE_DIR")
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    assert parser.parse_args([]).state_dir is None
