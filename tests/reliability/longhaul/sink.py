"""A collector that goes and comes back: it takes spans, refuses them, hangs, and is not there at all."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.otlp import SERVER
from tests.support.receiver import Receiver, body_of

MODES = ("takes", "refuses", "takes", "hangs", "takes", "resets")
HANG_S = 3.0


class Sink(Receiver):
    """Keeps of each span its id alone, by service: an hour of them fits in."""

    protocol = "HTTP/1.1"

    def __init__(self) -> None:
        super().__init__()
        self.mode = "takes"
        self.ids: defaultdict[str, set[bytes]] = defaultdict(set)
        """Ids of server spans by service."""
        self.backwards: list[str] = []
        """Spans that end before they start, or last longer than a minute."""
        self.changed = 0
        self._lock = threading.Lock()
        self._leaving = threading.Event()

    def set(self, mode: str) -> None:
        if mode != self.mode:
            self.mode = mode
            self.changed += 1
            self._leaving.set()
            self._leaving = threading.Event()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        try:
            body = body_of(request)
            mode = self.mode
            if mode == "hangs":
                self._leaving.wait(HANG_S)
            if mode in ("hangs", "resets"):
                request.close_connection = True
                return
            status = 503 if mode == "refuses" else 200
            if status == 200:
                if request.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                self._take(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            request.send_response(status)
            request.send_header("Content-Type", "application/x-protobuf")
            request.send_header("Content-Length", str(len(answer)))
            request.end_headers()
            request.wfile.write(answer)
        except OSError:  # the sender has given up waiting
            request.close_connection = True

    def _take(self, message: ExportTraceServiceRequest) -> None:
        for group in message.resource_spans:
            service = next(
                (one.value.string_value for one in group.resource.attributes if one.key == "service.name"), ""
            )
            with self._lock:
                for scoped in group.scope_spans:
                    for span in scoped.spans:
                        lasted_s = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
                        if not 0 <= lasted_s < 60:
                            self.backwards.append(f"{service}: {span.name} {lasted_s} s")
                        if span.kind == SERVER:
                            self.ids[service].add(span.span_id)

    def count(self, service: str) -> int:
        with self._lock:
            return len(self.ids[service])
