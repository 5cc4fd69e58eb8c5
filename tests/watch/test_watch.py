"""One watch: what it begins, does once a second, and leaves; and that no part of it stands in the way of another."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import obskit
from obskit import folders, names
from obskit.exchange import Exchange
from obskit.watch import Watch, inquiry
from obskit.watch.saturation import Saturation
from obskit.watch.ticker import housekeeper, ticker
from obskit.workers import State
from tests.support.group import listening

Install = Callable[..., Any]


def shop(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def ask(app: Any, path: str = "/", **environ: str) -> None:
    body = app({"REQUEST_METHOD": "GET", "PATH_INFO": path, **environ}, lambda *_: lambda _data: None)
    list(body)
    body.close()


@pytest.fixture
def serving() -> Iterator[None]:
    with listening():
        yield


@pytest.fixture
def watch(install: Install, tmp_path: Path, serving: None) -> Watch:
    app = install(shop, interface="wsgi", state_dir=str(tmp_path), service="shop")
    ask(app)
    found: Watch = app.pipeline.watch
    assert found.scene is not None
    return found


def stages(watch: Watch) -> dict[str, float]:
    assert watch.pipeline is not None
    page = watch.pipeline._metrics.store.look()  # type: ignore[attr-defined]
    return {labels[0]: series.numbers[0] for labels, series in page["obskit_internal_errors_total"].items()}


def test_it_joins_with_the_first_request_and_leaves_with_the_last(
    install: Install, tmp_path: Path, serving: None
) -> None:
    app = install(shop, interface="wsgi", state_dir=str(tmp_path), service="shop")
    assert os.listdir(tmp_path) == []
    ask(app)
    workers = app.pipeline.watch.scene.workers
    assert workers.shared, workers.why
    (member,) = workers.members()
    assert (member.pid, member.state, member.alive) == (os.getpid(), State.RUNNING, True)
    obskit.shutdown()
    assert app.pipeline.watch.scene is None
    head = Path(member.path("worker")).read_bytes()
    assert head[14] == State.EXITED
    assert threading.active_count() >= 1


def test_a_process_that_does_not_share_serves_all_the_same(
    install: Install, tmp_path: Path, serving: None
) -> None:
    app = install(shop, interface="wsgi", state_dir=str(tmp_path), share_workers=False)
    ask(app)
    assert not app.pipeline.watch.scene.workers.shared
    assert [name for name in os.listdir(tmp_path) if "workers" in name] == []


@pytest.mark.parametrize("broken", ["workers.touch", "flight.note", "metrics.publish", "workers.bury"])
def test_a_step_that_fails_is_counted_and_the_others_are_taken(
    broken: str, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = watch.scene
    assert scene is not None
    taken: list[str] = []
    parts = {"workers": scene.workers, "flight": watch.flight, "metrics": scene.metrics}
    for name in ("workers.touch", "flight.note", "metrics.publish", "workers.bury"):
        part, _, method = name.partition(".")

        def step(*_: Any, name: str = name, **__: Any) -> None:
            taken.append(name)
            if name == broken:
                raise ValueError(name)

        monkeypatch.setattr(parts[part], method, step)
    watch._house()
    monkeypatch.undo()
    assert sorted(set(taken)) == sorted(["workers.touch", "flight.note", "metrics.publish", "workers.bury"])
    assert stages(watch)["watch.housekeeping"] == 1


@pytest.mark.parametrize(
    ("number", "stage"), [(0, "watch.stuck"), (2, "watch.saturation")], ids=["stuck", "saturation"]
)
def test_a_look_that_fails_is_counted(
    number: int, stage: str, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = watch.scene
    assert scene is not None

    def broken(*_: Any) -> None:
        raise ValueError("no more")

    monkeypatch.setattr(scene.metrics, "set", broken)
    watch._watchers[number].tick()
    monkeypatch.undo()
    assert stages(watch) == {stage: 1}


def test_a_full_disk_leaves_the_worker_alone_with_what_it_counts(
    install: Install, tmp_path: Path, serving: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(opened: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    app = install(shop, interface="wsgi", state_dir=str(tmp_path), disabled_detectors=["duplicate_request"])
    monkeypatch.setattr(folders, "fill", full)
    ask(app)
    watch = app.pipeline.watch
    assert stages(watch)["watch.flight"] >= 1
    assert stages(watch)["metrics.shelf"] >= 1
    assert len(watch._watchers) == 3
    page = app.pipeline._metrics.store.look()
    assert sum(sum(one.numbers[:-1]) for one in page["http_server_request_duration_seconds"].values()) == 1


def test_the_wait_in_front_is_in_the_metric_and_on_the_line(
    install: Install, canonical: Callable[[], list[dict[str, Any]]]
) -> None:
    app = install(shop, interface="wsgi", log_format="json", trusted_proxies="10.0.0.0/8")
    ask(app, HTTP_X_REQUEST_START=f"t={time.time() - 3:.3f}", REMOTE_ADDR="10.0.0.1")
    ask(app, HTTP_X_QUEUE_START="yesterday", REMOTE_ADDR="10.0.0.1")
    ask(
        app, HTTP_X_REQUEST_START=f"t={time.time() - 3:.3f}", REMOTE_ADDR="203.0.113.7"
    )  # nobody vouches for that
    ask(app)
    first, *others = canonical()
    assert 2.9 < first["queue_s"] < 10
    assert all("queue_s" not in line for line in others)
    series = app.pipeline._metrics.store.look()[names.QUEUE_DURATION.name][()]
    assert sum(series.numbers[:-1]) == 1


def test_the_wait_in_front_is_believed_from_nobody_while_no_proxy_is_named(
    install: Install, canonical: Callable[[], list[dict[str, Any]]]
) -> None:
    app = install(shop, interface="wsgi", log_format="json")
    for header in ("HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START"):
        ask(app, **{header: f"t={time.time() - 3:.3f}"}, REMOTE_ADDR="127.0.0.1")
    assert all("queue_s" not in line for line in canonical())
    series = app.pipeline._metrics.store.look()[names.QUEUE_DURATION.name][()]
    assert sum(series.numbers[:-1]) == 0


def test_what_is_in_flight_is_there_and_gone_when_it_has_been_counted(watch: Watch) -> None:
    pipeline = watch.pipeline
    assert pipeline is not None
    exchange = Exchange()
    pipeline.open(exchange, None)
    assert watch.flight.in_flight == [exchange]
    pipeline.close(exchange)
    assert watch.flight.in_flight == []


@pytest.fixture
def impatient(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than 50 ms hangs, and everything is due at once and often."""
    for module in ("obskit.watch", "obskit.watch.ticker", "obskit.watch.oversight"):
        monkeypatch.setattr(sys.modules[module], "HUNG_S", 0.05)
    for one in (housekeeper, ticker):
        with one._changed:
            for entry in one._entries:
                entry.due, entry.every_s = time.monotonic(), 0.01
            one._changed.notify_all()


