from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from obskit.watch.processor import NOTHING, Processor, Used


def test_what_a_thread_uses_is_told_of_that_thread_alone() -> None:
    idle, known = threading.Event(), threading.Event()
    number = 0

    def rests() -> None:
        nonlocal number
        number = threading.get_native_id()
        known.set()
        idle.wait(10)

    thread = threading.Thread(target=rests)
    thread.start()
    assert known.wait(10)
    mine, other = Processor(threading.get_native_id()), Processor(number)
    before, before_other = mine.used(), other.used()
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        pass
    assert 0.09 < mine.used().ran_s - before.ran_s < 10
    assert other.used().ran_s - before_other.ran_s < 0.05
    assert mine.used().known
    assert mine.used().waited_s >= before.waited_s
    idle.set()
    thread.join(10)
    deadline = time.monotonic() + 10
    while other.used() != NOTHING and time.monotonic() < deadline:
        time.sleep(0.001)
    assert other.used() == NOTHING, "it has ended"
    for one in (mine, other):
        one.close()
        one.close()
        assert one.used() == NOTHING


def test_what_it_ran_and_what_it_waited_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "schedstat").write_text("1500000000 250000000 7\n")
    processor = Processor(threading.get_native_id())
    processor.close()
    processor._file = os.open(tmp_path / "schedstat", os.O_RDONLY)
    try:
        assert processor.used() == Used(1.5, 0.25, True)
    finally:
        os.close(processor._file)


def test_where_the_kernel_tells_nothing_nothing_is_known() -> None:
    assert Processor(2**30).used() == NOTHING
