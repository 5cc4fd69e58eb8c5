"""Of whatever a stranger sends to a real server, nothing gets him a sample; whoever may look gets the page.

The stranger is this machine by its address on a network, which is what a server sees as its peer then.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.signals.conftest import wait_until
from tests.support.ports import free_port
from tests.support.servers import Server

SAMPLES = (b"obskit_app_info", b"http_server_", b"process_cpu", b"# TYPE", b"# HELP")
TIMEOUT_S = 5.0

APP = """
import obskit

# The application answers every path itself, and has a part mounted that is installed, too.
def wsgi_part(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the application's own"]

mounted_wsgi = obskit.install(wsgi_part, interface="wsgi", service="part")

def outer_wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/mounted"):
        return mounted_wsgi({**environ, "SCRIPT_NAME": "/mounted", "PATH_INFO": path[len("/mounted"):]}, start_response)
    if path.startswith("/apart"):
        environ.pop("obskit.exchange", None)
        return mounted_wsgi({**environ, "SCRIPT_NAME": "/apart", "PATH_INFO": path[len("/apart"):]}, start_response)
    return wsgi_part(environ, start_response)

wsgi = obskit.install(outer_wsgi, interface="wsgi", service="shop")

async def asgi_part(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"the application's own"})

mounted_asgi = obskit.install(asgi_part, interface="asgi", service="part")

async def outer_asgi(scope, receive, send):
    path = scope.get("path", "")
    for prefix in ("/mounted", "/apart"):
        if path.startswith(prefix):
            inner = {**scope, "root_path": prefix}
            if prefix == "/apart":
                inner.pop("obskit.exchange", None)
            await mounted_asgi(inner, receive, send)
            return
    await asgi_part(scope, receive, send)

asgi = obskit.install(outer_asgi, interface="asgi", service="shop")
"""
WSGIREF = """
import sys
from wsgiref.simple_server import WSGIServer, make_server
from app import wsgi

WSGIServer.request_queue_size = 64
make_server("0.0.0.0", int(sys.argv[1]), wsgi).serve_forever()
"""

# Those that hand over the target as it was sent: there an encoded path is the application's.
TELL_THE_TARGET = {
    "uvicorn",
    "uvicorn-h11",
    "hypercorn",
    "granian",
    "gunicorn-sync",
    "gunicorn-gthread",
    "waitress",
}
SERVERS = [*sorted(TELL_THE_TARGET), "wsgiref"]

METHODS = ["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "BREW", "get"]
TARGETS = [
    "/metrics", "//metrics", "///metrics", "/metrics/", "/metrics//", "/./metrics", "/x/../metrics", "/%2e/metrics",
    "/%6detrics", "/%6D%65trics", "/%2fmetrics", "/metrics%00", "/metrics%20", "/metrics%3f", "/metrics;x=1",
    "/metrics?x=1", "/metrics#x", "/METRICS", "/metrics.", "\\metrics", "/\\metrics", "/mounted/metrics",
    "/mounted//metrics", "/apart/metrics", "/apart//metrics", "http://127.0.0.1/metrics", "http://localhost/metrics",
    "//localhost/metrics", "http:/metrics", "*", "metrics", "/metrics/../metrics", "/%252e/metrics",
]  # fmt: skip
LOCAL = ["127.0.0.1", "::1", "localhost", "unix:"]
HEADERS = [
    *(f"{name}: {value}" for value in LOCAL[:2] for name in (
        "X-Forwarded-For", "X-Real-IP", "X-Client-IP", "Client-IP", "True-Client-IP", "CF-Connecting-IP", "X-Remote-IP",
        "X-Remote-Addr", "Remote-Addr", "REMOTE_ADDR", "X-Originating-IP", "X-Cluster-Client-IP", "X-ProxyUser-Ip",
    )),
    *(f"Host: {value}" for value in (*LOCAL, "127.0.0.1:80", "[::1]:80", "", "localhost@evil")),
    "X-Forwarded-For: 127.0.0.1, 127.0.0.1", "X-Forwarded-For:", "X-Forwarded-For: ::ffff:127.0.0.1",
    "Forwarded: for=127.0.0.1", 'Forwarded: for="[::1]";by=127.0.0.1', "Forwarded: for=_hidden",
    "X-Forwarded-Host: localhost", "X-Forwarded-Server: localhost", "X-Forwarded: for=127.0.0.1", "Via: 1.1 localhost",
    "X-Original-URL: /metrics", "X-Rewrite-URL: /metrics", "X-HTTP-Method-Override: GET", "X-HTTP-Method: GET",
    "X-Method-Override: GET", "Authorization: Bearer", "Authorization: Bearer ", "Authorization: Basic Og==",
    "Cookie: admin=1", "Origin: http://localhost", "Referer: http://localhost/metrics", "Upgrade: h2c",
    "Transfer-Encoding: chunked", "Content-Length: 5", "Expect: 100-continue", "Accept: application/openmetrics-text",
    "Range: bytes=0-100", "If-None-Match: *", "Script-Name: /x", "Path-Info: /metrics",
    "Connection: close, X-Forwarded-For",
]  # fmt: skip

BODIES = {"Transfer-Encoding: chunked": b"5\r\nhello\r\n0\r\n\r\n", "Content-Length: 5": b"hello"}


def own_address() -> str:
    """This machine's address on a network: what connects from there is no loopback peer."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing: it only chooses an interface
            found = str(probe.getsockname()[0])
        except OSError:
            found = "127.0.0.1"
    assert not found.startswith("127."), (
        "this test needs an address that is not loopback: a network, if only a bridge"
    )
    return found


