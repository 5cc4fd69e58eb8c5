"""What an ASGI scope says of a request before the application runs."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from obskit.exchange import Exchange
from obskit.names import HTTP_METHODS, OTHER_METHOD

Scope = MutableMapping[str, Any]

MARK = "obskit.exchange"
# Methods whose requests have no body unless they declare one.
_BODILESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
QUEUE_HEADERS = frozenset({b"x-request-start", b"x-queue-start"})


def recorded(scope: Scope) -> bool:
    exchange = scope.get(MARK)
    return exchange is not None and not exchange.closed


def read_scope(scope: Scope, wanted_headers: frozenset[bytes]) -> tuple[Exchange, str | None]:
    """The exchange with all that is known before the application runs, and the client's request id."""
    original = scope.get("method", "GET")
    path, prefix = scope.get("path", ""), scope.get("root_path")
    exchange = Exchange(scope["type"], original, path)
    if prefix and path.startswith(prefix):
        exchange.path_prefix = prefix
    exchange.request = scope
    if original not in HTTP_METHODS:
        exchange.method = OTHER_METHOD
        exchange.method_original = str(original)[:64]
    exchange.scheme = scope.get("scheme", "http")
    exchange.http_version = scope.get("http_version")
    client = scope.get("client")
    if client:
        exchange.client_address = client[0] or None
    server = scope.get("server")
    if server:
        exchange.server_address, exchange.server_port = server[0], server[1]
    request_id: str | None = None
    carrier: dict[str, str] | None = None
    headers = scope.get("headers", ())
    if hasattr(headers, "__next__"):
        headers = ()  # readable only once, and that is the application's
    for raw_name, raw_value in headers:
        if raw_name == b"user-agent":
            exchange.user_agent = raw_value.decode("latin-1")
        elif raw_name == b"x-request-id":
            request_id = raw_value.decode("latin-1")
        elif raw_name == b"content-length":
            exchange.declared_request_bytes = length(raw_value)
        elif raw_name not in wanted_headers:
            continue
        elif raw_name in QUEUE_HEADERS:
            if exchange.queue_start is None or raw_name == b"x-request-start":
                exchange.queue_start = raw_value.decode("latin-1")
        else:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            if carrier is None:
                carrier = {}
            # Repeated fields join (RFC 9110 §5.3); a repeated traceparent thereby becomes invalid, as it must.
            carrier[name] = f"{carrier[name]},{value}" if name in carrier else value
    exchange.carrier = carrier
    return exchange, request_id


def has_body(exchange: Exchange) -> bool:
    declared = exchange.declared_request_bytes
    return exchange.method not in _BODILESS_METHODS if declared is None else declared > 0


def length(value: bytes) -> int | None:
    # RFC 9110 §8.6: digits only. Anything else is the server's or the application's to answer, not ours.
    return int(value) if value.isdigit() and len(value) < 19 else None
