"""Django sessions: what the store answered for the key that came in the cookie.

The session middleware of the handler's own chain makes one session per request. Where that came with a cookie, the
instance is given a class in front of its store's own, which tells when the store found nothing. The store's class stays
as it is, nothing is loaded that the application does not load, and a session that is found costs no query.

Not knowable: why a cache has no entry (it may have expired or been evicted: `missing`), whether an application's own
query removed a session ("log out everywhere"), and whether a session that django.contrib.auth ends because of its
password hash was hit by a new password or, with the cache backends, by another secret key: that counts as ended. A
good signature around content that cannot be read is `missing`, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.backends.file import SessionStore as FileStore
from django.contrib.sessions.backends.signed_cookies import SessionStore as SignedCookieStore
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import signing
from django.db import connections, router, transaction
from django.utils.deprecation import MiddlewareMixin

from obskit.adapters import failed
from obskit.context import current
from obskit.exchange import Exchange, SessionFacts

_MAX_MIDDLEWARE = 256


def watch(handler: Any, *, is_async: bool) -> None:
    """Watch the sessions that this handler's middleware makes."""
    middleware = _session_middleware(handler._middleware_chain)
    if middleware is not None and type(middleware).__call__ is MiddlewareMixin.__call__:
        middleware.process_request = _attending(middleware.process_request)
    else:
        # A session middleware that is not Django's, or behind one whose inside cannot be seen: look before the view.
        handler._view_middleware.insert(0, _before_async_view if is_async else _before_view)


def _session_middleware(node: Any) -> Any:
    for _ in range(_MAX_MIDDLEWARE):
        if node is None or isinstance(node, SessionMiddleware):
            return node
        node = _inside(node)
    return None


def _inside(node: Any) -> Any:
    """What this link of the middleware chain calls; None if it does not show it."""
    held = getattr(node, "__dict__", {})
    # In this order: convert_exception_to_response copies the attributes of what it wraps.
    for name in ("__wrapped__", "func", "awaitable", "get_response"):
        if name in held:
            return held[name]
    cells = getattr(node, "__closure__", None) or ()
    names = getattr(getattr(node, "__code__", None), "co_freevars", ())
    if "get_response" not in names:
        return None
    return cells[names.index("get_response")].cell_contents


