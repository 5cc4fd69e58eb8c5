"""structlog: configured once if the user has not, added to if the user has, undone on shutdown."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from obskit.context import current

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_METHODS = ("debug", "info", "warning", "warn", "error", "critical", "fatal", "exception", "msg", "log")
_LEVELS = {"warn": "warning", "exception": "error", "fatal": "critical", "msg": "info", "notset": "debug"}
_BY_NUMBER = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}


class Sink(Protocol):
    """Where lines go: the Logs signal."""

    rank: int

    def emit(
        self,
        level: str,
        event: str,
        logger: str,
        fields: Mapping[str, Any],
        error: BaseException | None = None,
    ) -> None: ...


_sinks: list[Any] = []
_configured_by_us = False
_added_to: list[Any] | None = None


def active() -> Any:
    """The sink of the request this code runs for, else that of the newest install, else None."""
    exchange = current()
    if exchange is not None and exchange.pipeline is not None:
        return exchange.pipeline.logs
    return _sinks[-1] if _sinks else None


def attach(sink: Any) -> None:
    """Send structlog's lines to `sink`: all of them, or, if the user configured structlog, add ids to theirs."""
    global _configured_by_us, _added_to
    _sinks.append(sink)
    if _configured_by_us or _added_to is not None:
        return
    if structlog.is_configured():
        # Their chain stays. Our processor goes first, into the very list that loggers already made refer to.
        _added_to = structlog.get_config()["processors"]
        _added_to.insert(0, add_request_context)
        return
    structlog.configure(
        processors=[_emit],
        wrapper_class=_guarded_logger(),
        logger_factory=_NamedLogger,
        cache_logger_on_first_use=False,
    )
    _configured_by_us = True


def detach(sink: Any) -> None:
    """Forget `sink`; with the last one, leave structlog as it was found."""
    global _configured_by_us, _added_to
    if sink in _sinks:
        _sinks.remove(sink)
    if _sinks:
        return
    if _configured_by_us:
        structlog.reset_defaults()
        _configured_by_us = False
    if _added_to is not None:
        if add_request_context in _added_to:
            _added_to.remove(add_request_context)
        _added_to = None


def users_own() -> bool:
    """Whether lines go through a structlog configuration the user made."""
    return _added_to is not None


def log(level: str, event: str, logger: str, fields: Mapping[str, Any]) -> None:
    """Write one line through the user's own structlog configuration."""
    structlog.get_logger(logger).log(getattr(logging, level.upper()), event, **fields)


def get_logger(name: str | None) -> FilteringBoundLogger:
    """A lazy structlog logger; it takes its configuration when it writes its first line."""
    logger: FilteringBoundLogger = structlog.get_logger(name) if name else structlog.get_logger()
    return logger


def add_request_context(
    _logger: Any, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor: trace, span and request id and bound facts of the request this line belongs to."""
    exchange = current()
    if exchange is not None:
        event_dict.setdefault("trace_id", exchange.trace_id)
        event_dict.setdefault("span_id", exchange.span_id)
        event_dict.setdefault("request_id", exchange.request_id)
        for key, value in (exchange.facts or {}).items():
            event_dict.setdefault(key, value)
    return event_dict


def console_renderer() -> Callable[[dict[str, Any]], str]:
    """structlog's readable form, in colour, for a person at a terminal."""
    renderer = structlog.dev.ConsoleRenderer(colors=True, pad_event_to=24)
    return lambda event_dict: str(renderer(None, event_dict["level"], event_dict))


class _NamedLogger:
    """The end of our structlog chain: only carries the name; `_emit` writes."""

    def __init__(self, name: str | None = None, *_: Any) -> None:
        self.name = name or "app"


def _emit(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> Any:
    level = _LEVELS.get(method, method)
    event = event_dict.pop("event", "")
    error = _exception(event_dict.pop("exc_info", None), asked=method == "exception")
    sink = active()
    if sink is not None:
        context = structlog.contextvars.get_contextvars()
        fields = {**context, **event_dict} if context else event_dict
        sink.emit(level, event if isinstance(event, str) else _shown(event), logger.name, fields, error)
    raise structlog.DropEvent  # written: there is no logger behind us


def _exception(exc_info: Any, *, asked: bool) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if len(exc_info) > 1 and isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info or asked else None


def _shown(event: Any) -> str:
    try:
        return str(event).rstrip("\n")
    except Exception:
        return f"<{type(event).__name__}>"


def _guarded_logger() -> type[Any]:
    """structlog's filtering logger, whose methods never raise: not for bad arguments, not for us."""
    base = structlog.make_filtering_bound_logger(logging.NOTSET)

    def guarded(name: str) -> Callable[..., Any]:
        original = getattr(base, name)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(self, *args, **kwargs)
            except Exception as error:
                _tell_unprintable(self, name, args, kwargs, error)
                return None

        method.__name__ = name
        method.__doc__ = original.__doc__
        return method

    return type(
        "GuardedBoundLogger", (base,), {name: guarded(name) for name in _METHODS if hasattr(base, name)}
    )


def _tell_unprintable(
    logger: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception
) -> None:
    """The line as far as it can be told: `log.info("%d items", "three")` must not fail the request."""
    try:
        sink = active()
        if sink is None:
            return
        level = _LEVELS.get(name, name)
        if name == "log" and args:
            number, args = args[0], args[1:]
            level = _BY_NUMBER.get(number, "info") if isinstance(number, int) else "info"
        event = args[0] if args else kwargs.get("event", "")
        fields = {**logger._context, **{k: v for k, v in kwargs.items() if k not in ("event", "exc_info")}}
        fields["log_error"] = f"{type(error).__name__}: {error}"
        sink.emit(level, event if isinstance(event, str) else _shown(event), "app", fields)
    except Exception:
        return
