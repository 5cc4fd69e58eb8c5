"""The clients of the cases: httpx for those that behave, a bare socket for those that do not."""

from __future__ import annotations

import itertools
import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Reply:
    """What the client itself saw of one request; status None when it did not wait for an answer.

    `route` is for a case whose requests go to different routes: it stands for the expectation's. `earlier` marks a
    request that only prepares what the case is about.
    """

    request_id: str
    status: int | None = None
    body_bytes: int | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    started_ns: int = 0
    route: str | None = None
    earlier: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


class Connection:
    """A TCP connection that does exactly what it is told, also what no HTTP client would."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        # Small writes must leave at once: a case that sends in pieces means it.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def half_close(self) -> None:
        """Say that nothing more will be sent (FIN), and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with a TCP reset, as a killed client or a mobile network does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def read_until(self, marker: bytes) -> bytes:
        """Bytes up to and including `marker`; shorter when the server closes first."""
        while marker not in self._unread:
            if not (data := self._receive()):
                taken, self._unread = self._unread, b""
                return taken
            self._unread += data
        end = self._unread.index(marker) + len(marker)
        taken, self._unread = self._unread[:end], self._unread[end:]
        return taken

    def read_exactly(self, count: int) -> bytes:
        while len(self._unread) < count and (data := self._receive()):
            self._unread += data
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def read_to_end(self) -> bytes:
        while data := self._receive():
            self._unread += data
        taken, self._unread = self._unread, b""
        return taken

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(65536)
        except ConnectionError:  # a server that refuses may reset instead of closing
            return b""

    def read_response(self) -> tuple[int, bytes]:
        """Status and body of the next response that declares its length or is chunked."""
        head = self.read_until(b"\r\n\r\n")
        if not head:
            return 0, b""
        status = int(head.split(b" ", 2)[1])
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        if headers.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(self.read_until(b"\r\n").strip() or b"0", 16):
                body += self.read_exactly(size)
                self.read_until(b"\r\n")
            self.read_until(b"\r\n")
            return status, body
        if b"content-length" in headers:
            return status, self.read_exactly(int(headers[b"content-length"]))
        return status, self.read_to_end()


class Caller:
    """Hands one case its client. Every request is known by an X-Request-ID of its own."""

    def __init__(
        self,
        port: int,
        http: httpx.Client,
        target_id: str,
        wait_for_event: Callable[[str], None],
        wait_for_record: Callable[[str], None],
    ) -> None:
        """`wait_for_event` returns once the app has logged this event, `wait_for_record` once this request's record
        has closed: under WSGI that is some time after its client has had the answer."""
        self.port = port
        self.wait_for_event = wait_for_event
        self.wait_for_record = wait_for_record
        self._http = http
        self._ids = (f"{target_id}-{uuid.uuid4().hex[:12]}-{number}" for number in itertools.count())

    def new_id(self) -> str:
        return next(self._ids)

    @staticmethod
    def new_trace_id() -> str:
        return uuid.uuid4().hex

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str | bytes] | None = None,
        content: bytes | Iterable[bytes] | None = None,
        request_id: str | None = None,
        send_id: bool = True,
        client: str | None = None,
        facts: Mapping[str, Any] | None = None,
        earlier: bool = False,
    ) -> Reply:
        """An ordinary request on a connection of its own, read to the end whatever it becomes.

        `client` is who asks (the User-Agent); by default every request is another client's.
        """
        request_id = request_id or self.new_id()
        known_by: dict[str, str | bytes] = {
            "User-Agent": client or request_id,
            **({"X-Request-ID": request_id} if send_id else {}),
        }
        started_ns = time.time_ns()
        body = b""
        status, answered = None, {}
        try:
            with self._http.stream(
                method,
                f"http://127.0.0.1:{self.port}{path}",
                headers=[*known_by.items(), *(headers or {}).items()],
                content=content,
            ) as response:
                status, answered = response.status_code, dict(response.headers)
                for part in response.iter_raw():
                    body += part
        except httpx.RemoteProtocolError:
            pass  # the server broke off: what arrived until then is what there is
        return Reply(
            request_id,
            status,
            len(body),
            body,
            answered,
            started_ns=started_ns,
            earlier=earlier,
            facts=facts or {},
        )

    def get(self, path: str, **options: Any) -> Reply:
        return self.request("GET", path, **options)

    def connect(self) -> Connection:
        return Connection(self.port)

    def head_of(
        self, method: str, path: str, request_id: str, *more: str, client: str | None = None
    ) -> bytes:
        """A request head as bytes, `more` being whole header lines and `client` who asks."""
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"X-Request-ID: {request_id}",
            f"User-Agent: {client or request_id}",
            *more,
            "",
            "",
        ]
        return "\r\n".join(lines).encode("latin-1")
