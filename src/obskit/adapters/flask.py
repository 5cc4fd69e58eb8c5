"""Flask: around the instance's wsgi_app, the rule from the request that is still there when the response starts."""

from __future__ import annotations

import logging
import sys
from typing import Any

import flask
from flask.logging import default_handler
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect, Rule

from obskit.adapters import _flask_sessions as sessions
from obskit.context import current
from obskit.pipeline import Pipeline
from obskit.wsgi import Environ, WsgiDoor

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
    app.wsgi_app = WsgiDoor(app.wsgi_app, pipeline, _route_of)
    # Not by looking at wsgi_app: the user may put middleware around it afterwards.
    setattr(app, _DOOR, True)
    flask.got_request_exception.connect(_note_exception, app)
    # In front of the application's own functions, and behind them.
    app.before_request_funcs.setdefault(None, []).insert(0, _before_request)
    app.after_request_funcs.setdefault(None, []).insert(0, _after_request)
    return app


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
    exchange = current()
    if exchange is None or exchange.closed:
        return
    try:
        if exchange.http_route is None:
            exchange.http_route = _template(flask.request)
    except Exception as error:
        exchange.pipeline.failed("adapter.route", error)
    sessions.look(exchange)


def _after_request(response: Any) -> Any:
    exchange = current()
    if exchange is not None and not exchange.closed:
        sessions.note_ended(exchange)
    return response


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
    exchange = current()
    if exchange is None or exchange.closed:
        return
    exchange.exception = exception
    exchange.exception_handled = not _propagates()
    if exchange.http_route is None:
        exchange.http_route = _template(flask.request)


def _propagates() -> bool:
    app = flask.current_app
    propagate = app.config["PROPAGATE_EXCEPTIONS"]
    return bool(app.testing or app.debug) if propagate is None else bool(propagate)
