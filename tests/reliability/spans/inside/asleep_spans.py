"""A pytest plugin for the SDK's own tests: each span that a tracer starts is one of ours, asleep until it is used."""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from typing import Any

from opentelemetry.sdk.trace import SpanProcessor, Tracer, _Span

from obskit.exchange import Exchange
from obskit.signals.request_span import RequestSpan

COUNTED: Counter[str] = Counter()
BROKEN = os.environ.get("OBSKIT_BROKEN_SPANS", "")


class _Template:
    """Makes what the SDK has made with the arguments of the test."""

    def __init__(self, made: _Span) -> None:
        self.made = made
        self.is_secret = bool

    def context(self, *_: Any) -> Any:
        return self.made._context

    def span(self, *_: Any) -> _Span:
        COUNTED["woken"] += 1
        if BROKEN == "parent":
            self.made._parent = None
        return self.made


_start_span = Tracer.start_span


def asleep(self: Tracer, name: str, context: Any = None, *args: Any, **how: Any) -> Any:
    processor, self.span_processor = self.span_processor, SpanProcessor()  # which is told of no start yet
    try:
        made = _start_span(self, name, context, *args, **how)
    finally:
        self.span_processor = processor
    if type(made) is not _Span:
        return made
    made._span_processor = processor
    span = object.__new__(RequestSpan)
    span._maker, span._exchange = _Template(made), Exchange()
    COUNTED["asleep"] += 1
    processor.on_start(span, parent_context=context)
    return span


_reload = importlib.reload


def reload(module: Any) -> Any:
    """Some tests load the SDK's module again, for a sampler that it reads later now: ours would be lost with that."""
    return module if module.__name__ == "opentelemetry.sdk.trace" else _reload(module)


Tracer.start_span = asleep
importlib.reload = reload


def pytest_unconfigure() -> None:
    sys.stdout.write(f"\nspans asleep {COUNTED['asleep']}, woken {COUNTED['woken']}\n")
