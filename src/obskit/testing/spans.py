"""Finished spans of a tracer provider, handed on while somebody listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

Hear = Callable[[ReadableSpan], None]


class _Tap(SpanProcessor):
    """A provider offers no way to take a processor off again: one stays, and is silent when nobody listens."""

    def __init__(self) -> None:
        self.listeners: tuple[Hear, ...] = ()

    def on_end(self, span: ReadableSpan) -> None:
        for hear in self.listeners:
            hear(span)


_taps: WeakKeyDictionary[Any, _Tap] = WeakKeyDictionary()


def listen(provider: Any, hear: Hear) -> Callable[[], None]:
    """Call `hear` with each span of `provider` that ends, until the returned function is called.

    A provider that takes no processor (OTEL_SDK_DISABLED) has no spans to hear.
    """
    tap = _taps.get(provider)
    if tap is None:
        tap = _taps[provider] = _Tap()
        if hasattr(provider, "add_span_processor"):
            provider.add_span_processor(tap)
    tap.listeners += (hear,)

    def stop() -> None:
        tap.listeners = tuple(one for one in tap.listeners if one is not hear)

    return stop
