from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obskit.watch.queueing import MAX_QUEUE_S, MAX_SKEW_S, queue_seconds
from tests.support.recording import body, http_scope, start

NOW = 1_700_000_010.5


@pytest.mark.parametrize(
    "header",
    [
        "t=1700000000.500",  # nginx: t=${msec}
        "1700000000.5",
        "1700000000500",  # Heroku: milliseconds
        "t=1700000000500000",  # Apache: %t, microseconds
        "1700000000500000000",
        "  t=1700000000.5 ",
    ],
    ids=["nginx", "seconds", "milliseconds", "microseconds", "nanoseconds", "spaces"],
)
def test_every_form_in_use_says_how_long_a_request_waited(header: str) -> None:
    assert queue_seconds(header, NOW) == pytest.approx(10.0, abs=1e-3)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=",
        "now",
        "t=now",
        "-5",
        "1e9",
        "0x10",
        "nan",
        "inf",
        ".5",
        "1.7.0",
        "1_700_000_000",
        "\u0661\u0667\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660",
        "t=t=1700000000",
        "1700000000, 1700000001",
        "1700000000.5".zfill(33),
        "9" * 100_000,
    ],
)
def test_what_is_no_time_says_nothing(header: str) -> None:
    assert queue_seconds(header, NOW) is None


def test_a_clock_that_runs_a_little_ahead_is_no_wait_and_one_that_runs_far_ahead_says_nothing() -> None:
    assert queue_seconds(str(NOW + MAX_SKEW_S - 1), NOW) == 0.0
    assert queue_seconds(str(NOW + MAX_SKEW_S + 1), NOW) is None


def test_nobody_waits_for_hours() -> None:
    assert queue_seconds(str(NOW - MAX_QUEUE_S + 1), NOW) == pytest.approx(MAX_QUEUE_S - 1)
    assert queue_seconds(str(NOW - MAX_QUEUE_S - 1), NOW) is None
    assert queue_seconds("0", NOW) is None


@given(st.text(max_size=64) | st.from_regex(r"(t=)?[0-9]{1,40}(\.[0-9]{0,20})?", fullmatch=True))
def test_whatever_a_client_sends_the_wait_is_bounded(header: str) -> None:
    waited = queue_seconds(header, NOW)
    assert waited is None or 0.0 <= waited <= MAX_QUEUE_S


def test_a_header_written_now_has_not_waited() -> None:
    assert queue_seconds(f"t={time.time():.3f}", time.time()) == pytest.approx(0.0, abs=1.0)


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_of_both_headers_the_better_known_one_counts_at_both_doors(
    order: int, install: Callable[..., Any], canonical: Callable[[], list[dict[str, Any]]]
) -> None:
    started, queued = f"t={time.time() - 20:.3f}", f"t={time.time() - 40:.3f}"

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        await send(start(200))
        await send(body(b"ok"))

    def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    async def nothing(*_: Any) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"x-request-start", started.encode()), (b"x-queue-start", queued.encode())][::order]
    ours = {"log_format": "json", "trusted_proxies": ["loopback", "unix"]}
    door = install(asgi, interface="asgi", **ours)
    asyncio.run(door(http_scope("/asgi", headers=headers), nothing, nothing))
    environ = {"HTTP_X_REQUEST_START": started, "HTTP_X_QUEUE_START": queued, "REQUEST_METHOD": "GET"}
    door = install(wsgi, interface="wsgi", **ours)
    answer = door({"PATH_INFO": "/wsgi", **environ}, lambda *_: lambda _data: None)
    list(answer)
    answer.close()
    assert [(line["url_path"], 19 < line["queue_s"] < 35) for line in canonical()] == [
        ("/asgi", True),
        ("/wsgi", True),
    ]
