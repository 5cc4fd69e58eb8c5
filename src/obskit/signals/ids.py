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

_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class OwnIds(IdGenerator):
    """Random ids, seeded by the operating system."""

    def __init__(self) -> None:
        self._random = Random()
        self._bits = self._random.getrandbits
        if hasattr(os, "register_at_fork"):
            # Or children would make the ids of their parent, and of each other.
            child = weakref.WeakMethod(self._random_again)
            os.register_at_fork(after_in_child=lambda: (again := child()) and again())

    def _random_again(self) -> None:
        self._random.seed()

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1  # 0 means none

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1

    def is_trace_id_random(self) -> bool:
        return True

    def pair(self) -> tuple[str, str]:
        """A trace id and a span id, in hexadecimal."""
        both = self._bits(192).to_bytes(24, "big").hex()
        trace_id, span_id = both[:32], both[32:]
        return self.pair() if trace_id == _NO_TRACE or span_id == _NO_SPAN else (trace_id, span_id)

    def span(self) -> str:
        """A span id, in hexadecimal."""
        found = self._bits(64).to_bytes(8, "big").hex()
        return self.span() if found == _NO_SPAN else found


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
