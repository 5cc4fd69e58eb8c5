from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest

from obskit import names
from obskit.listeners import Listener, listeners
from obskit.names import Metric
from obskit.watch.gc_pauses import gc_pauses
from obskit.watch.saturation import Saturation, backlog
from obskit.watch.scene import Scene
from obskit.watch.server import ServerFacts
from tests.support.recording import SceneHere


class Told:
    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.observed: list[float] = []
        self.failed: list[str] = []

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        self.values[metric.name] = value

    def forget(self, metric: Metric) -> None:
        self.values.pop(metric.name, None)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        assert metric is names.GC_PAUSE
        self.observed.append(value)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def saturation(told: Told) -> Iterator[Saturation]:
    pipeline = SimpleNamespace(failed=lambda stage, error: told.failed.append(stage))
    scene = SceneHere(metrics=told, pipeline=pipeline, server=ServerFacts("test", 7))
    made = Saturation(cast(Scene, scene))
    yield made
    made.shutdown()


def test_connections_that_nobody_accepts_are_seen_and_the_socket_is_left_alone() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(5)
        (listener,) = [one for one in listeners() if one.fd == server.fileno()]
        assert backlog(listener) == (0, 5)
        clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
        # The kernel has answered the clients; it may not have put all of them into the queue.
        deadline = time.monotonic() + 10
        while backlog(listener) != (3, 5):
            assert time.monotonic() < deadline, backlog(listener)
        for client in clients:
            server.accept()[0].close()
            client.close()
        assert backlog(listener) == (0, 5)
        address = server.getsockname()
    assert backlog(listener) is None
    with pytest.raises(ConnectionRefusedError):  # nothing of ours keeps it open
        socket.create_connection(address)


@pytest.mark.parametrize("blocking", [True, False])
def test_looking_at_a_socket_leaves_it_as_it_is_whatever_default_timeout_there_is(blocking: bool) -> None:
    with socket.socket() as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        server.bind(("127.0.0.1", 0))
        server.listen(5)
        os.set_blocking(server.fileno(), blocking)
        socket.setdefaulttimeout(5)
        try:
            (listener,) = [one for one in listeners() if one.fd == server.fileno()]
            assert backlog(listener) == (0, 5)
        finally:
            socket.setdefaulttimeout(None)
        assert os.get_blocking(server.fileno()) is blocking
        assert os.get_blocking(other.fileno()) is True


def test_a_kernel_that_answers_with_zeros_says_nothing() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        (listener,) = [one for one in listeners() if one.fd == server.fileno()]
        assert backlog(listener) is None


def test_a_host_without_proc_has_no_backlog(
    saturation: Saturation, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(path: str) -> list[str]:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "listdir", absent)
    saturation.begin()
    assert told.values == {"obskit_http_server_request_capacity": 7}
    assert told.failed == []


def test_another_file_under_the_same_number_is_not_asked() -> None:
    with socket.socket() as another:
        another.bind(("127.0.0.1", 0))
        another.listen(5)
        inode = os.fstat(another.fileno()).st_ino
        assert backlog(Listener(another.fileno(), inode, "it", False)) == (0, 5)
        assert backlog(Listener(another.fileno(), inode + 1, "gone", False)) is None


def test_a_unix_socket_has_no_such_number(tmp_path: Any) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        (listener,) = [one for one in listeners() if one.fd == server.fileno()]
        assert backlog(listener) is None


def test_what_is_known_is_told_and_what_is_not_is_absent(saturation: Saturation, told: Told) -> None:
    saturation.begin()
    saturation.tick()
    assert told.values["obskit_http_server_request_capacity"] == 7
    assert not any("threadpool" in name for name in told.values), "no loop, no pool"
    assert told.failed == []


def test_a_listener_that_is_closed_is_forgotten(saturation: Saturation, told: Told) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        saturation.begin()
        found = [one for one in listeners() if one.fd == server.fileno()]
        saturation._listener = found[0]
        saturation.tick()
        assert told.values["obskit_http_server_backlog_connections"] == 0
    saturation.tick()
    assert not any("backlog" in name for name in told.values)
    saturation.tick()
    assert told.failed == []


def test_threads_of_the_pool_and_who_waits_for_one(saturation: Saturation, told: Told) -> None:
    free = threading.Event()

    async def serve() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2
        saturation.begin()
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(anyio.to_thread.run_sync, free.wait)
            deadline = time.monotonic() + 10
            while told.values.get("obskit_threadpool_queue_depth") != 3 and time.monotonic() < deadline:
                await anyio.sleep(0)
                saturation.tick()
            assert told.values["obskit_threadpool_queue_depth"] == 3
            assert told.values["obskit_threadpool_threads"] == 2
            assert told.values["obskit_threadpool_threads_max"] == 2
            free.set()
        saturation.tick()
        assert told.values["obskit_threadpool_threads"] == 0

    anyio.run(serve)
    assert told.failed == []


def test_without_anyio_there_is_no_pool(
    saturation: Saturation, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "anyio.to_thread")
    saturation.begin()
    assert saturation._limiter is None


def test_pauses_of_the_collector_are_told_once(saturation: Saturation, told: Told) -> None:
    gc.disable()
    try:
        saturation.begin()
        gc.collect()
        gc.collect()
        saturation.tick()
        saturation.tick()
    finally:
        gc.enable()
    assert len(told.observed) == 2


def test_the_next_install_measures_when_the_one_that_did_has_gone(told: Told) -> None:
    scene = cast(Scene, SceneHere(metrics=told, pipeline=None, server=ServerFacts()))
    first, second = Saturation(scene), Saturation(scene)
    try:
        first.begin()
        second.begin()
        first.shutdown()
        second.tick()
        told.observed.clear()
        gc.collect()
        first.tick()  # its thread was on the way
        assert told.observed == []
        second.tick()
        assert told.observed
    finally:
        first.shutdown()
        second.shutdown()
    assert gc_pauses._owner is None
    first.tick()
    assert gc_pauses._owner is None, "nobody is kept alive who has shut down"


def test_a_pool_that_changes_while_it_is_looked_at_is_looked_at_again(
    saturation: Saturation, told: Told
) -> None:
    def changing() -> Any:
        raise RuntimeError("Set changed size during iteration")

    saturation.begin()
    saturation._limiter = SimpleNamespace(statistics=changing)
    saturation.tick()
    assert told.failed == []


def test_a_look_that_fails_is_counted(saturation: Saturation, told: Told) -> None:
    saturation.begin()
    saturation._limiter = SimpleNamespace(statistics=None)
    saturation.tick()
    assert told.failed == ["watch.saturation"]
