"""Greenlets, where gevent or eventlet has put them in the place of threads: these the interpreter does not list."""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType


def greenlet_frames() -> dict[int, FrameType]:
    """By the number that it has as its thread's: where each greenlet is suspended. Empty where threads are threads.

    The one that asks runs, and is not among them. It looks through all objects: tens of milliseconds in a large
    process, so only ask when something is stuck.
    """
    if "greenlet" not in sys.modules or threading.get_ident.__module__ == "_thread":
        return {}
    kind = sys.modules["greenlet"].greenlet
    found = {}
    for one in gc.get_objects():
        if isinstance(one, kind) and (frame := one.gr_frame) is not None:
            found[id(one)] = frame
    return found
