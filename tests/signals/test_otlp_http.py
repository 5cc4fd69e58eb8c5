"""The official exporter, and what our look at its answers sees."""

from __future__ import annotations

import socket
import ssl
from http.client import BadStatusLine, RemoteDisconnected
from typing import Any

import pytest
import requests

from obskit.signals import otlp_http
from obskit.signals.answers import why
from obskit.signals.collector import FINE
from obskit.signals.otlp_http import HttpExporter


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
        (nested(RemoteDisconnected()), "reset"),
        (nested(BadStatusLine("noise")), "reset"),
        (nested(MemoryError()), "failed"),
        (OSError("secret: no such certificate"), "failed"),
    ],
)
def test_what_kept_a_batch_from_being_answered_is_named_without_the_errors_text(
    error: Exception, kind: str
) -> None:
    saw = why(error, otlp_http._KINDS)
    assert saw.kind == kind
    assert "secret" not in saw.error


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
