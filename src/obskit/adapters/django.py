"""Django: around the handler that get_wsgi_application() or get_asgi_application() returned.

The resolved route is reachable only inside the handler: its instance's get_response is wrapped for that alone.
"""

from __future__ import annotations

import logging
import re
import sys
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception
from django.http import HttpResponse
from django.urls import Resolver404, get_resolver, resolve

from obskit.adapters import _django_sessions as sessions
from obskit.adapters import failed
from obskit.asgi import AsgiDoor
from obskit.context import _current
from obskit.pipeline import Pipeline
from obskit.wsgi import WsgiDoor

FRAMEWORK = "django"


def matches(app: Any) -> bool:
    return isinstance(app, WSGIHandler | ASGIHandler)


def interface(app: Any) -> str:
    return "asgi" if isinstance(app, ASGIHandler) else "wsgi"


def is_attached(app: Any) -> bool:
    return "_obskit_door" in vars(app)


def framework(app: Any) -> str:
    return FRAMEWORK


def service_name(app: Any) -> str | None:
    root = getattr(settings, "ROOT_URLCONF", None)
    return root.partition(".")[0] if isinstance(root, str) and "." in root else None


def serves(app: Any, path: str) -> bool:
    try:
        resolve(path)
    except Resolver404:
        return False
    except Exception:
        return False  # a broken URL configuration is Django's to report, at the first request
    return True


def route_for(app: Any, method: str, path: str) -> str | None:
    """The route that a request would meet, whatever its method; None if none does."""
    try:
        return template(resolve(path).route)
    except Resolver404:
        return None


def attach(app: Any, pipeline: Pipeline) -> Any:
    if any(str(name).startswith("opentelemetry.instrumentation.") for name in settings.MIDDLEWARE):
        # Loaded with the handler, before us: nothing that could be undone here.
        logging.getLogger("obskit").warning(
            "server_span.second",
            extra={
                "middleware": "opentelemetry.instrumentation.django",
                "do": "switch DjangoInstrumentor off: obskit opens the one SERVER span of each request",
            },
        )
    door: Any
    if isinstance(app, ASGIHandler):
        door = _attach_asgi(app, pipeline)
    else:
        door = _attach_wsgi(app, pipeline)
    got_request_exception.connect(_note_exception, dispatch_uid="obskit")
    try:
        sessions.watch(_handlers(app)[-1], is_async=isinstance(app, ASGIHandler))
    except Exception as error:  # a handler that is not built as we know it
        pipeline.failed("adapter.session", error)
    app._obskit_door = door  # a second install of the handler itself gives back the same door
    return door


def attached(app: Any) -> Any:
    """The door an earlier install put around this handler."""
    return app._obskit_door


_MAX_HANDLERS = 8


def _handlers(app: Any) -> list[Any]:
    """This handler and those inside it: one for static files hands on what is none of its business."""
    found = [app]
    while len(found) < _MAX_HANDLERS:
        inner = getattr(found[-1], "application", None)
        if not isinstance(inner, WSGIHandler | ASGIHandler) or is_attached(inner):
            break
        found.append(inner)
    return found


def _attach_wsgi(app: Any, pipeline: Pipeline) -> WsgiDoor:
    for handler in _handlers(app):
        handler.get_response = _observed(handler.get_response)
    return WsgiDoor(
        app, pipeline, ready=_ready, idle=lambda response: False
    )  # its close() sends request_finished


_HANDS_OUT_PARTS = HttpResponse.__iter__


def _ready(body: Any) -> Any:
    """A response that holds its parts in a list and hands out those; None for any other body."""
    try:
        whole = type(body).__iter__ is _HANDS_OUT_PARTS and type(body.__dict__["_container"]) is list
    except (AttributeError, KeyError):
        whole = False
    return body if whole else None


def _observed(get_response: Any) -> Any:
    def observed_get_response(request: Any) -> Any:
        try:
            response = get_response(request)
        except BaseException:
            _note_route(request, None)  # the worker is stopped in the middle of a view
            raise
        _note_route(request, response)
        return response

    return observed_get_response


def _attach_asgi(app: Any, pipeline: Pipeline) -> AsgiDoor:
    for handler in _handlers(app):
        handler.get_response_async = _observed_async(handler.get_response_async)
    # Django refuses the lifespan scope, so no server would ever tell it to shut down: the door listens instead.
    return AsgiDoor(app, pipeline, answers_lifespan=True)


def _observed_async(get_response_async: Any) -> Any:
    async def observed_get_response(request: Any) -> Any:
        try:
            response = await get_response_async(request)
        except BaseException:
            # Cancelled, because the client has left: the route is known all the same.
            _note_route(request, None)
            raise
        _note_route(request, response)
        return response

    return observed_get_response


def _note_route(request: Any, response: Any) -> None:
    try:
        exchange = _current.get()
        if exchange is None or exchange.closed or exchange.http_route is not None:
            return
        match = request.resolver_match
        if match is not None:
            exchange.http_route = template(match.route)
        elif response is not None and response.status_code in (301, 308):
            exchange.http_route = _redirected(request)
    except Exception as error:
        failed("adapter.route", error)


def _redirected(request: Any) -> str | None:
    """APPEND_SLASH redirects before it resolves: that one answer is resolved again."""
    if not settings.APPEND_SLASH or request.path_info.endswith("/"):
        return None
    try:
        return template(
            get_resolver(getattr(request, "urlconf", None)).resolve(request.path_info + "/").route
        )
    except Resolver404:
        return None


_ANCHORS = re.compile(r"(?<!\\)[\^$]|\\[AZbB]")


@lru_cache(maxsize=1024)
def template(route: str) -> str:
    """A resolver's route with a leading slash; regular expressions reduced to their named groups.

    ``^articles/(?P<year>[0-9]{4})/$`` becomes ``/articles/<year>/``; an unnamed group becomes ``<var>``.
    """
    if not any(sign in route for sign in "^$(\\"):
        return "/" + route
    return "/" + _ANCHORS.sub("", _without_groups(route)).replace("\\", "").replace("?", "").lstrip("/")


def _without_groups(route: str) -> str:
    out: list[str] = []
    depth, start, position = 0, 0, 0
    while position < len(route):
        char = route[position]
        if char == "\\":
            if depth == 0:
                out.append(route[position : position + 2])
            position += 2
            continue
        if char == "(":
            if depth == 0:
                start = position
            depth += 1
        elif char == ")" and depth:
            depth -= 1
            if depth == 0:
                out.append(_group_name(route[start : position + 1]))
        elif depth == 0:
            out.append(char)
        position += 1
    return "".join(out)


def _group_name(group: str) -> str:
    named = re.match(r"\(\?P<(\w+)>", group)
    if named:
        return f"<{named[1]}>"
    return "" if group.startswith("(?") and not group.startswith("(?:") else "<var>"


def _note_exception(sender: Any, request: Any = None, **_: Any) -> None:
    """Django answers an unhandled exception with a 500; the record keeps what it was."""
    try:
        exchange = _current.get()
        error = sys.exc_info()[1]
        if exchange is None or exchange.closed or error is None:
            return
        exchange.exception = error
        exchange.exception_handled = True
    except Exception as failure:
        failed("adapter.exception", failure)
    if request is not None:
        _note_route(request, None)
