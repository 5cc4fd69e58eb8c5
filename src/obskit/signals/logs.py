"""The logs view: one canonical line per exchange, and every other line of the process through the same end.

`emit` is the one place where a line of any origin (structlog, stdlib logging, the canonical line, our own notices)
gets its form. It never raises.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from obskit.config import Config
from obskit.context import current
from obskit.exchange import Exchange
from obskit.names import CANONICAL_EVENT
from obskit.signals import capture, structured
from obskit.signals.lines import LineFormat, canonical_extra, exception_of, plain, timestamp
from obskit.signals.metrics import Metrics
from obskit.signals.writer import Writer

RANKS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Logs:
    """A pipeline signal, and the end through which all lines of the process go."""

    name = "logs"

    def __init__(
        self, config: Config, metrics: Metrics, resource: Mapping[str, str], is_secret: Callable[[str], bool]
    ) -> None:
        self.config = config
        self.rank = RANKS[config.log_level]
        self._metrics = metrics
        self._writer = Writer(metrics.dropped)
        self._service = (
            resource.get("service.name", ""),
            resource.get("service.version", ""),
            resource.get("deployment.environment.name", ""),
        )
        self._is_secret = is_secret
        self._format = self._new_format()
        self._emitting = threading.local()
        readable = config.log_format == "console" or (config.log_format == "auto" and self._writer.isatty())
        self._renderer = structured.console_renderer() if readable else None
        structured.attach(self)
        capture.attach(self)

    def _new_format(self) -> LineFormat:
        return LineFormat(*self._service, self._is_secret, os.getpid())

    def begin(self) -> None:
        """In the process that serves: its pid, and the loggers its server has made meanwhile."""
        self._format = self._new_format()
        capture.adopt_servers(self)

    def opened(self, exchange: Exchange) -> None:
        """Nothing to do: the line is written on close."""

    def closed(self, exchange: Exchange) -> None:
        if RANKS[exchange.level] < self.rank:
            return
        if structured.users_own():
            structured.log(exchange.level, CANONICAL_EVENT, "obskit.http", self._canonical_fields(exchange))
        elif self._renderer is not None:
            fields = self._canonical_fields(exchange)
            self._write_readable(exchange.level, CANONICAL_EVENT, "obskit.http", exchange, fields)
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
        if RANKS[level] < self.rank or getattr(self._emitting, "now", False):
            return  # a __str__ or a stream that logs while we write a line: its line would never end
        self._emitting.now = True
        try:
            if error is not None:
                fields = {**fields, "exception": exception_of(error)}
            exchange = current()
            if self._renderer is not None:
                self._write_readable(level, event, logger, exchange, fields)
            else:
                self._writer.write(self._format.line(level, event, logger, exchange, fields))
            self._metrics.log_record(level)
        except Exception:
            self._metrics.internal_error("logs.emit")
            self._metrics.dropped("logs", "unprintable")
        finally:
            self._emitting.now = False

    def tell(self, stage: str, error: BaseException) -> None:
        """Say that a stage of ours failed (the pipeline bounds how often)."""
        self.emit("error", "obskit.internal_error", "obskit", {"stage": stage}, error)

    def _canonical_fields(self, exchange: Exchange) -> dict[str, Any]:
        first_byte = exchange.time_to_first_byte
        return {
            "http_request_method": exchange.method,
            "http_route": exchange.http_route,
            "url_path": exchange.url_path,
            "http_response_status_code": exchange.status,
            "outcome": str(exchange.outcome),
            "duration_s": round(exchange.duration, 6),
            "ttfb_s": None if first_byte is None else round(first_byte, 6),
            "request_bytes": exchange.request_bytes,
            "response_bytes": exchange.response_bytes,
            "client_address": exchange.client_address,
            "user_agent": exchange.user_agent,
            "worker_pid": self._format.pid,
            **canonical_extra(exchange),
        }

    def _write_readable(
        self, level: str, event: str, logger: str, exchange: Exchange | None, fields: Mapping[str, Any]
    ) -> None:
        assert self._renderer is not None
        shown = {
            key: "[redacted]" if self._is_secret(key) else plain(value, self._is_secret)
            for key, value in {**((exchange and exchange.facts) or {}), **fields}.items()
            if value is not None
        }
        if exchange is not None:
            shown["request_id"] = exchange.request_id
        self._writer.write(
            self._renderer(
                {"timestamp": timestamp(), "level": level, "logger": logger, "event": event, **shown}
            )
        )

    def flush(self, timeout_s: float) -> None:
        """Lines are written as they come: nothing is buffered."""

    def shutdown(self, timeout_s: float) -> None:
        """Undo the process-wide logging set-up when the last install goes."""
        capture.detach(self)
        structured.detach(self)
