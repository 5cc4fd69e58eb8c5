"""The logs view: one canonical line per exchange, and every other line of the process through the same end.

`emit` is the one place where a line of any origin (structlog, stdlib logging, our own notices) gets its form. It
never raises.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
# The same: whichever of them writes the lines of ended requests that waited, before a line of its own.
_catching_up: ContextVar[bool] = ContextVar("obskit_catching_up", default=False)
RANKS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Logs:
    """A pipeline signal, and the end through which all lines of the process go."""

    name = "logs"

    def __init__(
        self, config: Config, metrics: Metrics, resource: Mapping[str, str], is_secret: Callable[[str], bool]
    ) -> None:
        self.config = config
        self.rank = RANKS[config.log_level]
        # Of which levels canonical lines are written: of none any more when it has shut down.
        self._shown = frozenset(level for level, rank in RANKS.items() if rank >= self.rank)
        self.is_secret = is_secret
        self._metrics = metrics
        self._writer = Writer(metrics.dropped, when_full=config.log_when_full, recovered=self._tell_lost)
        self._service = (
            resource.get("service.name", ""),
            resource.get("service.version", ""),
            resource.get("deployment.environment.name", ""),
        )
        self._format = self._new_format(os.getpid())
        self.listeners: tuple[Callable[[str], None], ...] = ()
        """Who else hears each line of the application as JSON, whatever the form it is written in (tests)."""
        self.before_line: Callable[[], None] = _nothing
        """Writes the lines of ended requests that still wait, as they come before any line that is emitted."""
        readable = config.log_format == "console" or (config.log_format == "auto" and self._writer.isatty())
        self._renderer = console.Renderer(is_secret) if readable else None
        structured.attach(self)
        capture.attach(self)

    def _new_format(self, pid: int) -> LineFormat:
        return LineFormat(*self._service, self.is_secret, pid)

    def begin(self) -> None:
        """In the process that serves: its pid, and the loggers its server has made meanwhile."""
        self._format = self._new_format(os.getpid())
        capture.adopt_servers(self)

    def opened(self, exchange: Exchange) -> None:
        """Nothing to do: the line is written on close."""

    def closed(self, exchange: Exchange) -> None:
        """Write its canonical line."""
        level = exchange.level
        if level not in self._shown:
            return
        if self._renderer is not None or structured._added_to is not None:
            self._tell_otherwise(exchange, self._format.pid)
        else:
            self._writer.write(self._format.canonical(exchange))
        self._metrics.log_record(level)

    def closed_together(self, exchanges: Iterator[Exchange]) -> None:
        """Write the canonical lines of requests that have waited for each other.

        Raises what making one of them raises. The lines before it are written then, and a second call with the same
        iterator goes on behind it.
        """
        if (
            self._renderer is not None or structured._added_to is not None
        ):  # it was not when they began to wait
            for exchange in exchanges:
                self.closed(exchange)
            return
        shown, canonical = self._shown, self._format.canonical
        lines: list[str] = []
        levels: list[str] = []
        try:
            for exchange in exchanges:
                if exchange.level in shown:
                    lines.append(canonical(exchange))
                    levels.append(exchange.level)
        finally:
            if lines:
                self._writer.write_together(lines)
                for level, count in Counter(levels).items():
                    self._metrics.log_record(level, count)

    def may_wait(self) -> bool:
        """Whether nobody looks for the line of a request at once: it goes out as JSON, to where nobody else is."""
        return (
            self._renderer is None
            and structured._added_to is None
            and sys.stdout is sys.__stdout__
            and not self.listeners
            and bool(self._shown)
        )

    def inherited(self, exchange: Exchange, pid: int) -> None:
        """Write the canonical line of a request that a worker answered, and died before it had told of it."""
        if exchange.level not in self._shown:
            return
        if self._renderer is not None or structured.users_own():
            self._tell_otherwise(exchange, pid)
        else:
            self._writer.write(self._new_format(pid).canonical(exchange))
        self._metrics.log_record(exchange.level)

    def _tell_otherwise(self, exchange: Exchange, pid: int) -> None:
        """The canonical line in another form than ours."""
        if structured.users_own():
            structured.log(exchange.level, CANONICAL_EVENT, "obskit.http", self._fields(exchange, pid))
        elif self._renderer is not None:
            self._writer.write(self._renderer.request(exchange, own_fields(exchange, self.is_secret)))

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
            self._catch_up()
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

    def _catch_up(self) -> None:
        """Let what still waits be written first; what is emitted meanwhile waits for nothing."""
        token = None
        try:
            if not _catching_up.get():
                token = _catching_up.set(True)
                self.before_line()
        except Exception:
            self._metrics.internal_error("logs.emit")
        finally:
            if token is not None:
                _catching_up.reset(token)

    def dropped(self, reason: str) -> None:
        """Count a line that is not written."""
        self._metrics.dropped("logs", reason)

    def tell(self, stage: str, error: BaseException) -> None:
        """Say that a stage of ours failed (the pipeline bounds how often)."""
        self.emit("error", "obskit.internal_error", "obskit", {"stage": stage}, error)

    def _fields(self, exchange: Exchange, pid: int) -> dict[str, Any]:
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
            "worker_pid": pid,
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
        self._shown = frozenset()
        capture.detach(self)
        structured.detach(self)


def _nothing() -> None:
    """No line waits."""
