"""Starlette and FastAPI: outermost in the instance's middleware stack, the full route template from the scope."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from starlette.applications import Starlette

from obskit.adapters import _starlette_sessions as sessions
from obskit.asgi import AsgiDoor, Scope
from obskit.pipeline import Pipeline

FRAMEWORK = "starlette"

_DOOR = "_obskit_door"
_MOUNT_TAIL = "/{path}"
_MAX_MOUNT_DEPTH = 8

# Mounted FastAPI applications and Starlette's own OpenTelemetryMiddleware would each open a SERVER span of their own,
# unless the scope says that there is one.
ONE_SERVER_SPAN = (("fastapi.telemetry", None), ("starlette.opentelemetry", True))


def matches(app: Any) -> bool:
    return isinstance(app, Starlette)


def interface(app: Any) -> str:
    return "asgi"


def is_attached(app: Any) -> bool:
    return _DOOR in vars(app)


def service_name(app: Any) -> str | None:
    title = getattr(app, "title", None)  # FastAPI
    return title if isinstance(title, str) and title != "FastAPI" else None


def framework(app: Any) -> str:
    return "starlette" if type(app) is Starlette or not hasattr(app, "openapi") else "fastapi"


def serves(app: Any, path: str) -> bool:
    return any(getattr(route, "path", None) == path for route in _flat(app.routes))


def route_for(app: Any, method: str, path: str) -> str | None:
    """The template that a request would meet; None if none does. For what is rare: it matches route by route."""
    return _route_for(app.routes, method, path, _MAX_MOUNT_DEPTH)


def _route_for(routes: Any, method: str, path: str, depth: int) -> str | None:
    for route in _flat(routes) if depth else ():
        pattern = getattr(route, "path_regex", None)
        behind = getattr(route, "routes", None)
        if pattern is None:  # a Host: no part of the path
            found = None if behind is None else _route_for(behind, method, path, depth - 1)
            if found is not None:
                return found
            continue
        match = pattern.match(path)
        if match is None:
            continue
        template = str(route.path_format)
        if behind is not None or (template.endswith(_MOUNT_TAIL) and not hasattr(route, "methods")):
            below = _route_for(behind or (), method, "/" + match.group("path"), depth - 1)
            if below is None and behind:
                return None  # what is mounted here has routes, and none of them matches
            return template.removesuffix(_MOUNT_TAIL) + (below or _MOUNT_TAIL)
        if method in (getattr(route, "methods", None) or (method,)):
            return template
    return None


def attach(app: Any, pipeline: Pipeline) -> Any:
    """Put the door around the stack: now if it has been built (the app has served), else when it is."""
    route_of = RouteFinder(app.router).find
    _silence_native_spans(app)

    def wrap(stack: Any) -> Any:
        # Usually within the first request: what fails here costs the telemetry of this application, and no more.
        try:
            _silence_contrib_spans(stack)
            door = AsgiDoor(stack, pipeline, route_of, scope_defaults=ONE_SERVER_SPAN)
        except Exception as error:
            pipeline.failed("asgi.open", error)
            return stack
        try:
            sessions.watch(stack)
        except Exception as error:
            pipeline.failed("adapter.session", error)
        return door

    if app.middleware_stack is not None:
        app.middleware_stack = wrap(app.middleware_stack)
    else:
        build = app.build_middleware_stack

        def build_middleware_stack() -> Any:
            return wrap(build())

        app.build_middleware_stack = build_middleware_stack
    setattr(app, _DOOR, True)
    return app


def _silence_native_spans(app: Any) -> None:
    """FastAPI ≥ 0.142 opens a SERVER span around its own `__call__`, outside anything an instance can wrap.

    Its public switch is an argument of the constructor, which has run; the same setting is turned off here.
    """
    settings = getattr(app, "_telemetry", None)
    if isinstance(settings, dict) and "tracing" in settings:
        settings["tracing"] = False


def own_tracer_provider(app: Any) -> Any:
    """The provider the user gave to `FastAPI(telemetry={"tracer_provider": ...})`, or to Starlette's middleware.

    Their spans are ours now, and go where the user wanted them.
    """
    settings = getattr(app, "_telemetry", None)
    if isinstance(settings, dict):
        return settings.get("tracer_provider")
    for middleware in getattr(app, "user_middleware", ()):
        if getattr(middleware.cls, "__module__", "") == "starlette.middleware.opentelemetry":
            provider = middleware.kwargs.get("tracer_provider")
            # One that makes nothing switches that middleware off: it is no place for spans, nor for their ids.
            return None if type(provider).__name__ == "NoOpTracerProvider" else provider
    return None


class _Everywhere:
    """What OpenTelemetry's ASGI middleware takes for its list of excluded URLs: all of them."""

    def url_disabled(self, url: str) -> bool:
        return True


def _silence_contrib_spans(stack: Any) -> None:
    """OpenTelemetry's ASGI middleware, put in by FastAPIInstrumentor or by hand, would open a second SERVER span."""
    for _ in range(64):
        if stack is None:
            return
        if type(stack).__module__ == "opentelemetry.instrumentation.asgi" and hasattr(stack, "excluded_urls"):
            stack.excluded_urls = _Everywhere()
            logging.getLogger("obskit").warning(
                "server_span.taken_over",
                extra={
                    "middleware": f"{type(stack).__module__}.{type(stack).__name__}",
                    "do": "remove it: obskit opens the one SERVER span of each request",
                },
            )
        stack = getattr(stack, "app", None)


class _Mounted(NamedTuple):
    """Where a request ended up among the mounts: the template so far, and the routes that are mounted there."""

    prefix: str
    routes: Any


