"""An OTLP/HTTP receiver for tests, built on the official opentelemetry-proto messages."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.receiver import Receiver, body_of

INTERNAL = trace_pb2.Span.SPAN_KIND_INTERNAL
SERVER = trace_pb2.Span.SPAN_KIND_SERVER
CLIENT = trace_pb2.Span.SPAN_KIND_CLIENT
STATUS_UNSET = trace_pb2.Status.STATUS_CODE_UNSET
STATUS_ERROR = trace_pb2.Status.STATUS_CODE_ERROR


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    time_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it came over the wire; ids in lower-case hex, times in ns since the epoch."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    status_code: int
    status_message: str
    trace_state: str
    scope: str
    resource: dict[str, Any]

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class OtlpSink(Receiver):
    """Listens on a free loopback port and keeps every span it gets. Use as a context manager."""

    protocol = "HTTP/1.1"

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[ReceivedSpan] = []
        self._errors: list[str] = []
        self._requests = 0
        self._changed = threading.Condition()

    @property
    def requests(self) -> int:
        """How many export requests were taken."""
        return self._requests

    @property
    def errors(self) -> list[str]:
        """Export requests that could not be read, one sentence each."""
        return list(self._errors)

    def spans(self, trace_id: str | None = None, *, kind: int | None = None) -> list[ReceivedSpan]:
        """Spans received until now, in order of arrival; of one trace and of one kind if given."""
        with self._changed:
            return self._matching(trace_id, kind)

    def _matching(self, trace_id: str | None, kind: int | None) -> list[ReceivedSpan]:
        return [
            span
            for span in self._spans
            if (trace_id is None or span.trace_id == trace_id) and (kind is None or span.kind == kind)
        ]

    def wait_for(
        self, *, trace_id: str, kind: int | None = None, count: int = 1, timeout: float = 5.0
    ) -> ReceivedSpan:
        """The first span of the trace, as soon as `count` of them are there; TimeoutError after `timeout` s."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(found := self._matching(trace_id, kind)) < count:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f"{len(found)} of {count} spans of trace {trace_id} within {timeout:g} s; "
                        f"{len(self._spans)} spans of all traces, unreadable exports: {self._errors}"
                    )
                self._changed.wait(left)
            return found[0]

    def take(self, path: str, body: bytes) -> bytes:
        """Keep the spans of one export request; returns the reply's body."""
        if path != "/v1/traces":
            raise ValueError(f"path {path!r}: this receiver takes /v1/traces")
        message = ExportTraceServiceRequest.FromString(body)
        received = list(_spans_of(message))
        with self._changed:
            self._requests += 1
            self._spans.extend(received)
            self._changed.notify_all()
        return bytes(ExportTraceServiceResponse().SerializeToString())

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body, headers = body_of(request), request.headers
        status = 200
        try:
            if request.command != "POST":
                raise ValueError(f"method {request.command}")
            encoding = headers.get("Content-Encoding", "identity")
            if encoding == "gzip":
                body = gzip.decompress(body)
            elif encoding != "identity":
                raise ValueError(f"content encoding {encoding!r}")
            if headers.get("Content-Type") != "application/x-protobuf":
                raise ValueError(f"content type {headers.get('Content-Type')!r}")
            reply = self.take(request.path, body)
        except Exception as problem:  # whatever arrives, the test must be able to read what was wrong
            self.refuse(f"{type(problem).__name__}: {problem}")
            status, reply = 400, b""
        request.send_response(status)
        request.send_header("Content-Type", "application/x-protobuf")
        request.send_header("Content-Length", str(len(reply)))
        request.end_headers()
        request.wfile.write(reply)

    def refuse(self, why: str) -> None:
        with self._changed:
            self._errors.append(why)


def _spans_of(message: ExportTraceServiceRequest) -> Iterable[ReceivedSpan]:
    for group in message.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scoped in group.scope_spans:
            for span in scoped.spans:
                yield ReceivedSpan(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_span_id=span.parent_span_id.hex(),
                    name=span.name,
                    kind=span.kind,
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes=_attributes(span.attributes),
                    events=tuple(
                        Event(event.name, event.time_unix_nano, _attributes(event.attributes))
                        for event in span.events
                    ),
                    status_code=span.status.code,
                    status_message=span.status.message,
                    trace_state=span.trace_state,
                    scope=scoped.scope.name,
                    resource=resource,
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
