"""Clients that leave or break off, and requests the server refuses; raw sockets, no manners."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance import checks
from tests.conformance.client import Caller, Reply
from tests.conformance.model import UNMATCHED, Case, Expect, differs

HUGE = 1024 * 1024
# Raised into an application that reads a body whose sender has left; which one is the framework's affair.
LEFT = (None, "ConnectionResetError", "ClientDisconnect", "RequestAborted", "ClientDisconnected")
NEVER_LISTENS = differs(
    "an app that never calls receive() runs to its end, and so does its record", checks=()
)
NO_LIMIT = differs("uvicorn sets no limit for httptools: the header arrives", telemetry=True)


def _leave_before_headers(caller: Caller) -> Reply:
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(caller.head_of("GET", "/slow/120", request_id))
        # /slow logs as soon as it runs; the reset reaches the server while it sleeps. Leaving sooner
        # could mean that the app is never called.
        caller.wait_for_event(f"note.before.stdlib {request_id}")
        connection.reset()
    return Reply(request_id)


def _leave_during_body(path: str) -> Callable[[Caller], Reply]:
    def act(caller: Caller) -> Reply:
        request_id = caller.new_id()
        with caller.connect() as connection:
            connection.send(caller.head_of("GET", path, request_id))
            connection.read_until(b"\r\n\r\n")
            assert connection.read_exactly(5), "no body came"
            connection.reset()
        return Reply(request_id)

    return act


def _leave_after_body(path: str) -> Callable[[Caller], Reply]:
    def act(caller: Caller) -> Reply:
        request_id = caller.new_id()
        with caller.connect() as connection:
            connection.send(caller.head_of("GET", path, request_id))
            status, body = connection.read_response()
            connection.reset()
        return Reply(request_id, status, len(body), body)

    return act


def _upload_cut_short(caller: Caller) -> Reply:
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(caller.head_of("POST", "/upload", request_id, "Content-Length: 1000"))
        connection.send(b"x" * 100)
        connection.half_close()
        connection.read_to_end()
    return Reply(request_id)


def _bad_content_length(caller: Caller) -> Reply:
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(caller.head_of("POST", "/upload", request_id, "Content-Length: ten"))
        connection.half_close()
        status, body = connection.read_response()
    return Reply(request_id, status, len(body), body)


def _huge_header(caller: Caller) -> Reply:
    request_id = caller.new_id()
    with caller.connect() as connection:
        head = caller.head_of("GET", "/hello", request_id, "Connection: close", "X-Huge: " + "x" * HUGE)
        try:
            connection.send(head)
        except ConnectionError:
            pass  # the server did not wait for the end of it
        status, body = connection.read_response()
    return Reply(request_id, status, len(body), body)


def _pipelining(caller: Caller) -> list[Reply]:
    """Three requests in one packet, before the first answer."""
    ids = [caller.new_id() for _ in range(3)]
    with caller.connect() as connection:
        connection.send(b"".join(caller.head_of("GET", "/hello", request_id) for request_id in ids))
        answers = [connection.read_response() for _ in ids]
    return [
        Reply(request_id, status, len(body), body)
        for request_id, (status, body) in zip(ids, answers, strict=True)
        if status
    ]


CASES = [
    Case(
        "client_leaves_before_headers",
        _leave_before_headers,
        Expect("/slow/{ms:int}", status=None, outcome="client_disconnect"),
        differs={
            "waitress": differs(
                "waitress hides it: it buffers the whole response, and looks at its socket afterwards",
                status=200,
                outcome="completed",
            ),
        },
        shows="client_disconnect",
    ),
    Case(
        "client_leaves_during_body",
        _leave_during_body("/drip"),
        Expect("/drip", outcome="client_disconnect", checks=(checks.takes(0, 1.4),)),
        differs={"plain-asgi": NEVER_LISTENS},
        shows="client_disconnect",
    ),
    Case(
        "client_leaves_server_sent_events",
        _leave_during_body("/sse/150"),
        Expect("/sse/{count:int}", outcome="client_disconnect", checks=(checks.takes(0, 1.4),)),
        differs={"plain-asgi": NEVER_LISTENS},
        shows="client_disconnect",
    ),
    Case(
        "client_leaves_after_body",
        _leave_after_body("/hello"),
        Expect("/hello"),
        shows="client_disconnect",
    ),
    Case(
        "client_leaves_after_a_stream",
        _leave_after_body("/stream"),
        Expect("/stream"),
        shows="client_disconnect",
    ),
    Case(
        "client_leaves_while_the_app_goes_on",
        _leave_after_body("/after-slow"),
        Expect("/after-slow", checks=(checks.takes(0, 0.1),)),
        shows="client_disconnect",
    ),
    Case(
        "upload_cut_short",
        _upload_cut_short,
        Expect(
            "/upload",
            method="POST",
            status=None,
            outcome="client_disconnect",
            level="warning",
            raises=LEFT,
            findings=("truncated_request",),
            checks=(checks.found("truncated_request", request_bytes=100, declared_bytes=1000),),
        ),
        differs={
            "waitress": differs("waitress never calls the app before the body is whole", telemetry=False),
            "wsgi": differs(
                "the app answers what has arrived, and a half-closed client gets the answer", status=200
            ),
            "django-asgi": differs(
                "Django reads the whole body before it looks for a route", route=UNMATCHED
            ),
        },
        shows="truncated_request",
    ),
    Case(
        "huge_header",
        _huge_header,
        Expect("/hello", telemetry=False),
        differs={"uvicorn": NO_LIMIT, "uvicorn-uvloop": NO_LIMIT, "gunicorn-uvicorn": NO_LIMIT},
    ),
    Case("content_length_malformed", _bad_content_length, Expect("/upload", method="POST", telemetry=False)),
    Case(
        "pipelining",
        _pipelining,
        Expect("/hello", requests=3),
        differs={
            "gunicorn-sync": differs("the sync worker closes after each response", requests=1),
        },
    ),
]