class RouteFinder:
    """Tells a request's full route template from its scope, without matching all routes a second time.

    The router leaves the matched route in the scope; only the prefixes of mounts are missing from it. Those are
    found among the mounts alone, and remembered where they hold no parameter.
    """

    def __init__(self, router: Any) -> None:
        self._router = router
        self._mounts: dict[str, _Mounted] = {}
        self._leaves: dict[int, Any] = {}

    def find(self, scope: Scope, status: int | None) -> str | None:
        """The template at the end of a request; None where no route has matched. `status` is that of the response."""
        if "session" in scope:
            sessions.note_ended(scope)
        route = scope.get("route")
        below_no_mount = "app_root_path" not in scope and "fastapi" not in scope
        if below_no_mount and route is not None and not hasattr(route, "routes"):
            template = getattr(route, "path_format", None)  # the whole already, as nearly always
            return template if isinstance(template, str) else None
        root = scope.get("root_path", "")
        base = scope.get("app_root_path", root)
        mounted = self._mounted(root[len(base) :] if root.startswith(base) else "")
        if route is None or hasattr(route, "routes"):
            leaf = self._leaf_of(scope, mounted)
            if leaf is not None:
                return mounted.prefix + str(leaf.path_format)
            # No leaf matched. What is mounted here either has no routes of its own (files) or matched none of them.
            if mounted.routes:
                return self._redirected(mounted, scope, status)
            return mounted.prefix + _MOUNT_TAIL
        template = _template(route, scope)
        return None if template is None else mounted.prefix + template

    def _leaf_of(self, scope: Scope, mounted: _Mounted) -> Any:
        """The route by its endpoint, where the router leaves only that (FastAPI's for plain Starlette routes)."""
        endpoint = scope.get("endpoint")
        if endpoint is None:
            return None
        known = self._leaves.get(id(endpoint))
        if known is not None and known.endpoint is endpoint:
            return known
        found = [route for route in _leaves(mounted.routes) if getattr(route, "endpoint", None) is endpoint]
        if len(found) == 1:
            self._leaves[id(endpoint)] = found[0]  # as many entries as there are endpoints
            return found[0]
        path = _path_below(scope)
        return next((route for route in found if route.path_regex.match(path)), None)

    def _mounted(self, at: str) -> _Mounted:
        known = self._mounts.get(at)
        if known is not None:
            return known
        found = _find_mount(self._router.routes, at, _MAX_MOUNT_DEPTH) or _Mounted("", self._router.routes)
        if found.prefix == at:  # no parameter in it: as many entries as there are mounts
            self._mounts[at] = found
        return found

    def _redirected(self, mounted: _Mounted, scope: Scope, status: int | None) -> str | None:
        """The template a slash redirect leads to; only that answer is looked up again."""
        if status != 307:
            return None
        path = _path_below(scope)
        toggled = path.rstrip("/") if path.endswith("/") else path + "/"
        for route in _flat(mounted.routes):
            pattern = getattr(route, "path_regex", None)
            if pattern is not None and not hasattr(route, "routes") and pattern.match(toggled):
                return mounted.prefix + str(route.path_format)
        return None


def _path_below(scope: Scope) -> str:
    """The path as the innermost router sees it."""
    path: str = scope.get("path", "")
    root = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path


class ScopeRoutes:
    """Routes of a Starlette router that sits somewhere inside a plain ASGI application."""

    def __init__(self) -> None:
        self._finder: RouteFinder | None = None

    def __call__(self, scope: Scope, status: int | None) -> str | None:
        router = scope.get("router")
        if router is None:
            return None
        if self._finder is None or self._finder._router is not router:
            self._finder = RouteFinder(router)
        return self._finder.find(scope, status)


def _template(route: Any, scope: Scope) -> str | None:
    # A route of an included FastAPI router knows its own path only; the context it was found in knows the whole.
    fastapi_scope = scope.get("fastapi")
    if isinstance(fastapi_scope, dict):
        context = fastapi_scope.get("effective_route_context")
        if context is not None and route in (
            getattr(context, "original_route", None),
            getattr(context, "starlette_route", None),
        ):
            route = getattr(context, "starlette_route", None) or context
    template = getattr(route, "path_format", None)
    return template if isinstance(template, str) else None


def _find_mount(routes: Any, path: str, depth: int) -> _Mounted | None:
    """The chain of mounts that takes up all of `path`, as a template, and the routes behind it."""
    if not path:
        return _Mounted("", routes)
    if depth == 0:
        return None
    for route in _flat(routes):
        if not hasattr(route, "routes"):
            continue
        template = getattr(route, "path_format", "")
        if not hasattr(route, "path_regex"):  # a Host: no part of the path
            inner = _find_mount(route.routes, path, depth - 1)
        elif match := route.path_regex.match(path + "/"):
            inner = _find_mount(route.routes, ("/" + match.group("path")).removesuffix("/"), depth - 1)
        else:
            continue
        if inner is not None:
            return _Mounted(str(template).removesuffix(_MOUNT_TAIL) + inner.prefix, inner.routes)
    return None


def _leaves(routes: Any) -> Iterable[Any]:
    """All routes that are no mounts, those behind a Host among them."""
    for route in _flat(routes):
        if not hasattr(route, "routes"):
            yield route
        elif not hasattr(route, "path_regex"):
            yield from _leaves(route.routes)


def _flat(routes: Any) -> Iterable[Any]:
    """All routes with their full path inside this router, those of included FastAPI routers among them."""
    if not any(type(route).__name__ == "_IncludedRouter" for route in routes):
        return list(routes)
    from fastapi.routing import iter_route_contexts  # noqa: PLC0415  (only where FastAPI made the routes)

    return list(iter_route_contexts(routes))
