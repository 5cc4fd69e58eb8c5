"""A port of its own for scrapes: the page and nothing else, for who may look, and nobody can hold it up."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any

import pytest

from obskit.config import Config
from obskit.pipeline import Answer
from obskit.signals import scrape_server as module
from obskit.signals.exposition import text_answer
from obskit.signals.scrape_server import BACKLOG, MAX_CLIENTS, ScrapeServer
from tests.signals.conftest import House, run_python, wait_until
from tests.support.ports import free_port

Make = Callable[..., ScrapeServer]


class Page:
    """An endpoint that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, str], str | None]] = []
        self.size = 10

    def __call__(self, method: str, headers: Mapping[str, str], client: str | None) -> Answer:
        self.asked.append((method, headers, client))
        if "x-raise" in headers:
            raise RuntimeError("a collector")
        return text_answer(200, "OK", "x" * self.size, method)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def told() -> list[tuple[str, BaseException]]:
    return []


@pytest.fixture
def make(
    port: int, page: Page, told: list[tuple[str, BaseException]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    made: list[ScrapeServer] = []

    def begun(name: str = "shop", access: str = "loopback", endpoint: Any = page) -> ScrapeServer:
        config = Config(metrics_port=port, metrics_access=access)
        server = ScrapeServer(config, endpoint, lambda stage, error: told.append((stage, error)), name)
        made.append(server)
        server.begin()
        return server

    yield begun
    for one in made:
        one.shutdown()


@pytest.fixture
def server(make: Make) -> ScrapeServer:
    begun = make()
    wait_until(lambda: begun.addresses)
    return begun


def ask(port: int, raw: bytes, host: str = "127.0.0.1") -> bytes:
    with closing(socket.create_connection((host, port), 10)) as connection:
        connection.sendall(raw)
        return everything(connection)


def everything(connection: socket.socket) -> bytes:
    found = b""
    connection.settimeout(10)
    while more := connection.recv(65_536):
        found += more
    return found


def get(port: int, target: str = "/metrics", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, target, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    response.body = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


@pytest.mark.usefixtures("server")
def test_the_endpoint_is_asked_with_method_headers_and_peer(port: int, page: Page) -> None:
    raw = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nACCEPT: x\r\nX-A:1\r\nx-a: 2 \r\n\r\n"
    answer = ask(port, raw)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\nxxxxxxxxxx")
    assert page.asked == [("GET", {"host": "a", "accept": "x", "x-a": "1,2"}, "127.0.0.1")]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "target",
    ["/", "//metrics", "/metrics/", "/%6detrics", "/metrics;x", "/x/../metrics", "http://a/metrics", "*"],
)
def test_every_other_path_is_not_found(target: str, port: int, page: Page) -> None:
    response = get(port, target)
    assert response.status == 404
    assert response.headers["cache-control"] == "no-store"
    assert page.asked == []


@pytest.mark.usefixtures("server")
def test_head_has_no_body(port: int) -> None:
    for target in ("/metrics", "/x"):
        assert ask(port, f"HEAD {target} HTTP/1.0\r\n\r\n".encode()).endswith(b"\r\n\r\n")


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "raw",
    [
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/2.0\r\n\r\n",
        b"GET  /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nno header\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nX-Forwarded-For : 1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"G\x00T /metrics HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nA: " + b"b" * 40_000 + b"\r\n\r\n",
        b"x" * 40_000,
    ],
)
def test_what_is_no_request_gets_a_400(raw: bytes, port: int, page: Page) -> None:
    assert ask(port, raw).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert page.asked == []


@pytest.mark.usefixtures("server")
def test_a_body_is_left_unread_and_the_answer_arrives(port: int) -> None:
    head = b"POST /metrics HTTP/1.1\r\nContent-Length: 200000\r\n\r\n"
    assert ask(port, head + b"y" * 200_000).endswith(b"x" * 10)
    chunked = b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    assert ask(port, chunked).endswith(b"x" * 10)


@pytest.mark.usefixtures("server")
def test_an_endpoint_that_fails_is_a_503_and_is_told(port: int, told: list[Any]) -> None:
    assert get(port, X_Raise="1").status == 503
    assert [(stage, str(error)) for stage, error in told] == [("metrics_port", "a collector")]
    assert get(port).status == 200


@pytest.mark.usefixtures("server")
def test_a_large_page_arrives_whole_at_a_slow_reader(port: int, page: Page) -> None:
    page.size = 30_000_000
    with closing(socket.create_connection(("127.0.0.1", port), 10)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        wait_until(lambda: page.asked)
        page.size = 10
        assert get(port).status == 200  # others are answered meanwhile
        assert everything(connection).endswith(b"\r\n\r\n" + b"x" * 30_000_000)


# ---- who is slow, and who is many -------------------------------------------------------------------------


@pytest.mark.usefixtures("server")
def test_who_says_nothing_or_too_slowly_is_let_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_S", 0.1)
    with closing(socket.create_connection(("127.0.0.1", port), 10)) as silent:
        assert everything(silent) == b""
    with closing(socket.create_connection(("127.0.0.1", port), 10)) as slow:
        began = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012 - it takes some sends until the reset has arrived
            while time.monotonic() - began < 10:
                slow.sendall(b"G")
                time.sleep(0.02)
    assert module.WRITE_S <= 10


def test_a_crowd_that_says_nothing_keeps_nobody_out_and_takes_a_bounded_number_of_places(
    server: ScrapeServer, port: int
) -> None:
    with ExitStack() as crowd:
        for _ in range(BACKLOG - 10):
            crowd.enter_context(closing(socket.create_connection(("127.0.0.1", port), 10)))
        began = time.monotonic()
        assert get(port).status == 200
        assert time.monotonic() - began < module.READ_S
        assert server._life is not None
        assert len(server._life._clients) <= MAX_CLIENTS


def test_a_flood_of_connections_is_let_in_at_a_bounded_rate(
    server: ScrapeServer, port: int, page: Page
) -> None:
    assert server._life is not None
    server._life._pace._left = 0.0  # the burst is used up
    began = time.monotonic()
    for _ in range(30):
        get(port)
    assert time.monotonic() - began >= 0.25
    assert len(page.asked) == 30


# ---- whose port it is ---------------------------------------------------------------------------------------


def test_on_loopback_only_while_access_is_loopback(server: ScrapeServer) -> None:
    assert {host for host, _ in server.addresses} <= {"127.0.0.1", "::1"}
    assert "127.0.0.1" in {host for host, _ in server.addresses}


@pytest.mark.parametrize("access", ["private", "public"])
def test_on_all_interfaces_when_others_may_look(access: str, make: Make) -> None:
    server = make(access=access)
    wait_until(lambda: server.addresses)
    assert {host for host, _ in server.addresses} <= {"::", "0.0.0.0"}


def test_another_worker_takes_over_when_the_one_with_the_port_is_gone(
    server: ScrapeServer, make: Make, port: int, told: list[Any]
) -> None:
    heirs = [make(endpoint=Page()) for _ in range(3)]
    wait_until(lambda: all(heir._life and heir._life._next_probe for heir in heirs))
    assert [heir.addresses for heir in heirs] == [[], [], []]
    server.shutdown()
    assert server.addresses == []
    wait_until(lambda: any(heir.addresses for heir in heirs))
    assert get(port).status == 200
    assert sum(bool(heir.addresses) for heir in heirs) == 1
    assert told == []  # that another worker has it is nobody's fault


def test_a_port_that_somebody_else_has_is_told_once(
    port: int, make: Make, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", port))) as theirs:
        answering = threading.Thread(target=_hello, args=(theirs,), daemon=True)
        answering.start()
        server = make()
        wait_until(lambda: told)
        wait_until(lambda: server._life and server._life._strange > module.PROBES + 2)
        (one,) = told
        assert one[0] == "metrics_port"
        assert f"metrics_port {port} is taken" in str(one[1])
    wait_until(lambda: server.addresses)  # when it is free it is taken after all


def _hello(listener: socket.socket) -> None:
    while True:
        try:
            connection = listener.accept()[0]
        except OSError:
            return
        with closing(connection):
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")


@pytest.mark.usefixtures("server")
def test_another_install_with_the_same_port_is_told(make: Make, told: list[Any]) -> None:
    make("another shop")
    wait_until(lambda: told)
    assert "another service" in str(told[0][1])


def test_a_port_that_may_not_be_had_is_told_once(
    make: Make, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refused(*_: Any) -> Any:
        tried.append(1)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module, "_listener", refused)
    make()
    wait_until(lambda: len(tried) > 3)
    assert [type(error) for _, error in told] == [PermissionError]


def test_without_a_thread_to_be_had_the_application_goes_on(
    make: Make, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    make()
    assert [stage for stage, _ in told] == ["metrics_port"]


def test_nothing_is_opened_before_begin_and_begin_and_shutdown_may_be_called_again(
    port: int, page: Page, told: list[Any]
) -> None:
    before = threading.active_count()
    server = ScrapeServer(Config(metrics_port=port), page, lambda *one: told.append(one))
    server.shutdown()
    assert (server.addresses, threading.active_count()) == ([], before)
    for _ in range(2):
        server.begin()
        server.begin()
        wait_until(lambda: server.addresses)
        assert threading.active_count() == before + 1
        server.shutdown()
        server.shutdown()
        assert threading.active_count() == before
    assert told == []


def test_a_forked_child_does_not_keep_the_port(server: ScrapeServer, port: int) -> None:
    done, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_on[1])  # it ends with its parent
        os.write(done[1], b"%d" % len(server.addresses))
        os.read(go_on[0], 1)
        os._exit(0)
    assert os.read(done[0], 10) == b"0"
    assert get(port).status == 200  # and it has closed nothing of its parent's
    server.shutdown()
    with closing(socket.create_server(("127.0.0.1", port))):
        pass
    os.write(go_on[1], b"x")
    os.waitpid(child, 0)
    for descriptor in (*done, *go_on):
        os.close(descriptor)


def test_it_keeps_no_process_alive(port: int) -> None:
    code = f"""
    from obskit.config import Config
    from obskit.signals.scrape_server import ScrapeServer
    server = ScrapeServer(Config(metrics_port={port}), lambda *_: None, print)
    server.begin()
    while not server.addresses:
        pass
    print("bound")
    """
    assert run_python(code).stdout == "bound\n"


def test_the_same_check_as_on_the_applications_port(port: int, make: Make) -> None:
    house = House()
    server = make(endpoint=house.pipeline.endpoints["/metrics"])
    wait_until(lambda: server.addresses)
    page = get(port)
    assert page.status == 200
    assert b"obskit_app_info" in page.body  # type: ignore[attr-defined]
    for refused in (get(port, X_Forwarded_For="127.0.0.1"), get(port, Host="shop.example.com")):
        assert refused.status == 403
    assert get(port, method="OPTIONS").headers["allow"] == "GET, HEAD"
