"""What an ASGI scope says of a request before the application runs."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from obskit.exchange import Exchange
from obskit.names import HTTP_METHODS, OTHER_METHOD

Scope = MutableMapping[str, Any]

MARK = "obskit.exchange"
# Methods whose requests have no body unless they declare one.
BODILESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
_USER_AGENT, _REQUEST_ID, _LENGTH, _QUEUE, _CARRIED = range(5)


def recorded(scope: Scope) -> bool:
    exchange = scope.get(MARK)
    return exchange is not None and not exchange.closed


def header_kinds(carried: frozenset[bytes]) -> dict[bytes, int]:
    """What `read_scope` takes from a request: the headers in `carried`, and those that the record has a field for."""
    return {
        **dict.fromkeys(carried, _CARRIED),
        b"user-agent": _USER_AGENT,
        b"x-request-id": _REQUEST_ID,
        b"content-length": _LENGTH,
        b"x-request-start": _QUEUE,
        b"x-queue-start": _QUEUE,
    }


def read_scope(protocol: str, scope: Scope, kinds: dict[bytes, int]) -> tuple[Exchange, str | None]:
    """The exchange with all that is known before the application runs, and the client's request id."""
    try:  # what every server says
        original, path, headers = scope["method"], scope["path"], scope["headers"]
        scheme, version = scope["scheme"], scope["http_version"]
        client, server, prefix = scope["client"], scope["server"], scope["root_path"]
    except KeyError:
        get = scope.get
        original, path, headers = get("method", "GET"), get("path", ""), get("headers", ())
        scheme, version = get("scheme", "http"), get("http_version")
        client, server, prefix = get("client"), get("server"), get("root_path")
    exchange = Exchange(protocol, original, path)
    if prefix and path.startswith(prefix):
        exchange.path_prefix = prefix
    exchange.request = scope
    if original not in HTTP_METHODS:
        exchange.method = OTHER_METHOD
        exchange.method_original = str(original)[:64]
    exchange.scheme = scheme
    exchange.http_version = version
    if client:
        exchange.client_address = client[0] or None
    if server:
        exchange.server_address, exchange.server_port = server[0], server[1]
    request_id: str | None = None
    if type(headers) is not list and hasattr(headers, "__next__"):
        headers = ()  # readable only once, and that is the application's
    for raw_name, raw_value in headers:
        if raw_name in kinds:
            kind = kinds[raw_name]
            if kind == _USER_AGENT:
                exchange.user_agent = raw_value.decode("latin-1")
            elif kind == _LENGTH:
                exchange.declared_request_bytes = length(raw_value)
            elif kind == _REQUEST_ID:
                request_id = raw_value.decode("latin-1")
            elif kind == _QUEUE:
                if exchange.queue_start is None or raw_name == b"x-request-start":
                    exchange.queue_start = raw_value.decode("latin-1")
            else:
                name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
                carrier = exchange.carrier
                if carrier is None:
                    carrier = exchange.carrier = {}
                # Repeated fields join (RFC 9110 §5.3); a repeated traceparent thereby becomes invalid, as it must.
                carrier[name] = f"{carrier[name]},{value}" if name in carrier else value
    return exchange, request_id


def has_body(exchange: Exchange) -> bool:
    declared = exchange.declared_request_bytes
    return exchange.method not in BODILESS_METHODS if declared is None else declared > 0


def length(value: bytes) -> int | None:
    # RFC 9110 §8.6: digits only. Anything else is the server's or the application's to answer, not ours.
    return int(value) if value.isdigit() and len(value) < 19 else None
