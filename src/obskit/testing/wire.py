"""One TCP connection that does exactly what it is told, and what a client saw on it."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

Ended = Literal["answered", "left", "closed", "reset", "timeout"]

# Small on purpose: a server must not be able to get rid of a whole answer before its client has read any of it.
SMALL_BUFFER = 4_096
# SO_LINGER of no time at all: closing sends a reset instead of a FIN.
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client saw of one request.

    `ended` says how: ``answered`` (the whole answer), ``left`` (the client broke off), ``closed`` or ``reset`` (the
    server did, before the end of its answer), ``timeout``. `status` is None when no status line came.
    """

    status: int | None
    ended: Ended
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name; repeated fields joined by commas, except Set-Cookie: see `cookies`."""
    cookies: tuple[str, ...] = ()
    """The Set-Cookie fields as they came."""

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError when it is none."""
        return json.loads(self.body)


class Connection:
    """One connection to a server. Raises OSError where it cannot send; reading ends instead, and says how."""

    def __init__(
        self, family: Any, address: tuple[Any, ...], timeout_s: float, *, small_buffer: bool = False
    ) -> None:
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_s)
            if small_buffer:  # before connecting: the window is agreed on there
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            # Whoever sends in pieces means it.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.connect(address)
        except BaseException:
            self._socket.close()
            raise
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """Send all of it; False when the server has closed meanwhile (its answer may be there all the same)."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def half_close(self) -> None:
        """Say that nothing more will be sent (FIN), and stay to read."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server was faster, and has closed

    def reset(self) -> None:
        """Leave with a TCP reset, as a killed client or a mobile network does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._socket.close()

    def wait_readable(self, timeout_s: float) -> None:
        """Wait until something has come, at most `timeout_s` seconds."""
        before = self._socket.gettimeout()
        self._socket.settimeout(timeout_s or 0.000_001)
        try:
            self.received += self._socket.recv(1)
        except OSError:
            pass
        finally:
            self._socket.settimeout(before)

    def read(self, method: str, at_most: int | None = None) -> Seen:
        """Read one answer, or `at_most` bytes of it (then `ended` is ``left``)."""
        ended: Ended | None = None
        answer = _Answer(method)
        while ended is None:
            if at_most is not None and len(self.received) >= at_most:
                ended = "left"
            elif answer.complete(self.received):
                ended = "answered"
            else:
                ended = self._receive(None if at_most is None else at_most - len(self.received), answer)
        return answer.seen(self.received, ended)

    def _receive(self, at_most: int | None, answer: _Answer) -> Ended | None:
        try:
            data = self._socket.recv(65_536 if at_most is None else at_most)
        except TimeoutError:
            return "timeout"
        except OSError:
            return "reset"
        self.received += data
        if data:
            return None
        return "answered" if answer.complete(self.received, at_end=True) else "closed"


class _Answer:
    """An HTTP/1.1 answer as far as it has come."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._body_at = 0
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.cookies: list[str] = []

    def complete(self, raw: bytes, *, at_end: bool = False) -> bool:
        """Whether `raw` is all of it; `at_end`: the server has closed."""
        if not self._read_head(raw):
            return False
        if self._bodiless():
            return True
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return raw.endswith(b"0\r\n\r\n") and _chunks(raw[self._body_at :])[1]
        length = self.headers.get("content-length", "")
        return len(raw) - self._body_at >= int(length) if length.isdigit() else at_end

    def seen(self, raw: bytes, ended: Ended) -> Seen:
        if not self._read_head(raw):
            line, found, _ = raw.partition(b"\r\n")
            code = line[9:12]  # cut within the head: "HTTP/1.1 200 OK"
            return Seen(int(code) if found and code.isdigit() else None, ended)
        body = b"" if self._bodiless() else raw[self._body_at :]
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            body = _chunks(body)[0]
        return Seen(self.status, ended, body, self.headers, tuple(self.cookies))

    def _bodiless(self) -> bool:
        return self._method == "HEAD" or self.status in (204, 304)

    def _read_head(self, raw: bytes) -> bool:
        while not self._body_at:
            start = 0
            while True:  # over interim answers: 100, 103
                end = raw.find(b"\r\n\r\n", start)
                if end < 0:
                    return False
                status_line, *fields = raw[start:end].decode("latin-1").split("\r\n")
                code = status_line.partition(" ")[2][:3]
                if not (code.isdigit() and code.startswith("1")):
                    break
                start = end + 4
            self.status = int(code) if code.isdigit() else None
            self._body_at = end + 4
            for one in fields:
                name, _, value = one.partition(":")
                name, value = name.strip().lower(), value.strip()
                if name == "set-cookie":
                    self.cookies.append(value)
                else:
                    self.headers[name] = f"{self.headers[name]},{value}" if name in self.headers else value
        return True


def _chunks(raw: bytes) -> tuple[bytes, bool]:
    """The body inside chunks, and whether the last one was there."""
    body = b""
    while True:
        size_line, found, rest = raw.partition(b"\r\n")
        try:
            size = int(size_line.partition(b";")[0], 16)
        except ValueError:
            return body, False
        if not found or size == 0:
            return body, bool(found)
        body += rest[:size]
        if len(rest) < size + 2:
            return body, False
        raw = rest[size + 2 :]
