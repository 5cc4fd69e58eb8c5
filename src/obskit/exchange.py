"""The record: one Exchange per request (or WebSocket connection), filled by the doors, viewed by the signals.

Every field has one writer: *open* fields are set by the door before the application runs, *transport* fields by
the door while bytes move, `http_route` and `session` by the framework adapter, identity by the trace signal,
`findings` by the pipeline. After `closed` nothing of what is told changes: only what follows from it is worked out for
those who show it (times in seconds, texts without secrets). Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter_ns, time_ns
from typing import Any, Literal
from zlib import crc32


class Outcome(StrEnum):
    """How a request really ended, which its HTTP status does not say."""

    COMPLETED = "completed"
    """The whole response was handed to the server while the client was still there."""
    RAISED = "raised"
    """An exception ended the request before headers were sent; the client got a 500."""
    RAISED_AFTER_HEADERS = "raised_after_headers"
    """An exception cut the response off after its status had been sent."""
    NO_RESPONSE = "no_response"
    """The application returned without sending a response."""
    CLIENT_DISCONNECT = "client_disconnect"
    """The client left before the last byte of the response, or before the end of its own upload."""
    TRUNCATED = "truncated"
    """The response ended short: fewer bytes than declared, or no last body message."""
    CANCELLED = "cancelled"
    """The server cancelled the application while the client was still there."""
    TIMEOUT = "timeout"
    """The server gave up on the request because it took too long."""
    UNKNOWN = "unknown"
    """The server gives no way to tell."""


_COMPLETED = Outcome.COMPLETED

Severity = Literal["info", "warning", "critical"]
# Bounded facts: text, numbers, or a list of short texts.
EvidenceValue = str | int | float | bool | None | tuple[str, ...]
Evidence = Mapping[str, EvidenceValue]


@dataclass(frozen=True, slots=True)
class Finding:
    """One silent failure that was seen: what, how bad, the facts that show it, and why no status told.

    `times` is how often the very same thing (the same `evidence`) was seen during the request. `metric` names the
    counter beside `obskit_findings_total` that counts it too, if there is one.
    """

    finding: str
    severity: Severity
    why: str
    evidence: Evidence
    http_route: str = ""
    trace_id: str = ""
    request_id: str = ""
    metric: str = ""
    times: int = 1
    told: bool = False
    """It was counted, and had a log line of its own, while the request still ran."""


class SessionFacts:
    """What a framework's session said of the cookie that the client presented; written by its adapter.

    `cookie` is what the client sent. It identifies a user: it leaves the record when that closes.
    """

    __slots__ = ("cookie", "ended", "lost")

    def __init__(self, cookie: str, lost: str = "", *, ended: bool = False) -> None:
        self.cookie = cookie
        self.lost = lost
        """Why the framework found no session for it: `expired`, `bad_signature`, `missing`; empty if it did."""
        self.ended = ended
        """The application ended it on purpose (log-out, a new id at log-in): whoever still sends it lost nothing."""


DIGEST_BYTES = 65_536
HEAD_BYTES = 4_096


def digested(data: bytes, checksum: int, before: int) -> int:
    """The checksum of a body whose first `before` bytes have `checksum`, with `data` behind them.

    Of its first 64 KiB, taken as they pass by; no byte is kept. CRC-32 and not a cryptographic hash, which would cost
    five times as much: it tells the bodies of one client's requests to one route apart, and whoever forges an equal one
    fools nobody but himself.
    """
    left = DIGEST_BYTES - before
    return crc32(data if len(data) <= left else data[: max(left, 0)], checksum)


# Statuses whose responses carry no body (RFC 9110 §6.4.1): bytes missing there are no truncation.
BODILESS_STATUSES = frozenset({204, 205, 304})
MAX_FACTS = 64


class Exchange:
    """One request as all three signals see it.

    `obskit.current()` returns the open one. Times are integer nanoseconds of a monotonic clock except
    `started_unix_ns`; use the properties for seconds. Reading is always safe; application code changes it only
    through `name_route`, `may_take` and `obskit.bind`.
    """

    # And no __getattr__, ever: with one, each of the 150 reads that a request costs would take three times as long.
    __slots__ = (
        "__weakref__",
        "body_checksum",
        "carrier",
        "client_address",
        "closed",
        "declared_request_bytes",
        "declared_response_bytes",
        "disconnected",
        "duration_s",
        "ended_ns",
        "exception",
        "exception_handled",
        "facts",
        "findings",
        "first_byte_ns",
        "first_byte_s",
        "flight_slot",
        "http_route",
        "http_version",
        "kept",
        "last_byte_ns",
        "level",
        "method",
        "method_original",
        "otel_context",
        "outcome",
        "path_prefix",
        "pipeline",
        "protocol",
        "queue_s",
        "queue_start",
        "request",
        "request_bytes",
        "request_complete",
        "request_id",
        "response_bytes",
        "response_complete",
        "response_head",
        "response_headers",
        "response_started",
        "sampled",
        "scheme",
        "server_address",
        "server_port",
        "server_sends_file",
        "session",
        "shown_agent",
        "shown_path",
        "span",
        "span_id",
        "started_ns",
        "started_unix_ns",
        "status",
        "stuck_after_s",
        "thread_id",
        "trace_id",
        "upload_cut",
        "url_path",
        "user_agent",
    )

    def __init__(self, protocol: str = "http", method: str = "GET", url_path: str = "/") -> None:
        self.started_ns: int = perf_counter_ns()
        self.started_unix_ns: int = time_ns()
        self.protocol = protocol
        self.method = method
        self.method_original: str | None = None
        self.url_path = url_path
        self.path_prefix = ""
        """The beginning of `url_path` below which the application is served."""
        self.scheme = "http"
        self.http_version: str | None = None
        self.server_address: str | None = None
        self.server_port: int | None = None
        self.client_address: str | None = None
        self.user_agent: str | None = None
        # Both as signals show them, without secrets: looked at by the first one that does (`plain.path_of`).
        self.shown_path: str | None = None
        self.shown_agent: str | None = None
        self.carrier: dict[str, str] | None = None
        self.request_id: str = ""
        self.declared_request_bytes: int | None = None
        self.queue_start: str | None = None
        """X-Request-Start or X-Queue-Start, as it was sent."""
        self.queue_s: float | None = None
        """Seconds the request waited in front of this server; written by the watch, None where nobody tells."""
        self.request: Any = None
        """The WSGI environ or ASGI scope, for `header` and `query`; None when the record has closed."""

        self.request_bytes = 0
        self.request_complete = False
        """Whether the application has read the whole request body, as far as its door could see."""
        self.upload_cut = False
        self.body_checksum: int | None = None
        """Of the request body as far as it was read, where a detector compares bodies; None while no byte was."""
        self.disconnected = False
        self.status: int | None = None
        self.response_started = False
        self.response_complete = False
        self.declared_response_bytes: int | None = None
        self.response_bytes = 0
        self.response_headers: Any = None
        self.response_head = b""
        """The first part of the response body, at most 4 KiB; forgotten when the record closes."""
        self.server_sends_file = False
        self.first_byte_ns: int | None = None
        self.last_byte_ns: int | None = None
        self.ended_ns: int | None = None
        # What `duration` and `time_to_first_byte` say, for signals: written once, when it ends.
        self.duration_s = 0.0
        self.first_byte_s: float | None = None

        self.http_route: str | None = None
        self.exception: BaseException | None = None
        self.exception_handled = False
        self.facts: dict[str, Any] | None = None
        self.session: SessionFacts | None = None
        self.findings: tuple[Finding, ...] = ()

        self.trace_id = ""
        self.span_id = ""
        self.sampled = False
        self.kept = ""
        """Why its span is recorded though it was not sampled: `error`, `finding`, `slow`; empty if it is not."""
        self.span: Any = None
        self.otel_context: Any = None
        self.pipeline: Any = None

        # Where it can be found while it runs; written by the watch.
        self.thread_id = 0
        self.flight_slot: Any = None
        self.stuck_after_s: float | None = None

        self.outcome: Outcome | None = None
        self.level = "info"
        self.closed = False

    def __repr__(self) -> str:
        state = self.outcome.value if self.outcome else "open"
        return f"<Exchange {self.method} {self.http_route or self.url_path} {self.status} {state}>"

    def name_route(self, template: str) -> None:
        """Name the route of this request, for applications without a router (a plain WSGI or ASGI callable).

        `template` is a bounded name such as ``/orders/{id}``, never the raw path: it becomes a metric label.
        A leading slash is added when missing; after the record has closed the call has no effect.
        """
        if not self.closed and template:
            self.http_route = template if template[0] == "/" else "/" + template

    def may_take(self, seconds: float) -> None:
        """Say that this request may make no progress for so long before it counts as stuck (a long poll, a report).

        Stands in for the option `stuck_request_s` in this request alone. Raises ValueError for a number that is not
        above 0.
        """
        if not seconds > 0:
            raise ValueError(f"may_take: saw {seconds!r}, expected seconds above 0")
        self.stuck_after_s = float(seconds)

    def header(self, name: str) -> str | None:
        """A request header by its lower-case name, repeated fields joined by commas; None when absent.

        For detectors: header values may be secrets, and belong into no evidence. Always None after close.
        """
        request = self.request
        if request is None:
            return None
        if "REQUEST_METHOD" in request:
            key = name.upper().replace("-", "_")
            value = request.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}")
            return None if value is None else str(value)
        return _find_header(request.get("headers"), name.encode("latin-1"))

    @property
    def query(self) -> str:
        """The query string as it was sent; empty after close."""
        request = self.request
        if request is None:
            return ""
        raw = request.get("query_string")
        return raw.decode("latin-1") if isinstance(raw, bytes) else str(request.get("QUERY_STRING", ""))

    def response_header(self, name: str) -> str | None:
        """A response header by its lower-case name; None when absent, or after close."""
        headers = self.response_headers
        if not headers or not isinstance(headers, list | tuple):  # anything else may be readable only once
            return None
        if isinstance(headers[0][0], bytes):
            return _find_header(headers, name.encode("latin-1"))
        return next((value for key, value in headers if key.lower() == name), None)

    def let_go(self) -> None:
        """Forget what may hold secrets or much memory; the pipeline calls it when every signal has had its view."""
        self.request = self.response_headers = self.session = None
        self.response_head = b""

    def end(self, ended_ns: int) -> bool:
        """Say how it ended, once; the pipeline calls it. Whether it went as it should, as far as the door could see."""
        self.ended_ns = ended_ns
        if (
            self.response_complete
            and self.response_started
            and self.exception is None
            and self.outcome is None
        ):
            declared = self.declared_response_bytes
            whole = declared is None or self.response_bytes >= declared
            if whole and not (self.disconnected or self.upload_cut or self.server_sends_file):
                self.outcome = _COMPLETED  # nearly every request; the rest of this is for the others
                return (self.status or 0) < 500
        outcome = self.outcome = self.outcome or self.judge()
        if not self.response_started:
            # What every server answers for an application that gave no answer.
            self.status = 500 if outcome in (Outcome.RAISED, Outcome.NO_RESPONSE) else None
        return False

    def settle(self) -> None:
        """Work out once what several signals ask for; the pipeline calls it before they are shown the record."""
        started_ns, first_byte_ns = self.started_ns, self.first_byte_ns
        self.duration_s = ((self.last_byte_ns or self.ended_ns or started_ns) - started_ns) * 1e-9
        if first_byte_ns is not None:
            self.first_byte_s = (first_byte_ns - started_ns) * 1e-9

    @property
    def duration(self) -> float:
        """Seconds from the first request byte to the last response byte (to the end, if no byte was sent).

        Raises ValueError while the exchange is open. Source: our own monotonic clock.
        """
        end = self.last_byte_ns or self.ended_ns
        if end is None:
            raise ValueError("the exchange is still open: its duration is known when it has closed")
        return (end - self.started_ns) * 1e-9

    @property
    def time_to_first_byte(self) -> float | None:
        """Seconds from the first request byte to the first response body byte; None if none was sent.

        Source: our own monotonic clock; not in the OpenTelemetry semantic conventions.
        """
        return None if self.first_byte_ns is None else (self.first_byte_ns - self.started_ns) * 1e-9

    @property
    def error_type(self) -> str:
        """The status code for 5xx, the exception's class for a response cut off by one, else empty.

        Source: `error.type` of the OpenTelemetry HTTP semantic conventions.
        """
        if self.status is not None and self.status >= 500:
            return str(self.status)
        # Nobody's error: background work after a whole response, or what a departed client made the framework raise.
        if self.exception is not None and self.outcome not in (Outcome.COMPLETED, Outcome.CLIENT_DISCONNECT):
            return type(self.exception).__name__
        return ""

    def body_expected(self) -> bool:
        """Whether the response to this request may carry a body at all (RFC 9110 §9.3.2, §6.4.1)."""
        return self.method != "HEAD" and self.status not in BODILESS_STATUSES and (self.status or 200) >= 200

    def judge(self) -> Outcome:
        """Tell from the transport facts how the request ended. Pure: reads the record, writes nothing."""
        if self.disconnected or self.upload_cut:
            return Outcome.CLIENT_DISCONNECT
        if self._ended_short():
            # Before the exception: a server that compares lengths raises for just this reason.
            return Outcome.TRUNCATED
        if self.exception is not None and not self.exception_handled:
            return self._judge_exception(self.exception)
        if not self.response_started:
            return Outcome.NO_RESPONSE
        if self.server_sends_file:
            return Outcome.COMPLETED if self.response_complete else Outcome.UNKNOWN
        if not self.response_complete:
            return Outcome.TRUNCATED
        return Outcome.RAISED if self._answered_500_for_an_exception() else Outcome.COMPLETED

    def _ended_short(self) -> bool:
        declared = self.declared_response_bytes
        return (
            self.response_complete
            and declared is not None
            and self.response_bytes < declared
            and not self.server_sends_file
            and self.body_expected()
        )

    def _judge_exception(self, exception: BaseException) -> Outcome:
        # Only a cancellation or an exit of the worker is no Exception; neither is the application's failure.
        if not isinstance(exception, Exception):
            return Outcome.COMPLETED if self.response_complete else cut_off_by(exception)
        if not self.response_started:
            return Outcome.RAISED
        if not self.response_complete:
            return Outcome.RAISED_AFTER_HEADERS
        # The response is whole. A framework's outermost handler sends a 500 and re-raises: that exception ended
        # the request. After any other whole response it was background work that failed.
        return Outcome.RAISED if (self.status or 0) >= 500 else Outcome.COMPLETED

    def _answered_500_for_an_exception(self) -> bool:
        return self.exception is not None and self.exception_handled and (self.status or 0) >= 500

    def severity(self) -> str:
        """The level of the canonical line: error for 5xx and exceptions, warning for findings and bad outcomes."""
        status = self.status
        if status is not None and status >= 500:
            return "error"
        if self.exception is None:
            return "info" if self.outcome is _COMPLETED and not self.findings else "warning"
        # What a departed client made the framework raise is nobody's error, nor is what it has answered with a 4xx.
        nobodys = self.exception_handled or self.disconnected or self.upload_cut
        if not nobodys and isinstance(self.exception, Exception):
            return "error"
        return "info" if self.outcome is _COMPLETED and not self.findings else "warning"


def cut_off_by(exception: BaseException) -> Outcome:
    """Whether a cancellation or an exit that went through the application was a server's timeout.

    gunicorn's sync worker is told by SIGABRT that it took too long, and its handler of that signal raises SystemExit
    in the midst of whatever the application is doing: the traceback ends in the handler.
    """
    last = exception.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not isinstance(exception, SystemExit):
        return Outcome.CANCELLED
    frame = last.tb_frame
    in_gunicorn = str(frame.f_globals.get("__name__", "")).startswith("gunicorn.")
    return Outcome.TIMEOUT if in_gunicorn and frame.f_code.co_name == "handle_abort" else Outcome.CANCELLED


def _find_header(headers: Any, name: bytes) -> str | None:
    if headers is None or hasattr(headers, "__next__"):  # readable only once, and that is the application's
        return None
    found = list(_values(headers, name))
    return ",".join(found) if found else None


def _values(headers: Any, name: bytes) -> Iterator[str]:
    for key, value in headers:
        if len(key) == len(name) and key.lower() == name:
            yield value.decode("latin-1")
