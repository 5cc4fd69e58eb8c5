"""The process-wide tracer provider: the user's is kept, ours is made once and can be undone.

An exporter (a thread and a socket) comes to be in `begin`, which the pipeline calls in the process that serves:
never before a fork.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Sequence, Sized
from threading import Lock, Thread
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from obskit.config import Config
from obskit.errors import InstallError

CountExport = Callable[[str, str], None]
CountDropped = Callable[[str, str, int], None]

_shared_lock = Lock()
_shared: ProviderHandle | None = None


def _after_fork() -> None:
    # A thread of the parent may have held it, and that thread is not here.
    global _shared_lock
    _shared_lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ProviderHandle:
    """One tracer provider and what obskit added to it."""

    def __init__(
        self, provider: Any, *, ours: bool, make_exporter: Callable[[], SpanExporter] | None, exporter: str
    ) -> None:
        self.provider = provider
        self.ours = ours
        self.exporter = exporter
        self.users = 1
        self._make_exporter = make_exporter
        self._processor: BatchSpanProcessor | None = None
        self._ledger: _Ledger | None = None
        self._counts: list[tuple[CountExport, CountDropped]] = []
        self._after_fork()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    def _after_fork(self) -> None:
        self._lock = Lock()

    def count_with(self, export: CountExport, dropped: CountDropped) -> None:
        """Report export calls and lost spans to these."""
        self._counts.append((export, dropped))

    def begin(self) -> None:
        """Create exporter and batch thread, once, in the serving process."""
        with self._lock:
            if self._processor is not None or self._make_exporter is None:
                return
            self._ledger = _Ledger(self._counts)
            self._processor = _CountingProcessor(
                _CountingExporter(self._make_exporter(), self._ledger), self._ledger
            )
            self.provider.add_span_processor(self._processor)

    def flush(self, timeout_s: float) -> None:
        """Export what is queued; give up after `timeout_s` seconds."""
        if self._processor is not None:
            _bounded(self._processor.force_flush, timeout_s)
        elif not self.ours and hasattr(self.provider, "force_flush"):
            _bounded(self.provider.force_flush, timeout_s)

    def shutdown(self, timeout_s: float) -> None:
        """Flush and, when the last install using it goes, stop what obskit added."""
        global _shared
        with _shared_lock:
            self.users -= 1
            last = self.users <= 0
            if last and _shared is self:
                _shared = None
        if not last:
            self.flush(timeout_s)
            return
        if self._processor is not None:
            processor, self._processor = self._processor, None
            _bounded(processor.shutdown, timeout_s)
            if self._ledger is not None:
                self._ledger.stopped()
        else:
            self.flush(timeout_s)
        if self.ours:
            _forget_global(self.provider)


def get_provider(config: Config, resource: dict[str, str], own: Any = None) -> ProviderHandle:
    """The provider of this process: the one given, else the user's global one, else ours (shared by all installs).

    Raises InstallError when an exporter is asked for whose package is not installed.
    """
    global _shared
    with _shared_lock:
        existing = own if own is not None else _user_provider()
        if existing is not None and (_shared is None or existing is not _shared.provider):
            # Theirs is kept. Their exporters come with it; only an endpoint named to us is added.
            asked = config.otlp_endpoint is not None and hasattr(existing, "add_span_processor")
            make, told = _exporter(config) if asked else (None, "yours")
            return ProviderHandle(existing, ours=False, make_exporter=make, exporter=told)
        if _shared is not None:
            _shared.users += 1
            return _shared
        make, told = _exporter(config)
        # atexit is ours to handle, with a bound: the SDK's own hook waits up to 30 s for a collector that is away.
        provider = TracerProvider(resource=Resource.create(dict(resource)), shutdown_on_exit=False)
        trace.set_tracer_provider(provider)
        _shared = ProviderHandle(provider, ours=True, make_exporter=make, exporter=told)
        return _shared


def _user_provider() -> Any:
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider) else provider


def _forget_global(provider: TracerProvider) -> None:
    # OpenTelemetry's API offers no way back, so that nobody undoes it by accident; this is on purpose and only
    # ever undoes what obskit itself set.
    if getattr(trace, "_TRACER_PROVIDER", None) is provider:
        trace._TRACER_PROVIDER = None
        trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()


def _exporter(config: Config) -> tuple[Callable[[], SpanExporter] | None, str]:
    """How to make the exporter that options and OTEL variables ask for, and what to tell of it at start."""
    env = os.environ
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None, "disabled"
    named = {name.strip().lower() for name in env.get("OTEL_TRACES_EXPORTER", "").split(",")} - {""}
    endpoint = (
        config.otlp_endpoint
        or env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        or env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    if config.otlp_endpoint is None and ("otlp" not in named and (named or not endpoint)):
        return None, "none"
    protocol = (
        config.otlp_protocol
        or env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or env.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    if protocol == "grpc":
        return _grpc(config), "otlp/grpc"
    if protocol == "http/protobuf":
        return _http(config), "otlp/http"
    raise InstallError(
        f"environment variable OTEL_EXPORTER_OTLP_PROTOCOL: saw {protocol!r}, expected http/protobuf or grpc"
    )


def _http(config: Config) -> Callable[[], SpanExporter]:
    # Imported now, not in `begin`: that may run inside the first request, which should not pay for it.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    if config.otlp_endpoint is None:
        return OTLPSpanExporter  # reads the OTEL_EXPORTER_OTLP_* variables itself
    base = config.otlp_endpoint.rstrip("/")
    endpoint = base if base.endswith("/v1/traces") else f"{base}/v1/traces"
    return lambda: OTLPSpanExporter(endpoint=endpoint)


def _grpc(config: Config) -> Callable[[], SpanExporter]:
    try:
        import opentelemetry.exporter.otlp.proto.grpc.trace_exporter as grpc_exporter  # noqa: PLC0415
    except ImportError as error:
        raise InstallError(
            "OTLP over gRPC needs the extra: pip install 'obskit-web[otlp-grpc]' "
            f"(or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf); import failed with: {error}"
        ) from error
    return lambda: grpc_exporter.OTLPSpanExporter(endpoint=config.otlp_endpoint)


class _Ledger:
    """Where every sampled span ended up: nothing is dropped uncounted.

    A span that has ended is waiting, handed to the exporter, or lost. The sums are compared only in the exporter's
    thread, which alone takes spans out of the queue, and after `shutdown`.
    """

    def __init__(self, counts: list[tuple[CountExport, CountDropped]]) -> None:
        # The provider is shared by all installs of the process, and so is what became of its spans: one of them
        # reports it, or sums over installs would count twice.
        self._counts = counts
        self.waiting: Sized = ()
        self._restart()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._restart)
            os.register_at_fork(after_in_child=lambda: (restart := child()) and restart())

    def _restart(self) -> None:
        # In a forked child too: the SDK empties its queue there, and the parent sends what was in it.
        self._lock = Lock()
        self._ended = self._handed = self._settled = self._lost = 0

    def ended(self) -> None:
        """A span was put into the queue, which may have pushed the oldest one out."""
        with self._lock:
            self._ended += 1

    def handed(self, spans: int) -> None:
        """The exporter got a batch; what is neither there nor waiting was pushed out of a full queue."""
        self._handed += spans
        self._lose(self._ended - self._handed - len(self.waiting) - self._lost, "queue_full")

    def settled(self, spans: int, *, success: bool) -> None:
        """The exporter is done with a batch."""
        self._settled += spans
        for export, _ in self._counts[:1]:
            export("traces", "success" if success else "failure")
        if not success:
            for _, dropped in self._counts[:1]:
                dropped("traces", "export_failed", spans)

    def stopped(self) -> None:
        """Nothing will be exported any more: what was not settled never will be."""
        self._lose(self._ended - self._settled - self._lost, "shutdown")

    def _lose(self, spans: int, reason: str) -> None:
        if spans > 0:
            self._lost += spans
            for _, dropped in self._counts[:1]:
                dropped("traces", reason, spans)


class _CountingProcessor(BatchSpanProcessor):
    """The SDK's batch processor, whose full queue drops the oldest span; here not without counting it."""

    def __init__(self, exporter: SpanExporter, ledger: _Ledger) -> None:
        super().__init__(exporter)
        self._ledger = ledger
        ledger.waiting = getattr(getattr(self, "_batch_processor", None), "_queue", ())

    def on_end(self, span: ReadableSpan) -> None:
        super().on_end(span)
        if span.context is not None and span.context.trace_flags.sampled:
            self._ledger.ended()


class _CountingExporter(SpanExporter):
    """Passes batches on and counts what became of them."""

    def __init__(self, exporter: SpanExporter, ledger: _Ledger) -> None:
        self._exporter = exporter
        self._ledger = ledger

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._ledger.handed(len(spans))
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._ledger.settled(len(spans), success=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _bounded(call: Callable[[], Any], timeout_s: float) -> None:
    """Run `call` for at most `timeout_s` seconds: exporters wait for a collector that is away far longer."""
    failure: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            failure.append(error)

    thread = Thread(target=run, name="obskit-flush", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        logging.getLogger("obskit").warning(
            "telemetry.flush_timeout", extra={"signal": "traces", "timeout_s": timeout_s}
        )
    elif failure:
        raise failure[0]
