from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from obskit.watch.gc_pauses import MAX_KEPT, GcPauses


@pytest.fixture
def pauses() -> Iterator[GcPauses]:
    made = GcPauses()
    yield made
    made.stop(made._owner)
    assert made._called not in gc.callbacks


def test_each_run_of_the_collector_is_one_pause(pauses: GcPauses) -> None:
    owner = object()
    assert pauses.start(owner)
    gc.disable()
    try:
        pauses.take(owner)
        gc.collect(0)
        gc.collect()
        taken = pauses.take(owner)
    finally:
        gc.enable()
    assert len(taken) == 2
    assert all(0 < pause < 10 for pause in taken)
    assert pauses.take(owner) == []


def test_a_pause_belongs_to_one_install_of_the_process(pauses: GcPauses) -> None:
    first, second = object(), object()
    assert pauses.start(first)
    assert not pauses.start(second)
    gc.collect()
    assert pauses.take(second) == []
    pauses.stop(second)
    assert pauses.take(first)
    pauses.stop(first)
    gc.collect()
    assert pauses.take(first) == []
    assert pauses.start(second), "it is free again"


def test_nobody_who_takes_them_means_that_they_are_bounded(pauses: GcPauses) -> None:
    owner = object()
    pauses.start(owner)
    for _ in range(MAX_KEPT + 10):
        pauses._called("start", {})
        pauses._called("stop", {})
    assert len(pauses.take(owner)) == MAX_KEPT


def test_an_end_without_a_begin_is_no_pause(pauses: GcPauses) -> None:
    owner = object()
    pauses.start(owner)
    pauses.take(owner)
    gc.disable()
    try:
        pauses._began = 0
        pauses._called("stop", {})  # measured from the middle of a run on
        assert pauses.take(owner) == []
    finally:
        gc.enable()


def test_a_forked_child_measures_for_nobody_until_it_serves() -> None:
    made = GcPauses()
    made.start(made)
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, b"yes" if made._owner is None and made._called not in gc.callbacks else b"no")
        os._exit(0)
    os.wait()
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "yes"
    made.stop(made)
