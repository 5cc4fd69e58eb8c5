"""What HTTP status hides: each detector brought about by a real client, and near misses that must stay silent.

The transport's own findings follow from the outcomes of all other cases; here is what needs more than one request,
the application's word, or a look at its answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.conformance import checks
from tests.conformance.client import Caller, Reply
from tests.conformance.metrics import DUPLICATES, PARTIAL_WRITES
from tests.conformance.model import UNMATCHED, Case, Expect, differs

# As many successes as empty_success learns a route from, and some.
LEARNED = 520
TAKES_MS, CLICKS_APART_S = 150, 0.05

ONE_AT_A_TIME = differs(
    "the sync worker serves one request at a time: the second one begins when the first has ended",
    checks=(checks.found("duplicate_request", kind="repeat"), checks.kind_counted(DUPLICATES, "repeat")),
)
ABORT_UNSEEN = differs(
    "waitress buffers the answer and looks at its socket afterwards: the first request was completed",
    checks=(checks.found("duplicate_request", kind="repeat"), checks.kind_counted(DUPLICATES, "repeat")),
)
WAITRESS_BUFFERS = "waitress never calls the app before the body is whole"
READS_FIRST = "Django reads the whole body before it looks for a view, under ASGI"


def _who(caller: Caller) -> str:
    return f"client-of-{caller.new_id()}"


def _order(caller: Caller, **asked: Any) -> bytes:
    return json.dumps({"id": caller.new_id(), **asked}).encode()


def _post(caller: Caller, who: str, body: bytes, path: str = "/checkout", **options: Any) -> Reply:
    return caller.request("POST", path, client=who, content=body, **options)


def _again(**asked: Any) -> Callable[[Caller], list[Reply]]:
    """The same client posts the same order a second time, after the first answer."""

    def act(caller: Caller) -> list[Reply]:
        who, body = _who(caller), _order(caller, **asked)
        first = _post(caller, who, body, earlier=True)
        caller.wait_for_record(first.request_id)
        return [first, _post(caller, who, body)]

    return act


def _aborted_before(caller: Caller) -> int:
    """A client posts its order and is gone before the answer."""
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(_same_order(caller, request_id))
        caller.wait_for_event(f"note.before.stdlib {request_id}")
        connection.reset()
    return 1


def _same_order(caller: Caller, request_id: str) -> bytes:
    """The same to the last byte, but for its id, also for another caller of this server."""
    body = json.dumps({"id": f"order-of-{caller.port}", "takes_ms": TAKES_MS}).encode()
    length = f"Content-Length: {len(body)}"
    return caller.head_of("POST", "/checkout", request_id, length, client=f"client-{caller.port}") + body


def _after_the_abort(caller: Caller) -> Reply:
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(_same_order(caller, request_id))
        status, body = connection.read_response()
    return Reply(request_id, status, len(body), body)


def _double_click(caller: Caller) -> list[Reply]:
    who, body = _who(caller), _order(caller, takes_ms=TAKES_MS)
    first_id = caller.new_id()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_post, caller, who, body, request_id=first_id, earlier=True)
        caller.wait_for_event(f"note.before.stdlib {first_id}")
        time.sleep(CLICKS_APART_S)  # so that it is also the one that ends last
        second = _post(caller, who, body)
        return [first.result(), second]


def _same_key(caller: Caller) -> list[Reply]:
    who, key = _who(caller), {"Idempotency-Key": caller.new_id()}
    first = _post(caller, who, _order(caller), headers=key, earlier=True)
    caller.wait_for_record(first.request_id)
    return [first, _post(caller, who, _order(caller), headers=key)]


def _other_keys(caller: Caller) -> list[Reply]:
    who, body = _who(caller), _order(caller)
    return [_post(caller, who, body, headers={"Idempotency-Key": caller.new_id()}) for _ in range(2)]


def _other_bodies(caller: Caller) -> list[Reply]:
    who = _who(caller)
    return [_post(caller, who, _order(caller)) for _ in range(3)]


def _other_clients(caller: Caller) -> list[Reply]:
    body = _order(caller)
    return [_post(caller, _who(caller), body) for _ in range(3)]


def _polling(caller: Caller) -> list[Reply]:
    who = _who(caller)
    return [caller.get("/answers/full", client=who) for _ in range(5)]


def _storm(times: int) -> Callable[[Caller], int]:
    """One client tries one refund again and again, and gets a 503 each time."""

    def prepare(caller: Caller) -> int:
        for _ in range(times):
            tried = _post(caller, f"client-{caller.port}", _REFUND, "/refund")
            caller.wait_for_record(tried.request_id)
        return times

    return prepare


_REFUND = json.dumps({"id": "refund", "status": 503}).encode()


def _upload_head(caller: Caller, path: str, request_id: str, *more: str) -> bytes:
    return caller.head_of("POST", path, request_id, "Content-Length: 1000", *more)


def _upload_reset(caller: Caller) -> Reply:
    """The client waits until the server wants the body, sends a part of it, and is gone."""
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(_upload_head(caller, "/upload", request_id, "Expect: 100-continue"))
        connection.read_until(b"\r\n\r\n")
        connection.send(b"x" * 100)
        connection.reset()
    return Reply(request_id)


def _upload_after_continue(caller: Caller) -> Reply:
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(_upload_head(caller, "/upload", request_id, "Expect: 100-continue"))
        connection.read_until(b"\r\n\r\n")
        connection.send(b"x" * 1000)
        status, body = connection.read_response()
    return Reply(request_id, status, len(body), body)


def _upload_ignored(caller: Caller) -> Reply:
    """Less than was declared, to an app that does not read it; the client stays until it has its answer."""
    request_id = caller.new_id()
    with caller.connect() as connection:
        connection.send(_upload_head(caller, "/ignore-body", request_id) + b"x" * 100)
        status, body = connection.read_response()
    return Reply(request_id, status, len(body), body)


def _never_empty(caller: Caller) -> int:
    """One client asks again and again, over as few connections as the server lets it."""
    answered = 0
    while answered < LEARNED:
        with caller.connect() as connection:
            while answered < LEARNED:
                connection.send(caller.head_of("GET", "/stock/full", "learning", client="learning"))
                if not connection.read_response()[0]:
                    break
                answered += 1
    return LEARNED


CASES = [
    # -- repeats -------------------------------------------------------------------------------------
    Case(
        "double_click",
        _double_click,
        Expect(
            "/checkout",
            method="POST",
            status=201,
            requests=2,
            findings=("duplicate_request",),
            earlier={"findings": ()},
            checks=(
                checks.found("duplicate_request", kind="concurrent", by="content", attempt=2),
                checks.kind_counted(DUPLICATES, "concurrent"),
            ),
        ),
        differs={"gunicorn-sync": ONE_AT_A_TIME},
        shows="duplicate_request",
    ),
    Case(
        "posted_again_after_its_success",
        _again(),
        Expect(
            "/checkout",
            method="POST",
            status=201,
            requests=2,
            findings=("duplicate_request",),
            earlier={"findings": ()},
            checks=(
                checks.found("duplicate_request", kind="repeat", by="content", earlier_status=201),
                checks.kind_counted(DUPLICATES, "repeat"),
            ),
        ),
        shows="duplicate_request",
    ),
    Case(
        "posted_again_after_an_error",
        _again(fails_once=True),
        Expect(
            "/checkout",
            method="POST",
            status=201,
            requests=2,
            findings=("duplicate_request",),
            earlier={"findings": (), "status": 503},
            checks=(
                checks.found("duplicate_request", kind="retry_after_error", earlier_status=503),
                checks.kind_counted(DUPLICATES, "retry_after_error"),
            ),
        ),
        shows="duplicate_request",
    ),
    Case(
        "posted_again_after_an_abort",
        _after_the_abort,
        Expect(
            "/checkout",
            method="POST",
            status=201,
            findings=("duplicate_request",),
            checks=(
                checks.found("duplicate_request", kind="retry_after_abort"),
                checks.kind_counted(DUPLICATES, "retry_after_abort"),
            ),
        ),
        differs={"waitress": ABORT_UNSEEN},
        shows="duplicate_request",
        prepare=_aborted_before,
    ),
    Case(
        "another_body_under_the_same_idempotency_key",
        _same_key,
        Expect(
            "/checkout",
            method="POST",
            status=201,
            requests=2,
            findings=("duplicate_request",),
            earlier={"findings": ()},
            checks=(checks.found("duplicate_request", kind="repeat", by="idempotency_key"),),
        ),
        shows="duplicate_request",
    ),
    Case(
        "the_same_body_under_other_idempotency_keys",
        _other_keys,
        Expect("/checkout", method="POST", status=201, requests=2),
        shows="duplicate_request",
    ),
    Case(
        "other_bodies_of_one_client",
        _other_bodies,
        Expect("/checkout", method="POST", status=201, requests=3),
        shows="duplicate_request",
    ),
    Case(
        "the_same_body_from_other_clients",
        _other_clients,
        Expect("/checkout", method="POST", status=201, requests=3),
        shows="duplicate_request",
    ),
    Case("polling", _polling, Expect("/answers/{name}", requests=5), shows="duplicate_request"),
    Case(
        "posted_again_after_a_refusal",
        _again(status=422),
        Expect("/checkout", method="POST", status=422, requests=2),
        shows="duplicate_request",
    ),
    Case(
        "some_retries",
        lambda caller: _post(caller, f"client-{caller.port}", _REFUND, "/refund"),
        Expect(
            "/refund",
            method="POST",
            status=503,
            findings=("duplicate_request",),
            checks=(checks.found("duplicate_request", kind="retry_after_error"),),
        ),
        shows="retry_storm",
        prepare=_storm(2),
    ),
    Case(
        "many_retries_of_one_operation",
        lambda caller: _post(caller, f"client-{caller.port}", _REFUND, "/refund"),
        Expect(
            "/refund",
            method="POST",
            status=503,
            findings=("duplicate_request", "retry_storm"),
            # Three requests of the case before, seven here: the eleventh is the tenth that repeats another.
            checks=(checks.found("retry_storm", attempts=11, operations=1),),
        ),
        shows="retry_storm",
        prepare=_storm(7),
    ),
    # -- uploads -------------------------------------------------------------------------------------
    Case(
        "upload_reset",
        _upload_reset,
        Expect(
            "/upload",
            method="POST",
            status=None,
            outcome="client_disconnect",
            level="warning",
            raises=(None, "ConnectionResetError", "ClientDisconnect", "RequestAborted", "ClientDisconnected"),
            findings=("truncated_request",),
            checks=(
                checks.found(
                    "truncated_request", declared_bytes=1000, request_bytes=range(1000).__contains__
                ),
            ),
        ),
        differs={
            "waitress": differs(WAITRESS_BUFFERS, telemetry=False),
            "wsgi": differs(
                "reading raises into the app; what the framework answers reaches nobody",
                raises=("ConnectionResetError", "UnreadablePostError"),
            ),
            "django-asgi": differs(READS_FIRST, route=UNMATCHED),
        },
        shows="truncated_request",
    ),
    Case(
        "upload_after_continue",
        _upload_after_continue,
        Expect("/upload", method="POST", checks=(checks.line_has(request_bytes=1000),)),
        shows="truncated_request",
    ),
    Case(
        "upload_nobody_reads_cut_short",
        _upload_ignored,
        Expect("/ignore-body", method="POST", status=202),
        not_for={"waitress": WAITRESS_BUFFERS, "django-asgi": READS_FIRST},
        shows="truncated_request",
    ),
    # -- answers -------------------------------------------------------------------------------------
    Case(
        "error_in_a_success",
        lambda caller: caller.get("/answers/error"),
        Expect(
            "/answers/{name}",
            findings=("soft_error",),
            checks=(checks.found("soft_error", key="error", status=200),),
        ),
        shows="soft_error",
    ),
    Case(
        "error_deeper_in_a_success",
        lambda caller: caller.get("/answers/nested"),
        Expect("/answers/{name}"),
        shows="soft_error",
    ),
    Case(
        "error_with_an_error_status",
        lambda caller: caller.get("/orders/999"),
        Expect("/orders/{order_id:int}", status=404),
        shows="soft_error",
    ),
    Case(
        "empty_list_on_a_route_nobody_knows_yet",
        lambda caller: caller.get("/answers/empty"),
        Expect("/answers/{name}"),
        shows="empty_success",
    ),
    Case(
        "empty_list_on_a_route_that_never_was",
        lambda caller: caller.get("/stock/empty"),
        Expect(
            "/stock/{name}",
            findings=("empty_success",),
            checks=(checks.found("empty_success", body="[]", response_bytes=lambda size: 2 <= size <= 3),),
        ),
        shows="empty_success",
        prepare=_never_empty,
    ),
    # -- the application's word ----------------------------------------------------------------------
    Case(
        "invariant_that_fails",
        lambda caller: caller.get("/assume/0"),
        Expect(
            "/assume/{stock:int}",
            findings=("invariant_failed",),
            checks=(
                checks.found("invariant_failed", invariant="stock_left", stock=0),
                checks.invariant_counted("stock_left", "failed"),
                checks.reply_is(b"did not hold"),
            ),
        ),
        shows="invariant_failed",
    ),
    Case(
        "invariant_that_holds",
        lambda caller: caller.get("/assume/1"),
        Expect(
            "/assume/{stock:int}",
            checks=(checks.invariant_counted("stock_left", "held"), checks.reply_is(b"held")),
        ),
        shows="invariant_failed",
    ),
    Case(
        "work_done_in_part",
        lambda caller: caller.get("/unit-of-work/2"),
        Expect(
            "/unit-of-work/{steps:int}",
            findings=("partial_write",),
            checks=(
                checks.found(
                    "partial_write",
                    kind="unit_of_work",
                    unit="checkout",
                    severity="critical",
                    done=["charge", "order"],
                    missing=["mail"],
                ),
                checks.kind_counted(PARTIAL_WRITES, "unit_of_work"),
            ),
        ),
        shows="partial_write",
    ),
    Case(
        "work_done_in_whole",
        lambda caller: caller.get("/unit-of-work/3"),
        Expect("/unit-of-work/{steps:int}", checks=(checks.kinds_counted_none(PARTIAL_WRITES),)),
        shows="partial_write",
    ),
    Case(
        "work_not_begun",
        lambda caller: caller.get("/unit-of-work/0"),
        Expect("/unit-of-work/{steps:int}", checks=(checks.kinds_counted_none(PARTIAL_WRITES),)),
        shows="partial_write",
    ),
]
