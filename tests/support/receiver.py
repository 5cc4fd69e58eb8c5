"""An HTTP server within the test process, for what the code under test sends somewhere."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self


class Receiver:
    """Listens on a free loopback port; a subclass says in `handle` what it does with a request. A context manager."""

    protocol: ClassVar[str] = "HTTP/1.0"
    """HTTP/1.1 keeps connections open."""

    def __init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = self.protocol

            def handle_any(self) -> None:
                receiver.handle(self)

            do_GET = do_POST = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request; it runs in a thread of its own."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Without a trailing slash."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


def body_of(request: BaseHTTPRequestHandler) -> bytes:
    """The body, by its Content-Length."""
    return request.rfile.read(int(request.headers.get("Content-Length") or 0))
