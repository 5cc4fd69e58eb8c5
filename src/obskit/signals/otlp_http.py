"""The official OTLP/HTTP exporter, with a look at what the collector answers.

The exporter takes any answer below 400 for a success and never reads it: spans that a collector refused one by one,
and all of them behind a wrong URL, a redirect or a login page, would be lost without a trace.

Imported only where spans are sent this way: the HTTP client behind it takes as long to load as all of obskit.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from http.client import HTTPException, RemoteDisconnected
from socket import gaierror
from time import monotonic
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from obskit.signals.collector import FINE, Saw

# An answer says how many spans it did not take; whatever is longer is no such answer.
MAX_ANSWER: Final = 8192
MAX_SAYING: Final = 200


class NotOtlp(Exception):
    """An answer with a status of success from something that is no collector."""


class _Session(requests.Session):
    """Looks at each answer on its way to the exporter."""

    saw = FINE

    def request(self, method: Any, url: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        self.saw = Saw("failed")
        began = monotonic()
        try:
            # Read here, and no more of it than an answer has: a stream that never ends would fill the memory.
            response = super().request(method, url, **{**options, "stream": True})
            body = _read(response, began, options.get("timeout"))
            self.saw = judge(response.status_code, response.headers, body)
        except Exception as error:
            self.saw = why(error)
            raise
        if self.saw.kind == "not_otlp":
            # An exception, for that is all that the exporter takes for a failure.
            raise NotOtlp(self.saw.error)
        return response


def _read(response: requests.Response, began: float, timeout_s: Any) -> bytes:
    body = bytearray()
    with response:
        # Byte by byte, for that is how a chunk comes as soon as it is there; an answer has few of them.
        for chunk in response.iter_content(1):
            body += chunk
            if len(body) > MAX_ANSWER:
                break
            # The timeout of a socket begins anew with each byte of a collector that sends one at a time.
            if isinstance(timeout_s, int | float) and monotonic() - began > timeout_s:
                raise requests.ReadTimeout("the answer came too slowly")
    return bytes(body)


def judge(status: int, headers: Any, body: bytes) -> Saw:
    """What an answer means for the spans it answers."""
    if status >= 400:
        retry_after_s = _seconds(headers.get("retry-after", ""))
        kind = "throttled" if status == 429 or (status == 503 and retry_after_s) else "http_error"
        return Saw(kind, f"status {status}", retry_after_s=retry_after_s)
    if status >= 300:
        return Saw("not_otlp", f"status {status}, a redirect")
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    start = body[:64].lstrip()[:1]
    if not body:
        return FINE  # the empty message: all spans were taken
    if len(body) > MAX_ANSWER or media == "text/html" or (start == b"<" and "protobuf" not in media):
        return Saw("not_otlp", f"status {status} with {media or 'something'} of {len(body)} bytes or more")
    try:
        if "protobuf" in media:
            partial = ExportTraceServiceResponse.FromString(body).partial_success
            rejected, says = partial.rejected_spans, partial.error_message
        elif media == "application/json":
            found = json.loads(body)
            partial = (found.get("partialSuccess") if isinstance(found, dict) else None) or {}
            rejected, says = int(partial.get("rejectedSpans") or 0), partial.get("errorMessage") or ""
        else:
            return FINE  # nothing that says otherwise
    except Exception as error:
        return Saw("not_otlp", f"status {status} with {media} that is none: {type(error).__name__}")
    if rejected <= 0 and not says:
        return FINE
    printable = "".join(one if one.isprintable() else " " for one in str(says)[:MAX_SAYING])
    return Saw("rejected", "", rejected, printable) if rejected > 0 else Saw(says=printable)


def _seconds(value: str) -> float:
    return float(value) if re.fullmatch(r"\s*[0-9]{1,6}\s*", value) else 0.0


_KINDS: Final[tuple[tuple[Any, str], ...]] = (
    (ssl.SSLError, "tls"),
    (requests.exceptions.SSLError, "tls"),
    (gaierror, "dns"),
    (ConnectionRefusedError, "refused"),
    (RemoteDisconnected, "reset"),
    ((ConnectionResetError, ConnectionAbortedError, BrokenPipeError), "reset"),
    ((TimeoutError, requests.Timeout), "timeout"),
    (HTTPException, "reset"),
)


def why(error: BaseException) -> Saw:
    """What kept a batch from being answered. Never the error's own text: that has the URL in it, with its secrets."""
    seen: list[BaseException] = [error]
    for one in seen:
        if len(seen) > 50:
            break
        inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        seen += [it for it in inner if isinstance(it, BaseException) and it not in seen]
    for kind, name in _KINDS:
        for one in seen:
            if isinstance(one, kind):
                return Saw(name, type(one).__name__)
    return Saw("failed", type(error).__name__)


class HttpExporter(OTLPSpanExporter):
    """The official exporter, with a session that looks at what it gets."""

    def __init__(self, endpoint: str | None) -> None:
        # A session of the user's own (credentials) comes before ours: its answers stay unread.
        own = any(
            os.environ.get(name)
            for name in (
                "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
                "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
            )
        )
        self._looks = None if own else _Session()
        super().__init__(endpoint=endpoint, session=self._looks)

    @property
    def saw(self) -> Saw | None:
        """What became of the last batch; None where we cannot know more than success or failure."""
        return None if self._looks is None else self._looks.saw
