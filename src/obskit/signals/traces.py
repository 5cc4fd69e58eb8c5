"""The traces view: one SERVER span per exchange, by the OpenTelemetry SDK and its semantic conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from json import dumps as _dumps
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from obskit import names
from obskit.exchange import Exchange, Finding
from obskit.plain import agent_of, exception_of, path_of, plain
from obskit.redact import REDACTED
from obskit.signals import provider as providers
from obskit.signals.ids import OwnIds
from obskit.signals.incoming import cleaned
from obskit.version import __version__

_SERVER_ERROR = Status(StatusCode.ERROR)


class Traces:
    """A pipeline signal with a context of its own."""

    name = "traces"

    def __init__(
        self,
        provider: providers.ProviderHandle,
        is_secret: Callable[[str], bool],
        incoming_trace: str = "continue",
    ) -> None:
        """`incoming_trace`: whether a request goes on with its caller's trace, or begins one (`Config`)."""
        self._provider = provider
        self._restarts = incoming_trace == "restart"
        self._is_secret = is_secret
        self._tracer = provider.provider.get_tracer("obskit", __version__)
        self._new_ids = _id_generator(provider.provider)
        # The propagator decides which headers carry context (OTEL_PROPAGATORS); a request without any is a root.
        self.carrier_headers = frozenset(name.lower() for name in propagate.get_global_textmap().fields)

    def begin(self) -> None:
        self._provider.begin()

    def opened(self, exchange: Exchange) -> None:
        carrier = exchange.carrier
        # Always from an empty context: whatever an earlier request left in this thread is no parent of this one.
        parent, failed = self._extract(carrier)
        links = None
        if carrier is not None and self._restarts:
            # Nothing of a stranger's reaches the application: neither his sampling flag nor his baggage.
            caller = trace.get_current_span(parent).get_span_context()
            links = [Link(caller)] if caller.is_valid else None
            parent, carrier = Context(), None
        attributes: dict[str, Any] = {
            names.ATTR_METHOD: exchange.method,
            names.ATTR_URL_PATH: path_of(exchange, self._is_secret),
            names.ATTR_URL_SCHEME: exchange.scheme[:MAX_ATTRIBUTE],
        }
        if exchange.method_original is not None:
            attributes[names.ATTR_METHOD_ORIGINAL] = exchange.method_original
        if exchange.server_port is not None:
            attributes[names.ATTR_SERVER_PORT] = exchange.server_port
        for key, value in (
            (names.ATTR_PROTOCOL_VERSION, exchange.http_version),
            (names.ATTR_SERVER_ADDRESS, exchange.server_address),
            (names.ATTR_CLIENT_ADDRESS, exchange.client_address),
            (names.ATTR_USER_AGENT, agent_of(exchange, self._is_secret)),
        ):
            if value is not None:
                attributes[key] = value[:MAX_ATTRIBUTE]
        span = self._tracer.start_span(
            _span_method(exchange),
            parent,
            SpanKind.SERVER,
            attributes,
            links,
            start_time=exchange.started_unix_ns,
            record_exception=False,
            set_status_on_exception=False,
        )
        ids = span.get_span_context()
        if ids.is_valid:
            exchange.trace_id = f"{ids.trace_id:032x}"
            exchange.span_id = f"{ids.span_id:016x}"
            exchange.sampled = ids.trace_flags.sampled
        # OTEL_SDK_DISABLED: no span, or the caller's own. The lines of one request still need to find each other.
        if not ids.is_valid:
            exchange.trace_id, exchange.span_id = self._new_ids()
        elif carrier is not None and trace.get_current_span(parent).get_span_context().span_id == ids.span_id:
            exchange.span_id = self._new_ids()[1]
        exchange.span = span
        exchange.otel_context = trace.set_span_in_context(span, _within(otel_context.get_current(), parent))
        if failed is not None:
            raise failed

    def _extract(self, carrier: Mapping[str, str] | None) -> tuple[Context, Exception | None]:
        """The caller's context, and what its reading failed with: that costs the parent, and not the span."""
        if carrier is None:
            return Context(), None
        try:
            return propagate.extract(cleaned(carrier), context=Context()), None
        except Exception as error:  # a propagator of the user's own
            return Context(), error

    def enter(self, exchange: Exchange) -> Any:
        context = exchange.otel_context
        return None if context is None else otel_context.attach(context)

    def leave(self, token: Any) -> None:
        otel_context.detach(token)

    def closed(self, exchange: Exchange) -> None:
        span = exchange.span
        if span is None:
            return
        exchange.span = exchange.otel_context = None
        if not span.is_recording():
            return
        try:
            self._describe(span, exchange)
        finally:
            span.end(exchange.started_unix_ns + round(exchange.duration * 1e9))

    def _describe(self, span: Any, exchange: Exchange) -> None:
        attributes: dict[str, Any] = {
            names.ATTR_OUTCOME: str(exchange.outcome),
            names.ATTR_REQUEST_ID: exchange.request_id,
        }
        route = exchange.http_route
        if route is not None and route != names.UNMATCHED_ROUTE:
            span.update_name(f"{_span_method(exchange)} {route}")
            attributes[names.ATTR_ROUTE] = route
        if exchange.status is not None:
            attributes[names.ATTR_STATUS] = exchange.status
        error_type = exchange.error_type
        if error_type:
            attributes[names.ATTR_ERROR_TYPE] = error_type
        if exchange.request_bytes:
            attributes[names.ATTR_REQUEST_SIZE] = exchange.request_bytes
        if exchange.response_bytes:
            attributes[names.ATTR_RESPONSE_SIZE] = exchange.response_bytes
        for key, value in (exchange.facts or {}).items():
            secret = self._is_secret(key)
            attributes[names.ATTR_FACT_PREFIX + key] = (
                REDACTED if secret else _attribute(value, self._is_secret)
            )
        if exchange.findings:
            attributes[names.ATTR_FINDINGS] = list(dict.fromkeys(one.finding for one in exchange.findings))
        span.set_attributes(attributes)
        for finding in exchange.findings:
            span.add_event(names.FINDING_EVENT, self._finding(finding))
        if isinstance(exchange.exception, Exception):
            span.add_event("exception", _exception(exchange.exception))
        if exchange.level == "error":
            span.set_status(_SERVER_ERROR)

    def _finding(self, finding: Finding) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            names.ATTR_FINDING: finding.finding,
            names.ATTR_FINDING_SEVERITY: finding.severity,
            names.ATTR_FINDING_WHY: finding.why,
            names.ATTR_FINDING_TIMES: finding.times,
        }
        for key, value in finding.evidence.items():
            shown = REDACTED if self._is_secret(key) else _attribute(value, self._is_secret)
            attributes[names.ATTR_EVIDENCE_PREFIX + key] = shown
        return attributes

    def flush(self, timeout_s: float) -> None:
        self._provider.flush(timeout_s)

    def goodbye(self) -> None:
        self._provider.goodbye()

    def shutdown(self, timeout_s: float) -> None:
        self._provider.shutdown(timeout_s)


