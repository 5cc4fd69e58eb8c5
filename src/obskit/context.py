"""What application code calls during a request: current(), bind(), invariant(), get_logger()."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from obskit.errors import InvariantError
from obskit.exchange import MAX_FACTS, Exchange

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_current: ContextVar[Exchange | None] = ContextVar("obskit_exchange", default=None)
# The pipeline of the newest install, for what is seen outside a request. Set by install and shutdown alone.
_outside: Any = None
MAX_NAME = 80


def pipeline_of(exchange: Exchange | None) -> Any:
    """The pipeline that hears of what this code sees: of its request, else of the newest install; None without one."""
    return _outside if exchange is None else exchange.pipeline


def current() -> Exchange | None:
    """The Exchange of the request this code runs for, or None outside a request.

    It follows the request into asyncio tasks and into threads started through `contextvars.copy_context().run`;
    there it may already have closed (`exchange.closed`), and is then read-only.
    """
    try:
        return _current.get()
    except Exception as error:
        _failed(None, "current", error)
        return None


def _failed(exchange: Exchange | None, stage: str, error: BaseException) -> None:
    pipeline = _outside if exchange is None else exchange.pipeline
    if pipeline is not None:
        pipeline.failed(stage, error)


def bind(**facts: Any) -> None:
    """Add facts to this request's canonical line, its span, and every log line written after this call.

    Keys that name a secret are redacted; at most 64 facts are kept per request, further ones are dropped and
    counted. Outside a request the call does nothing. Never raises.
    """
    exchange = None
    try:
        exchange = _current.get()
        if exchange is None or exchange.closed:
            return
        kept = exchange.facts
        if kept is None:
            kept = exchange.facts = {}
        for key, value in facts.items():
            if key in kept or len(kept) < MAX_FACTS:
                kept[key] = value
            elif exchange.pipeline is not None:
                exchange.pipeline.dropped("logs", "too_many_facts")
    except Exception as error:
        _failed(exchange, "bind", error)


def invariant(condition: object, name: str, /, **facts: Any) -> bool:
    """Check an assumption in production: count whether it held, and make a failure a finding. Returns whether it held.

    `name` is a bounded name such as ``"stock_not_negative"``, never a value: it becomes a metric label. `facts` are
    kept as evidence of a failure, redacted by their keys. Works in and outside a request. Never raises, unless the
    option `invariants` is "raise" (for tests): then a failure raises InvariantError.
    """
    try:
        held = bool(condition)
    except Exception as error:
        # A condition that cannot be asked proves nothing, and must not stop the application.
        _failed(current(), "invariant", error)
        return True
    exchange = pipeline = None
    label = ""
    try:
        exchange = _current.get()
        pipeline = _outside if exchange is None else exchange.pipeline
        label = str(name)[:MAX_NAME]
        if pipeline is not None:
            pipeline.invariant(label, exchange, held, facts)
    except Exception as error:
        _failed(exchange, "invariant", error)
    if not held and pipeline is not None and pipeline.config.invariants == "raise":
        raise InvariantError(f"the invariant {label!r} does not hold: {facts or 'no facts given'}")
    return held


def get_logger(name: str | None = None) -> FilteringBoundLogger:
    """A structlog logger whose lines carry the request's ids and bound facts; writing a line never raises.

    `name` becomes the line's `logger` key. Works at module level, before `install`.
    """
    from obskit.signals.structured import get_logger as make  # noqa: PLC0415  (keeps `import obskit` light)

    return make(name)