class Disk:
    """A disk that does not answer until it is let go."""

    def __init__(self) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()

    def __call__(self, *_: object, **__: object) -> None:
        self.asked.set()
        assert self.answers.wait(10)


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.answers.set()


Lines = Callable[[], list[dict[str, Any]]]


def test_a_disk_that_hangs_is_told_of_and_stops_no_other_watcher(
    watch: Watch, impatient: None, disk: Disk, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    monkeypatch.setattr(watch._metrics, "publish", disk)
    assert disk.asked.wait(10)
    until(lambda: stages(watch).get("watch.housekeeping", 0) >= 2)
    told = [line for line in lines() if line.get("stage") == "watch.housekeeping"]
    assert len(told) == 1, "at a bounded rate"
    assert "it hangs" in told[0]["exception"]["message"]
    assert watch._stuck is not None
    looked = watch._stuck._ticked_ns
    until(lambda: watch._stuck is not None and watch._stuck._ticked_ns > looked)
    disk.answers.set()
    until(lambda: housekeeper.running_s(watch) < 0.05)


def test_a_watcher_that_hangs_is_told_of_and_the_others_look_on(
    watch: Watch, impatient: None, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A method of the class, for the ticker has the watcher's own already.
    monkeypatch.setattr(Saturation, "_tell_pauses", disk)
    assert disk.asked.wait(10)
    until(lambda: stages(watch).get("watch.Saturation", 0) >= 1)
    assert watch._stuck is not None
    looked = watch._stuck._ticked_ns
    until(lambda: watch._stuck is not None and watch._stuck._ticked_ns > looked)
    assert stages(watch).get("watch.StuckWatch", 0) == 0


def test_a_disk_that_hangs_holds_up_no_end(
    watch: Watch, impatient: None, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["obskit.watch.ticker"], "REMOVE_S", 0.05)
    monkeypatch.setattr(watch._metrics, "publish", disk)
    assert disk.asked.wait(10)
    until(lambda: housekeeper.running_s(watch) > 0.05)
    watch.goodbye()
    watch.shutdown()
    assert watch.scene is None


def test_a_process_that_stood_still_as_a_whole_blames_nobody(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, _ = watch._oversight
    ticker.remove(house)
    monkeypatch.setattr(housekeeper, "running_s", lambda owner: 60.0)
    house._looked = time.monotonic() - 60
    house.look()
    assert stages(watch).get("watch.housekeeping", 0) == 0
    house._looked = time.monotonic() - 1
    house.look()
    assert stages(watch)["watch.housekeeping"] == 1


def test_a_secret_in_a_path_is_in_no_answer_to_who_asks_for_stacks(watch: Watch) -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    assert watch.pipeline is not None
    assert watch.scene is not None
    assert watch._stuck is not None
    exchange = Exchange("http", "GET", f"/reset/{token}")
    watch.pipeline.open(exchange, None)
    report = inquiry.report(watch.scene, watch._stuck)
    watch.pipeline.close(exchange)
    assert report["in_flight"] == 1
    assert token not in str(report)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.005)
