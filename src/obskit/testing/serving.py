"""The user's application on a real server, in a thread of this process, for as long as a test needs it.

In this process, so that `telemetry` sees it: uvicorn for ASGI, the standard library's WSGI server with a thread per
connection for WSGI.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from threading import Thread, current_thread
from time import monotonic, sleep
from typing import Any
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from obskit import adapters
from obskit.errors import shown
from obskit.install import _interface
from obskit.testing.wire import RESET

START_S = 15.0
STOP_S = 5.0
SEND_BUFFER = 131_072


class ServeError(Exception):
    """The application could not be served: the text says what was seen and what to do."""


@contextmanager
def serve(app: Any, *, interface: str | None = None, stop_s: float = STOP_S) -> Iterator[str]:
    """Run `app` on a free port of 127.0.0.1 and yield its URL; on leaving, wait `stop_s` seconds for its requests.

    Serves what `install` returned, and what was never installed: Flask, FastAPI and Starlette applications, Django
    handlers, plain callables (`interface`, "wsgi" or "asgi", decides for one that does not show which it is).

    Raises ServeError when the application does not start or uvicorn is missing, and InstallError when it cannot be
    told WSGI from ASGI. WSGI is served as HTTP/1.0: a connection per request, no chunks, uploads with a
    Content-Length only.
    """
    adapter = adapters.find(app)
    spoken = interface or (adapter.interface(app) if adapter is not None else _interface(app, None))
    if spoken not in _SERVERS:
        raise ServeError(f"interface: saw {interface!r}, expected 'wsgi' or 'asgi'")
    listening = socket.create_server(("127.0.0.1", 0))
    # Connections inherit it. With the usual megabytes a server is rid of most answers before anybody can cut them.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    try:
        stop = _SERVERS[spoken](app, listening)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            stop(stop_s)
    finally:
        listening.close()


Stop = Callable[[float], None]


def _serve_asgi(app: Any, listening: socket.socket) -> Stop:
    try:
        import uvicorn  # noqa: PLC0415
    except ImportError as error:
        raise ServeError(
            f"serving an ASGI application needs uvicorn, and importing it failed with: {error}. "
            "Run: pip install uvicorn"
        ) from error
    config = uvicorn.Config(
        app,
        log_config=None,  # logging is the application's, and perhaps pytest's
        access_log=False,
        loop="asyncio",
        timeout_graceful_shutdown=math.ceil(STOP_S),
    )
    server = uvicorn.Server(config)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            server.run(sockets=[listening])
        except BaseException as error:  # SystemExit, too: in a thread it would vanish
            failure.append(error)

    thread = Thread(target=run, name="obskit-served", daemon=True)
    thread.start()
    deadline = monotonic() + START_S
    while not server.started:
        if not thread.is_alive():
            raise ServeError(
                f"{shown(app)} did not start: its lifespan startup failed, see the log"
                + (f" ({failure[0]!r})" if failure else "")
            )
        if monotonic() > deadline:
            server.should_exit = True
            raise ServeError(
                f"{shown(app)} did not start within {START_S:g} s: its lifespan startup still runs"
            )
        sleep(0.002)

    def stop(stop_s: float) -> None:
        server.should_exit = True
        thread.join(stop_s)
        if thread.is_alive():
            server.force_exit = True
            thread.join(STOP_S)

    return stop


def _serve_wsgi(app: Any, listening: socket.socket) -> Stop:
    server = _WsgiServer(listening)
    server.set_app(app)
    thread = Thread(target=server.serve_forever, args=(0.02,), name="obskit-served", daemon=True)
    thread.start()

    def stop(stop_s: float) -> None:
        server.shutdown()
        thread.join()
        server.wait(stop_s)

    return stop


_SERVERS: dict[str, Callable[[Any, socket.socket], Stop]] = {"asgi": _serve_asgi, "wsgi": _serve_wsgi}


class _WsgiServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a handler that hangs must not keep pytest from ending

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        # What WSGIServer.server_bind would have done, without asking a resolver for our own name.
        self.server_name, self.server_port = listening.getsockname()
        self.setup_environ()
        self._running: set[Thread] = set()
        self.cut: set[socket.socket] = set()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        thread = current_thread()
        self._running.add(thread)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._running.discard(thread)

    def shutdown_request(self, request: Any) -> None:
        if request in self.cut:
            self.cut.discard(request)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke: what the test is about, and nothing to print."""

    def wait(self, timeout_s: float) -> None:
        deadline = monotonic() + timeout_s
        for thread in list(self._running):
            thread.join(max(0.0, deadline - monotonic()))


class _Handler(WSGIRequestHandler):
    timeout = 30

    def handle(self) -> None:
        self.raw_requestline = self.rfile.readline(65_537)
        if len(self.raw_requestline) > 65_536:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
            return
        if not self.raw_requestline or not self.parse_request():
            return
        length = self.headers.get("Content-Length", "")
        stream: Any = _Limited(self.rfile, int(length) if length.isdigit() else 0)
        handler = _Exchange(
            stream,
            self.wfile,  # type: ignore[arg-type]
            self.get_stderr(),
            self.get_environ(),
            multithread=True,
        )
        handler.request_handler = self
        handler.run(self.server.get_app())  # type: ignore[attr-defined]

    def address_string(self) -> str:
        return str(self.client_address[0])  # no resolver

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the canonical line does."""


class _Exchange(ServerHandler):
    wsgi_multiprocess = False
    request_handler: Any = None
    headers_sent: bool

    def handle_error(self) -> None:
        if self.headers_sent:
            # A cut answer must look like one: without chunks only a reset tells it from a whole one.
            self.request_handler.server.cut.add(self.request_handler.connection)
        super().handle_error()


class _Limited:
    """wsgi.input that ends where the declared length does: PEP 3333 lets applications read until the end."""

    def __init__(self, stream: Any, length: int) -> None:
        self._stream = stream
        self._left = length

    def _size(self, size: int | None) -> int:
        return self._left if size is None or size < 0 else min(size, self._left)

    def read(self, size: int | None = -1) -> bytes:
        return self._took(self._stream.read(self._size(size)))

    def readline(self, size: int | None = -1) -> bytes:
        return self._took(self._stream.readline(self._size(size)))

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def _took(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data
