"""POSTs to one address over a connection that is kept, each with one bound for everything that may take time.

Not the standard library's client, nor those that stand on it: their timeouts begin anew with each byte of an answer,
and loading one takes as long as loading half of obskit.
"""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

MAX_HEAD: Final = 65_536
MAX_ANSWER: Final = 8192
"""An answer of a collector says how many spans it did not take; whatever is longer is no such answer."""

_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?")
_CHUNK: Final = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\n]*)?")


class NoHttp(Exception):
    """What came is no answer in HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; of its body at most a byte more than `MAX_ANSWER`."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


class Poster:
    """Sends bodies to one host, from one thread at a time."""

    def __init__(
        self, host: str, port: int, head: bytes, wrap: Callable[[socket.socket], socket.socket] | None = None
    ) -> None:
        """`head`: request line and headers, without Content-Length and the empty line. `wrap`: makes it TLS."""
        self._host, self._port = host, port
        self._head = head
        self._wrap = wrap
        self._socket: socket.socket | None = None

    def post(self, body: bytes, timeout_s: float) -> Answer:
        """The answer to `body`. Raises OSError or NoHttp; TimeoutError when it is not there in time."""
        ends = monotonic() + timeout_s
        try:
            connection = self._connection(ends)
            head = b"%bContent-Length: %d\r\n\r\n" % (self._head, len(body))
            # Two writes would be two packets, and the second one would wait for the other side's word on the first.
            connection.settimeout(_left(ends))
            try:
                connection.sendall(head + body)
            except (BrokenPipeError, ConnectionResetError):
                # It has closed, and may have said why before.
                answer, _ = _Reader(connection, ends).answer()
                self.close()
                return answer
            answer, stays = _Reader(connection, ends).answer()
        except BaseException:
            self.close()
            raise
        if not stays:
            self.close()
        return answer

    def _connection(self, ends: float) -> socket.socket:
        found = self._socket
        if found is not None and not _is_quiet(found):
            self.close()  # the other side has closed it meanwhile
            found = None
        if found is None:
            found = self._socket = socket.create_connection((self._host, self._port), _left(ends))
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._wrap is not None:
                found.settimeout(_left(ends))
                found = self._socket = self._wrap(found)
        return found

    def close(self) -> None:
        """Close the connection, if there is one; the next body gets a new one."""
        found, self._socket = self._socket, None
        if found is not None:
            found.close()


def _left(ends: float) -> float:
    left = ends - monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return left


def _is_quiet(connection: socket.socket) -> bool:
    """Nothing to read: what a connection without a request has to say is that it has ended."""
    try:
        looking = select.poll()
        looking.register(connection, select.POLLIN)
        return not looking.poll(0)
    except (OSError, ValueError):
        return False


class _Reader:
    """Reads one answer, until a point in time."""

    def __init__(self, connection: socket.socket, ends: float) -> None:
        self._connection = connection
        self._ends = ends
        self._data = b""
        self._ended = False

    def answer(self) -> tuple[Answer, bool]:
        """The answer, and whether the connection stays open for more."""
        while True:
            minor, status, headers = self._read_head()
            if status >= 200:
                break  # not one of those that come before the answer
        stays = minor == 1 and "close" not in headers.get("connection", "").lower()
        if status in (204, 304):
            return Answer(status, headers, b""), stays
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].strip().lower() != "chunked":
                raise NoHttp("an unknown encoding")
            body, whole = self._chunks()
        elif "content-length" in headers:
            length = headers["content-length"]
            if not re.fullmatch(r"[0-9]{1,18}", length):
                raise NoHttp("no length")
            whole = int(length) <= MAX_ANSWER
            body = self._exactly(min(int(length), MAX_ANSWER + 1))
        else:
            body, whole = self._until_the_end(), False
        return Answer(status, headers, body), stays and whole and not self._data

    def _more(self) -> bool:
        self._connection.settimeout(_left(self._ends))
        data = self._connection.recv(65_536)
        self._data += data
        self._ended = not data
        return not self._ended

    def _line(self, limit: int) -> bytes:
        while (at := self._data.find(b"\n")) < 0:
            if len(self._data) > limit:
                raise NoHttp("a line without an end")
            if not self._more():
                raise ConnectionResetError("closed before the answer was there")
        line, self._data = self._data[:at], self._data[at + 1 :]
        return line.removesuffix(b"\r")

    def _read_head(self) -> tuple[int, int, dict[str, str]]:
        line = self._line(MAX_HEAD)
        matched = _STATUS.fullmatch(line)
        if matched is None:
            raise NoHttp("no status line")
        headers: dict[str, str] = {}
        size = len(line)
        while line := self._line(MAX_HEAD):
            size += len(line)
            name, colon, value = line.partition(b":")
            if size > MAX_HEAD or not colon:
                raise NoHttp("no header")
            headers[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
        return int(matched[1]), int(matched[2]), headers

    def _exactly(self, length: int) -> bytes:
        while len(self._data) < length:
            if not self._more():
                raise ConnectionResetError("closed in the middle of the answer")
        body, self._data = self._data[:length], self._data[length:]
        return body

    def _until_the_end(self) -> bytes:
        while len(self._data) <= MAX_ANSWER and self._more():
            pass
        return self._data[: MAX_ANSWER + 1]

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            matched = _CHUNK.fullmatch(self._line(MAX_ANSWER))
            if matched is None:
                raise NoHttp("no chunk")
            length = int(matched[1], 16)
            if length == 0:
                while self._line(MAX_HEAD):
                    pass  # a trailer
                return body, True
            body += self._exactly(min(length, MAX_ANSWER + 1 - len(body)))
            if len(body) > MAX_ANSWER:
                return body, False
            if self._line(2):
                raise NoHttp("no end of a chunk")
