"""Ids: random whatever the application does with its own random numbers, and others in each process."""

from __future__ import annotations

import os
import random

import pytest
from opentelemetry.sdk.trace import TracerProvider

from obskit.config import Config
from obskit.signals import ids as ids_module
from obskit.signals.ids import OwnIds, pairs_of, spans_of
from obskit.signals.provider import get_provider
from tests.support.racing import THREADS, in_threads


def test_the_applications_random_numbers_are_left_alone_and_decide_no_id() -> None:
    handle = get_provider(Config(), {"service.name": "shop"})
    tracer = handle.provider.get_tracer("t")
    seen = set()
    for _ in range(3):
        random.seed(7)
        span = tracer.start_span("s")
        seen |= {span.context.trace_id, span.context.span_id}
        first = random.random()
        random.seed(7)
        assert first == random.random()
    assert len(seen) == 6
    handle.shutdown(0.0)


def test_ids_are_of_their_size_never_none_and_said_to_be_random() -> None:
    ids = OwnIds()
    assert all(0 < ids.generate_span_id() < 1 << 64 for _ in range(1000))
    assert max(ids.generate_trace_id() for _ in range(1000)) > 1 << 120
    ids._random = type("Zero", (), {"getrandbits": lambda self, bits: 0})()
    assert (ids.generate_span_id(), ids.generate_trace_id()) == (1, 1)
    assert ids.is_trace_id_random()
    span = TracerProvider(id_generator=OwnIds(), shutdown_on_exit=False).get_tracer("t").start_span("s")
    assert span.get_span_context().is_valid


def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    ids = OwnIds()
    ids.pair(), ids.span()  # some are drawn and not used yet
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.write(theirs, " ".join((f"{ids.generate_trace_id():x}", *ids.pair(), ids.span())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = set(os.read(ours, 1_000).decode().split())
    os.close(ours)
    os.close(theirs)
    assert len(told) == 4
    assert not told & {f"{ids.generate_trace_id():x}", *ids.pair(), ids.span()}


def test_ids_in_hexadecimal_are_of_their_length_and_never_none() -> None:
    ids = OwnIds()
    pairs = {ids.pair() for _ in range(1000)}
    assert len(pairs) == 1000
    assert {(len(trace_id), len(span_id)) for trace_id, span_id in pairs} == {(32, 16)}
    assert {len(ids.span()) for _ in range(100)} == {16}


def side_by_side(number: int, bits: int) -> int:
    """A draw in which every id is this number."""
    return int(f"{number:0{bits // 4}x}" * ids_module._AT_ONCE, 16)


def test_a_draw_in_which_one_id_is_none_is_not_used() -> None:
    ids = OwnIds()
    five, seven, nine = side_by_side(5, 128), side_by_side(7, 64), side_by_side(9, 64)
    with_none = [five >> 128, five - 5, seven >> 64, seven - 7, nine >> 64]
    drawn = iter([*with_none[:2], five, *with_none[2:4], seven, with_none[4], nine])
    ids._bits = lambda bits: next(drawn)  # type: ignore[method-assign]
    for _ in range(ids_module._AT_ONCE):
        assert ids.pair() == (f"{5:032x}", f"{7:016x}")
        assert ids.span() == f"{9:016x}"
    with pytest.raises(StopIteration):
        ids.pair()


def test_threads_that_draw_at_the_same_time_get_different_ids() -> None:
    ids = OwnIds()
    got: list[list[tuple[str, str]]] = [[] for _ in range(THREADS)]
    in_threads(lambda number: got[number].extend(ids.pair() for _ in range(2_000)))
    every = [one for each in got for one in each]
    assert (
        len({trace_id for trace_id, _ in every}) == len({span_id for _, span_id in every}) == THREADS * 2_000
    )


def test_a_generator_of_the_users_own_makes_the_ids() -> None:
    class Counting(OwnIds):
        def generate_trace_id(self) -> int:
            return 0xABC

        def generate_span_id(self) -> int:
            return 0xDEF

    assert pairs_of(Counting())() == (f"{0xABC:032x}", f"{0xDEF:016x}")
    assert spans_of(Counting())() == f"{0xDEF:016x}"