MAX_ATTRIBUTE = 2048


def _within(around: Context, parent: Context) -> Context:
    """What the caller sent, and what stands around the application already: the framework's own values, say."""
    return Context({**around, **parent}) if around else parent


def _span_method(exchange: Exchange) -> str:
    # Semantic conventions: an unknown method must not become a span name.
    return "HTTP" if exchange.method == names.OTHER_METHOD else exchange.method


def _attribute(value: Any, is_secret: Callable[[str], bool]) -> Any:
    shown = plain(value, is_secret)
    if shown is None or isinstance(shown, list | dict):
        return _dumps(shown, ensure_ascii=False)[:MAX_ATTRIBUTE]
    return shown


def _exception(error: Exception) -> dict[str, Any]:
    """The attributes of an exception event (semantic conventions), without source text or locals.

    Not `span.record_exception`: that raises where `str(exception)` does.
    """
    known = exception_of(error)
    frames = [f'  File "{f["file"]}", line {f["line"]}, in {f["function"]}' for f in known["frames"]]
    summary = f"{known['type']}: {known['message']}"
    return {
        "exception.type": known["type"],
        "exception.message": known["message"],
        "exception.stacktrace": "\n".join(["Traceback (most recent call last):", *frames, summary]),
    }


def _id_generator(provider: Any) -> Callable[[], tuple[str, str]]:
    generator = provider.id_generator if isinstance(provider, TracerProvider) else OwnIds()
    return lambda: (f"{generator.generate_trace_id():032x}", f"{generator.generate_span_id():016x}")
