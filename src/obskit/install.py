"""The composition root: config, signals, pipeline, adapter, door. It alone knows everybody."""

from __future__ import annotations

import atexit
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from threading import Lock
from typing import Any

from obskit import adapters, context
from obskit.asgi import AsgiDoor
from obskit.config import INTERFACES, Config
from obskit.detectors import choose
from obskit.errors import InstallError, shown
from obskit.findings import Detector, Setting
from obskit.pipeline import Pipeline
from obskit.redact import make_redactor
from obskit.signals import capture, instrumentation
from obskit.signals.exposition import Exposition
from obskit.signals.logs import Logs
from obskit.signals.metrics import Metrics
from obskit.signals.provider import get_provider
from obskit.signals.scrape_server import ScrapeServer
from obskit.signals.traces import Traces
from obskit.watch import Watch
from obskit.wsgi import WsgiDoor

_lock = Lock()
_installed: list[Pipeline] = []
_watching: tuple[Callable[[Pipeline], None], ...] = ()
_at_exit_set = False

AT_EXIT_TIMEOUT_S = 2.0


def _after_fork() -> None:
    # A thread of the parent may have held it, and that thread is not here.
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def install(
    app: Any,
    *,
    service: str | None = None,
    environment: str | None = None,
    interface: str | None = None,
    detectors: Iterable[Detector] = (),
    config: Config | None = None,
    **options: Any,
) -> Any:
    """Give `app` structured logs, RED metrics and traces that agree, and return the app to serve.

    The same object comes back for Flask, FastAPI and Starlette; for Django handlers and plain WSGI or ASGI
    callables a callable through which the original's attributes stay reachable. A second call returns the app
    unchanged. It may be called after the app has served requests; those before it are not recorded.

    `service` and `environment` name what runs here; `interface` ("wsgi" or "asgi") decides for a callable that does
    not show which it is; `detectors` are your own, beside those of obskit; `config` replaces
    environment and defaults; `options` are the fields of `Config`.

    Raises InstallError, saying what was seen and what to do, for an unknown option or a bad value, an object that
    is no application, a detector that is none, or another distribution that provides the package `obskit`.
    """
    _refuse_foreign_distribution()
    with _lock:
        settings = Config.load({"service": service, "environment": environment, **options}, config)
        if interface is not None and interface not in INTERFACES:
            raise InstallError(
                f"option 'interface': saw {interface!r}, expected one of {', '.join(INTERFACES)}"
            )
        if isinstance(app, WsgiDoor | AsgiDoor):
            return _already(app)
        adapter: Any = adapters.find(app)
        if adapter is not None and adapter.is_attached(app):
            return _already(adapter.attached(app) if hasattr(adapter, "attached") else app)
        spoken = adapter.interface(app) if adapter is not None else _interface(app, interface)
        if interface is not None and interface != spoken:
            raise InstallError(f"option 'interface': saw {interface!r}, but {shown(app)} speaks {spoken}")
        with ExitStack() as undo:  # an install that fails half-way leaves nothing behind
            pipeline, notice = _compose(app, adapter, settings, detectors, undo)
            if adapter is not None:
                served = adapter.attach(app, pipeline)
            elif spoken == "wsgi":
                served = WsgiDoor(app, pipeline)
            else:
                served = _plain_asgi(app, pipeline)
            undo.pop_all()
        # Said where something is served: a command of the application has its standard output for itself.
        pipeline.notice = {"interface": spoken, **notice}
        _installed.append(pipeline)
        context._outside = pipeline
        for seen in _watching:
            seen(pipeline)
        _flush_at_exit()
    return served


def watch(seen: Callable[[Pipeline], None]) -> Callable[[], None]:
    """Call `seen` with each pipeline that is installed now, and with every later one until the result is called.

    For those who look on (`obskit.testing`). `seen` runs while installs are locked: it must not install.
    """
    global _watching
    with _lock:
        _watching += (seen,)
        for pipeline in _installed:
            seen(pipeline)

    def stop() -> None:
        global _watching
        with _lock:
            _watching = tuple(one for one in _watching if one is not seen)

    return stop