def _attending(process_request: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def attending(request: Any) -> Any:
        response = process_request(request)
        _before_view(request)
        return response

    return attending


def _attend(request: Any) -> Any:
    """The request's session, watched from here on; None if there is nothing to watch."""
    session = vars(request).get("session")
    cookie = None if session is None else request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    exchange = current() if cookie else None
    # Not isinstance: that would wake a lazy object.
    if exchange is None or exchange.closed or not issubclass(type(session), SessionBase):
        return None
    if "_session_cache" not in vars(session):
        key = session.session_key
    else:
        key = cookie if session._validate_session_key(cookie) else None
    if key is None or isinstance(session, _Observed):  # a value that can be no key is never looked up
        return None
    store: Any = type(session)
    session.__class__ = _observed(store)
    session._obskit_watch = (exchange, cookie, key)
    return session


def _came_back_empty(session: Any) -> bool:
    """Whether it was loaded before we came, and empty. One that the application cleared since has been modified."""
    if vars(session).get("_session_cache") != {}:
        return False
    return not session.modified or isinstance(session, SignedCookieStore)


def _before_view(request: Any, *_: Any) -> None:
    try:
        if "session" not in request.__dict__ or not request.COOKIES:
            return
        session = _attend(request)
        if session is not None and _came_back_empty(session):
            _found_nothing(session)
    except Exception as error:
        failed("adapter.session", error)


async def _before_async_view(request: Any, *_: Any) -> None:
    try:
        session = _attend(request)
        if session is not None and _came_back_empty(session):
            await _afound_nothing(session)
    except Exception as error:
        failed("adapter.session", error)


class _Observed(SessionBase):  # type: ignore[misc]
    """In front of a store's own class. Everything the application sees comes from there."""

    _obskit_watch: tuple[Exchange, str, str] | None = None
    """The request's record, the cookie, and the key that the store made of it."""
    _obskit_loading = False
    _obskit_forged = False

    def load(self) -> Any:
        self._obskit_loading = True
        try:
            data = super().load()
        finally:
            self._obskit_loading = False
        if not data and self._obskit_watch is not None:
            _found_nothing(self)
        return data

    async def aload(self) -> Any:
        data = await super().aload()
        if not data and self._obskit_watch is not None:
            await _afound_nothing(self)
        return data

    def delete(self, session_key: str | None = None) -> Any:
        # Log-out (flush) and a new key at log-in (cycle_key) both come through here; so does the file store, which
        # removes what has expired while it loads.
        if self._obskit_watch is not None and not self._obskit_loading:
            _ends(self, session_key)
        return super().delete(session_key)

    async def adelete(self, session_key: str | None = None) -> Any:
        if self._obskit_watch is not None and not self._obskit_loading:
            _ends(self, session_key)
        return await super().adelete(session_key)


class _ObservedSigned(_Observed):
    """For stores that keep what Django's own `encode` made: data signed with the secret key."""

    def decode(self, session_data: Any) -> Any:
        data = super().decode(session_data)
        if not data and self._obskit_watch is not None:
            self._obskit_forged = (
                _why_unreadable(session_data, self.key_salt, self.serializer) == "bad_signature"
            )
        return data


@cache
def _observed(store: Any) -> Any:
    base = _ObservedSigned if store.decode is SessionBase.decode else _Observed
    # The qualified name is part of the salt with which Django signs session data.
    names = {"__module__": store.__module__, "__qualname__": store.__qualname__, "__doc__": store.__doc__}
    return type(store.__name__, (base, store), names)


def _why_unreadable(signed: str, salt: str, serializer: Any, max_age: Any = None) -> str:
    """The reason for which Django found nothing in a signed text; empty if there is nothing wrong with it."""
    try:
        signing.loads(signed, salt=salt, serializer=serializer, max_age=max_age)
    except signing.SignatureExpired:
        return "expired"
    except signing.BadSignature:
        return "bad_signature"
    except Exception:
        return "missing"
    return ""


def _found_nothing(session: Any) -> None:
    try:
        exchange, cookie, key = session._obskit_watch
        if _open(exchange):
            reason = _reason(session, cookie, key)
            if reason == "missing" and isinstance(session, DatabaseStore) and _row_exists(session, key):
                reason = "expired"
            if reason:
                exchange.session = SessionFacts(cookie, reason)
    except Exception as error:
        failed("adapter.session", error)


async def _afound_nothing(session: Any) -> None:
    try:
        exchange, cookie, key = session._obskit_watch
        if _open(exchange):
            reason = _reason(session, cookie, key)
            if reason == "missing" and isinstance(session, DatabaseStore):
                # In the thread that holds the connection of this request.
                reason = "expired" if await sync_to_async(_row_exists)(session, key) else "missing"
            if reason:
                exchange.session = SessionFacts(cookie, reason)
    except Exception as error:
        failed("adapter.session", error)


def _open(exchange: Exchange) -> bool:
    """Whether nothing is known yet: the first fact counts, and a session that was lost cannot be ended any more."""
    return exchange.session is None and not exchange.closed


def _reason(session: Any, cookie: str, key: str) -> str:
    if isinstance(session, SignedCookieStore):
        salt = "django.contrib.sessions.backends.signed_cookies"
        return _why_unreadable(cookie, salt, session.serializer, session.get_session_cookie_age())
    if session._obskit_forged:
        return "bad_signature"
    if session.session_key == key:
        return ""  # it is there, and empty
    # The file store removes what has expired, and begins a new session in its place.
    return "expired" if isinstance(session, FileStore) and session.session_key else "missing"


def _row_exists(session: Any, key: str) -> bool:
    """Whether the row is there all the same, which the store leaves out once it has expired: one query."""
    using = router.db_for_read(session.model)
    rows = session.model.objects.using(using).filter(session_key=key)
    if not connections[using].in_atomic_block:
        return bool(rows.exists())
    # In a transaction of the application: a query that fails must not take that down with it.
    with transaction.atomic(using=using):
        return bool(rows.exists())


def _ends(session: Any, session_key: str | None) -> None:
    try:
        exchange, cookie, key = session._obskit_watch
        going = session.session_key if session_key is None else session_key
        if going == key and _open(exchange):
            exchange.session = SessionFacts(cookie, ended=True)
            # Before the row goes: another tab may ask for it while this request still runs.
            exchange.pipeline.session_ended(exchange)
    except Exception as error:
        failed("adapter.session", error)
