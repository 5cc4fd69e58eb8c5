"""Whose trace and whose request: incoming parents, concurrent requests, the app's own log lines."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.conformance import checks
from tests.conformance.client import Caller, Reply
from tests.conformance.model import Case, Expect
from tests.conformance.views import Seen

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONCURRENT = 20


def _with_parent(caller: Caller) -> Reply:
    # Another trace each time: spans of all targets end up in one receiver.
    trace_id = caller.new_trace_id()
    header = f"00-{trace_id}-{PARENT_ID}-01"
    return caller.get(
        "/hello", headers={"traceparent": header, "tracestate": "vendor=a"}, facts={"trace_id": trace_id}
    )


def continues_the_trace(seen: Seen) -> None:
    trace_id = seen.reply.facts["trace_id"]
    assert seen.line["trace_id"] == trace_id, f"trace_id {seen.line['trace_id']}, the client sent {trace_id}"
    assert seen.span.parent_span_id == PARENT_ID, (
        f"parent {seen.span.parent_span_id!r}, the client's is {PARENT_ID}"
    )
    assert seen.span.trace_state == "vendor=a", f"tracestate {seen.span.trace_state!r}"


def starts_a_trace(seen: Seen) -> None:
    assert seen.line["trace_id"] not in (TRACE_ID, "0" * 32), f"trace_id {seen.line['trace_id']}"
    assert seen.span.parent_span_id == "", f"parent {seen.span.parent_span_id}"


def _concurrently(caller: Caller) -> list[Reply]:
    ids = [caller.new_id() for _ in range(CONCURRENT)]
    with ThreadPoolExecutor(CONCURRENT) as pool:
        return list(pool.map(lambda one: caller.get("/slow/30", request_id=one), ids))


def trace_is_its_own(seen: Seen) -> None:
    assert len(seen.all_spans) == 1, f"{len(seen.all_spans)} requests share one trace"


NOTES = tuple(f"note.{where}.{by}" for where in ("here", "thread", "task") for by in ("stdlib", "structlog"))
AROUND = tuple(f"note.{where}.{by}" for where in ("before", "after") for by in ("stdlib", "structlog"))

CASES = [
    Case("traceparent", _with_parent, Expect("/hello", checks=(continues_the_trace,))),
    Case(
        "traceparent_malformed",
        lambda caller: caller.get("/hello", headers={"traceparent": f"00-{TRACE_ID}-{'0' * 16}-01"}),
        Expect("/hello", checks=(starts_a_trace,)),
    ),
    Case(
        "traceparent_nonsense",
        lambda caller: caller.get("/hello", headers={"traceparent": b"\xff\xfe;--", "tracestate": "=,=,"}),
        Expect("/hello", checks=(starts_a_trace,)),
    ),
    Case(
        "app_log_lines",
        lambda caller: caller.get("/logs"),
        Expect("/logs", checks=(checks.app_lines(*NOTES),)),
    ),
    Case(
        "threadpool_endpoint",
        lambda caller: caller.get("/threadpool"),
        Expect("/threadpool", checks=(checks.app_lines("note.pool.stdlib", "note.pool.structlog"),)),
    ),
    Case(
        "concurrent_requests",
        _concurrently,
        Expect(
            "/slow/{ms:int}",
            requests=CONCURRENT,
            checks=(checks.takes(0.029), checks.app_lines(*AROUND), trace_is_its_own),
        ),
    ),
]
