"""How full the house is, before latency says so: capacity, the kernel's queue, threads, the collector's pauses."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Any

from obskit import names
from obskit.listeners import Listener, borrowed, listeners
from obskit.watch.gc_pauses import gc_pauses
from obskit.watch.scene import Scene

# struct tcp_info of Linux: eight bytes, then numbers. Of a listening socket the fifth is how many connections wait to
# be accepted, the sixth how many may.
_TCP_INFO = struct.Struct("=8x16xII")


class Saturation:
    """Looks once a second."""

    every_s = 1.0

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._watching = False
        self._listener: Listener | None = None
        self._limiter: Any = None

    def begin(self) -> None:
        """Called from any thread."""
        self._watching = True
        self._limiter = self._scene.vantage.limiter
        if self._scene.server.capacity:
            self._scene.metrics.set(names.REQUEST_CAPACITY, self._scene.server.capacity)
        self._listener = _listener()
        self.tick()

    def tick(self) -> None:
        """Called by the watching thread."""
        scene = self._scene
        try:
            self._tell_pauses()
            if self._listener is not None:
                self._look_at_backlog(self._listener)
            if self._limiter is not None:
                self._look_at_threads(self._limiter)
        except Exception as error:
            scene.pipeline.failed("watch.saturation", error)

    def _tell_pauses(self) -> None:
        gc_pauses.start(self)  # the install that measured them may have gone
        for pause in gc_pauses.take(self):
            self._scene.metrics.observe(names.GC_PAUSE, pause)
        if not self._watching:  # it was shut down meanwhile, by another thread
            gc_pauses.stop(self)

    def _look_at_threads(self, limiter: Any) -> None:
        metrics = self._scene.metrics
        try:
            seen = limiter.statistics()
        except RuntimeError:  # its loop has given or taken a thread just now
            return
        metrics.set(names.THREADPOOL_THREADS, seen.borrowed_tokens)
        metrics.set(names.THREADPOOL_THREADS_MAX, seen.total_tokens)
        metrics.set(names.THREADPOOL_QUEUE, seen.tasks_waiting)

    def _look_at_backlog(self, listener: Listener) -> None:
        waiting = backlog(listener)
        if waiting is None:
            # Its server has closed it, or it is no TCP socket: nobody waits there.
            self._listener = None
            self._scene.metrics.forget(names.LISTEN_BACKLOG)
            self._scene.metrics.forget(names.LISTEN_BACKLOG_LIMIT)
            return
        self._scene.metrics.set(names.LISTEN_BACKLOG, waiting[0])
        self._scene.metrics.set(names.LISTEN_BACKLOG_LIMIT, waiting[1])

    def shutdown(self) -> None:
        self._watching = False
        gc_pauses.stop(self)
        self._listener = self._limiter = None


def _listener() -> Listener | None:
    """The socket on which this server listens: the oldest, as for the workers of it."""
    if sys.platform != "linux":  # elsewhere the answer means something else
        return None
    try:
        return next(iter(listeners()), None)
    except OSError:  # no /proc
        return None


def backlog(listener: Listener) -> tuple[int, int] | None:
    """How many connections wait at a listening TCP socket, and how many may (Linux).

    None if it is not there any more, is no TCP socket, or its kernel does not say (gVisor answers with zeros).
    """
    try:
        if os.fstat(listener.fd).st_ino != listener.inode:
            return None
        # Asked and let go: its server closes it to end the service, and nothing of ours may keep it open.
        with borrowed(listener.fd) as one:
            if one.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            raw = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        waiting, limit = _TCP_INFO.unpack(raw)
    except (OSError, struct.error):
        return None
    return (waiting, limit) if limit else None
