"""Flask's own sessions: what became of the signed cookie.

Flask opens the session with the request. Where a cookie came and the session is empty, the cookie is verified again
to learn why. Not knowable: what other session interfaces (Flask-Session and the like) found in their stores.
"""

from __future__ import annotations

from typing import Any

import flask
from flask.sessions import SecureCookieSessionInterface

from obskit.adapters import failed
from obskit.exchange import Exchange, SessionFacts

# Flask 3.2 made one context of two.
_context = getattr(flask.globals, "_cv_request", None) or getattr(flask.globals, "_cv_app", None)


context_now: Any = getattr(_context, "get", None)
"""Gives the context that this code runs in, itself and no proxy."""


def look(exchange: Exchange, context: Any) -> None:
    """Where a cookie came, before the application's functions run: what they put into the session was not found."""
    try:
        if not _session(context):
            _note_lost(exchange, context)
    except Exception as error:
        failed("adapter.session", error)


def note_ended(exchange: Exchange, context: Any) -> None:
    """When the application is done: a session that came with a cookie and was cleared is one that ended."""
    try:
        session = _session(context)
        if not session and session is not None and session.modified:
            cookie = _cookie(context)
            if cookie:
                exchange.session = SessionFacts(cookie, ended=True)
    except Exception as error:
        failed("adapter.session", error)


def _session(context: Any) -> Any:
    # Not `context.session`: asking for that counts as an access, and puts `Vary: Cookie` on the response.
    held = vars(context)
    return held["_session"] if "_session" in held else held.get("session")


def _cookie(context: Any) -> str | None:
    interface = context.app.session_interface
    if not isinstance(interface, SecureCookieSessionInterface):
        return None
    cookie: str | None = context.request.cookies.get(interface.get_cookie_name(context.app))
    return cookie


def _note_lost(exchange: Exchange, context: Any) -> None:
    cookie = _cookie(context)
    app = context.app
    serializer = app.session_interface.get_signing_serializer(app) if cookie else None
    if serializer is None or cookie is None:
        return
    try:
        serializer.loads(cookie, max_age=int(app.permanent_session_lifetime.total_seconds()))
    except Exception as error:
        # itsdangerous' classes by their names: it is Flask's dependency, not ours.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "BadData" not in kinds:
            raise
        exchange.session = SessionFacts(cookie, "expired" if "SignatureExpired" in kinds else "bad_signature")
