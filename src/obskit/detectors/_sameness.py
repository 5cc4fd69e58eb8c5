"""What makes two requests the same one: the bytes that are hashed, and never kept."""

from __future__ import annotations

from struct import Struct
from typing import Any

from obskit.exchange import Exchange

BY_KEY = "idempotency_key"
BY_CONTENT = "content"

# Who asks, as far as a request says so. More would tell one browser's requests apart (a trace id does); fewer would
# take two people behind one proxy for one.
_WHO = frozenset({b"x-forwarded-for", b"forwarded", b"authorization", b"cookie", b"user-agent", b"host"})
_KEY = b"idempotency-key"
_WHO_AND_KEY = _WHO | {_KEY}
# A part of a file, or another form of the same page, is another question.
_WHO_AND_WHAT = _WHO | {b"range", b"accept"}
_BODY = Struct("<QI")


def page(exchange: Exchange) -> bytes | None:
    """Who asks for what in a request without a body; None when that cannot be told."""
    request = exchange.request
    if request is None:
        return None
    if "REQUEST_METHOD" in request:
        what = "\0".join(("", request.get("HTTP_RANGE", ""), request.get("HTTP_ACCEPT", "")))
        return _in_environ(exchange, request) + what.encode("utf-8", "surrogatepass")
    return _in_scope(exchange, request, _WHO_AND_WHAT)


def operation(exchange: Exchange) -> tuple[bytes | None, str]:
    """Who wants what done, and by what it is known: the client's own key, or all of it.

    The first is None when it cannot be told: without a key, what the application did not read cannot be compared.
    """
    request = exchange.request
    if request is None:
        return None, BY_CONTENT
    if "REQUEST_METHOD" in request:
        key = request.get("HTTP_IDEMPOTENCY_KEY")
        data: bytes | None = None if key else _in_environ(exchange, request)
    else:
        data = _in_scope(exchange, request, _WHO_AND_KEY)
        # Perhaps in a cookie: one search costs less than a comparison with the name of every header.
        key = _last(request["headers"], _KEY) if data is not None and _KEY in data else None
    if key:
        return _keyed(exchange, key), BY_KEY
    if data is None or not (exchange.request_complete or _bodiless(exchange)):
        return None, BY_CONTENT
    if exchange.body_checksum is not None:
        return data + _BODY.pack(exchange.request_bytes, exchange.body_checksum), BY_CONTENT
    return (data if not exchange.request_bytes else None), BY_CONTENT


def _in_environ(exchange: Exchange, environ: Any) -> bytes:
    # Written out: a loop over names would take twice as long.
    get = environ.get
    parts = (
        get("REMOTE_ADDR", ""),
        get("QUERY_STRING", ""),
        get("HTTP_AUTHORIZATION", ""),
        get("HTTP_COOKIE", ""),
        get("HTTP_FORWARDED", ""),
        get("HTTP_HOST", ""),
        get("HTTP_USER_AGENT", ""),
        get("HTTP_X_FORWARDED_FOR", ""),
        exchange.method,
        exchange.url_path,
    )
    return "\0".join(parts).encode("utf-8", "surrogatepass")


def _in_scope(exchange: Exchange, scope: Any, names: frozenset[bytes]) -> bytes | None:
    # One pass over the headers, as `Exchange.header` would make one for each.
    headers = scope.get("headers", ())
    # Readable only once, and that is the application's. (`hasattr` makes an exception of what is not there.)
    if type(headers) is not list and hasattr(headers, "__next__"):
        return None
    what = f"{exchange.method}\0{exchange.url_path}\0{exchange.client_address}"
    query = scope.get("query_string", b"")
    if not isinstance(query, bytes):  # Django's AsyncRequestFactory
        query = str(query).encode("utf-8", "surrogatepass")
    kept = [what.encode("utf-8", "surrogatepass"), query]
    for header in headers:
        if header[0] in names:
            kept += header
    return b"\0".join(kept)


def _last(headers: Any, wanted: bytes) -> Any:
    found = None
    for name, value in headers:
        if name == wanted:
            found = value
    return found


def _keyed(exchange: Exchange, key: Any) -> bytes:
    who = exchange.header("authorization") or exchange.header("cookie")
    if who is None:
        names = ("x-forwarded-for", "forwarded", "user-agent")
        who = "\0".join([exchange.client_address or "", *(exchange.header(name) or "" for name in names)])
    told = key.decode("latin-1") if isinstance(key, bytes) else str(key)
    whole = "\0".join((BY_KEY, who, exchange.method, exchange.url_path, told))
    return whole.encode("utf-8", "surrogatepass")


def _bodiless(exchange: Exchange) -> bool:
    # HTTP/1 (RFC 9112 §6.3): a request that announces no body has none, whether somebody looked or not.
    return (
        not exchange.declared_request_bytes
        and not exchange.request_bytes
        and (exchange.http_version or "").startswith("1")
        and exchange.header("transfer-encoding") is None
    )
