"""The official exporter, and what our look at its answers sees."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from obskit.signals import otlp_http
from obskit.signals.collector import FINE, Saw
from obskit.signals.otlp_http import MAX_ANSWER, MAX_SAYING, HttpExporter, judge, why

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


def nested(inner: BaseException) -> requests.RequestException:
    """As requests has it: in an argument, as somebody's reason, or only as the cause."""
    return requests.ConnectionError(ValueError("http://user:secret@host/?key=secret", inner))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (nested(ConnectionRefusedError()), "refused"),
        (nested(socket.gaierror(-2, "unknown")), "dns"),
        (nested(ConnectionResetError()), "reset"),
        (nested(ssl.SSLError("bad")), "tls"),
        (requests.exceptions.SSLError("bad"), "tls"),
        (nested(TimeoutError()), "timeout"),
        (requests.ReadTimeout("slow"), "timeout"),
        (nested(MemoryError()), "failed"),
        (OSError("secret: no such certificate"), "failed"),
    ],
)
def test_what_kept_a_batch_from_being_answered_is_named_without_the_errors_text(
    error: Exception, kind: str
) -> None:
    saw = why(error)
    assert saw.kind == kind
    assert "secret" not in saw.error


def test_errors_that_name_each_other_are_looked_at_once() -> None:
    one, other = ValueError(), ValueError()
    one.__context__, other.args = other, (one,)
    assert why(one) == Saw("failed", "ValueError")


def test_a_session_of_the_users_own_comes_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = requests.Session()
    module = "opentelemetry.exporter.otlp.proto.http.trace_exporter._load_session_from_envvar"
    monkeypatch.setattr(module, lambda name: theirs)
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "theirs")
    exporter = HttpExporter("http://127.0.0.1:9/v1/traces")
    assert exporter.saw is None
    monkeypatch.delenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER")
    assert HttpExporter("http://127.0.0.1:9/v1/traces").saw == FINE


def test_an_answer_that_comes_too_slowly_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(otlp_http, "monotonic", lambda: float(next(clock)))

    class Slow(requests.Response):
        def iter_content(self, *arguments: Any, **more: Any) -> Any:
            yield from (b"x" for _ in range(50))

        def close(self) -> None:
            pass

    with pytest.raises(requests.ReadTimeout):
        otlp_http._read(Slow(), 0.0, 10.0)
