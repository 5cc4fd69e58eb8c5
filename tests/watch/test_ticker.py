from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator

import pytest

from obskit.watch.ticker import Ticker

DEADLINE_S = 10.0


class Watcher:
    def __init__(self, wanted: int = 2) -> None:
        self.calls = 0
        self.wanted = wanted
        self.enough = threading.Event()

    def tick(self) -> None:
        self.calls += 1
        if self.calls >= self.wanted:
            self.enough.set()


@pytest.fixture
def ticker() -> Iterator[Ticker]:
    made = Ticker()
    yield made
    with made._changed:
        made._entries.clear()
        made._changed.notify()


def test_what_is_added_is_called_again_and_again_by_one_thread(ticker: Ticker) -> None:
    watchers = [Watcher(), Watcher()]
    for watcher in watchers:
        ticker.add(watcher.tick, 0.001)
    thread = ticker._thread
    assert all(watcher.enough.wait(DEADLINE_S) for watcher in watchers)
    assert ticker._thread is thread
    assert thread is not None
    assert thread.daemon


def test_each_is_called_at_its_own_pace(ticker: Ticker) -> None:
    seldom, often = Watcher(1), Watcher(3)
    ticker.add(seldom.tick, 3600)
    ticker.add(often.tick, 0.001)  # the thread waits for the first: it must be woken
    assert often.enough.wait(DEADLINE_S)
    assert seldom.calls == 0


def test_nobody_is_kept_alive_and_the_thread_ends_with_the_last(ticker: Ticker) -> None:
    watcher = Watcher()
    ticker.add(watcher.tick, 0.001)
    thread = ticker._thread
    assert thread is not None
    assert watcher.enough.wait(DEADLINE_S)
    seen = weakref.ref(watcher)
    del watcher
    thread.join(DEADLINE_S)
    gc.collect()
    assert seen() is None
    assert not thread.is_alive()
    again = Watcher()
    ticker.add(again.tick, 0.001)
    assert again.enough.wait(DEADLINE_S), "a new thread starts for who comes later"


def test_what_is_removed_is_not_called_any_more(ticker: Ticker) -> None:
    gone, other = Watcher(), Watcher(50)
    ticker.add(gone.tick, 0.001)
    ticker.add(other.tick, 0.001)
    assert gone.enough.wait(DEADLINE_S)
    ticker.remove(gone)
    after = gone.calls
    assert other.enough.wait(DEADLINE_S)
    assert gone.calls <= after + 1, "a call that had begun may end"


def test_a_forked_child_has_no_thread_and_starts_its_own(ticker: Ticker) -> None:
    watcher = Watcher()
    ticker.add(watcher.tick, 0.001)
    assert watcher.enough.wait(DEADLINE_S)
    read, write = os.pipe()
    if os.fork() == 0:
        empty = ticker._thread is None and not ticker._entries
        own = Watcher()
        ticker.add(own.tick, 0.001)
        os.write(write, b"yes" if empty and own.enough.wait(DEADLINE_S) else b"no")
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "yes"
    os.wait()
