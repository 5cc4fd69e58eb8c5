"""What is sent and when: streams, files, uploads, and what an app does after its response."""

from __future__ import annotations

import time
import typing
from collections.abc import Iterator
from pathlib import Path

from tests.conformance import checks
from tests.conformance.client import Caller, Reply
from tests.conformance.model import Case, Expect, differs

FILE = Path(typing.__file__).read_bytes()
SLOW_PARTS, SLOW_GAP_S = 4, 0.025

NO_HEADERS_BEFORE_A_BODY = differs(
    "WSGI sends the headers with the first body part, so the server can still answer 500",
    status=500,
    outcome="raised",
)
CHUNKS_UNREAD = differs(
    "under WSGI Django reads no body without a Content-Length, which only waitress adds",
    checks=(checks.line_has(request_bytes=0), checks.reply_is(b'{"bytes": 0}')),
)
FRAMEWORK_RAISES = "a framework raises by itself when a view returns nothing, and answers 500"
LENGTH_IS_CHECKED = differs(
    "the server raises into send() when the last body message comes too early",
    level="error",
    raises=(None, "RuntimeError", "LocalProtocolError"),
)


def _parts(gap_s: float) -> Iterator[bytes]:
    for number in range(SLOW_PARTS):
        time.sleep(gap_s if number else 0)
        yield b"x" * 250


def _slow_upload(caller: Caller) -> Reply:
    request_id = caller.new_id()
    with caller.connect() as connection:
        head = caller.head_of("POST", "/upload", request_id, "Content-Length: 1000", "Connection: close")
        connection.send(head)
        for part in _parts(SLOW_GAP_S):
            connection.send(part)
        status, body = connection.read_response()
    return Reply(request_id, status, len(body), body, facts={"sent": 1000})


def _shorter_than_declared(caller: Caller) -> Reply:
    """Not to the end: a server may leave the client waiting for the bytes that were declared."""
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(caller.head_of("GET", "/truncated", request_id))
        head = connection.read_until(b"\r\n\r\n")
        connection.read_exactly(4)
    return Reply(request_id, int(head.split(b" ")[1]) if head else None)


def _keep_alive(caller: Caller) -> list[Reply]:
    """Two requests on one connection; the second has no Content-Length of its own to report."""
    replies = []
    with caller.connect() as connection:
        for path in ("/file", "/stream"):
            request_id = caller.new_id()
            connection.send(caller.head_of("GET", path, request_id))
            status, body = connection.read_response()
            if status:
                replies.append(Reply(request_id, status, len(body), body, route=path))
    return replies


