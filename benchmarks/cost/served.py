"""Makes the application of one variant: `make(framework, variant)`; `app` is that for a server to find.

Which packages are there depends on the environment; each is imported where its variant is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.cost import bare
from benchmarks.cost.variants import ASGI, BY_NAME, LINES, METRICS, Variant

QUEUE = 1 << 16
"""Nothing is dropped: who drops spans is cheap."""


class Served(NamedTuple):
    app: Any
    flush: Callable[[], object] | None = None
    """Sends what waits to be sent, and returns when it is gone."""
    page: Callable[[], str] | None = None
    """The metrics as a scrape sees them; None: the application itself answers /metrics, or there are none."""


def make(framework: str, name: str) -> Served:
    """The application of a variant, or the bare one (`bare`, `bare+routes`)."""
    if name.startswith("bare"):
        routes = BY_NAME["obskit+routes"].routes if name.endswith("+routes") else 0
        return Served(bare.application(framework, routes))
    variant = BY_NAME[name]
    if variant.environment == "obskit":
        return _obskit(framework, variant)
    if variant.environment == "logfire":
        return _logfire(framework)
    if variant.environment == "sentry":
        return _sentry(framework)
    if name.startswith("floor"):
        return _floor(framework, lean=name == "floor-lean")
    from benchmarks.cost import stack  # noqa: PLC0415

    provider = stack.tracer_provider()
    app = stack.around(
        framework,
        variant.routes,
        careful=name.startswith(("careful", "contrib")),
        native=name.endswith("-native"),
        metrics=METRICS in variant.proves,
        lines=LINES in variant.proves,
    )
    return Served(app, provider.force_flush, stack.page if METRICS in variant.proves else None)


def environment_of(name: str, sink: str, number: int, state_dir: str) -> dict[str, str]:
    """The variables a process of this variant is started with."""
    found = {"PYTHONHASHSEED": "0"}
    if name.startswith("bare"):
        return found
    variant = BY_NAME[name]
    if variant.environment == "sentry":
        return {**found, "SENTRY_DSN": f"http://key@{sink}/{number}"}
    found |= {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://{sink}/{number}/v1/traces",
        "OTEL_BSP_MAX_QUEUE_SIZE": str(QUEUE),
        "OTEL_SERVICE_NAME": "shop",
    }
    if not variant.sampled:
        found |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    if variant.environment == "obskit":
        found["OBSKIT_STATE_DIR"] = state_dir
    return found


def _obskit(framework: str, variant: Variant) -> Served:
    import obskit  # noqa: PLC0415

    options: dict[str, Any] = {}
    if variant.name.startswith("signals"):
        from obskit.detectors import shipped  # noqa: PLC0415

        options = {"disabled_detectors": [one.name for one in shipped()]}
    app = (
        bare.fastapi_app(variant.routes)
        if framework == "fastapi"
        else bare.application(framework, variant.routes)
    )
    served = obskit.install(app, service="shop", log_format="json", **options)

    def flush() -> None:
        from opentelemetry import trace  # noqa: PLC0415

        trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]

    return Served(served, flush)


def _logfire(framework: str) -> Served:
    import logfire  # noqa: PLC0415

    logfire.configure(send_to_logfire=False, console=False, service_name="shop")
    if framework == "django":
        bare.django_settings(0)
        logfire.instrument_django()
        return Served(bare.django_handler(), logfire.force_flush)
    app = bare.fastapi_app(0) if framework == "fastapi" else bare.application(framework, 0)
    getattr(logfire, f"instrument_{framework}")(app)
    return Served(app, logfire.force_flush)


def _sentry(framework: str) -> Served:
    import sentry_sdk  # noqa: PLC0415

    # Before the application: it finds the framework by itself.
    sentry_sdk.init(traces_sample_rate=1.0, transport_queue_size=QUEUE)
    app = bare.fastapi_app(0) if framework == "fastapi" else bare.application(framework, 0)
    return Served(app, lambda: sentry_sdk.flush(60))


def _floor(framework: str, *, lean: bool) -> Served:
    from benchmarks.cost import floor, floor_lean, stack  # noqa: PLC0415

    if lean:
        provider, around = floor_lean.provider(), floor_lean
    else:
        provider, around = stack.tracer_provider(), floor
    if framework == "django":
        app = bare.django_app(0, middleware=[f"{around.__name__}.django_middleware"])
    elif framework in ASGI:
        options = {"telemetry": {"tracing": False}} if framework == "fastapi" else {}
        app = getattr(bare, f"{framework}_app")(0, **options)
        app = around.asgi_middleware(app)
    else:
        app = bare.flask_app(0)
        app.wsgi_app = around.wsgi_middleware(app.wsgi_app, floor.flask_route)
    return Served(app, provider.force_flush, stack.page)


if "BENCH_VARIANT" in os.environ and "BENCH_FRAMEWORK" in os.environ:
    app = make(os.environ["BENCH_FRAMEWORK"], os.environ["BENCH_VARIANT"]).app
