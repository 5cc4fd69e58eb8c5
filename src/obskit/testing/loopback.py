"""Where the chaos client may go: to this machine, and nowhere else."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit


class ChaosRefused(Exception):
    """The server is not on loopback: broken requests are for your own machine. The text says what was seen."""


_DO = "serve the application here: obskit.testing.serve(app), or a server bound to 127.0.0.1"


def loopback_address(url: str) -> tuple[Any, tuple[Any, ...], str]:
    """(address family, socket address, Host header) of a server on loopback.

    The address is what to connect to: asking the resolver again could lead elsewhere. Raises ChaosRefused for a
    server that is, or may be, elsewhere; ValueError for what is no http URL.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError as error:
        raise ValueError(f"chaos url: saw {url!r}, {error}") from None
    if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"chaos url: saw {url!r}, expected one such as 'http://127.0.0.1:8000'")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ChaosRefused(f"{parts.hostname!r} does not resolve ({error}): {_DO}") from None
    elsewhere = [address[0] for *_, address in found if not _is_loopback(str(address[0]))]
    if elsewhere or not found:
        raise ChaosRefused(
            f"{parts.hostname!r} is at {', '.join(map(str, elsewhere))}, which is not on loopback: chaos cuts, "
            f"doubles and breaks requests, and does so to your own machine only. Do this: {_DO}"
        )
    family, _, _, _, address = found[0]
    return family, tuple(address), parts.netloc.rpartition("@")[2]


def _is_loopback(text: str) -> bool:
    address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
