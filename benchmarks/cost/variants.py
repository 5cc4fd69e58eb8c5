"""What is measured beside what: each variant with the environment it lives in and what it must be seen to do.

Imports the standard library alone: the controller and every worker, whatever its environment, read this.
"""

from __future__ import annotations

from dataclasses import dataclass

ASGI = ("fastapi", "starlette")
WSGI = ("flask", "django")
FRAMEWORKS = ASGI + WSGI
FAMILIES = {"ASGI": ASGI, "WSGI": WSGI}

MANY_ROUTES = 100
"""How many routes stand before the one that is hit, where the name of a variant ends in `+routes`."""

SPANS, METRICS, LINES = "spans", "metrics", "lines"
ALL_THREE = frozenset({SPANS, METRICS, LINES})


@dataclass(frozen=True)
class Variant:
    """One way to look at an application."""

    name: str
    title: str
    environment: str
    what: str
    """How it is set up, for the reader of the table."""
    proves: frozenset[str] = frozenset()
    """What its output must be seen to contain, or it is not reported."""
    frameworks: tuple[str, ...] = FRAMEWORKS
    sampled: bool = True
    routes: int = 0

    @property
    def bare(self) -> str:
        """The key of what it is compared with: the same application in the same environment, watched by nobody."""
        return bare_key(self.environment, self.routes)


def bare_key(environment: str, routes: int) -> str:
    return f"bare@{environment}" + ("+routes" if routes else "")


VARIANTS = (
    Variant(
        "assembled",
        "assembled stack",
        "stack",
        "contrib's framework instrumentation as its documentation shows it, OTLP export through the SDK's batch "
        "processor, the framework's best-known prometheus exporter, an access line by structlog's stdlib recipe",
        ALL_THREE,
    ),
    Variant(
        "assembled-native",
        "assembled stack, the framework's own spans",
        "stack",
        "the same, with the telemetry that FastAPI (0.142 and newer) and Starlette (1.x) bring along, as their "
        "documentation shows it, in place of contrib's",
        ALL_THREE,
        frameworks=ASGI,
    ),
    Variant(
        "careful",
        "careful stack",
        "stack",
        "contrib without its send and receive spans, the same exporters, an access line from a middleware without a "
        "task of its own, by structlog's recipe for speed (orjson, no stdlib logging)",
        ALL_THREE,
    ),
    Variant(
        "careful-native",
        "careful stack, the framework's own spans",
        "stack",
        "the same, with one span of FastAPI (`operation_spans` off) or Starlette in place of contrib's",
        ALL_THREE,
        frameworks=ASGI,
    ),
    Variant(
        "contrib-unsampled",
        "contrib's unsampled span alone",
        "stack",
        "contrib's instrumentation without send and receive spans, sampling ratio 0; no metrics, no lines",
        sampled=False,
    ),
    Variant(
        "logfire",
        "logfire",
        "logfire",
        "`logfire.configure(send_to_logfire=False)` and its instrumentation of the framework, exporting by OTLP",
        frozenset({SPANS}),
    ),
    Variant(
        "sentry",
        "sentry-sdk",
        "sentry",
        "`sentry_sdk.init(traces_sample_rate=1.0)`, its own transport to a receiver on this machine",
        frozenset({SPANS}),
    ),
    Variant(
        "floor",
        "floor: public APIs",
        "stack",
        "one lean middleware: SDK span, prometheus-client children kept, orjson line, the official exporter",
        ALL_THREE,
    ),
    Variant(
        "floor-lean",
        "floor, tuned, lean encoder",
        "stack",
        "a bound, no design: a plain object for a span, list cells for a histogram, lines written 32 at a time, OTLP "
        "bytes by hand; no propagation, no errors, no events, not safe among threads",
        ALL_THREE,
    ),
    Variant(
        "signals",
        "obskit, three signals",
        "obskit",
        "`obskit.install(app)` with every detector named in `disabled_detectors`; the watching thread has no switch, "
        "and the flight recorder is what lets records be shown together: both stay",
        ALL_THREE,
    ),
    Variant("obskit", "obskit, as it comes", "obskit", "`obskit.install(app)`", ALL_THREE),
    Variant(
        "obskit-unsampled",
        "obskit, trace not sampled",
        "obskit",
        "`obskit.install(app)`, sampling ratio 0: metrics, lines, detectors and watch as ever",
        frozenset({METRICS, LINES}),
        sampled=False,
    ),
    Variant(
        "assembled+routes",
        f"assembled stack, {MANY_ROUTES} routes before",
        "stack",
        "the assembled stack on the larger application",
        ALL_THREE,
        routes=MANY_ROUTES,
    ),
    Variant(
        "signals+routes",
        f"obskit, three signals, {MANY_ROUTES} routes before",
        "obskit",
        "three signals on the larger application",
        ALL_THREE,
        routes=MANY_ROUTES,
    ),
    Variant(
        "obskit+routes",
        f"obskit, as it comes, {MANY_ROUTES} routes before",
        "obskit",
        "obskit as it comes on the larger application",
        ALL_THREE,
        routes=MANY_ROUTES,
    ),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}


def of(framework: str, names: tuple[str, ...] = ()) -> list[Variant]:
    """The variants there are for a framework; of these, the named ones."""
    return [one for one in VARIANTS if framework in one.frameworks and (not names or one.name in names)]
