"""Numbers of several workers added to a page: never less than before, in whatever order."""

from __future__ import annotations

import itertools
import random
from functools import reduce
from operator import add

from obskit.signals.page import Series


def test_a_sum_of_seconds_is_the_same_in_whatever_order_its_parts_are_added() -> None:
    # Folding a dead worker into the archive changes the order, and no sum may fall by that.
    parts = [[float(n), sum(random.Random(n).uniform(0, 0.3) for _ in range(1 + 400 * n))] for n in range(4)]
    # So that this can fail: plain floats do differ. (Python's own sum makes up for it since 3.12.)
    assert len({reduce(add, (part[1] for part in order)) for order in itertools.permutations(parts)}) > 1
    totals = set()
    for order in itertools.permutations(parts):
        total = Series(list(order[0]))
        for part in order[1:]:
            total.add(Series(list(part)))
        folded = Series(list(total.numbers))
        totals.add((tuple(total.numbers), tuple(folded.numbers)))
    assert len(totals) == 1
    ((exact, _),) = totals
    assert 0 <= sum(part[1] for part in parts) - exact[1] < len(parts) * 61e-9


def test_a_sum_that_is_no_finite_number_stays_what_it_is() -> None:
    assert Series([1.0, float("inf")]).numbers == [1.0, float("inf")]
    assert str(Series([1.0, float("nan")]).numbers[1]) == "nan"
