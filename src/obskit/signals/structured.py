"""structlog: configured once if the user has not, added to if the user has, undone on shutdown.

It is loaded when the application loads it, or asks for a logger of ours: the lines that are ours do not need it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from obskit.context import current
from obskit.plain import message_of, plain, text_of
from obskit.redact import REDACTED
from obskit.signals import late

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_METHODS = ("debug", "info", "warning", "warn", "error", "critical", "fatal", "exception", "msg", "log")
_LEVELS = {"warn": "warning", "exception": "error", "fatal": "critical", "msg": "info", "notset": "debug"}
_BY_NUMBER = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}

# Where lines go: the Logs signal of each install, newest last.
_sinks: list[Any] = []
_configured_by_us = False
# The user's own processors, when ours was added to them.
_added_to: Sequence[Any] | None = None


def active() -> Any:
    """The sink of the request this code runs for, else that of the newest install, else None."""
    exchange = current()
    if exchange is not None and exchange.pipeline is not None:
        return exchange.pipeline.logs
    return _sinks[-1] if _sinks else None


def attach(sink: Any) -> None:
    """Send structlog's lines to `sink`: all of them, or, if the user configured structlog, add ids to theirs."""
    _sinks.append(sink)
    if len(_sinks) == 1:
        late.when_imported(("structlog",), _join)


def _join() -> None:
    global _configured_by_us, _added_to
    import structlog  # noqa: PLC0415

    if _configured_by_us or _added_to is not None:
        return
    if structlog.is_configured():
        theirs = structlog.get_config()["processors"]
        if isinstance(theirs, list):
            theirs.insert(0, add_request_context)  # into the very list that loggers already made refer to
        else:
            structlog.configure(processors=[add_request_context, *theirs])
        _added_to = theirs
        return
    structlog.configure(
        processors=[_emit],
        wrapper_class=_guarded_logger(),
        logger_factory=_NamedLogger,
        cache_logger_on_first_use=False,
    )
    _configured_by_us = True


def detach(sink: Any) -> None:
    """Forget `sink`; with the last one, leave structlog as it was found, or as the user has set it up since."""
    global _configured_by_us, _added_to
    if sink in _sinks:
        _sinks.remove(sink)
    if _sinks or late.forget(_join) or "structlog" not in sys.modules:
        return
    import structlog  # noqa: PLC0415

    now = structlog.get_config()["processors"]
    if _configured_by_us and _emit in now:
        structlog.reset_defaults()
    if _added_to is not None and add_request_context in now:
        if now is _added_to and isinstance(now, list):
            now.remove(add_request_context)
        else:
            structlog.configure(processors=_added_to)
    _configured_by_us, _added_to = False, None


def users_own() -> bool:
    """Whether lines go through a structlog configuration the user made."""
    return _added_to is not None


def log(level: str, event: str, logger: str, fields: Mapping[str, Any]) -> None:
    """Write one line through the user's own structlog configuration."""
    import structlog  # noqa: PLC0415

    structlog.get_logger(logger).log(getattr(logging, level.upper()), event, **fields)


def get_logger(name: Any = None) -> FilteringBoundLogger:
    """A logger that takes structlog's configuration when it writes, not when it is made or bound. Never raises."""
    try:
        # Now, while modules are being loaded, and not with the first line, which may be a request's.
        import structlog  # noqa: F401, PLC0415

        return LateLogger(name, {})  # type: ignore[return-value]
    except Exception:
        return _SPARE  # type: ignore[return-value]


class LateLogger:
    """A structlog logger by name and bound values; the real one is made for each line.

    structlog's own proxy fixes its configuration at the first `bind`, which for a logger bound at module level is
    before `install`.
    """

    def __init__(self, name: Any, context: Mapping[str, Any]) -> None:
        self._name = name
        self._context = context

    def bind(self, **values: Any) -> LateLogger:
        """A logger with these values too on each line."""
        try:
            return LateLogger(self._name, {**self._context, **values})
        except Exception:
            return self

    def new(self, **values: Any) -> LateLogger:
        """A logger with only these values."""
        try:
            return LateLogger(self._name, values)
        except Exception:
            return _SPARE

    def unbind(self, *keys: str) -> LateLogger:
        """A logger without these values. Raises KeyError if one is not bound."""
        for key in keys:
            if key not in self._context:
                raise KeyError(key)
        return self.try_unbind(*keys)

    def try_unbind(self, *keys: str) -> LateLogger:
        """A logger without these values."""
        try:
            return LateLogger(self._name, {k: v for k, v in self._context.items() if k not in keys})
        except Exception:
            return self

    def __getattr__(self, method: str) -> Any:
        try:
            import structlog  # noqa: PLC0415

            arguments = () if self._name is None or self._name == "" else (self._name,)
            return getattr(structlog.get_logger(*arguments, **self._context), method)
        except AttributeError:
            if method not in _METHODS and not (method[:1] == "a" and method[1:] in _METHODS):
                raise  # there is no such method: the caller's mistake
            _count_failed()
        except Exception:
            _count_failed()
        return _nothing_later if method[:1] == "a" and method[1:] in _METHODS else _nothing


