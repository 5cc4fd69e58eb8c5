"""stdlib logging: one handler of ours for everything, no line twice, and the user's own set-up kept.

Who prints a record is decided by what is there at install:

* nobody: our handler goes on the root logger, and the console handlers that servers (uvicorn, gunicorn, hypercorn,
  granian, waitress) and Django bring are taken off, so that their lines come through us, once.
* the user made a console handler: it stays, and prints as before; its records carry trace_id, span_id and
  request_id for its formatter; our handler then serves obskit's own loggers only. `capture_logs="all"` replaces it.
* other handlers (files, Sentry, pytest) stay in any case, beside ours.
"""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar
from typing import Any

from obskit.context import current
from obskit.plain import message_of
from obskit.refusals import without_values
from obskit.signals import structured

_SERVERS = (
    *(
        "uvicorn",
        "uvicorn.error",
        "uvicorn.asgi",
        "gunicorn.error",
        "hypercorn.error",
        "_granian",
        "waitress",
    ),
    *("django", "django.request", "werkzeug"),
)
_ACCESS = ("uvicorn.access", "gunicorn.access", "hypercorn.access", "granian.access", "django.server")
# What a LogRecord has of itself; everything else on it came from `extra`.
_RECORD_KEYS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# uvicorn's coloured copy of the message; Django's request object, whose text holds the query string.
_RECORD_KEYS |= {"color_message", "request", "server_time"}
# Whose messages hold whole URLs: what stands in a query is no log's business.
_TELL_URLS = frozenset(
    {
        "httpx",
        "httpcore",
        "urllib3",
        "requests",
        "aiohttp",
        "botocore",
        "werkzeug",
        *(name.partition(".")[0] for name in _ACCESS),
    }
)
_WERKZEUG_ACCESS = " - - ["
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOTHING = 100
_LEVELS = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}

_reading: ContextVar[bool] = ContextVar("obskit_reading", default=False)
_undo: list[tuple[Any, ...]] = []
_users: list[Any] = []
_handler: CaptureHandler | None = None
_root_is_ours = False


class CaptureHandler(logging.Handler):
    """Turns a LogRecord into a line of ours. Never raises, whatever was logged."""

    def emit(self, record: logging.LogRecord) -> None:
        sink = token = None
        try:
            sink = structured.active()
            if sink is None:
                return
            if _reading.get():
                # What the record holds logs while it is asked for its text: that line would never end.
                sink.dropped("recursion")
                return
            token = _reading.set(True)
            self._pass_on(record, sink)
        except Exception:  # a record somebody made by hand may hold anything
            self._unreadable(sink)
        finally:
            try:
                if token is not None:
                    _reading.reset(token)
            except Exception:
                self._unreadable(sink)

    def _unreadable(self, sink: Any) -> None:
        try:
            sink.emit("error", "obskit.unreadable_record", "obskit", {})
        except Exception:  # no sink, or none that works: nobody is left who could be told
            return

    def _pass_on(self, record: logging.LogRecord, sink: Any) -> None:
        if record.name in _SERVERS and _release_console(logging.getLogger(record.name), to_root=True):
            # hypercorn makes its handler when it first logs, after lifespan startup, and lets the record go on to
            # the root: this line is out already, in the server's form. The next one comes through us alone.
            return
        werkzeug = record.name == "werkzeug"
        if werkzeug and not sink.config.access_logs and _WERKZEUG_ACCESS in str(record.msg):
            return  # Flask's development server has one logger for everything
        fields = {key: value for key, value in vars(record).items() if key not in _RECORD_KEYS}
        event: Any = record.msg
        if isinstance(event, dict):  # structlog's wrap_for_formatter
            fields = {**{k: v for k, v in fields.items() if k not in ("_logger", "_name")}, **event}
            event = fields.pop("event", "")
        else:
            try:
                event = record.getMessage()
            except Exception as error:
                fields["log_error"] = f"{type(error).__name__}: {message_of(error)}"
        if werkzeug and isinstance(event, str):
            event = _COLOUR.sub("", event)
        if isinstance(event, str) and "?" in event and str(record.name).partition(".")[0] in _TELL_URLS:
            event = without_values(event)
        if record.stack_info:
            fields["stack"] = str(record.stack_info).splitlines()[-40:]
        error_logged = structured.exception_given(record.exc_info, asked=False)
        sink.emit(_level(record.levelno), structured.shown(event), str(record.name), fields, error_logged)


