"""Trace and span ids from a generator of our own.

OpenTelemetry's takes them from the module `random`, which is the application's: one that seeds it would get other
numbers with obskit than without, and one that seeds it per request would have the same trace id in each.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from random import Random
from typing import Final

from opentelemetry.sdk.trace.id_generator import IdGenerator

_AT_ONCE: Final = 32
"""How many ids are drawn together: drawing costs several times what one id does."""


class OwnIds(IdGenerator):
    """Random ids, seeded by the operating system."""

    def __init__(self) -> None:
        self._random = Random()
        self._bits = self._random.getrandbits
        self._pairs: list[tuple[str, str]] = []
        self._spans: list[str] = []
        if hasattr(os, "register_at_fork"):
            # Or children would make the ids of their parent, and of each other.
            child = weakref.WeakMethod(self._random_again)
            os.register_at_fork(after_in_child=lambda: (again := child()) and again())

    def _random_again(self) -> None:
        self._random.seed()
        # New ones: what is drawn at this moment for the old ones is the parent's.
        self._pairs, self._spans = [], []

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1  # 0 means none

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1

    def is_trace_id_random(self) -> bool:
        return True

    def pair(self) -> tuple[str, str]:
        """A trace id and a span id, in hexadecimal."""
        try:
            return self._pairs.pop()
        except IndexError:
            self._pairs.extend(zip(self._drawn(16), self._drawn(8), strict=True))
            return self.pair()

    def span(self) -> str:
        """A span id, in hexadecimal."""
        try:
            return self._spans.pop()
        except IndexError:
            self._spans.extend(self._drawn(8))
            return self.span()

    def _drawn(self, size: int) -> list[str]:
        """New ids of `size` bytes."""
        total = size * _AT_ONCE
        # An id of zeros means none. Looked for at every place, which is simpler and as rare.
        while bytes(size) in (drawn := self._bits(8 * total).to_bytes(total, "big")):
            pass
        return drawn.hex(" ", size).split()


def pairs_of(generator: IdGenerator) -> Callable[[], tuple[str, str]]:
    """What makes the ids of a trace and of its first span with `generator`, in hexadecimal."""
    if type(generator) is OwnIds:
        return generator.pair
    return lambda: (f"{generator.generate_trace_id():032x}", f"{generator.generate_span_id():016x}")


def spans_of(generator: IdGenerator) -> Callable[[], str]:
    """The same of a span in a trace that is there already."""
    if type(generator) is OwnIds:
        return generator.span
    return lambda: f"{generator.generate_span_id():016x}"