class Open(Server):
    """A server that listens on every interface."""

    def __init__(self, server: str, folder: Path, **options: object) -> None:
        interface = "wsgi" if server.startswith(("gunicorn", "waitress", "wsgiref")) else "asgi"
        super().__init__(server, f"app:{interface}", cwd=folder, log_dir=folder / "log", **options)  # type: ignore[arg-type]
        if server == "wsgiref":
            self.command = [sys.executable, "open_wsgiref.py", str(self.port)]
        self.command = [word.replace("127.0.0.1", "0.0.0.0") for word in self.command]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    (tmp_path / "open_wsgiref.py").write_text(WSGIREF)
    return tmp_path


@pytest.fixture
def strangers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def ask(host: str, port: int, raw: bytes) -> bytes:
    """Everything that comes back; what the server makes of nonsense (a reset, silence) is its own affair."""
    found = b""
    try:
        with closing(socket.create_connection((host, port), TIMEOUT_S)) as connection:
            connection.sendall(raw)
            while more := connection.recv(65_536):
                found += more
    except OSError:
        pass
    return found


def request(method: str, target: str, *headers: str, version: str = "1.1", body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", *headers]
    if not any(line.startswith("Host:") for line in headers):
        lines.append("Host: shop.example")
    if not any(line.startswith("Connection:") for line in headers):
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


def attempts() -> list[bytes]:
    plain = [request(method, target) for method in METHODS for target in TARGETS]
    spoofed = [
        request(method, target, header, body=BODIES.get(header, b""))
        for header in HEADERS
        for method, target in (
            ("GET", "/metrics"),
            ("HEAD", "/metrics"),
            ("POST", "/metrics"),
            ("GET", "/apart/metrics"),
        )
    ]
    old = [request("GET", target, version=version) for target in TARGETS for version in ("1.0", "0.9", "2.0")]
    both = [request("GET", "/metrics", "Host: localhost", "Host: shop.example")]
    smuggled = request(
        "GET", "/metrics", "X-Forwarded-For: 127.0.0.1", "Host: localhost", "Connection: close"
    )
    both += [request("POST", "/x", "Content-Length: 0", "Transfer-Encoding: chunked", body=smuggled)]
    both += [
        request("POST", "/x", f"Content-Length: {len(smuggled)}", "Connection: keep-alive", body=2 * smuggled)
    ]
    return [*plain, *spoofed, *old, *both, b"GET /metrics\r\n\r\n", b"\r\n\r\nGET /metrics HTTP/1.0\r\n\r\n"]


def with_samples(answers: list[bytes]) -> int:
    return sum(any(sample in answer for sample in SAMPLES) for answer in answers)


@pytest.mark.parametrize("server", SERVERS)
def test_nothing_that_a_stranger_sends_gets_him_a_sample(
    server: str, folder: Path, strangers: ThreadPoolExecutor
) -> None:
    address, sent = own_address(), attempts()
    with Open(server, folder) as running:
        answers = list(strangers.map(lambda raw: ask(address, running.port, raw), sent))
        assert with_samples(answers) == 0
        assert sum(b" 403 " in answer[:20] for answer in answers) > 100
        assert sum(b"the application's own" in answer for answer in answers) > 20
        # The same from this host, without a sign of a proxy, is answered.
        host = "Host: localhost"
        assert with_samples([ask("127.0.0.1", running.port, request("GET", "/metrics", host))]) == 1
        # A stranger behind a proxy on this host, who says where he comes from.
        behind = [
            header for header in HEADERS if header.startswith(("X-Forwarded-For", "X-Real-IP", "Forwarded"))
        ]
        assert (
            with_samples(
                [ask("127.0.0.1", running.port, request("GET", "/metrics", h, host)) for h in behind]
            )
            == 0
        )
        # A proxy on this host that adds nothing, but passes on for which site it was asked.
        assert with_samples([ask("127.0.0.1", running.port, request("GET", "/metrics"))]) == 0
        if server in TELL_THE_TARGET:
            (encoded,) = [ask("127.0.0.1", running.port, request("GET", "/%6detrics", host))]
            assert b"the application's own" in encoded


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn-sync", "hypercorn"])
def test_behind_a_unix_socket_there_may_be_anybody(server: str, folder: Path) -> None:
    path = f"/tmp/obskit-{os.getpid()}-{server}.sock"
    running = Open(server, folder)
    bind = {
        "uvicorn": ["--uds", path],
        "gunicorn-sync": ["-b", f"unix:{path}"],
        "hypercorn": ["--bind", f"unix:{path}"],
    }
    tcp = {"--host", "0.0.0.0", "--port", str(running.port), "-b", "--bind", f"0.0.0.0:{running.port}"}
    words = [word for word in running.command if word not in tcp]
    running.command = [*words[:-1], *bind[server], words[-1]]
    running._answers = lambda _: os.path.exists(path)  # type: ignore[method-assign]
    try:
        with running:
            answer = wait_until(lambda: over(path, request("GET", "/metrics", "Host: localhost")))
    finally:
        Path(path).unlink(missing_ok=True)
    assert b" 403 " in answer[:20]
    assert with_samples([answer]) == 0


def over(path: str, raw: bytes) -> bytes:
    found = b""
    try:
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect(path)
            connection.sendall(raw)
            while more := connection.recv(65_536):
                found += more
    except OSError:
        return b""
    return found


# ---- a port of its own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["gunicorn-gthread", "uvicorn"])
def test_a_port_of_its_own_answers_for_all_workers_and_the_applications_port_does_not(
    server: str, folder: Path, strangers: ThreadPoolExecutor
) -> None:
    address, port = own_address(), free_port()
    env = {"OBSKIT_METRICS_PORT": str(port)}
    (folder / "app.py").write_text(
        textwrap.dedent(APP).replace('service="part"', 'service="part", metrics_port=9')
    )
    with Open(server, folder, env=env, workers=2) as running:

        def scrape() -> bytes:
            return ask("127.0.0.1", port, request("GET", "/metrics", "Host: localhost"))

        def workers() -> int:
            # Together, or one worker takes them all.
            list(strangers.map(lambda _: ask("127.0.0.1", running.port, request("GET", "/")), range(32)))
            return scrape().count(b"process_start_time_seconds{")

        wait_until(lambda: workers() == 2, 30.0)  # one worker may take them all for a while
        own = ask("127.0.0.1", running.port, request("GET", "/metrics", "Host: localhost"))
        assert b"the application's own" in own
        assert with_samples([own]) == 0
        assert ask(address, port, request("GET", "/metrics")) == b""  # on loopback only: nobody listens there
        before = holder(port)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: with_samples([scrape()]) and holder(port) != before, 20)


def holder(port: int) -> int:
    """The process that listens on this port of 127.0.0.1; 0 if there is none."""
    inode = ""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == f"0100007F:{port:04X}" and fields[3] == "0A":
            inode = fields[9]
    for link in Path("/proc").glob("[0-9]*/fd/*") if inode else ():
        try:
            if os.readlink(link) == f"socket:[{inode}]":
                return int(link.parts[2])
        except OSError:
            continue
    return 0
