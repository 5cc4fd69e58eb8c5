"""Flask: around the instance's wsgi_app, the rule from the request that is still there when the response starts.

A Flask application is free as soon as nobody refers to it, and one that is served as `create_app().wsgi_app` lives as
long as that bound method. A door in the instance's own attributes would be a cycle with the first, and a door that
knew the application weakly would break the second. So the instance is given a class in front of its own, which has
`wsgi_app` as the method it was before; the application's class stays as it is.
"""

from __future__ import annotations

import inspect
import logging
import sys
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

import flask
from flask.logging import default_handler
from flask.wrappers import Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect, Rule
from werkzeug.wrappers import response
from werkzeug.wsgi import ClosingIterator

from obskit.adapters import _flask_sessions as sessions
from obskit.adapters import failed
from obskit.context import _current
from obskit.exchange import Exchange
from obskit.pipeline import Pipeline
from obskit.wsgi import StartResponse, WsgiDoor
from obskit.wsgi_environ import Environ

FRAMEWORK = "flask"
_DOOR = "_obskit_door"


def matches(app: Any) -> bool:
    return isinstance(app, flask.Flask)


def interface(app: Any) -> str:
    return "wsgi"


def is_attached(app: Any) -> bool:
    return _DOOR in vars(app)


def framework(app: Any) -> str:
    return FRAMEWORK


def service_name(app: Any) -> str | None:
    name = app.name
    return name if name not in ("__main__", "app", "wsgi") else None


def serves(app: Any, path: str) -> bool:
    return any(rule.rule == path for rule in app.url_map.iter_rules())


def route_for(app: Any, method: str, path: str) -> str | None:
    """The rule that a request would meet; None if none does."""
    try:
        rule, _ = app.url_map.bind("localhost").match(path, method, return_rule=True)
    except HTTPException:  # that is how werkzeug says no, and how it redirects
        return None
    return str(rule.rule)


def console_handlers(app: Any) -> list[tuple[logging.Logger, logging.Handler]]:
    """Flask's own console handler, which prints to the server's error stream if nobody else has set up logging."""
    # Not `app.logger`: reading it makes the logger, with a level that later settings would no longer change.
    return [(logging.getLogger(app.name), default_handler)]


def attach(app: Any, pipeline: Pipeline) -> Any:
    _take_over_contrib_spans(app)
    # The door is a mark, too: not by looking at wsgi_app, for the user may put middleware around it afterwards.
    if not _stand_in_front(app, pipeline):
        app.wsgi_app = WsgiDoor(app.wsgi_app, pipeline, _route_of, _ready, _idle, _at_start)
        setattr(app, _DOOR, app.wsgi_app)
    pipeline.route_for = _without_holding(app)
    flask.got_request_exception.connect(_note_exception, app)
    # In front of the application's own functions.
    app.before_request_funcs.setdefault(None, []).insert(0, _before_request)
    return app


def _stand_in_front(app: Any, pipeline: Pipeline) -> bool:
    """Give the instance a class whose `wsgi_app` goes through the door; False where that cannot be done.

    It cannot where the application already has a `wsgi_app` of its own (middleware, which is a cycle anyway), or a
    class that refuses to be derived from.
    """
    cls = type(app)
    served = getattr(cls, "wsgi_app", None)
    if "wsgi_app" in vars(app) or not inspect.isfunction(served):
        return False
    known = weakref.ref(app)
    door = WsgiDoor.__call__  # a function is called at less cost than an object

    @wraps(served)
    def wsgi_app(self: Any, environ: Environ, start_response: StartResponse) -> Any:
        try:
            own = self._obskit_door
        except Exception:
            own = None
        if own is None:  # an instance that the application made of its own type
            return served(self, environ, start_response)
        return door(own, environ, start_response)

    def behind(environ: Environ, start_response: StartResponse) -> Any:
        # Whoever called wsgi_app holds the application.
        return served(known(), environ, start_response)

    names = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "wsgi_app": wsgi_app,
        _DOOR: None,
    }
    derive: Any = type(cls)
    try:
        app.__class__ = derive(cls.__name__, (cls,), names)
    except Exception:
        return False
    setattr(app, _DOOR, WsgiDoor(behind, pipeline, _route_of, _ready, _idle, _at_start))
    return True


def _without_holding(app: Any) -> Callable[[str, str], str | None]:
    """`route_for` of this application, which the pipeline is not to keep alive: pipelines stay until shutdown."""
    known = weakref.ref(app)

    def route_of_request(method: str, path: str) -> str | None:
        living = known()
        return None if living is None else route_for(living, method, path)

    return route_of_request


