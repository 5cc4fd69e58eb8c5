"""The floor: the least that gives a span, a histogram and a line through the public APIs of the same libraries.

Nobody should serve with it. It has no guard, no outcome, no body sizes and one idea of an error; it says what the
libraries themselves cost once nothing around them costs anything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from time import perf_counter_ns, time_ns
from typing import Any

import orjson
from opentelemetry import context, propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from prometheus_client import Gauge, Histogram

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
UNMATCHED = "unmatched"


class Watching:
    """The three signals of one process, and a request's way through them: `begin`, then `end`."""

    def __init__(self) -> None:
        self.start_span = trace.get_tracer("floor").start_span
        self.durations = Histogram(
            "http_server_request_duration_seconds",
            "To the end.",
            ("method", "route", "status"),
            buckets=BUCKETS,
        )
        active = Gauge("http_server_active_requests", "In flight.", ("method",))
        self.active = {method: active.labels(method) for method in ("GET", "POST", "PUT", "PATCH", "DELETE")}
        self.children: dict[tuple[str, str, int], Any] = {}
        self.write = sys.stdout.buffer.raw.write  # type: ignore[attr-defined]

    def begin(self, method: str, facts: dict[str, Any], traceparent: str | None) -> tuple[Any, Any]:
        """The span, and what takes it out of the context again."""
        self.active[method].inc()
        parent = context.Context() if traceparent is None else propagate.extract({"traceparent": traceparent})
        span = self.start_span(method, parent, SpanKind.SERVER, facts)
        return span, context.attach(trace.set_span_in_context(span, parent))

    def end(
        self, span: Any, began: int, method: str, route: str, status: int, path: str, client: str
    ) -> None:
        duration_s = (perf_counter_ns() - began) / 1e9
        ids = span.get_span_context()
        if span.is_recording():
            span.update_name(f"{method} {route}")
            span.set_attributes({"http.route": route, "http.response.status_code": status})
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            span.end()
        self.active[method].dec()
        key = (method, route, status)
        child = self.children.get(key)
        if child is None:
            child = self.children[key] = self.durations.labels(method, route, str(status))
        child.observe(duration_s)
        line = {
            "timestamp": time_ns(),
            "level": "info",
            "event": "request",
            "method": method,
            "path": path,
            "route": route,
            "status": status,
            "duration_s": duration_s,
            "client": client,
            "trace_id": f"{ids.trace_id:032x}",
            "span_id": f"{ids.span_id:016x}",
        }
        self.write(orjson.dumps(line) + b"\n")


watching = cache(Watching)


def wsgi_facts(environ: dict[str, Any]) -> dict[str, Any]:
    return {
        "http.request.method": environ["REQUEST_METHOD"],
        "url.path": environ["PATH_INFO"],
        "url.scheme": environ["wsgi.url_scheme"],
        "network.protocol.version": environ["SERVER_PROTOCOL"][5:],
        "server.address": environ["SERVER_NAME"],
        "server.port": int(environ["SERVER_PORT"]),
        "client.address": environ["REMOTE_ADDR"],
        "user_agent.original": environ.get("HTTP_USER_AGENT", ""),
    }


def asgi_middleware(app: Any) -> Any:
    signals = watching()

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        began, method, status = perf_counter_ns(), scope["method"], 500
        agent = traceparent = None
        for name, value in scope["headers"]:
            if name == b"user-agent":
                agent = value.decode("latin-1")
            elif name == b"traceparent":
                traceparent = value.decode("latin-1")
        path, client, server = scope["path"], scope["client"][0], scope["server"]
        facts = {
            "http.request.method": method,
            "url.path": path,
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
            "server.address": server[0],
            "server.port": server[1],
            "client.address": client,
            "user_agent.original": agent or "",
        }
        span, token = signals.begin(method, facts, traceparent)

        async def seen(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, seen)
        finally:
            context.detach(token)
            route = scope.get("route")
            signals.end(span, began, method, UNMATCHED if route is None else route.path, status, path, client)

    return middleware


class Closing:
    """The body of a response, with something to do when the server is done with it."""

    __slots__ = ("body", "end")

    def __init__(self, body: Any, end: Callable[[], None]) -> None:
        self.body, self.end = body, end

    def __iter__(self) -> Any:
        return iter(self.body)

    def close(self) -> None:
        try:
            close = getattr(self.body, "close", None)
            if close is not None:
                close()
        finally:
            self.end()


def flask_route() -> str | None:
    from flask import request  # noqa: PLC0415

    rule = request.url_rule
    return None if rule is None else rule.rule


def wsgi_middleware(app: Any, route_of: Callable[[], str | None]) -> Any:
    signals = watching()

    def middleware(environ: dict[str, Any], start_response: Any) -> Any:
        began, method = perf_counter_ns(), environ["REQUEST_METHOD"]
        span, token = signals.begin(method, wsgi_facts(environ), environ.get("HTTP_TRACEPARENT"))
        status, route = 500, UNMATCHED

        def started(line: str, headers: Any, *error: Any) -> Any:
            nonlocal status, route
            status, route = int(line[:3]), route_of() or UNMATCHED
            return start_response(line, headers, *error)

        def end() -> None:
            signals.end(span, began, method, route, status, environ["PATH_INFO"], environ["REMOTE_ADDR"])

        try:
            body = app(environ, started)
        except BaseException:
            end()
            raise
        finally:
            context.detach(token)
        return Closing(body, end)

    return middleware


def django_middleware(get_response: Any) -> Any:
    signals = watching()

    def middleware(request: Any) -> Any:
        environ = request.META
        began, method, status = perf_counter_ns(), request.method, 500
        span, token = signals.begin(method, wsgi_facts(environ), environ.get("HTTP_TRACEPARENT"))
        try:
            response = get_response(request)
            status = response.status_code
            return response
        finally:
            context.detach(token)
            match = request.resolver_match
            route = UNMATCHED if match is None else match.route
            signals.end(span, began, method, route, status, request.path_info, environ["REMOTE_ADDR"])

    return middleware
