"""The logs view: one canonical line per exchange, and every other line of the process through the same end.

`emit` is the one place where a line of any origin (structlog, stdlib logging, our own notices) gets its form. It
never raises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from obskit.config import Config
from obskit.context import current
from obskit.exchange import Exchange
from obskit.names import CANONICAL_EVENT
from obskit.plain import agent_of, exception_of, path_of, plain
from obskit.redact import REDACTED
from obskit.signals import capture, console, structured
from obskit.signals.lines import LineFormat, own_fields
from obskit.signals.metrics import Metrics
from obskit.signals.writer import Writer

# A reader that has stopped will not begin again because we end.
MAX_FLUSH_S: Final = 0.5
# Of this thread, task or greenlet: whichever of them a line is being written in.
_writing: ContextVar[bool] = ContextVar("obskit_writing", default=False)
RANKS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Logs:
    """A pipeline signal, and the end through which all lines of the process go."""

    name = "logs"

    def __init__(
        self, config: Config, metrics: Metrics, resource: Mapping[str, str], is_secret: Callable[[str], bool]
    ) -> None:
        self.config = config
        self.rank = RANKS[config.log_level]
        self.is_secret = is_secret
        self._metrics = metrics
        self._writer = Writer(metrics.dropped, when_full=config.log_when_full, recovered=self._tell_lost)
        self._service = (
            resource.get("service.name", ""),
            resource.get("service.version", ""),
            resource.get("deployment.environment.name", ""),
        )
        self._format = self._new_format()
        self._stopped = False
        self.listeners: tuple[Callable[[str], None], ...] = ()
        """Who else hears each line of the application as JSON, whatever the form it is written in (tests)."""
        readable = config.log_format == "console" or (config.log_format == "auto" and self._writer.isatty())
        self._renderer = console.Renderer(is_secret) if readable else None
        structured.attach(self)
        capture.attach(self)

    def _new_format(self) -> LineFormat:
        return LineFormat(*self._service, self.is_secret, os.getpid())

    def begin(self) -> None:
        """In the process that serves: its pid, and the loggers its server has made meanwhile."""
        self._format = self._new_format()
        capture.adopt_servers(self)

    def opened(self, exchange: Exchange) -> None:
        """Nothing to do: the line is written on close."""

    def closed(self, exchange: Exchange) -> None:
        if RANKS[exchange.level] < self.rank or self._stopped:
            return
        if structured.users_own():
            structured.log(exchange.level, CANONICAL_EVENT, "obskit.http", self._fields(exchange))
        elif self._renderer is not None:
            self._writer.write(self._renderer.request(exchange, own_fields(exchange, self.is_secret)))
        else:
            self._writer.write(self._format.canonical(exchange))
        self._metrics.log_record(exchange.level)

    def emit(
        self,
        level: str,
        event: str,
        logger: str,
        fields: Mapping[str, Any],
        error: BaseException | None = None,
    ) -> None:
        """Write one line with the ids of the request this code runs for. Never raises, never re-enters itself."""
        if level not in RANKS:
            level = "info"
        if RANKS[level] < self.rank:
            return
        token = None
        try:
            if _writing.get():
                # A __str__ or a stream that logs while we write a line: its line would never end.
                self.dropped("recursion")
                return
            token = _writing.set(True)
            if error is not None:
                fields = {**fields, "exception": exception_of(error, self.is_secret)}
            exchange = current()
            if self._renderer is not None:
                self._writer.write(self._renderer.line(level, event, logger, exchange, fields))
            else:
                self._writer.write(self._format.line(level, event, logger, exchange, fields))
            self._metrics.log_record(level)
            for hear in self.listeners:
                hear(self._format.line(level, event, logger, exchange, fields))
        except Exception:
            self._metrics.internal_error("logs.emit")
            self._metrics.dropped("logs", "unprintable")
        finally:
            if token is not None:
                _writing.reset(token)

    def dropped(self, reason: str) -> None:
        """Count a line that is not written."""
        self._metrics.dropped("logs", reason)

    def tell(self, stage: str, error: BaseException) -> None:
        """Say that a stage of ours failed (the pipeline bounds how often)."""
        self.emit("error", "obskit.internal_error", "obskit", {"stage": stage}, error)

    def _fields(self, exchange: Exchange) -> dict[str, Any]:
        """The canonical line as a dict, for a form that is not ours to write."""
        first_byte = exchange.time_to_first_byte
        resource = zip(
            ("service_name", "service_version", "deployment_environment"), self._service, strict=True
        )
        fields: dict[str, Any] = {
            **{name: value for name, value in resource if value},
            "trace_id": exchange.trace_id,
            "span_id": exchange.span_id,
            "request_id": exchange.request_id,
            "http_request_method": exchange.method,
            "http_route": exchange.http_route,
            "url_path": path_of(exchange, self.is_secret),
            "http_response_status_code": exchange.status,
            "outcome": str(exchange.outcome),
            "duration_s": round(exchange.duration, 6),
            "ttfb_s": None if first_byte is None else round(first_byte, 6),
            "request_bytes": exchange.request_bytes,
            "response_bytes": exchange.response_bytes,
            "client_address": exchange.client_address,
            "user_agent": agent_of(exchange, self.is_secret),
            "worker_pid": self._format.pid,
            "findings": list(dict.fromkeys(one.finding for one in exchange.findings)),
            **own_fields(exchange, self.is_secret),
        }
        for key, value in (exchange.facts or {}).items():
            fields.setdefault(key, REDACTED if self.is_secret(key) else plain(value, self.is_secret))
        return fields

    def _tell_lost(self, lines: int) -> None:
        """Somebody reads again, after lines have been dropped."""
        said = {"signal": "logs", "reason": "queue_full", "lines": lines}
        said["do"] = "see what reads standard output; log_when_full='block' waits for it instead"
        self.emit("warning", "obskit.lines_lost", "obskit", said)

    def flush(self, timeout_s: float) -> None:
        """Lines are written as they come; only what nobody has read yet may wait."""
        self._writer.flush(min(timeout_s, MAX_FLUSH_S))

    def shutdown(self, timeout_s: float) -> None:
        """Stop writing, and undo the process-wide logging set-up when the last install goes."""
        self.flush(timeout_s)
        self._writer.give_up()
        self._stopped = True
        capture.detach(self)
        structured.detach(self)
