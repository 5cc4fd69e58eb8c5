"""Threads that get into each other's way as often as the interpreter lets them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

THREADS = 8


@contextmanager
def switching() -> Iterator[None]:
    """Threads change places as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_threads(work: Callable[[int], Any], meanwhile: Callable[[], Any] | None = None) -> None:
    """`work(number)` in eight threads that begin together; `meanwhile` again and again here, until they are done."""
    together = threading.Barrier(THREADS)

    def run(number: int) -> None:
        together.wait(10)
        work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    with switching():
        for thread in threads:
            thread.start()
        while meanwhile is not None and any(thread.is_alive() for thread in threads):
            meanwhile()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
