"""What a WSGI environ says of a request before the application runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from obskit.exchange import Exchange
from obskit.names import HTTP_METHODS, OTHER_METHOD

Environ = dict[str, Any]


def read_environ(environ: Environ, carrier_keys: tuple[tuple[str, str], ...]) -> tuple[Exchange, str | None]:
    """The exchange with all that is known before the application runs, and the client's request id."""
    get = environ.get
    original = get("REQUEST_METHOD", "GET")
    prefix = get("SCRIPT_NAME", "")
    path = prefix + get("PATH_INFO", "")
    if not path.isascii():
        # PEP 3333 hands bytes over as latin-1.
        path = path.encode("latin-1", "replace").decode("utf-8", "replace")
    exchange = Exchange("http", original, path)
    if prefix:
        exchange.path_prefix = prefix.encode("latin-1", "replace").decode("utf-8", "replace")
    exchange.request = environ
    if original not in HTTP_METHODS:
        exchange.method = OTHER_METHOD
        exchange.method_original = str(original)[:64]
    exchange.scheme = get("wsgi.url_scheme", "http")
    protocol = get("SERVER_PROTOCOL", "")
    exchange.http_version = protocol[5:] if protocol.startswith("HTTP/") else None
    exchange.client_address = get("REMOTE_ADDR") or None
    exchange.server_address = get("SERVER_NAME")
    exchange.server_port = _port(str(get("SERVER_PORT", "")))
    exchange.user_agent = get("HTTP_USER_AGENT")
    declared = get("CONTENT_LENGTH")
    exchange.declared_request_bytes = length(declared) if declared else None
    carrier = None
    for name, key in carrier_keys:
        value = get(key)
        if value is not None:
            if carrier is None:
                carrier = {}
            carrier[name] = value
    exchange.carrier = carrier
    exchange.queue_start = get("HTTP_X_REQUEST_START") or get("HTTP_X_QUEUE_START")
    return exchange, get("HTTP_X_REQUEST_ID")


@lru_cache(maxsize=64)
def _port(value: str) -> int | None:
    return int(value) if value.isdigit() and len(value) < 6 else None


def headers_of(environ: Mapping[str, Any]) -> dict[str, str]:
    found = {
        key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key.startswith("HTTP_")
    }
    # waitress takes away what a proxy that it does not trust has added: that it was there is what tells a stranger.
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    for request in list(getattr(channel, "requests", ()))[:1]:
        for key in request.headers:
            found.setdefault(key.replace("_", "-").lower(), "")
    return found


def length(value: object) -> int | None:
    if not isinstance(value, str):
        value = str(value)  # a test client's number
    # RFC 9110 §8.6: digits only. Anything else is the server's or the application's to answer, not ours.
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None
