"""The stack that a team assembles: OpenTelemetry's instrumentation, a prometheus exporter, structlog access lines.

Each part as its own documentation shows it: `instrument_app` and a BatchSpanProcessor; `Instrumentator().instrument`,
`PrometheusMetrics(app)`, django_prometheus's two middlewares; structlog's recipes "Rendering within structlog"
(stdlib, ProcessorFormatter) and "Performance" (orjson, BytesLogger).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from time import perf_counter_ns
from typing import Any
from uuid import uuid4

import orjson
import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import REGISTRY, generate_latest
from structlog.contextvars import bind_contextvars, clear_contextvars, merge_contextvars

from benchmarks.cost import bare
from benchmarks.cost.variants import ASGI


def tracer_provider() -> TracerProvider:
    """Set up the way the SDK's documentation begins; sampler, endpoint and queue come from the OTEL_ variables."""
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def page() -> str:
    return generate_latest(REGISTRY).decode()


def around(framework: str, routes: int, *, careful: bool, native: bool, metrics: bool, lines: bool) -> Any:
    """The application of a framework with these parts around it."""
    log = _logger(careful) if lines else None
    if framework in ASGI:
        return _asgi(framework, routes, log, careful=careful, native=native, metrics=metrics)
    if framework == "flask":
        return _flask(routes, log, metrics=metrics)
    return _django(routes, log, metrics=metrics)


def _asgi(framework: str, routes: int, log: Any, *, careful: bool, native: bool, metrics: bool) -> Any:
    if framework == "fastapi":
        own = {"telemetry": {"operation_spans": False}} if native and careful else {}
        app = bare.fastapi_app(routes, **own)
    else:
        app = bare.starlette_app(routes)
    if metrics:
        from prometheus_fastapi_instrumentator import Instrumentator  # noqa: PLC0415

        Instrumentator().instrument(app)
    if log is not None:
        app.add_middleware(_pure_access_lines(log) if careful else _base_http_access_lines(log))
    if native:
        if framework == "starlette":
            from starlette.middleware.opentelemetry import OpenTelemetryMiddleware as Own  # noqa: PLC0415

            app.add_middleware(Own)
    elif framework == "fastapi":
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415

        FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"] if careful else None)
    elif careful:
        # Its instrumentor passes no `exclude_spans` on; the middleware that it would add takes it.
        from opentelemetry.instrumentation import starlette as contrib  # noqa: PLC0415
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware  # noqa: PLC0415

        app.add_middleware(
            OpenTelemetryMiddleware,
            default_span_details=contrib._get_default_span_details,
            exclude_spans=["receive", "send"],
        )
    else:
        from opentelemetry.instrumentation.starlette import StarletteInstrumentor  # noqa: PLC0415

        StarletteInstrumentor.instrument_app(app)
    return app


def _flask(routes: int, log: Any, *, metrics: bool) -> Any:
    from flask import g, request  # noqa: PLC0415
    from opentelemetry.instrumentation.flask import FlaskInstrumentor  # noqa: PLC0415

    app = bare.flask_app(routes)
    if log is not None:

        @app.before_request
        def began() -> None:
            clear_contextvars()
            bind_contextvars(request_id=uuid4().hex)
            g.began = perf_counter_ns()

        @app.after_request
        def ended(response: Any) -> Any:
            log.info(
                "request",
                method=request.method,
                path=request.path,
                status=response.status_code,
                client=request.remote_addr,
                duration_s=(perf_counter_ns() - g.began) / 1e9,
            )
            return response

    if metrics:
        from prometheus_flask_exporter import PrometheusMetrics  # noqa: PLC0415

        PrometheusMetrics(app, group_by="url_rule")
    FlaskInstrumentor().instrument_app(app)
    return app


def _django(routes: int, log: Any, *, metrics: bool) -> Any:
    from opentelemetry.instrumentation.django import DjangoInstrumentor  # noqa: PLC0415

    middleware, apps = [], []
    if metrics:
        middleware = [
            f"django_prometheus.middleware.Prometheus{end}Middleware" for end in ("Before", "After")
        ]
        apps = ["django_prometheus"]
    if log is not None:
        global _django_log
        _django_log = log
        middleware.insert(0, f"{__name__}.django_access_lines")
    bare.django_settings(routes, middleware, apps)
    DjangoInstrumentor().instrument()
    return bare.django_handler()


# -- access lines ---------------------------------------------------------------------------------------


def _with_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
        event["span_id"] = format(context.span_id, "016x")
    return event


def _logger(careful: bool) -> Any:
    return _fast_logger() if careful else _stdlib_logger()


def _stdlib_logger() -> Any:
    shared: list[Any] = [
        merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        _with_trace,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    return structlog.stdlib.get_logger("api.access")


def _fast_logger() -> Any:
    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _with_trace,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        logger_factory=structlog.BytesLoggerFactory(),
    )
    return structlog.get_logger()


def _base_http_access_lines(log: Any) -> Any:
    """The recipe that is copied most: `@app.middleware("http")`, that is BaseHTTPMiddleware."""
    from starlette.middleware.base import BaseHTTPMiddleware  # noqa: PLC0415

    class AccessLines(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            clear_contextvars()
            bind_contextvars(request_id=uuid4().hex)
            began, status = perf_counter_ns(), 500
            try:
                response = await call_next(request)
                status = response.status_code
                return response
            finally:
                log.info(
                    "request",
                    method=request.method,
                    path=request.url.path,
                    status=status,
                    client=request.client.host,
                    duration_s=(perf_counter_ns() - began) / 1e9,
                )

    return AccessLines


def _pure_access_lines(log: Any) -> Any:
    class AccessLines:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await self.app(scope, receive, send)
                return
            clear_contextvars()
            bind_contextvars(request_id=uuid4().hex)
            began, status = perf_counter_ns(), 500

            async def seen(message: Any) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self.app(scope, receive, seen)
            finally:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    client=scope["client"][0],
                    duration_s=(perf_counter_ns() - began) / 1e9,
                )

    return AccessLines


_django_log: Any = None
"""Django makes its middleware itself, from a name."""


def django_access_lines(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    log = _django_log

    def middleware(request: Any) -> Any:
        clear_contextvars()
        bind_contextvars(request_id=uuid4().hex)
        began, status = perf_counter_ns(), 500
        try:
            response = get_response(request)
            status = response.status_code
            return response
        finally:
            log.info(
                "request",
                method=request.method,
                path=request.path,
                status=status,
                client=request.META["REMOTE_ADDR"],
                duration_s=(perf_counter_ns() - began) / 1e9,
            )

    return middleware