_SPARE = LateLogger(None, {})


def _nothing(*_: Any, **__: Any) -> None:
    """A line that cannot be written."""


async def _nothing_later(*_: Any, **__: Any) -> None:
    """The same of the methods that are awaited."""


def _count_failed() -> None:
    try:
        sink = active()
        if sink is not None:
            sink._metrics.internal_error("logs.emit")
            sink._metrics.dropped("logs", "unprintable")
    except Exception:
        return


def add_request_context(
    _logger: Any, _method: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor: trace, span and request id and bound facts of the request this line belongs to."""
    exchange = current()
    sink = active()
    if exchange is not None and sink is not None:
        event_dict.setdefault("trace_id", exchange.trace_id)
        event_dict.setdefault("span_id", exchange.span_id)
        event_dict.setdefault("request_id", exchange.request_id)
        for key, value in (exchange.facts or {}).items():
            secret = sink.is_secret(key)
            event_dict.setdefault(key, REDACTED if secret else plain(value, sink.is_secret))
    return event_dict


class _NamedLogger:
    """The end of our structlog chain: only carries the name; `_emit` writes."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        if not isinstance(name, str):
            name = "" if name is None else text_of(name)
        self.name: str = name or "app"


def _emit(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> Any:
    level = _LEVELS.get(method, method)
    event = event_dict.pop("event", "")
    error = exception_given(event_dict.pop("exc_info", None), asked=method == "exception")
    if event_dict.pop("stack_info", None):
        event_dict["stack"] = _callers()
    sink = active()
    import structlog  # noqa: PLC0415

    if sink is not None:
        context = structlog.contextvars.get_contextvars()
        fields = {**context, **event_dict} if context else event_dict
        sink.emit(level, shown(event), logger.name, fields, error)
    raise structlog.DropEvent  # written: there is no logger behind us


def exception_given(exc_info: Any, *, asked: bool) -> BaseException | None:
    """The exception that `exc_info` (True, an exception, or a triple) stands for."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if len(exc_info) > 1 and isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info or asked else None


def shown(event: Any) -> str:
    """An event as text. Never raises."""
    if type(event) is str:
        return event.rstrip("\n")  # uvicorn ends some of its messages with one
    return text_of(event)


def _callers() -> list[str]:
    """The stack of the line that is being written, innermost last, without structlog's frames and ours."""
    frames = traceback.extract_stack(limit=40)
    not_theirs = ("/structlog/", "/obskit/signals/")
    return [
        f"{f.filename}:{f.lineno} {f.name}" for f in frames if not any(p in f.filename for p in not_theirs)
    ]


def _guarded_logger() -> type[Any]:
    """structlog's filtering logger, whose methods never raise: not for bad arguments, not for us."""
    import structlog  # noqa: PLC0415

    base = structlog.make_filtering_bound_logger(logging.NOTSET)

    def guarded(name: str) -> Callable[..., Any]:
        original = getattr(base, name)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(self, *args, **kwargs)
            except Exception as error:
                return _tell_unprintable(self, name, args, kwargs, error)

        method.__name__, method.__doc__ = name, original.__doc__
        return method

    def guarded_async(name: str) -> Callable[..., Any]:
        original = getattr(base, f"a{name}")

        async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(self, *args, **kwargs)
            except Exception as error:
                return _tell_unprintable(self, name, args, kwargs, error)

        method.__name__, method.__doc__ = f"a{name}", original.__doc__
        return method

    methods = {name: guarded(name) for name in _METHODS if hasattr(base, name)}
    methods |= {f"a{name}": guarded_async(name) for name in _METHODS if hasattr(base, f"a{name}")}
    return type("GuardedBoundLogger", (base,), methods)


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
        fields["log_error"] = f"{type(error).__name__}: {message_of(error)}"
        sink.emit(level, shown(event), logger._logger.name, fields)
    except Exception:
        return
