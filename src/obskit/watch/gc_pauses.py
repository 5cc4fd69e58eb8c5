"""How long the garbage collector stops the interpreter.

The collector calls back before and after each run, in whichever thread made it run, and one run at a time. So the
times need no lock; and none is taken here, for that thread may hold any. Each pause belongs to the process: one of
its installs shows them.
"""

from __future__ import annotations

import gc
import os
from time import perf_counter_ns
from typing import Any

MAX_KEPT = 10_000


class GcPauses:
    """The pauses of this process until somebody takes them."""

    def __init__(self) -> None:
        self._owner: object | None = None
        self._began = 0
        self._pauses: list[int] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.stop(self._owner)

    def start(self, owner: object) -> bool:
        """Begin to measure for `owner`; false if another one has."""
        if self._owner is not None:
            return False
        self._owner = owner
        gc.callbacks.append(self._called)
        return True

    def stop(self, owner: object) -> None:
        """Stop to measure, if it was for this owner."""
        if owner is not None and self._owner is owner:
            self._owner = None
            self._pauses = []
            if self._called in gc.callbacks:
                gc.callbacks.remove(self._called)

    def take(self, owner: object) -> list[float]:
        """The pauses since the last call, in seconds; none for whom they are not measured."""
        if self._owner is not owner:
            return []
        taken, self._pauses = self._pauses, []
        return [pause * 1e-9 for pause in taken]

    def _called(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._began = perf_counter_ns()
        elif self._began and len(self._pauses) < MAX_KEPT:
            self._pauses.append(perf_counter_ns() - self._began)
            self._began = 0


gc_pauses = GcPauses()
