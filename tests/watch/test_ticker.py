from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from obskit.watch.ticker import Ticker, _Entry
from obskit.watch.ticker import ticker as ticker_of_the_process

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
    assert gone.calls == after


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


class Slow(Watcher):
    """Its call waits until it is let go."""

    def __init__(self) -> None:
        super().__init__(1)
        self.began, self.go_on = threading.Event(), threading.Event()
        self.ended = False

    def tick(self) -> None:
        self.began.set()
        self.go_on.wait(DEADLINE_S)
        self.ended = True
        super().tick()


def test_who_removes_waits_for_a_call_that_has_begun(ticker: Ticker) -> None:
    slow = Slow()
    ticker.add(slow.tick, 0.001)
    assert slow.began.wait(DEADLINE_S)
    threading.Timer(0.05, slow.go_on.set).start()
    assert ticker.remove(slow)
    assert slow.ended


def test_who_removes_does_not_wait_for_another_ones_call(ticker: Ticker) -> None:
    slow, other = Slow(), Watcher()
    ticker.add(slow.tick, 0.001)
    assert slow.began.wait(DEADLINE_S)
    ticker.add(other.tick, 0.001)
    ticker.remove(other)
    assert not slow.ended
    slow.go_on.set()


def test_nobody_waits_for_a_call_that_hangs_longer_than_its_bound(
    ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["obskit.watch.ticker"], "REMOVE_S", 0.05)
    slow = Slow()
    ticker.add(slow.tick, 0.001)
    assert slow.began.wait(DEADLINE_S)
    assert not ticker.remove(slow)
    assert not slow.ended
    slow.go_on.set()


def test_a_watcher_may_remove_itself(ticker: Ticker) -> None:
    class Once(Watcher):
        def tick(self) -> None:
            ticker.remove(self)
            super().tick()

    once, other = Once(1), Watcher(20)
    ticker.add(once.tick, 0.001)
    ticker.add(other.tick, 0.001)
    assert once.enough.wait(DEADLINE_S)
    assert other.enough.wait(DEADLINE_S)
    assert once.calls == 1


def test_one_that_removes_another_due_at_the_same_time_keeps_it_from_being_called(ticker: Ticker) -> None:
    gone = Watcher()

    class Remover(Watcher):
        def tick(self) -> None:
            ticker.remove(gone)
            super().tick()

    remover = Remover(3)
    with ticker._changed:  # so that the thread finds both due at once
        ticker._entries += [_Entry(remover.tick, 0.0), _Entry(gone.tick, 0.0)]
    ticker.add(remover.tick, 0.001)
    assert remover.enough.wait(DEADLINE_S)
    assert gone.calls == 0


def test_one_that_raises_takes_no_other_with_it(ticker: Ticker) -> None:
    class Broken(Watcher):
        def tick(self) -> None:
            super().tick()
            raise MemoryError

    broken, other = Broken(3), Watcher(3)
    ticker.add(broken.tick, 0.001)
    ticker.add(other.tick, 0.001)
    assert broken.enough.wait(DEADLINE_S)
    assert other.enough.wait(DEADLINE_S)


def test_for_how_long_a_call_runs_shows_in_what_hangs_and_not_in_what_waits_behind_it(ticker: Ticker) -> None:
    slow, behind = Slow(), Watcher(1)
    ticker.add(slow.tick, 0.001)
    assert slow.began.wait(DEADLINE_S)
    ticker.add(behind.tick, 0.001)
    deadline = time.monotonic() + DEADLINE_S
    while ticker.running_s(slow) < 0.05:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert ticker.running_s(behind) == 0.0
    assert ticker.running_s(Watcher()) == 0.0, "a stranger"
    slow.go_on.set()
    assert behind.enough.wait(DEADLINE_S)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["obskit.watch.ticker"], "HUNG_S", 0.05)


def rescued(ticker: Ticker, slow: Slow) -> None:
    """Until another thread has taken over."""
    assert slow.began.wait(DEADLINE_S)
    first, deadline = ticker._thread, time.monotonic() + DEADLINE_S
    while not ticker._hung:
        assert ticker._thread is first
        assert time.monotonic() < deadline
        time.sleep(0.005)
        ticker.rescue()


def test_what_waits_behind_a_call_that_hangs_is_called_by_another_thread(
    ticker: Ticker, impatient: None
) -> None:
    slow, behind = Slow(), Watcher(5)
    ticker.add(slow.tick, 0.001)
    assert slow.began.wait(DEADLINE_S)
    ticker.add(behind.tick, 0.001)
    rescued(ticker, slow)
    assert behind.enough.wait(DEADLINE_S)
    assert ticker.running_s(slow) > 0.05, "it still hangs"
    slow.go_on.set()
    again = slow.calls + 2
    deadline = time.monotonic() + DEADLINE_S
    while slow.calls < again:
        assert time.monotonic() < deadline, "it has ended, and is called again"
        time.sleep(0.005)
    names = [thread for thread in threading.enumerate() if thread.name == ticker._name]
    assert len(names) <= 1 + (ticker_of_the_process._thread is not None), "the thread that hung is gone"


def test_a_call_that_ends_when_nothing_else_is_left_goes_on_with_its_own_thread(
    ticker: Ticker, impatient: None
) -> None:
    slow = Slow()
    ticker.add(slow.tick, 0.001)
    rescued(ticker, slow)
    assert ticker._thread is None
    slow.go_on.set()
    deadline = time.monotonic() + DEADLINE_S
    while slow.calls < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_removed_while_it_hangs_does_not_come_back(ticker: Ticker, impatient: None) -> None:
    slow, other = Slow(), Watcher(5)
    ticker.add(slow.tick, 0.001)
    ticker.add(other.tick, 0.001)
    rescued(ticker, slow)
    assert not ticker.remove(slow)
    assert ticker.running_s(slow) == 0.0
    slow.go_on.set()
    other.calls = 0
    other.enough.clear()
    assert other.enough.wait(DEADLINE_S)
    assert slow.calls <= 1


def test_nothing_is_rescued_that_does_not_hang(ticker: Ticker) -> None:
    watcher = Watcher()
    ticker.add(watcher.tick, 0.001)
    thread = ticker._thread
    assert watcher.enough.wait(DEADLINE_S)
    ticker.rescue()
    assert ticker._thread is thread
    assert Ticker().rescue() is None


def test_a_rescue_starts_the_thread_that_was_not_to_be_had(
    ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(RuntimeError):
            ticker.add(watcher.tick, 0.001)
    ticker.rescue()
    assert watcher.enough.wait(DEADLINE_S)


def test_where_no_thread_is_to_be_had_the_next_one_to_come_tries_again(
    ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(RuntimeError):
            ticker.add(watcher.tick, 0.001)
    other = Watcher()
    ticker.add(other.tick, 0.001)
    assert other.enough.wait(DEADLINE_S)


def _no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