def _already(served: Any) -> Any:
    for pipeline in _installed[-1:]:
        said = {"do": "nothing: this application was installed before, with its first options"}
        pipeline.logs.emit("info", "obskit.already_installed", "obskit", said)
    return served


def shutdown(timeout_s: float = 5.0) -> None:
    """Flush and stop everything that `install` started, and undo its process-wide set-up. Idempotent.

    Waits at most `timeout_s` seconds for the last spans to leave. Applications keep running, unrecorded by logs
    and traces. Raises ValueError for a negative timeout.
    """
    if timeout_s < 0:
        raise ValueError(f"timeout_s must not be negative, saw {timeout_s}")
    with _lock:
        going, _installed[:] = list(_installed), []
        context._outside = None
    if going:
        instrumentation.switch_off()
    for pipeline in going:
        pipeline.shutdown(timeout_s)


def _compose(
    app: Any, adapter: Any, config: Config, own_detectors: Iterable[Detector], undo: ExitStack
) -> tuple[Pipeline, dict[str, Any]]:
    chosen = choose(own_detectors, config.disabled_detectors)
    resource = _resource(app, adapter, config)
    own_provider = adapter.own_tracer_provider(app) if hasattr(adapter, "own_tracer_provider") else None
    is_secret = make_redactor(config.redact)
    metrics = Metrics(config.max_series)
    provider = get_provider(config, resource, own_provider)
    undo.callback(provider.shutdown, 0.0)
    failures = _Failures()
    provider.count_with(metrics.export, metrics.dropped, failures)
    metrics.queue_of = provider.queue
    traces = Traces(provider, is_secret, config.incoming_trace, config.keep_traces, config.slow_request_s)
    logs = Logs(config, metrics, resource, is_secret)
    undo.callback(logs.shutdown, 0.0)
    for logger, handler in adapter.console_handlers(app) if hasattr(adapter, "console_handlers") else ():
        capture.release(logger, handler)
    exposition = Exposition(config, metrics.registry, metrics.app)
    endpoints = {}
    if config.metrics_port is None:
        endpoints[config.metrics_path] = exposition
    else:
        metrics.server = ScrapeServer(
            config, exposition, failures, f"{resource['service.name']}#{len(_installed)}"
        )
    setting = Setting(config, resource["service.name"], failures)
    judged = [(one, one.make(setting) if one.make is not None else None) for one in chosen]
    watch = Watch(config, resource["service.name"], len(_installed), metrics, is_secret)
    pipeline = failures.pipeline = watch.pipeline = Pipeline(
        config, traces, metrics, logs, metrics, endpoints, judged, watch
    )
    metrics.before_page = logs.before_line = pipeline.show
    provider.before_flush.append(pipeline.show)
    if hasattr(adapter, "route_for"):
        pipeline.route_for = partial(adapter.route_for, app)
    framework = adapter.framework(app) if adapter is not None else "none"
    metrics.describe_app(
        resource["service.name"],
        resource.get("service.version", ""),
        resource.get("deployment.environment.name", ""),
        framework,
    )
    switched = instrumentation.Switched([], {}, [])
    if config.instrumentation:
        if not _installed:
            undo.callback(instrumentation.switch_off)
        switched = instrumentation.switch_on(config.disabled_instrumentations, provider.provider, failures)
        for name, error in switched.failed:
            pipeline.failed(f"instrumentation.{name}", error)
    if endpoints and adapter is not None and adapter.serves(app, config.metrics_path):
        logs.emit(
            "warning",
            "metrics_path.shadows_route",
            "obskit",
            {
                "path": config.metrics_path,
                "do": "choose another metrics_path: this one hides a route of the app",
            },
        )
    notice: dict[str, Any] = {
        "framework": framework,
        "metrics_path": config.metrics_path,
        "metrics_access": config.metrics_access,
        "traces_exporter": provider.exporter,
        "instrumentations": switched.on,
    }
    if config.metrics_port is not None:
        notice["metrics_port"] = config.metrics_port
    if provider.collector:
        notice["traces_collector"] = provider.collector
    if switched.skipped:
        notice["instrumentations_skipped"] = switched.skipped
    if provider.exporter == "none":
        notice["traces_note"] = (
            "spans give ids to logs and exemplars but go nowhere: set OTEL_EXPORTER_OTLP_ENDPOINT"
        )
    if capture.keeps_users_console():
        notice["logging_note"] = (
            "your console handler was kept; its records carry trace_id, span_id and request_id; "
            "capture_logs='all' puts every line through obskit"
        )
    return pipeline, notice


