"""The process-wide tracer provider: the user's is kept, ours is made once and can be undone.

An exporter (a thread and a socket) comes to be in `begin`, which the pipeline calls in the process that serves:
never before a fork.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from obskit.config import Config
from obskit.errors import InstallError
from obskit.signals.collector import Teller, shown
from obskit.signals.ids import OwnIds
from obskit.signals.otlp_wire import Encoded
from obskit.signals.scrubbing import scrubbed_resource
from obskit.signals.span_queue import SpanQueue

CountExport = Callable[[str, str], None]
CountDropped = Callable[[str, str, int], None]
CountFault = Callable[[str, BaseException], None]

# A span waits in memory: without a limit, one with a document for an attribute is as large as that, 2048 times.
MAX_ATTRIBUTE_LENGTH = 16_384
_LENGTH_LIMITS = ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT")

_shared_lock = threading.Lock()
_shared: ProviderHandle | None = None


def _after_fork() -> None:
    # A thread of the parent may have held it, and that thread is not here.
    global _shared_lock
    _shared_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ProviderHandle:
    """One tracer provider and what obskit added to it."""

    def __init__(
        self,
        provider: Any,
        *,
        ours: bool,
        make_exporter: Callable[[], SpanExporter] | None,
        exporter: str,
        collector: str = "",
    ) -> None:
        self.provider = provider
        self.ours = ours
        self.exporter = exporter
        self.collector = collector
        """Where the exporter sends to, without what may be secret in the address; empty without one of ours."""
        self.users = 1
        self.encoded: Callable[[Encoded], None] | None = None
        """Where spans may go as bytes, past their provider's processors; None while only spans are taken."""
        self.put: Callable[[ReadableSpan | Encoded], None] | None = None
        """The same for spans of any form that no processor is to see; None without an exporter of ours."""
        # The processors of the provider, as they were when only our own was among them, and when it was not so.
        self._alone: Any = None
        self.before_flush: list[Callable[[], None]] = []
        """What each install does before its spans are pushed out. None of it raises."""
        self._in_company: Any = None
        self._make_exporter = make_exporter
        self._queue: SpanQueue | None = None
        self._books = _Books()
        self._after_fork()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._waited_in_vain_s = 0.0

    def count_with(
        self, export: CountExport, dropped: CountDropped, fault: CountFault = lambda stage, error: None
    ) -> None:
        """Report export calls, lost spans and faults of ours to these."""
        self._books.users.append((export, dropped, fault))

    def begin(self) -> None:
        """Create exporter and its thread, once, in the serving process. Opens no connection."""
        with self._lock:
            if self._queue is not None or self._make_exporter is None:
                return
            exporter: SpanExporter = _Unmade()
            try:
                exporter = self._make_exporter()
            finally:
                self._queue = SpanQueue(exporter, self._books, Teller(self.collector))
                self._queue.before_flush = self._before_flush
                self.provider.add_span_processor(self._queue)
                self.put = self._queue.put
        if hasattr(exporter, "encode"):
            self.encoded = self._queue.put
        self._queue.begin()

    def _before_flush(self) -> None:
        for put_in in self.before_flush:
            put_in()

    def foreign_processors(self) -> bool:
        """Whether spans of this provider go to anybody but our exporter."""
        try:
            # One tuple, replaced when a processor is added.
            processors = self.provider._active_span_processor._span_processors
        except AttributeError:
            return True
        if processors is self._alone:
            return False
        return processors is self._in_company or self._judged(processors)

    def _judged(self, processors: Any) -> bool:
        foreign = any(one is not self._queue for one in processors)
        if foreign:
            self._in_company = processors
        else:
            self._alone = processors
        return foreign

    def queue(self) -> tuple[int, int] | None:
        """How many spans wait, and how many may; None while there is no exporter."""
        return None if self._queue is None else (self._queue.size, self._queue.capacity)

    def flush(self, timeout_s: float) -> None:
        """Export what is queued; give up after `timeout_s` seconds."""
        if self._queue is not None:
            if self._queue.force_flush(int(timeout_s * 1000)):
                self._waited_in_vain_s = 0.0
            else:
                self._waited_in_vain_s += timeout_s
                _told_timeout(timeout_s)
        elif not self.ours and hasattr(self.provider, "force_flush"):
            _bounded(self.provider.force_flush, timeout_s)

    def goodbye(self) -> None:
        """The process is about to end, and may do so without `shutdown`: what was not sent until now is lost."""
        if self._queue is not None:
            self._queue.give_up()

    def shutdown(self, timeout_s: float) -> None:
        """Flush and, when the last install using it goes, stop what obskit added.

        What a flush has just waited in vain is part of `timeout_s`: a server that ends says so more than once.
        """
        global _shared
        with _shared_lock:
            self.users -= 1
            last = self.users <= 0
            if last and _shared is self:
                _shared = None
        timeout_s = max(0.0, timeout_s - self._waited_in_vain_s)
        if not last:
            self.flush(timeout_s)
            return
        if self._queue is not None:
            queue, self._queue, self._make_exporter = self._queue, None, None
            self.encoded = self.put = self._alone = self._in_company = None
            queue.shutdown(timeout_s)
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
            make, told, collector = _exporter(config) if asked else (None, "yours", "")
            return ProviderHandle(
                existing, ours=False, make_exporter=make, exporter=told, collector=collector
            )
        if _shared is not None:
            _shared.users += 1
            return _shared
        make, told, collector = _exporter(config)
        limited = any(os.environ.get(name, "").strip() for name in _LENGTH_LIMITS)
        limits = SpanLimits() if limited else SpanLimits(max_attribute_length=MAX_ATTRIBUTE_LENGTH)
        # atexit is ours to handle, with a bound: the SDK's own hook waits up to 30 s for a collector that is away.
        provider = TracerProvider(
            resource=scrubbed_resource(Resource.create(dict(resource))),
            shutdown_on_exit=False,
            span_limits=limits,
            id_generator=OwnIds(),
        )
        trace.set_tracer_provider(provider)
        _shared = ProviderHandle(provider, ours=True, make_exporter=make, exporter=told, collector=collector)
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