class _RequestIds(logging.Filter):
    """Puts the request's ids on records for the user's own formatter. A filter, not a record factory: a factory
    would make `extra={"trace_id": ...}` raise in the application."""

    def filter(self, record: logging.LogRecord) -> bool:
        exchange = current()
        for key in ("trace_id", "span_id", "request_id"):
            if not hasattr(record, key):
                setattr(record, key, getattr(exchange, key) if exchange is not None else "")
        return True


def attach(sink: Any) -> None:
    """Set up stdlib logging for `sink`, once per process."""
    global _handler, _root_is_ours
    _users.append(sink)
    if _handler is not None:
        return
    _handler = CaptureHandler()
    mode = sink.config.capture_logs
    root = logging.getLogger()
    console = [handler for handler in root.handlers if _is_console(handler)]
    _root_is_ours = mode == "all" or (mode == "auto" and not console)
    if _root_is_ours:
        for handler in console:
            _remove_handler(root, handler)
        _add_handler(root, _handler)
        if root.level == logging.WARNING:  # the default: nobody has asked for a level yet
            _set_level(root, sink.rank)
        adopt_servers(sink)
    elif not (structured.users_own() and console):
        own = logging.getLogger("obskit")
        _add_handler(own, _handler)
        _set_propagate(own, False)
        _set_level(own, sink.rank)
    if mode == "auto" and console:
        ids = _RequestIds()
        for handler in console:
            handler.addFilter(ids)
            _undo.append((handler.removeFilter, ids))


def adopt_servers(sink: Any) -> None:
    """Take over the console handlers of servers and of Django: their lines come through us, once."""
    if not _root_is_ours:
        return
    for name in _SERVERS:
        _release_console(logging.getLogger(name), to_root=True)
    for name in _ACCESS:
        # The canonical line says all that an access line does. Without any handler, uvicorn does not even build it.
        logger = logging.getLogger(name)
        _release_console(logger, to_root=sink.config.access_logs)
        if not sink.config.access_logs and not logger.handlers:
            _set_level(logger, _NOTHING)  # or Python's handler of last resort would print its warnings


def release(logger: logging.Logger, handler: logging.Handler) -> None:
    """Take a framework's own console handler off its logger, if the root logger is ours."""
    if _root_is_ours and handler in logger.handlers:
        _remove_handler(logger, handler)


def keeps_users_console() -> bool:
    """Whether the user's own console handler was kept and prints the application's lines."""
    return _handler is not None and not _root_is_ours


def detach(sink: Any) -> None:
    """Forget `sink`; with the last one, leave stdlib logging as it was found."""
    global _handler, _root_is_ours
    if sink in _users:
        _users.remove(sink)
    if _users or _handler is None:
        return
    for call, *arguments in reversed(_undo):
        call(*arguments)
    _undo.clear()
    _handler = None
    _root_is_ours = False


def _release_console(logger: logging.Logger, *, to_root: bool) -> bool:
    """Take a server's console handlers off its logger; whether there were any."""
    released = [handler for handler in logger.handlers if _is_console(handler)]
    for handler in released:
        _remove_handler(logger, handler)
    if not to_root:
        _set_propagate(logger, False)
    elif released and not logger.propagate:
        _set_propagate(logger, True)
    return bool(released)


def _is_console(handler: logging.Handler) -> bool:
    if isinstance(handler, logging.FileHandler):
        return False
    # rich's handler has its stream in a console of its own.
    stream = getattr(handler, "stream", None) or getattr(getattr(handler, "console", None), "file", None)
    if stream is None:
        return False
    if any(stream is known for known in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
        return True
    try:
        return stream.fileno() in (1, 2)
    except (AttributeError, OSError, ValueError):
        return False


def _level(number: int) -> str:
    return _LEVELS[min(50, max(10, number // 10 * 10))]


def _add_handler(logger: logging.Logger, handler: logging.Handler) -> None:
    logger.addHandler(handler)
    _undo.append((logger.removeHandler, handler))


def _remove_handler(logger: logging.Logger, handler: logging.Handler) -> None:
    logger.removeHandler(handler)
    _undo.append((logger.addHandler, handler))


def _set_level(logger: logging.Logger, level: int) -> None:
    if logger.level != level:
        _undo.append((logger.setLevel, logger.level))
        logger.setLevel(level)


def _set_propagate(logger: logging.Logger, value: bool) -> None:
    if logger.propagate != value:
        _undo.append((setattr, logger, "propagate", logger.propagate))
        logger.propagate = value
