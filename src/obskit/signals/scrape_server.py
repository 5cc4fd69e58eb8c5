"""A port of its own for scrapes (`metrics_port`), where nothing but the page of metrics is served.

A thread of the process that serves. Of several workers the first one gets the port and answers for all of them; the
others try again each second, so that another one has it soon after the first is gone. It speaks as much HTTP as a
scrape needs, one request per connection, and is stingy with time and places: nobody can hold it up.
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final
from zlib import crc32

from obskit.config import Config
from obskit.desk import Pace
from obskit.listeners import keep_apart
from obskit.pipeline import Answer, Endpoint
from obskit.signals.exposition import text_answer

RETRY_S: Final = 1.0
TELL_EVERY_S: Final = 60.0
MAX_CLIENTS: Final = 8
BACKLOG: Final = 64
MAX_HEAD: Final = 16_384
READ_S: Final = 2.0
"""A client has so long to say what it wants."""
WRITE_S: Final = 10.0
DRAIN_S: Final = 0.5
"""How long what a client still sends is taken in after its answer: a connection reset would take that back."""
PROBES: Final = 3

_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/1\.[0-9]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)")
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


class ScrapeServer:
    """The port of one install. It never keeps its process alive, and its failures are told and counted."""

    def __init__(
        self, config: Config, endpoint: Endpoint, failed: Callable[[str, BaseException], None], name: str = ""
    ) -> None:
        """`name` tells this install from others that may have the same port; `failed` takes a stage and its error."""
        self._config = config
        self._endpoint = endpoint
        self._failed = failed
        self._name = name
        self._restart()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    def _restart(self) -> None:
        self._lock = threading.Lock()
        self._life: _Life | None = None

    def _after_fork(self) -> None:
        # An inherited listener would keep the port from the other workers while nobody answers on it.
        life = self._life
        if life is not None:
            life.close()
        self._restart()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where this process answers; empty while another one does, or nobody can."""
        life = self._life
        return [] if life is None else life.addresses()

    def begin(self) -> None:
        """Try for the port, in a thread. Idempotent; call it in the process that serves."""
        with self._lock:
            if self._life is not None:
                return
            # Workers of one server have one parent: what answers under the same number is one of them.
            number = crc32(f"{self._name}\0{os.getppid()}".encode("utf-8", "replace"))
            life = self._life = _Life(self._config, self._endpoint, self._failed, f"obskit/{number:08x}")
        try:
            thread = threading.Thread(target=life.run, name="obskit-metrics-port", daemon=True)
            thread.start()
        except RuntimeError as error:  # no more threads to be had
            self._failed("metrics_port", error)
        else:
            life.thread = thread

    def shutdown(self, timeout_s: float = 1.0) -> None:
        """Give the port back. Idempotent."""
        with self._lock:
            life, self._life = self._life, None
        if life is not None:
            life.stop()
            if life.thread is not None and life.thread is not threading.current_thread():
                life.thread.join(timeout_s)