def _take_over_contrib_spans(app: Any) -> None:
    """OpenTelemetry's FlaskInstrumentor, if it is on, would open a second SERVER span: take it off this app."""
    contrib = sys.modules.get("opentelemetry.instrumentation.flask")
    if contrib is None or not getattr(app, "_is_instrumented_by_opentelemetry", False):
        return
    # Taking it off puts the wsgi_app back that it found; middleware the user added since would go with it.
    outermost = getattr(app.wsgi_app, "__module__", None) == contrib.__name__
    if outermost:
        contrib.FlaskInstrumentor.uninstrument_app(app)
    logging.getLogger("obskit").warning(
        "server_span.taken_over" if outermost else "server_span.second",
        extra={
            "middleware": "opentelemetry.instrumentation.flask",
            "do": "remove it: obskit opens the one SERVER span of each request",
        },
    )


def _before_request() -> None:
    """The route is named at once: a worker may be stopped in the middle of the request."""
    try:
        exchange = _current.get()
        if exchange is None or exchange.closed:
            return
        context = sessions.context_now()
        request = context.request  # `flask.request` looks it up again for each attribute
        if "HTTP_COOKIE" in request.environ:
            sessions.look(exchange, context)
        if exchange.http_route is None:
            rule = request.url_rule
            exchange.http_route = _template(request) if rule is None else rule.rule
    except Exception as error:
        failed("adapter.route", error)


def _at_start(exchange: Exchange, environ: Environ | None) -> None:
    """What the application did to the session is done. No `after_request`: Flask looks at each such function anew."""
    if environ is not None and "HTTP_COOKIE" in environ and exchange.session is None:
        try:
            if environ.get("werkzeug.request") is not None:
                sessions.note_ended(exchange, sessions.context_now())
        except Exception as error:
            failed("adapter.session", error)


# The generator in which werkzeug hands out what a response holds.
_HANDS_OUT = getattr(getattr(response, "_iter_encoded", None), "__code__", None)
_CLOSES = Response.close


def _ready(body: Any) -> Any:
    """The response behind a body of Flask's own making, where that is the list in it: None for any other body."""
    if type(body) is not ClosingIterator:
        return None
    try:
        callbacks: Any = body._callbacks
        handed_out, closed = callbacks
        answer = closed.__self__
        plain = type(answer) is Response and type(answer.response) is list and closed.__func__ is _CLOSES
        return answer if plain and handed_out.__self__.gi_code is _HANDS_OUT else None
    except (AttributeError, ValueError):  # somebody else's functions are called when it is closed
        return None


def _idle(answer: Any) -> bool:
    """Whether a response that was `_ready` has nobody to call when it is closed."""
    return not answer._on_close and type(answer.response) is list


def _route_of(environ: Environ) -> str | None:
    # Flask clears this key when its context ends; while the response starts it is still there.
    request = environ.get("werkzeug.request")
    return None if request is None else _template(request)


def _template(request: Any) -> str | None:
    rule: Rule | None = request.url_rule
    if rule is None:
        rule = _rule_behind(request.routing_exception)
    return None if rule is None else rule.rule


def _rule_behind(error: Any) -> Rule | None:
    """The rule a 405 or a slash redirect belongs to, which Flask does not name: those two are matched again."""
    if not isinstance(error, MethodNotAllowed | RequestRedirect):
        return None
    context = flask.globals.request_ctx
    adapter = context.url_adapter
    if adapter is None:
        return None
    try:
        if isinstance(error, MethodNotAllowed):
            method = next(iter(error.valid_methods or ()), None)
            found = adapter.match(method=method, return_rule=True)
        else:
            path = context.request.path
            found = adapter.match(
                path_info=path.rstrip("/") if path.endswith("/") else path + "/", return_rule=True
            )
    except Exception:
        return None
    return found[0]


def _note_exception(_app: Any, exception: BaseException, **_: Any) -> None:
    """Flask answers an unhandled exception with a 500 or lets it through; either way the record keeps it."""
    try:
        exchange = _current.get()
        if exchange is None or exchange.closed:
            return
        exchange.exception = exception
        exchange.exception_handled = not _propagates()
        if exchange.http_route is None:
            exchange.http_route = _template(flask.request)
    except Exception as error:
        failed("adapter.exception", error)


def _propagates() -> bool:
    app = flask.current_app
    propagate = app.config["PROPAGATE_EXCEPTIONS"]
    return bool(app.testing or app.debug) if propagate is None else bool(propagate)
