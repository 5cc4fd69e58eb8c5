"""Trace and span ids from a generator of our own.

OpenTelemetry's takes them from the module `random`, which is the application's: one that seeds it would get other
numbers with obskit than without, and one that seeds it per request would have the same trace id in each.
"""

from __future__ import annotations

import os
import weakref
from random import Random

from opentelemetry.sdk.trace.id_generator import IdGenerator


class OwnIds(IdGenerator):
    """Random ids, seeded by the operating system."""

    def __init__(self) -> None:
        self._random = Random()
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
