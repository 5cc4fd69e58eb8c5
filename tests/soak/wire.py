"""An HTTP client small enough to be told what to do: pipelining, half-closed, reset, from an address of one's own."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import NamedTuple

TIMEOUT_S = 30.0
# Servers close what has been idle for two seconds (gunicorn) or more; what they have begun to close is not reused.
IDLE_S = 1.0
BODILESS = frozenset({204, 304})


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    cookies: dict[str, str]


class NoAnswer(OSError):
    """The server closed the connection before the first byte of an answer."""


class Wire:
    """One keep-alive connection from `address`, opened when first used and again when the server has closed it."""

    def __init__(self, port: int, address: str) -> None:
        self.port = port
        self.address = address
        self._socket: socket.socket | None = None
        self._unread = b""
        self._used_at = 0.0

    def open(self, *, receive_buffer: int = 0) -> socket.socket:
        """A fresh connection. `receive_buffer` in bytes bounds what the server can send ahead of us."""
        self.close()
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(TIMEOUT_S)
        connection.bind((self.address, 0))
        connection.connect(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        return connection

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._unread = None, b""

    def reset(self) -> None:
        """Leave as a killed client or a mobile network does."""
        assert self._socket is not None, "no connection to reset"
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def half_close(self) -> None:
        assert self._socket is not None, "no connection to half-close"
        self._socket.shutdown(socket.SHUT_WR)

    def send(self, data: bytes) -> None:
        assert self._socket is not None, "no connection to send on"
        self._socket.sendall(data)

    def exchange(self, request: bytes, method: str) -> Answer:
        """One request and its answer. A connection that the server closed while it was idle is opened again."""
        return self.pipeline([(request, method)])[0]

    def pipeline(self, requests: list[tuple[bytes, str]]) -> list[Answer]:
        """All requests in one packet, then their answers. What a closing server left unanswered is sent again."""
        answers: list[Answer] = []
        fresh = self._socket is None or time.monotonic() - self._used_at > IDLE_S
        if fresh:
            self.open()
        while len(answers) < len(requests):
            left = requests[len(answers) :]
            before = len(answers)
            try:
                self.send(b"".join(request for request, _ in left))
                for _, method in left:
                    answers.append(self.read(method))
                    if answers[-1].headers.get("connection") == "close":
                        raise NoAnswer("the server closes after this answer")
            except (NoAnswer, ConnectionError):
                if fresh and len(answers) == before:
                    raise
                fresh = True
                if len(answers) < len(requests):
                    self.open()
                else:
                    self.close()
        self._used_at = time.monotonic()
        return answers

    # -- reading ---------------------------------------------------------------------------------

    def read(self, method: str) -> Answer:
        """The next answer. Raises NoAnswer when the server closes before its first byte."""
        head = self._until(b"\r\n\r\n")
        status, headers, cookies = _parsed(head)
        while 100 <= status < 200:
            status, headers, cookies = _parsed(self._until(b"\r\n\r\n"))
        if method == "HEAD" or status in BODILESS:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        else:
            body = self._rest()
        return Answer(status, headers, body, cookies)

    def readable(self) -> bool:
        """Whether the server has sent something, or closed."""
        assert self._socket is not None, "no connection to look at"
        return bool(self._unread or select.select([self._socket], [], [], 0)[0])

    def read_some(self, count: int) -> bytes:
        """The next `count` bytes, of head or body."""
        return self._exactly(count)

    def drain(self) -> None:
        """Read and forget what comes until the server closes or resets."""
        try:
            self._rest()
        except ConnectionError:
            self.close()

    def _receive(self) -> bytes:
        assert self._socket is not None, "no connection to read from"
        return self._socket.recv(262_144)

    def _until(self, marker: bytes) -> bytes:
        while (end := self._unread.find(marker)) < 0:
            data = self._receive()
            if not data:
                raise NoAnswer(f"closed by the server after {self._unread[:80]!r}")
            self._unread += data
        end += len(marker)
        taken, self._unread = self._unread[:end], self._unread[end:]
        return taken

    def _exactly(self, count: int) -> bytes:
        parts, have = [self._unread], len(self._unread)
        while have < count:
            data = self._receive()
            if not data:
                raise ConnectionError(f"{have} of {count} body bytes, then the server closed")
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self._unread = whole[count:]
        return whole[:count]

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self._until(b"\r\n"), 16):
            parts.append(self._exactly(size))
            self._exactly(2)
        self._exactly(2)
        return b"".join(parts)

    def _rest(self) -> bytes:
        parts = [self._unread]
        while data := self._receive():
            parts.append(data)
        self.close()
        return b"".join(parts)


def _parsed(head: bytes) -> tuple[int, dict[str, str], dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    headers, cookies = {}, {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        if name == "set-cookie":
            key, _, content = value.partition(";")[0].partition("=")
            cookies[key] = content
        elif name:
            headers[name] = value
    headers["connection"] = headers.get("connection", "").lower()
    return int(first.split(" ", 2)[1]), headers, cookies


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """A request; a body of None has no Content-Length either."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{key}: {value}" for key, value in headers.items()),
    ]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked_bytes(method: str, path: str, headers: Mapping[str, str], parts: list[bytes]) -> bytes:
    """A request whose body declares no length."""
    head = request_bytes(method, path, {**headers, "Transfer-Encoding": "chunked"})
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
