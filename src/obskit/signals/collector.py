"""What became of the batches of spans that a collector was sent, and what the operator is told of it."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, cast
from urllib.parse import urlsplit

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
DO: Final = {
    "refused": f"nothing listens there: start the collector, or correct {_ENDPOINT}",
    "dns": f"the host name does not resolve: correct {_ENDPOINT}, or the resolver of this host",
    "timeout": "it does not answer in time: look whether it is overloaded, or a firewall swallows what is sent",
    "tls": f"no TLS connection: does {_ENDPOINT} (https) speak TLS, and does OTEL_EXPORTER_OTLP_CERTIFICATE vouch "
    "for its certificate?",
    "reset": "it ends the connection without a whole answer: is this its port for OTLP over HTTP (4318, not 4317)?",
    "throttled": "it asks for less: give it more room, or send fewer spans (OTEL_TRACES_SAMPLER)",
    "http_error": "look up the status: 401 and 403 are about OTEL_EXPORTER_OTLP_HEADERS, 404 and 405 about "
    f"{_ENDPOINT}, 413 about OTEL_BSP_MAX_EXPORT_BATCH_SIZE; 5xx are in the collector's own log",
    "not_otlp": f"what answers there is no OTLP receiver (a web page, a redirect, a login?): correct {_ENDPOINT}",
    "rejected": "the collector took the batch and refused some of its spans; collector_says why",
    "warned": "the collector took all spans and has something to say about them; collector_says what",
    "grpc_error": "look up the status: UNAVAILABLE is nobody there or no TLS, DEADLINE_EXCEEDED one too slow, "
    "UNIMPLEMENTED a port for something else (4317 for gRPC, not 4318)",
    "queue_full": "spans come faster than the collector takes them: the oldest waiting ones are lost; see whether "
    "exports fail, else raise OTEL_BSP_MAX_QUEUE_SIZE or sample",
    "failed": "see error; the exporter's settings are the OTEL_EXPORTER_OTLP_* variables",
}


@dataclass(frozen=True, slots=True)
class Saw:
    """What became of one batch. `kind` is a key of `DO`, empty when all went well."""

    kind: str = ""
    error: str = ""
    rejected: int = 0
    says: str = ""
    retry_after_s: float = 0.0


FINE: Final = Saw()


def shown(endpoint: str) -> str:
    """An address without what may be secret in it: user, password, path and query."""
    try:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "an address that cannot be read"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme + '://' if parts.scheme else ''}{host}{f':{port}' if port else ''}"


# ---- what the exporter says itself -------------------------------------------------------------------------------


class Hush(logging.Filter):
    """Keeps what the exporter and its client log while they export: a line per attempt, for as long as a collector is
    away, with the URL and all that is in it. We say the same at a bounded rate.

    A filter on their loggers, and for the thread that exports for us alone: other exporters are the user's.
    """

    LOGGERS = (
        "opentelemetry.exporter.otlp.common.http",
        "opentelemetry.exporter.otlp.proto.common._internal",
        "opentelemetry.exporter.otlp.proto.grpc.exporter",
        "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "urllib3.connection",
        "urllib3.connectionpool",
        "urllib3.util.retry",
    )

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        heard = getattr(self._here, "heard", None)
        if heard is None:
            return True
        if record.levelno >= logging.WARNING:
            heard[:] = [record]
        return False

    @contextmanager
    def listening(self) -> Iterator[list[logging.LogRecord]]:
        """Inside, what is logged is kept from others; the last warning is in the list."""
        heard: list[logging.LogRecord] = []
        self._here.heard = heard
        try:
            yield heard
        finally:
            self._here.heard = None

    def attach(self) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).addFilter(self)

    def detach(self) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).removeFilter(self)


def heard_of(records: list[logging.LogRecord], failed: Exception | None) -> Saw:
    """What an exporter that shows us no answers (gRPC) said when a batch failed."""
    if failed is not None:
        return Saw("failed", type(failed).__name__)
    for record in records:
        said = re.search(r"StatusCode\.([A-Z_]{1,32})", record.getMessage())
        if said:
            return Saw("grpc_error", said[1])
    return Saw("failed")


class Teller:
    """Says what became of spans: at most once a minute of each kind, and once when all is well again."""

    EVERY_S = 60.0

    def __init__(self, collector: str, log: Callable[[int, str, dict[str, Any]], None] | None = None) -> None:
        self._collector = collector
        self._log = log or _log
        self._told: dict[str, float] = {}
        self._since: float | None = None
        self._failures = self._lost = 0

    def failed(self, saw: Saw, lost: int) -> None:
        """A batch did not arrive, or not all of it."""
        if saw.kind != "rejected" and self._since is None:
            self._since = monotonic()
        self._failures += 1
        self._lost += lost
        facts: dict[str, Any] = {"error": saw.error} if saw.error else {}
        if saw.says:
            facts["collector_says"] = saw.says
        facts |= {"failures": self._failures, "spans_lost": self._lost}
        if self._tell(logging.WARNING, "telemetry.export_failed", saw.kind, facts):
            self._failures = self._lost = 0

    def warned(self, says: str) -> None:
        """A batch arrived, and the collector has something to say about it."""
        self._tell(logging.WARNING, "telemetry.collector_warned", "warned", {"collector_says": says})

    def arrived(self) -> None:
        """A batch arrived."""
        if self._since is not None:
            away_s, self._since = round(monotonic() - self._since, 1), None
            facts = {"after_s": away_s, "spans_lost": self._lost}
            if self._tell(logging.INFO, "telemetry.export_recovered", "", facts):
                self._failures = self._lost = 0

    def pushed_out(self, spans: int, capacity: int) -> None:
        """A full queue had no room for so many."""
        facts = {"spans_lost": spans, "queue_capacity": capacity}
        self._tell(logging.WARNING, "telemetry.queue_full", "queue_full", facts)

    def gave_up(self, spans: int) -> None:
        """The process ends, and these are not sent."""
        said = {"signal": "traces", "reason": "shutdown", "spans_lost": spans, "collector": self._collector}
        self._log(logging.WARNING, "telemetry.spans_lost", said)

    def _tell(self, level: int, event: str, kind: str, facts: dict[str, Any]) -> bool:
        now, last = monotonic(), self._told.get(kind)
        if last is not None and now - last < self.EVERY_S:
            return False
        self._told[kind] = now
        said = {"signal": "traces", "collector": self._collector}
        if kind:
            said |= {"reason": kind, "do": DO[kind]}
        self._log(level, event, said | facts)
        return True


def _log(level: int, event: str, facts: dict[str, Any]) -> None:
    logging.getLogger("obskit").log(level, event, extra=facts)


def saw_of(exporter: Any) -> Saw | None:
    """What an exporter of ours saw of its last batch."""
    return cast("Saw | None", getattr(exporter, "saw", None))
