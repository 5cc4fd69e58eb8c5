"""An OTLP/HTTP collector with every bad habit there is, one at a time, that counts the spans it really took.

Written on bare sockets, for most of the habits are below HTTP. As a program of its own (`python -m
tests.reliability.outages.collector`) it is told its mode on stdin, and answers each line with its counts.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PROTOBUF = "application/x-protobuf"
SLOW_S = 0.3
# Closing a socket then sends a reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_OK = ExportTraceServiceResponse().SerializeToString()
_HTML = b"<!doctype html><title>Please log in</title>" + b"<p>no collector here</p>" * 50


def _partial(rejected: int, says: str) -> bytes:
    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message=says)
    return bytes(ExportTraceServiceResponse(partial_success=partial).SerializeToString())


# What is answered in which mode: status line, headers, body. The other modes never get that far.
ANSWERS: dict[str, tuple[str, dict[str, str], bytes]] = {
    "ok": ("200 OK", {"Content-Type": PROTOBUF}, _OK),
    "slow": ("200 OK", {"Content-Type": PROTOBUF}, _OK),
    "empty": ("202 Accepted", {}, b""),
    "json": ("200 OK", {"Content-Type": "application/json"}, b"{}"),
    "400": ("400 Bad Request", {"Content-Type": "text/plain"}, b"what is this?"),
    "401": ("401 Unauthorized", {"WWW-Authenticate": "Bearer"}, b""),
    "404": ("404 Not Found", {"Content-Type": "text/html"}, _HTML),
    "500": ("500 Internal Server Error", {}, b"oops"),
    "503": ("503 Service Unavailable", {}, b""),
    "429": ("429 Too Many Requests", {"Retry-After": "1"}, b""),
    "503-later": ("503 Service Unavailable", {"Retry-After": "86400"}, b""),
    "html": ("200 OK", {"Content-Type": "text/html; charset=utf-8"}, _HTML),
    "redirect": ("302 Found", {"Location": "https://login.invalid/"}, b""),
    "garbage": ("200 OK", {"Content-Type": PROTOBUF}, bytes(range(255, 0, -1)) * 4),
    "partial": ("200 OK", {"Content-Type": PROTOBUF}, b""),
    "partial-json": ("200 OK", {"Content-Type": "application/json"}, b""),
    "warning": ("200 OK", {"Content-Type": PROTOBUF}, _partial(0, "you send old attributes")),
}
TAKES_ALL = ("ok", "slow", "empty", "json", "warning")
# hang: takes the connection and never answers. deaf: does not even read. drip: a byte at a time. endless: a body
# without an end. reset: in the middle of its answer. noise: no HTTP at all, which is also what TLS meets.
BELOW = ("refused", "hang", "deaf", "drip", "endless", "reset", "early-reset", "noise")
MODES = (*ANSWERS, *BELOW)
REJECTED = 3
"""How many spans of each batch mode `partial` refuses, if there are so many."""


class Collector:
    """Listens on a loopback port; `mode` may be set at any time. Use as a context manager."""

    def __init__(self, mode: str = "ok", tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.taken = 0
        """Spans whose answer said that they were taken, and was sent to its end."""
        self.seen: Counter[str] = Counter()
        """Batches by the mode they met."""
        self._lock = threading.Lock()
        self._mode = mode
        self._changed = threading.Condition()
        self._going = True
        self._listener: socket.socket | None = None
        self._listen(0)
        assert self._listener is not None
        self.port = self._listener.getsockname()[1]
        if mode == "refused":
            self._refuse()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode not in MODES:
            raise ValueError(f"no mode {mode!r}: there are {', '.join(MODES)}")
        with self._changed:
            was, self._mode = self._mode, mode
            self._changed.notify_all()
        if was == "refused" and mode != "refused":
            self._listen(self.port)
        elif mode == "refused" and was != "refused":
            self._refuse()

    def wait_for(self, mode: str, batches: int = 1, timeout_s: float = 20.0) -> None:
        """Until so many batches have met `mode`; TimeoutError if they do not."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.seen[mode] >= batches, timeout_s):
                raise TimeoutError(f"{self.seen[mode]} of {batches} batches met {mode} in {timeout_s:g} s")

    def _listen(self, port: int) -> None:
        listener = self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _refuse(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                while self._one(connection):
                    pass
            except OSError:
                return  # the client has left, which is its right
            finally:
                connection.close()

    def _one(self, connection: socket.socket) -> bool:
        """Take one request; whether the connection stays open."""
        if self._mode == "noise":
            self._met("noise")
            connection.sendall(b"\x00\x01 this is no answer at all \r\n\r\n")
            return False
        if self._mode == "deaf":
            self._met("deaf")
            self._wait_while("deaf")
            return False
        body = _request(connection)
        if body is None:
            return False
        mode = self._mode  # of the moment it is answered
        self._met(mode)
        spans = sum(
            len(scope.spans)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
        )
        if mode == "slow":
            time.sleep(SLOW_S)
        if mode in ANSWERS:
            self._answer(connection, mode, spans)
            return True
        if mode in ("reset", "early-reset"):
            if mode == "reset":
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\nhalf of"
                )
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        elif mode == "hang":
            self._wait_while(mode)
        elif mode == "drip":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while self._mode == mode and self._going:
                connection.sendall(b"x")
                time.sleep(0.1)
        elif mode == "endless":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            while self._mode == mode and self._going:
                connection.sendall(b"more and more " * 4096)
        return False

    def _answer(self, connection: socket.socket, mode: str, spans: int) -> None:
        status, headers, body = ANSWERS[mode]
        rejected = min(REJECTED, spans)
        if mode == "partial":
            body = _partial(rejected, "attribute too long\n\x1b[31m")
        elif mode == "partial-json":
            body = json.dumps(
                {"partialSuccess": {"rejectedSpans": str(rejected), "errorMessage": "no"}}
            ).encode()
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""])
        taken = spans if mode in TAKES_ALL else spans - rejected if mode.startswith("partial") else 0
        with self._lock:
            self.taken += taken  # first: who gets the answer may look at once
        try:
            connection.sendall(head.encode() + body)
        except OSError:
            with self._lock:
                self.taken -= taken
            raise

    def _met(self, mode: str) -> None:
        with self._changed:
            self.seen[mode] += 1
            self._changed.notify_all()

    def _wait_while(self, mode: str) -> None:
        with self._changed:
            while self._mode == mode and self._going:
                self._changed.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._going = False
            self._changed.notify_all()
        self._refuse()


def _request(connection: socket.socket) -> bytes | None:
    """The body of the next request; None when there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        more = connection.recv(1 << 20)
        if not more:
            return None
        body += more
    return body


def main() -> None:
    """Its port first; then a mode per line of stdin, and the counts for each."""
    with Collector() as collector:
        _say(str(collector.port))
        for line in sys.stdin:
            if line.strip():
                collector.mode = line.strip()
            _say(json.dumps({"taken": collector.taken, "seen": dict(collector.seen)}))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
