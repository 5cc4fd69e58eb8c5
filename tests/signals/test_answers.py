"""What an answer of a collector means, and that nothing of an error is ever said but its kind."""

from __future__ import annotations

import socket
import ssl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from obskit.signals.answers import MAX_SAYING, judge, partial_success, why
from obskit.signals.collector import FINE, Saw
from obskit.signals.http_post import MAX_ANSWER, NoHttp

PROTOBUF = {"content-type": "application/x-protobuf"}


def partial(rejected: int, says: str = "") -> bytes:
    found = ExportTracePartialSuccess(rejected_spans=rejected, error_message=says)
    return bytes(ExportTraceServiceResponse(partial_success=found).SerializeToString())


@pytest.mark.parametrize(
    ("status", "headers", "body", "saw"),
    [
        (200, PROTOBUF, b"", FINE),
        (202, {}, b"", FINE),
        (204, {}, b"", FINE),
        (200, PROTOBUF, partial(0), FINE),
        (200, PROTOBUF, partial(3, "no"), Saw("rejected", "", 3, "no")),
        (200, PROTOBUF, partial(-3, "odd"), Saw(says="odd")),
        (200, PROTOBUF, partial(0, "old names"), Saw(says="old names")),
        (200, {"content-type": "application/json"}, b"{}", FINE),
        (200, {"content-type": "application/json"}, b"[]", FINE),
        (200, {"content-type": "application/json"}, b'{"partialSuccess":null}', FINE),
        (200, {"content-type": "application/json"}, b'{"partialSuccess":{"rejectedSpans":"2"}}',
         Saw("rejected", "", 2)),
        (200, {"content-type": "text/plain"}, b"OK", FINE),
        (200, {}, b"\x00\x01", FINE),
    ],
    ids=str,
)  # fmt: skip
def test_an_answer_that_takes_the_batch_says_how_many_spans_it_did_not_take(
    status: int, headers: dict[str, str], body: bytes, saw: Saw
) -> None:
    assert judge(status, headers, body) == saw


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {"content-type": "text/html; charset=utf-8"}, b"<html>"),
        (200, {}, b"  <!doctype html>"),
        (200, PROTOBUF, b"\xff\xff\xff"),
        (200, {"content-type": "application/json"}, b"not json"),
        (200, {"content-type": "application/json"}, b'{"partialSuccess":{"rejectedSpans":"many"}}'),
        (200, {"content-type": "text/plain"}, b"x" * (MAX_ANSWER + 1)),
        (301, {"location": "https://elsewhere.invalid"}, b""),
        (307, {}, b""),
    ],
    ids=str,
)
def test_a_success_of_something_that_is_no_collector_is_none(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    assert judge(status, headers, body).kind == "not_otlp"


@pytest.mark.parametrize(
    ("status", "headers", "kind", "retry_after_s"),
    [
        (400, {}, "http_error", 0),
        (500, {}, "http_error", 0),
        (503, {}, "http_error", 0),
        (503, {"retry-after": "7"}, "throttled", 7),
        (429, {}, "throttled", 0),
        (429, {"retry-after": " 30 "}, "throttled", 30),
        (429, {"retry-after": "Wed, 21 Oct 2035 07:28:00 GMT"}, "throttled", 0),
        (429, {"retry-after": "-1"}, "throttled", 0),
        (429, {"retry-after": "9" * 400}, "throttled", 0),
    ],
)
def test_an_error_is_named_with_its_status_and_how_long_to_wait(
    status: int, headers: dict[str, str], kind: str, retry_after_s: float
) -> None:
    assert judge(status, headers, b"<html>") == Saw(kind, f"status {status}", retry_after_s=retry_after_s)


def test_what_a_collector_says_is_bounded_and_printable() -> None:
    saw = judge(200, PROTOBUF, partial(1, "\x1b[31m\n" + "long " * 1000))
    assert len(saw.says) == MAX_SAYING
    assert saw.says.isprintable()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(), "refused"),
        (socket.gaierror(-2, "unknown"), "dns"),
        (ConnectionResetError(), "reset"),
        (BrokenPipeError(), "reset"),
        (NoHttp("secret"), "reset"),
        (ssl.SSLCertVerificationError("secret"), "tls"),
        (ssl.SSLEOFError("secret"), "tls"),
        (TimeoutError(), "timeout"),
        (MemoryError(), "failed"),
        (OSError("secret: no such certificate"), "failed"),
    ],
)
def test_what_kept_a_batch_from_being_answered_is_named_without_the_errors_text(
    error: Exception, kind: str
) -> None:
    assert why(error) == Saw(kind, type(error).__name__)
    outer = ValueError("secret")
    outer.__cause__ = error
    assert why(outer).kind == kind
    assert "secret" not in why(outer).error


def test_errors_that_name_each_other_are_looked_at_once() -> None:
    one, other = ValueError(), ValueError()
    one.__context__, other.args = other, (one,)
    assert why(one) == Saw("failed", "ValueError")


# ---- the message that says so --------------------------------------------------------------------------------------


@given(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_partial_success_is_read_as_the_official_classes_write_it(rejected: int, says: str) -> None:
    assert partial_success(partial(rejected, says)) == (rejected, says)


@given(st.binary(max_size=40))
@example(b"\x0a\x02\x12\x00")
@example(b"\x0a\x03\x12\x01\xff")
@example(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
@example(b"\x0d\x00")
@example(b"\x00\x00")
def test_what_is_no_such_message_is_refused_where_the_official_classes_refuse_it(data: bytes) -> None:
    try:
        found = ExportTraceServiceResponse.FromString(data).partial_success
        official = found.rejected_spans, found.error_message
    except Exception:
        official = None
    try:
        ours = partial_success(data)
    except ValueError:
        ours = None
    if ours is None and official is not None:
        assert any(byte & 7 in (3, 4) for byte in data)  # groups, deprecated before there was OTLP
    else:
        assert ours == official