class _Failures:
    """Where a judge's own errors go; judges are made before the pipeline that counts them."""

    pipeline: Pipeline | None = None

    def __call__(self, stage: str, error: BaseException) -> None:
        if self.pipeline is not None:
            self.pipeline.failed(stage, error)


def _resource(app: Any, adapter: Any, config: Config) -> dict[str, str]:
    """Resource attributes: our options, then OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, then the app's name."""
    given: dict[str, str] = {}
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, separator, value = pair.partition("=")
        if separator:
            given[key.strip()] = value.strip()
    found: dict[str, str] = {}
    service = config.service or os.environ.get("OTEL_SERVICE_NAME", "").strip() or given.get("service.name")
    if not service and adapter is not None:
        service = adapter.service_name(app)
    found["service.name"] = service or "unknown_service"
    version = config.service_version or given.get("service.version")
    if version:
        found["service.version"] = version
    environment = (
        config.environment or given.get("deployment.environment.name") or given.get("deployment.environment")
    )
    if environment:
        found["deployment.environment.name"] = environment
    return found


def _plain_asgi(app: Any, pipeline: Pipeline) -> AsgiDoor:
    if "starlette" not in sys.modules:
        return AsgiDoor(app, pipeline)
    # A Starlette router or application may sit somewhere inside: its scope names the route, and a FastAPI
    # application must not open a second SERVER span.
    from obskit.adapters.starlette import ONE_SERVER_SPAN, ScopeRoutes  # noqa: PLC0415

    return AsgiDoor(app, pipeline, ScopeRoutes(), scope_defaults=ONE_SERVER_SPAN)


def _interface(app: Any, asked: str | None) -> str:
    """Whether a plain callable speaks WSGI or ASGI, by what it takes."""
    if not callable(app):
        raise InstallError(
            f"{shown(app)} is no application: expected a Flask, FastAPI or Starlette app, a Django handler, or a "
            "WSGI or ASGI callable"
        )
    if asked is not None:
        return asked
    call = app if inspect.isroutine(app) or inspect.isclass(app) else type(app).__call__
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call):
        return "asgi"
    try:
        parameters = list(inspect.signature(app).parameters.values())
    except (TypeError, ValueError):  # a builtin that does not tell what it takes
        parameters = []
    kinds = [p.kind for p in parameters if p.default is inspect.Parameter.empty]
    required = sum(
        k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for k in kinds
    )
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        if required == 3:
            return "asgi"
        if required == 2:
            return "wsgi"
    raise InstallError(
        f"cannot tell WSGI from ASGI for {shown(app)}: pass interface='wsgi' or interface='asgi'"
    )


def _refuse_foreign_distribution() -> None:
    """Another project owns the name `obskit` on the package index; both put files into the same folder."""
    try:
        foreign = distribution("obskit")
    except PackageNotFoundError:
        return
    raise InstallError(
        f"the distribution 'obskit' {foreign.version} is installed: it is another project that overwrites files of "
        "obskit-web. Run: pip uninstall -y obskit obskit-web && pip install obskit-web"
    )


def _flush_at_exit() -> None:
    global _at_exit_set
    if not _at_exit_set:
        _at_exit_set = True
        atexit.register(lambda: shutdown(AT_EXIT_TIMEOUT_S))
