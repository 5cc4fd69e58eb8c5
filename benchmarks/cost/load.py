"""A load that costs little: keep-alive connections in one loop, as fast as the server answers or at a fixed rate."""

from __future__ import annotations

import select
import socket
from collections import deque
from time import monotonic, perf_counter
from typing import NamedTuple

from benchmarks.cost import bare

REQUEST = "\r\n".join(
    [
        f"GET {bare.PATH} HTTP/1.1",
        *(f"{name.title()}: {value}" for name, value in bare.HEADERS.items()),
        "",
        "",
    ]
).encode()
CONNECTIONS = 16
ANSWER_S = 20.0


class Answered(NamedTuple):
    requests: int
    latencies_s: list[float]


class _Connection:
    def __init__(self, port: int) -> None:
        self.port = port
        self.due = 0.0
        self.open()

    def open(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port), ANSWER_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.fresh = True

    def ask(self, due: float) -> None:
        self.due = due
        self.socket.sendall(REQUEST)

    def answered(self) -> bool:
        """Whether the answer is whole now. Raises OSError for one that is no success."""
        self.data += self.socket.recv(65536)
        head, gap, body = self.data.partition(b"\r\n\r\n")
        if not gap:
            return False
        if head[9:12] != b"200":
            raise OSError(f"the server answered {head[:60]!r}")
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        if len(body) < int(lower[at : at + 8].split(b"\r\n")[0]):
            return False
        self.data = b""
        if b"connection: close" in lower:
            self.socket.close()
            self.open()
        return True


def drive(port: int, seconds: float, connections: int = CONNECTIONS, rate: float | None = None) -> Answered:
    """Ask a server on this machine for so many seconds; with `rate`, so often a second whatever it answers.

    A latency is from when a request was due, not from when there was a connection free for it. Raises OSError for
    an answer that is no success, and TimeoutError for none.
    """
    poll = select.epoll()
    all_of_them = [_Connection(port) for _ in range(connections)]
    by_number: dict[int, _Connection] = {}
    free = deque(all_of_them)
    latencies: list[float] = []
    asked, began = 0, perf_counter()
    end = began + seconds
    try:
        while True:
            now = perf_counter()
            due = now if rate is None else began + asked / rate
            while free and due <= now and due < end:
                connection = free.popleft()
                if connection.fresh:
                    connection.fresh = False
                    by_number[connection.socket.fileno()] = connection
                    poll.register(connection.socket, select.EPOLLIN)
                connection.ask(due)
                asked += 1
                due = now if rate is None else began + asked / rate
            if len(free) == connections and due >= end:
                return Answered(asked, latencies)
            # At a rate it looks again and again: a poll that waits does so for whole milliseconds.
            ready = poll.poll(ANSWER_S if rate is None else 0)
            if rate is None and not ready:
                raise TimeoutError(f"no answer within {ANSWER_S} s")
            if now > end + ANSWER_S:
                raise TimeoutError(f"{connections - len(free)} requests without an answer")
            for number, _ in ready:
                connection = by_number[number]
                if connection.answered():
                    latencies.append(perf_counter() - connection.due)
                    free.append(connection)
    finally:
        poll.close()
        for connection in all_of_them:
            connection.socket.close()


def wait_for(port: int, seconds: float = 60.0) -> None:
    """Until a server answers. Raises TimeoutError."""
    deadline = monotonic() + seconds
    while True:
        try:
            connection = _Connection(port)
            try:
                connection.ask(0.0)
                while not connection.answered():
                    pass
                return
            finally:
                connection.socket.close()
        except OSError:
            if monotonic() > deadline:
                raise TimeoutError(f"no server on port {port} within {seconds:.0f} s") from None
            select.select([], [], [], 0.1)
