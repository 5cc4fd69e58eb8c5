"""What is kept of a service's output, and how a canonical line is shown."""

from __future__ import annotations

import json
import os

import pytest

from obskit.demo.tail import CANONICAL_KEPT, OUTPUT_KEPT, LineTail, milliseconds, short_form


def raw(**facts: object) -> bytes:
    return json.dumps({"event": "http.request", **facts}).encode() + b"\n"


def test_only_canonical_lines_are_taken_for_requests() -> None:
    tail = LineTail()
    for line in (
        raw(n=1),
        b'{"event":"order.created"}\n',
        b"[1, 2]\n",
        b"plain text\n",
        b"\n",
        b"\xff\xfe\n",
        raw(n=2),
    ):
        tail.feed(line)
    assert [line["n"] for line in tail.last(9)] == [1, 2]
    assert tail.canonical_seen == 2
    assert "plain text" in tail.output
    assert len(tail.output) == 6  # all but the empty one


def test_the_end_is_kept_and_everything_is_counted() -> None:
    tail = LineTail()
    for n in range(1000):
        tail.feed(raw(n=n))
    assert [line["n"] for line in tail.last(3)] == [997, 998, 999]
    assert (tail.canonical_seen, len(tail.canonical), len(tail.output)) == (1000, CANONICAL_KEPT, OUTPUT_KEPT)


def test_a_pipe_is_followed_to_its_end() -> None:
    read, write = os.pipe()
    tail = LineTail()
    with os.fdopen(read, "rb") as reader:
        tail.follow(reader)
        with os.fdopen(write, "wb") as writer:
            writer.write(raw(n=1) + raw(n=2)[:-1])  # the last line without its end
        tail.join(10)
    assert [line["n"] for line in tail.last(9)] == [1, 2]


def test_the_short_form_shows_what_matters() -> None:
    line = {
        "timestamp": "2026-01-02T03:04:05.678901Z",
        "level": "error",
        "http_request_method": "GET",
        "http_route": "/orders/{id}",
        "url_path": "/orders/7",
        "http_response_status_code": 500,
        "outcome": "raised",
        "duration_s": 0.0123,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }
    assert short_form(line) == [
        "03:04:05.678", "error", "GET /orders/{id}", "500", "raised", "12.3 ms", "0af7651916cd43dd",
    ]  # fmt: skip


def test_a_request_without_route_or_status_shows_its_path_and_a_dash() -> None:
    cells = short_form({"http_route": "unmatched", "url_path": "/.env", "http_response_status_code": None})
    assert cells[2:4] == [" /.env", "–"]


def test_what_a_client_sent_cannot_steer_the_terminal() -> None:
    tail = LineTail()
    tail.feed(b"\x1b[2Jgone")
    cells = short_form({"http_route": None, "url_path": "/\x1b[31m\r\n", "outcome": "x\x07"})
    assert not any(control in "".join([*cells, *tail.output]) for control in "\x1b\r\n\x07")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 ms"),
        (0.00321, "3.2 ms"),
        (0.41, "410 ms"),
        (1.349, "1.35 s"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert milliseconds(seconds) == text