CASES = [
    Case(
        "stream",
        lambda caller: caller.get("/stream"),
        Expect(
            "/stream",
            checks=(checks.first_byte_after(0.025), checks.takes(0.045), checks.reply_is(b"one,two,three")),
        ),
    ),
    Case(
        "stream_raises_half_way",
        lambda caller: caller.get("/stream-raises/2"),
        Expect(
            "/stream-raises/{parts:int}",
            status=200,
            outcome="raised_after_headers",
            raises="ValueError",
            checks=(checks.error_type("ValueError"), checks.line_has(response_bytes=8)),
        ),
        shows="raised_after_headers",
    ),
    Case(
        "stream_raises_before_its_first_part",
        lambda caller: caller.get("/stream-raises/0"),
        Expect(
            "/stream-raises/{parts:int}",
            status=200,
            outcome="raised_after_headers",
            raises="ValueError",
            checks=(checks.no_body,),
        ),
        differs={
            "wsgi": NO_HEADERS_BEFORE_A_BODY,
            "granian": differs(
                "granian takes the status, tells nobody that it holds it back for a body, and answers 500",
                client_got=500,
            ),
        },
        shows="raised_after_headers",
    ),
    Case(
        "server_sent_events",
        lambda caller: caller.get("/sse/3"),
        Expect(
            "/sse/{count:int}",
            checks=(checks.takes(0.02), checks.reply_is(b"data: 0\n\ndata: 1\n\ndata: 2\n\n")),
        ),
    ),
    Case(
        "file",
        lambda caller: caller.get("/file"),
        Expect("/file", checks=(checks.reply_is(FILE), checks.line_has(response_bytes=len(FILE)))),
        shows="truncated_response",
    ),
    Case(
        "upload",
        lambda caller: caller.request("POST", "/upload", content=b"x" * 100_000),
        Expect("/upload", method="POST", checks=(checks.line_has(request_bytes=100_000),)),
    ),
    Case(
        "upload_chunked",
        lambda caller: caller.request("POST", "/upload", content=_parts(0)),
        Expect("/upload", method="POST", checks=(checks.line_has(request_bytes=1000),)),
        differs={"django-wsgi@gunicorn-sync": CHUNKS_UNREAD, "django-wsgi@gunicorn-gthread": CHUNKS_UNREAD},
        shows="truncated_request",
    ),
    Case(
        "upload_slow",
        _slow_upload,
        Expect(
            "/upload",
            method="POST",
            checks=(checks.line_has(request_bytes=1000), checks.takes((SLOW_PARTS - 1) * SLOW_GAP_S * 0.9)),
        ),
        differs={
            "waitress": differs(
                "waitress reads the whole body before it calls the app: the wait is not the app's",
                checks=(checks.line_has(request_bytes=1000), checks.takes(0, SLOW_GAP_S)),
            )
        },
    ),
    Case(
        "upload_nobody_reads",
        lambda caller: caller.request("POST", "/ignore-body", content=b"x" * 10),
        Expect("/ignore-body", method="POST", status=202),
        shows="truncated_request",
    ),
    Case(
        "after_the_response_slow",
        lambda caller: caller.get("/after-slow"),
        Expect(
            # The app goes on for 0.15 s; the response is over long before.
            "/after-slow",
            checks=(checks.takes(0, 0.1),),
        ),
        shows="background_failure",
    ),
    Case(
        "after_the_response_failing",
        lambda caller: caller.get("/after-fails"),
        Expect("/after-fails", level="error", raises="ValueError"),
        shows="background_failure",
    ),
    Case(
        "shorter_than_declared",
        _shorter_than_declared,
        Expect("/truncated", outcome="truncated", checks=(checks.line_has(response_bytes=4),)),
        differs={
            "uvicorn": LENGTH_IS_CHECKED,
            "uvicorn-uvloop": LENGTH_IS_CHECKED,
            "uvicorn-h11": LENGTH_IS_CHECKED,
            "gunicorn-uvicorn": LENGTH_IS_CHECKED,
            "hypercorn": LENGTH_IS_CHECKED,
        },
        shows="truncated_response",
    ),
    Case(
        "no_last_body_message",
        lambda caller: caller.get("/no-end"),
        Expect("/no-end", outcome="truncated", checks=(checks.line_has(response_bytes=8),)),
        not_for={
            "wsgi": "a WSGI body ends when its iterator does: nothing could be left out",
            "fastapi": FRAMEWORK_RAISES,
            "starlette": FRAMEWORK_RAISES,
            "django-asgi": FRAMEWORK_RAISES,
        },
        shows="truncated_response",
    ),
    Case(
        "no_response",
        lambda caller: caller.get("/no-response"),
        Expect("/no-response", status=500, outcome="no_response"),
        not_for={
            "fastapi": FRAMEWORK_RAISES,
            "starlette": FRAMEWORK_RAISES,
            "django-asgi": FRAMEWORK_RAISES,
            "django-wsgi": FRAMEWORK_RAISES,
            "flask": FRAMEWORK_RAISES,
        },
        shows="no_response",
    ),
    Case(
        "two_on_one_connection",
        _keep_alive,
        Expect("/file", requests=2),
        differs={"gunicorn-sync": differs("the sync worker closes after each response", requests=1)},
    ),
    Case(
        "lifespan",
        lambda caller: caller.get("/lifespan"),
        Expect("/lifespan", checks=(checks.reply_is(b"started"),)),
        not_for={
            "wsgi": "WSGI has no lifespan",
            "django-asgi": "Django's handler refuses the lifespan protocol",
        },
    ),
]
