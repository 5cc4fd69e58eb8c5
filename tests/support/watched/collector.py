"""An OTLP/HTTP receiver that can go away and come back under the same address."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.support.ports import free_port


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        # An empty message says that everything was taken.
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Collector:
    """Takes every export while it is there. Use as a context manager; `leave` and `come_back` inside."""

    def __init__(self) -> None:
        self._port = free_port()
        self._http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def come_back(self) -> None:
        """Listen again."""
        if self._http is None:
            self._http = ThreadingHTTPServer(("127.0.0.1", self._port), _Handler)
            self._http.daemon_threads = True
            threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def leave(self) -> None:
        """Connections are refused from now on."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def __enter__(self) -> Self:
        self.come_back()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