class _Life:
    """From a begin to a shutdown."""

    def __init__(
        self, config: Config, endpoint: Endpoint, failed: Callable[[str, BaseException], None], sign: str
    ) -> None:
        self.thread: threading.Thread | None = None
        self._path = config.metrics_path
        self._port = config.metrics_port or 0
        self._on_loopback = config.metrics_access == "loopback"
        self._endpoint = endpoint
        self._failed = failed
        self._sign = sign
        self._stopped = threading.Event()
        self._listeners: list[socket.socket] = []
        self._clients: dict[socket.socket, _Client] = {}
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._next_probe = self._next_told = 0.0
        self._strange = 0
        self._pace = Pace()

    def addresses(self) -> list[tuple[str, int]]:
        found = []
        for listener in list(self._listeners):
            with suppress(OSError):
                found.append(listener.getsockname()[:2])
        return found

    def stop(self) -> None:
        self._stopped.set()
        wake = self._wake
        if wake is not None:
            with suppress(OSError):
                wake[1].send(b"x")

    def close(self) -> None:
        """Close everything; in a forked child it takes nothing from the parent."""
        for one in (*self._listeners, *self._clients, *(self._wake or ())):
            with suppress(OSError):
                one.close()
        self._listeners, self._wake = [], None
        self._clients.clear()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listeners = self._bind()
            except OSError as error:
                self._not_bound(error)
            except Exception as error:
                self._tell(error)
            else:
                self._serve()
            self._stopped.wait(RETRY_S)

    # ---- the port -------------------------------------------------------------------------------------

    def _bind(self) -> list[socket.socket]:
        if not self._on_loopback:
            try:
                return [_listener(socket.AF_INET6, "::", self._port)]
            except OSError as error:
                if error.errno not in _NO_IPV6:
                    raise
            return [_listener(socket.AF_INET, "0.0.0.0", self._port)]
        listeners = [_listener(socket.AF_INET, "127.0.0.1", self._port)]
        # Who has the first has the port; the second is for those who say localhost and mean it.
        with suppress(OSError):
            listeners.append(_listener(socket.AF_INET6, "::1", self._port))
        return listeners

    def _not_bound(self, error: OSError) -> None:
        if error.errno != errno.EADDRINUSE:
            self._tell(error)
            return
        now = monotonic()
        if now < self._next_probe:
            return
        if self._is_one_of_us():
            self._strange, self._next_probe = 0, now + TELL_EVERY_S
            return
        # A worker that has only just bound the port, or is busy, is asked again.
        self._strange += 1
        if self._strange >= PROBES:
            self._tell(
                OSError(
                    errno.EADDRINUSE,
                    f"metrics_port {self._port} is taken by another program or another service: nobody can scrape "
                    "this one; choose another metrics_port",
                )
            )

    def _is_one_of_us(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), 1.0) as peer:
                peer.settimeout(1.0)
                peer.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
                said = b""
                while len(said) < 1024 and (more := peer.recv(1024)):
                    said += more
        except OSError:
            return False
        return f"\r\nServer: {self._sign}\r\n".encode() in said

    def _tell(self, error: BaseException) -> None:
        now = monotonic()
        if now >= self._next_told:
            self._next_told = now + TELL_EVERY_S
            self._failed("metrics_port", error)

    # ---- the clients ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._strange = 0
        try:
            with selectors.DefaultSelector() as selector:
                self._wake = socket.socketpair()
                selector.register(self._wake[0], selectors.EVENT_READ)
                for listener in self._listeners:
                    selector.register(listener, selectors.EVENT_READ)
                while not self._stopped.is_set():
                    for key, _ in selector.select(self._patience()):
                        self._look(selector, key.fileobj)
                    for client in self._overdue():
                        self._drop(selector, client)
        except Exception as error:
            self._tell(error)
        finally:
            self.close()

    def _patience(self) -> float | None:
        until = min((client.deadline for client in self._clients.values()), default=None)
        return None if until is None else max(0.0, until - monotonic())

    def _overdue(self) -> list[_Client]:
        now = monotonic()
        return [client for client in self._clients.values() if client.deadline <= now]

    def _look(self, selector: selectors.BaseSelector, one: Any) -> None:
        client = self._clients.get(one)
        if client is not None:
            try:
                wanted = client.go_on(self._answer)
            except OSError:
                wanted = 0  # it has left
            if wanted:
                selector.modify(client.socket, wanted)
            else:
                self._drop(selector, client)
        elif one in self._listeners:
            self._accept(selector, one)

    def _accept(self, selector: selectors.BaseSelector, listener: socket.socket) -> None:
        self._pace.wait()  # a flood of connections waits outside
        try:
            accepted, peer = listener.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:  # no descriptor left: the connection stays where it is for a while
            self._tell(error)
            self._stopped.wait(0.1)
            return
        if len(self._clients) >= MAX_CLIENTS:
            idle = next((client for client in self._clients.values() if not client.asked), None)
            if idle is None:
                accepted.close()
                return
            self._drop(selector, idle)  # who has not said a word in all this time makes room for who may
        accepted.setblocking(False)
        client = self._clients[accepted] = _Client(accepted, str(peer[0]))
        selector.register(client.socket, selectors.EVENT_READ)

    def _drop(self, selector: selectors.BaseSelector, client: _Client) -> None:
        if self._clients.pop(client.socket, None) is not None:
            with suppress(KeyError, ValueError):
                selector.unregister(client.socket)
            with suppress(OSError):
                client.socket.close()

    def _answer(self, head: bytes, peer: str) -> bytes:
        method = "GET"
        try:
            asked = _read(head)
            if asked is None:
                answer = text_answer(400, "Bad Request", "this is no HTTP request\n", method)
            elif asked[1].partition("?")[0] != self._path:
                method = asked[0]
                answer = text_answer(404, "Not Found", f"metrics are at {self._path}\n", method)
            else:
                method = asked[0]
                answer = self._endpoint(method, asked[2], peer)
        except Exception as error:
            self._failed("metrics_port", error)
            answer = text_answer(503, "Service Unavailable", "", method)
        return self._written(answer)

    def _written(self, answer: Answer) -> bytes:
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", f"Server: {self._sign}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + answer.body


class _Client:
    """One connection: it asks, is answered, and ends."""

    def __init__(self, accepted: socket.socket, peer: str) -> None:
        self.socket = accepted
        self.asked = False
        self.deadline = monotonic() + READ_S
        self._peer = peer
        self._head = b""
        self._left = memoryview(b"")
        self._draining = False

    def go_on(self, answer: Callable[[bytes, str], bytes]) -> int:
        """Do what can be done now. Returns the event to wait for, 0 when it is over; raises OSError if it has left."""
        if self._draining:
            return selectors.EVENT_READ if self._received() else 0
        if not self.asked:
            received = self._received()
            if received == b"":
                return 0
            self._head += received or b""
            head, end, _ = self._head.partition(b"\r\n\r\n")
            if not end and len(self._head) <= MAX_HEAD:
                return selectors.EVENT_READ
            self.asked = True
            self._left = memoryview(answer(head if end and len(head) <= MAX_HEAD else b"", self._peer))
            self._head = b""
            self.deadline = monotonic() + WRITE_S
        with suppress(BlockingIOError):
            while self._left:
                self._left = self._left[self.socket.send(self._left) :]
        if self._left:
            return selectors.EVENT_WRITE
        self.socket.shutdown(socket.SHUT_WR)
        self._draining = True
        self.deadline = monotonic() + DRAIN_S
        return selectors.EVENT_READ

    def _received(self) -> bytes | None:
        """What has come; nothing at the end, None if there is nothing yet."""
        try:
            return self.socket.recv(MAX_HEAD)
        except BlockingIOError:
            return None


def _listener(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        keep_apart(listener)  # before it listens: workers know each other by the socket of their server
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _read(head: bytes) -> tuple[str, str, dict[str, str]] | None:
    """Method, target and headers of a request; None if it is none."""
    first, *lines = head.decode("latin-1").split("\r\n")
    asked = _REQUEST_LINE.fullmatch(first)
    if asked is None:
        return None
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            return None
        name, value = header[1].lower(), header[2].rstrip(" \t")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return asked[1], asked[2], headers
