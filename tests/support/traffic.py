"""Steady, bounded, seeded traffic to a server on loopback, until it is told to stop.

Unlike `load`, which sends a number of requests and counts every answer, this keeps a pace for as long as a test
needs a service that is being used.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

TIMEOUT_S = 15.0
MAX_REQUESTS = 20_000
MAX_WORKERS = 32
MAX_PER_S = 100.0
# Closing a socket then sends a reset, as the end of a browser tab's process does.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Step:
    """One request, and how often it is sent among the others. `leaves`: the client resets after the first bytes."""

    method: str
    path: str
    weight: float = 1.0
    body: Any = None
    leaves: bool = False


class Traffic:
    """Sends `steps` to `url` at `per_s` requests a second in all, from `workers` threads.

    `per_s` and `steps` may be set while it runs; at 0 a second it pauses. A request that fails to get an answer
    is counted with status 0 and is no reason to stop: services are killed under it. At most MAX_REQUESTS are sent.
    Raises ValueError for another host than loopback, or too big a load.
    """

    def __init__(
        self, url: str, steps: Iterable[Step], *, per_s: float, workers: int = 2, seed: int = 1
    ) -> None:
        parts = urlsplit(url)
        if parts.hostname != "127.0.0.1" or parts.port is None:
            raise ValueError(f"traffic is for 127.0.0.1 and a port only, not for {url}")
        if not (0 <= per_s <= MAX_PER_S and 0 < workers <= MAX_WORKERS):
            raise ValueError(
                f"at most {MAX_PER_S:g}/s from {MAX_WORKERS} workers, not {per_s:g}/s from {workers}"
            )
        self.steps = tuple(steps)
        self.per_s = per_s
        self.counts: Counter[tuple[str, str, int]] = Counter()
        self._port = parts.port
        self._chance = random.Random(seed)
        self._next = 0.0
        self._sent = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(workers)]

    def __enter__(self) -> Self:
        self._next = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                now = time.monotonic()
                if self.per_s <= 0:
                    due, step = now + 0.1, None
                else:
                    # What could not be sent in time is not caught up with: a burst would be another fault.
                    due = max(self._next, now - 1.0)
                    self._next = due + 1 / self.per_s
                    self._sent += 1
                    if self._sent > MAX_REQUESTS:
                        return
                    step = self._chance.choices(self.steps, [step.weight for step in self.steps])[0]
                    sent = self._sent
            if self._stopped.wait(max(0.0, due - now)) or step is None:
                continue
            # Each request is another customer's: nobody orders the same thing again and again.
            status = send(self._port, step, user_agent=f"customer/{sent}")
            with self._lock:
                self.counts[step.method, step.path, status] += 1


def send(port: int, step: Step, *, user_agent: str = "traffic", cookie: str = "") -> int:
    """Send one request to loopback and read its answer to the end; the status, 0 when there was no whole answer."""
    headers = {"User-Agent": user_agent}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        body = None if step.body is None else json.dumps(step.body).encode()
        connection.connect()
        if step.leaves:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        if body:
            headers["Content-Type"] = "application/json"
        if cookie:
            headers["Cookie"] = cookie
        connection.request(step.method, step.path, body, headers)
        response = connection.getresponse()
        if step.leaves:
            # The response holds the socket too; only when both let go is it closed, and reset.
            response.close()
            return response.status
        response.read()
    except (OSError, http.client.HTTPException):
        return 0
    else:
        return response.status
    finally:
        connection.close()
