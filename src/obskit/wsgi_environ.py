"""What a WSGI environ says of a request before the application runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from obskit.exchange import HEAD_BYTES, Exchange
from obskit.names import HTTP_METHODS, OTHER_METHOD

Environ = dict[str, Any]

# What every server says, and what is taken for it where one does not.
_ALWAYS = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "",
    "wsgi.url_scheme": "http",
    "SERVER_PROTOCOL": "",
    "REMOTE_ADDR": None,
    "SERVER_NAME": None,
    "SERVER_PORT": "",
}
_LENGTH, _CHUNKED, _REQUEST_ID = "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_X_REQUEST_ID"
_QUEUED, _QUEUED_TOO = "HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START"
SELDOM = frozenset({_LENGTH, _CHUNKED, _REQUEST_ID, _QUEUED, _QUEUED_TOO})
"""What most requests have not: none of it is looked for on its own where there is nothing of it."""

CarrierKeys = tuple[tuple[str, str], ...]


def read_environ(
    environ: Environ, seldom: frozenset[str], carrier_keys: CarrierKeys
) -> tuple[Exchange, str | None]:
    """The exchange with all that is known before the application runs, and the client's request id.

    `seldom` is `SELDOM` with the keys in `carrier_keys`.
    """
    try:
        original, prefix, path = environ["REQUEST_METHOD"], environ["SCRIPT_NAME"], environ["PATH_INFO"]
        if prefix:
            path = prefix + path
        if not path.isascii():
            # PEP 3333 hands bytes over as latin-1.
            path = path.encode("latin-1", "replace").decode("utf-8", "replace")
        exchange = Exchange("http", original, path)
        exchange.request = environ
        if prefix:
            exchange.path_prefix = prefix.encode("latin-1", "replace").decode("utf-8", "replace")
        if original not in HTTP_METHODS:
            exchange.method = OTHER_METHOD
            exchange.method_original = str(original)[:64]
        exchange.scheme = environ["wsgi.url_scheme"]
        protocol = environ["SERVER_PROTOCOL"]
        exchange.http_version = "1.1" if protocol == "HTTP/1.1" else _version(protocol)
        exchange.client_address = environ["REMOTE_ADDR"] or None
        exchange.server_address = environ["SERVER_NAME"]
        exchange.server_port = _port(environ["SERVER_PORT"])
    except KeyError:
        if environ.keys() >= _ALWAYS.keys():
            raise
        exchange, request_id = read_environ({**_ALWAYS, **environ}, seldom, carrier_keys)
        exchange.request = environ
        return exchange, request_id
    exchange.user_agent = environ.get("HTTP_USER_AGENT")
    if environ.keys().isdisjoint(seldom):
        exchange.request_complete = True
        return exchange, None
    return exchange, _read_seldom(environ, exchange, carrier_keys)


def _read_seldom(environ: Environ, exchange: Exchange, carrier_keys: CarrierKeys) -> str | None:
    get = environ.get
    declared = get(_LENGTH)
    if declared:
        exchange.declared_request_bytes = length(declared)
    exchange.request_complete = not (exchange.declared_request_bytes or get(_CHUNKED))
    exchange.queue_start = get(_QUEUED) or get(_QUEUED_TOO)
    for name, key in carrier_keys:
        value = get(key)
        if value is not None:
            carrier = exchange.carrier
            if carrier is None:
                carrier = exchange.carrier = {}
            carrier[name] = value
    return get(_REQUEST_ID)


def _version(protocol: str) -> str | None:
    return protocol[5:] if protocol.startswith("HTTP/") else None


@lru_cache(maxsize=64)
def _port(value: object) -> int | None:
    shown = str(value)  # a test client's number
    return int(shown) if shown.isdigit() and len(shown) < 6 else None


@lru_cache(maxsize=256)
def code_of(status: str) -> int:
    return int(status[:3])


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


def head_of(data: bytes | str) -> bytes:
    head = data[:HEAD_BYTES]
    # A text is against PEP 3333, and the server's to refuse.
    return head.encode("latin-1", "replace") if isinstance(head, str) else bytes(head)


def file_size(body: Any) -> int:
    """Bytes from a file wrapper's position to the end of its file; 0 when it cannot tell."""
    file = getattr(body, "filelike", None) or getattr(body, "file", None)  # gunicorn's name for it, waitress'
    try:
        left = os.fstat(file.fileno()).st_size - file.tell()  # type: ignore[union-attr]
        return int(max(0, left))
    except (AttributeError, OSError, ValueError):
        return 0
