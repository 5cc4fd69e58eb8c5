"""Starlette's SessionMiddleware: what its signer said of the cookie.

The signer of each instance in the application's stack is listened to: on the routes and in mounted applications too,
where their middleware was there when the stack was built. Not knowable: what third-party session middleware finds.
"""

from __future__ import annotations

import sys
from typing import Any

from starlette.applications import Starlette

from obskit.adapters import failed
from obskit.asgi import MARK
from obskit.context import current
from obskit.exchange import SessionFacts

_MAX_DEPTH = 64
# "null" is what Starlette writes into the cookie of a session that was cleared.
_NO_SESSION = ("", "null")


def watch(stack: Any) -> None:
    """Listen to the signers in this stack, the application's own and those of what it mounts."""
    sessions = sys.modules.get("starlette.middleware.sessions")
    if sessions is not None:
        _walk(stack, sessions.SessionMiddleware, set())


def _walk(node: Any, middleware: Any, seen: set[int]) -> None:
    for _ in range(_MAX_DEPTH):
        if node is None or id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, middleware):
            _listen(getattr(node, "signer", None))
        if isinstance(node, Starlette) and node.middleware_stack is None:
            _when_built(node)
            return
        if isinstance(node, Starlette):
            node = node.middleware_stack
            continue
        routes = getattr(node, "routes", None)
        for route in routes if isinstance(routes, list | tuple) else ():
            _walk(getattr(route, "app", None), middleware, seen)
        node = getattr(node, "app", None)


def _when_built(app: Any) -> None:
    """A mounted application builds its stack at its first request."""
    build = app.build_middleware_stack

    def build_middleware_stack() -> Any:
        stack = build()
        watch(stack)
        return stack

    app.build_middleware_stack = build_middleware_stack


def _listen(signer: Any) -> None:
    if signer is None or not hasattr(signer, "__dict__") or "unsign" in vars(signer):
        return
    unsign = signer.unsign

    def listening(signed_value: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            value = unsign(signed_value, *args, **kwargs)
        except Exception as error:
            _note(signed_value, error)
            raise
        _note(signed_value, None)
        return value

    signer.unsign = listening


def _reason(error: BaseException) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "SignatureExpired" in kinds:
        return "expired"
    return "bad_signature" if "BadSignature" in kinds else ""


def _note(signed: Any, refused: Exception | None) -> None:
    try:
        exchange = current()
        if exchange is None or exchange.closed or exchange.session is not None:
            return
        cookie = signed.decode("utf-8", "replace") if isinstance(signed, bytes) else str(signed)
        if cookie not in _NO_SESSION:
            exchange.session = SessionFacts(cookie, "" if refused is None else _reason(refused))
    except Exception as error:
        failed("adapter.session", error)


def note_ended(scope: Any) -> None:
    """When the request is over: a session that was found and has been cleared is one that ended."""
    exchange = scope.get(MARK)
    facts = None if exchange is None else exchange.session
    if facts is not None and not facts.lost and not scope.get("session", True):
        facts.ended = True
