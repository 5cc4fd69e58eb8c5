"""What a client makes of the bytes of an answer, whole or cut."""

from __future__ import annotations

import socket
from threading import Thread
from typing import Any

import pytest

from obskit.testing import Chaos
from obskit.testing.wire import _Answer

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "at_end", "complete", "body"),
    [
        (b"", True, False, None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", True, False, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", True, False, b"ab"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", False, True, b"abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", False, False, b"abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", True, True, b"abc"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", False, True, b""),
        (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", False, True, b"abc"),
        (CHUNKED + b"3;x=y\r\nabc\r\n2\r\nd", True, False, b"abcd"),
        (CHUNKED + b"7\r\n0\r\n\r\nab\r\n", True, False, b"0\r\n\r\nab"),
        (CHUNKED + b"7\r\n0\r\n\r\n", False, False, b"0\r\n\r\n"),
        (CHUNKED + b"no\r\n", True, False, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", False, True, b"a"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", True, False, None),
    ],
)
def test_an_answer_is_whole_when_its_own_rules_say_so(
    raw: bytes, at_end: bool, complete: bool, body: bytes | None
) -> None:
    answer = _Answer("GET")
    assert answer.complete(raw, at_end=at_end) is complete
    assert answer.seen(raw, "closed").body == (body or b"")


def test_an_answer_to_head_has_no_body() -> None:
    assert _Answer("HEAD").complete(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")


def test_a_status_line_is_read_also_when_the_head_is_cut() -> None:
    assert _Answer("GET").seen(b"HTTP/1.1 503 Service Unavailable\r\nConte", "left").status == 503
    assert _Answer("GET").seen(b"HTTP/1.1 50", "left").status is None


def test_repeated_fields_are_joined_but_cookies_are_not() -> None:
    raw = b"HTTP/1.1 200 OK\r\nVary: a\r\nVary: b\r\nSet-Cookie: x=1\r\nSet-Cookie: y=2\r\nContent-Length: 0\r\n\r\n"
    seen = _Answer("GET").seen(raw, "answered")
    assert seen.headers["vary"] == "a,b"
    assert seen.cookies == ("x=1", "y=2")


@pytest.mark.parametrize(
    "leave",
    [
        lambda request: request.cut_upload(after=1),
        lambda request: request.cut_download(wait_s=0.01),
        lambda request: request.retried("abort", wait_s=0.01),
    ],
)
def test_who_leaves_does_so_with_a_reset(leave: Any) -> None:
    ends: list[object] = []

    def serve_once(listening: socket.socket) -> None:
        with listening.accept()[0] as connection:
            connection.settimeout(10)
            try:
                while data := connection.recv(4096):
                    ends.append(data)
                ends.append("an orderly end")
            except ConnectionResetError:
                ends.append("a reset")
        listening.close()

    listening = socket.create_server(("127.0.0.1", 0))
    server = Thread(target=serve_once, args=(listening,))
    server.start()
    request = Chaos(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=10).request(
        "POST", "/", body="ab"
    )
    try:
        leave(request)
    except ConnectionError:
        pass  # the retry: nobody is there for it
    server.join()
    assert ends[-1] == "a reset"