def _exporter(config: Config) -> tuple[Callable[[], SpanExporter] | None, str, str]:
    """How to make the exporter that options and OTEL variables ask for, what to call it at start, and its address."""
    env = os.environ
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None, "disabled", ""
    named = {name.strip().lower() for name in env.get("OTEL_TRACES_EXPORTER", "").split(",")} - {""}
    endpoint = (
        config.otlp_endpoint
        or env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        or env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    if config.otlp_endpoint is None and ("otlp" not in named and (named or not endpoint)):
        return None, "none", ""
    protocol = (
        config.otlp_protocol
        or env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or env.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    if protocol == "grpc":
        return _grpc(config), "otlp/grpc", shown(endpoint or "http://localhost:4317")
    if protocol == "http/protobuf":
        return _http(config), "otlp/http", shown(endpoint or "http://localhost:4318")
    raise InstallError(
        f"environment variable OTEL_EXPORTER_OTLP_PROTOCOL: saw {protocol!r}, expected http/protobuf or grpc"
    )


def _http(config: Config) -> Callable[[], SpanExporter]:
    endpoint = None  # the OTEL_EXPORTER_OTLP_* variables say it
    if config.otlp_endpoint is not None:
        base = config.otlp_endpoint.rstrip("/")
        endpoint = base if base.endswith("/v1/traces") else f"{base}/v1/traces"
    # Imported now, not in `begin`: that may run inside the first request, which should not pay for it.
    if config.otlp_exporter == "lean":
        from obskit.signals.otlp_lean import LeanExporter, knows_the_way  # noqa: PLC0415

        if knows_the_way(endpoint):
            return lambda: LeanExporter(endpoint)
    from obskit.signals.otlp_http import HttpExporter  # noqa: PLC0415

    return lambda: HttpExporter(endpoint)


def _grpc(config: Config) -> Callable[[], SpanExporter]:
    try:
        import opentelemetry.exporter.otlp.proto.grpc.trace_exporter as grpc_exporter  # noqa: PLC0415
    except ImportError as error:
        raise InstallError(
            "OTLP over gRPC needs the extra: pip install 'obskit-web[otlp-grpc]' "
            f"(or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf); import failed with: {error}"
        ) from error
    # It shows nobody the answer: spans that a collector refuses one by one stay unseen here. What fails is counted.
    return lambda: grpc_exporter.OTLPSpanExporter(endpoint=config.otlp_endpoint)


class _Books:
    """Counts for the installs of the process: they share the provider, and so what became of its spans; one of them
    reports it, or sums over installs would count twice."""

    def __init__(self) -> None:
        self.users: list[tuple[CountExport, CountDropped, CountFault]] = []

    def export(self, outcome: str) -> None:
        for export, _, _ in self.users[:1]:
            export("traces", outcome)

    def dropped(self, reason: str, spans: int) -> None:
        for _, dropped, _ in self.users[:1]:
            dropped("traces", reason, spans)

    def fault(self, stage: str, error: BaseException) -> None:
        for _, _, fault in self.users[:1]:
            fault(stage, error)


class _Unmade(SpanExporter):
    """In place of an exporter that could not be made: what it should have sent is counted as lost."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        return


def _bounded(call: Callable[[], Any], timeout_s: float) -> None:
    """Run `call` for at most `timeout_s` seconds: exporters wait for a collector that is away far longer."""
    failure: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="obskit-flush", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        _told_timeout(timeout_s)
    elif failure:
        raise failure[0]


def _told_timeout(timeout_s: float) -> None:
    logging.getLogger("obskit").warning(
        "telemetry.flush_timeout", extra={"signal": "traces", "timeout_s": timeout_s}
    )
