"""Whom we believe: which proxies may say who the client is, how it came to them, and when it asked.

`X-Forwarded-For`, `Forwarded` and `X-Request-Start` can be written by anybody. They are believed from the proxies that
the option `trusted_proxies` names, and each hop only as far as the one behind it is named, too. Nothing here looks at
a header of anybody else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from obskit.exchange import Exchange

Address = IPv4Address | IPv6Address

MAX_HEADER = 8_192
"""What is read of a forwarding header; who is nearest to us stands at its end."""
MAX_HOPS = 32
MAX_KNOWN = 1_024
MAX_HEARD_LENGTH = 256

_LOOPBACK = tuple(map(ip_network, ("127.0.0.0/8", "::1/128")))
# RFC 1918, RFC 4193 and link-local. Not `is_private`: that takes 0.0.0.0/8 and the networks of examples for private.
_PRIVATE = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"),
    )
)
_PLACES = {"loopback": _LOOPBACK, "private": _LOOPBACK + _PRIVATE}
_PORT = re.compile(r"[0-9]{1,5}|_[A-Za-z0-9._-]{1,32}")  # RFC 7239 §6.3 lets a proxy hide the port, too
_PAIR = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^ \t",;]*)[ \t]*([;,]|$)""", re.DOTALL
)
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_KEYS = {b"x-forwarded-for": 0, b"forwarded": 1, b"x-forwarded-proto": 2}
_ENVIRON_KEYS = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_FORWARDED_PROTO")


def address_of(text: str) -> Address | None:
    """The address in a peer's name, or in a node of a forwarding header (RFC 7239 §6); None if it names none.

    A port, brackets and a zone are left out; an IPv4 address in IPv6's clothes is an IPv4 address.
    """
    if len(text) > 80:
        return None
    text = text.strip(" \t")
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not (port[0] == ":" and _PORT.fullmatch(port, 1))) or ":" not in text:
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _PORT.fullmatch(port):
            return None
    return bare_address(text)


def bare_address(text: str) -> Address | None:
    """The same for an address alone, as a server names its peer: with a zone at most."""
    try:
        address = ip_address(text.partition("%")[0] if len(text) <= 80 else "")
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def is_near(address: Address, place: str) -> bool:
    """Whether an address is in a place: `loopback`, or `private` (loopback among it)."""
    return any(address in network for network in _PLACES[place])


def is_unix(peer: str | None) -> bool:
    """Whether a peer is at the other end of a Unix socket, by the names that servers have for that."""
    # uvicorn, hypercorn: None; gunicorn: nothing; waitress: localhost; others: the word, or the socket's path.
    return not peer or peer == "localhost" or peer.startswith(("unix", "/"))


class Trust:
    """The proxies that one install believes."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        """Addresses, networks, and the words `loopback`, `private` and `unix`, as `Config` has checked them."""
        self._unix = "unix" in trusted_proxies
        self._networks: list[IPv4Network | IPv6Network] = []
        for named in trusted_proxies:
            if named != "unix":
                self._networks += _PLACES.get(named) or [_unmapped(ip_network(named))]
        self._known: dict[str | None, bool] = {}
        self._heard: dict[tuple[str | None, str | None, str | None], tuple[str | None, str | None]] = {}

    def believes(self, peer: str | None) -> bool:
        """Whether this peer is one of the proxies named."""
        known = self._known.get(peer)
        if known is None:
            address = None if peer is None else bare_address(peer)
            known = self._believes(address) if address is not None else self._unix and is_unix(peer)
            if peer is None or len(peer) <= MAX_HEARD_LENGTH:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[peer] = known
        return known

    def _believes(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def apply(self, exchange: Exchange) -> None:
        """Put into the record what a proxy that is believed says; take out of it what nobody vouches for."""
        request = exchange.request
        if not self.believes(exchange.client_address):
            if not _server_believed(request):
                exchange.queue_start = None
            return
        fors, forwarded, protos = _headers(request)
        if fors is not None or forwarded is not None:
            client, scheme = self._said(fors, forwarded, protos)
            exchange.client_address = client or exchange.client_address
        else:
            scheme = None if protos is None else _scheme(protos.split(",")[-1])
        if scheme is not None:
            exchange.scheme = _SCHEMES[scheme] if exchange.protocol == "websocket" else scheme

    def _said(
        self, fors: str | None, forwarded: str | None, protos: str | None
    ) -> tuple[str | None, str | None]:
        """The same as `client`, which is worked out once for those who ask again and again."""
        key = (fors, forwarded, protos)
        said = self._heard.get(key)
        if said is None:
            said = self.client(fors, forwarded, protos)
            if len(fors or "") + len(forwarded or "") + len(protos or "") <= MAX_HEARD_LENGTH:
                if len(self._heard) >= MAX_KNOWN:
                    self._heard.clear()
                self._heard[key] = said
        return said

    def client(
        self, fors: str | None, forwarded: str | None = None, protos: str | None = None
    ) -> tuple[str | None, str | None]:
        """The client's address and scheme by `X-Forwarded-For`, `Forwarded` and `X-Forwarded-Proto` of a proxy.

        From right to left, as long as the hop is one of the proxies named. None is what they do not say: where a hop
        hides or is garbage, nobody knows who stands behind it, and the last one known stays.
        """
        client = scheme = None
        if fors is not None:
            hops = _listed(fors)
            client, at = self._nearest_stranger(hops)
            if protos is not None:
                schemes = _listed(protos)
                scheme = _scheme(schemes[at if len(schemes) == len(hops) else -1]) if schemes else None
        if forwarded is not None:
            elements = _elements(forwarded)
            if elements is None:
                return None, None
            said, at = self._nearest_stranger([element.get("for", "") for element in elements])
            # A proxy writes one of the two and lets the other pass: where they differ, one is a stranger's.
            if fors is not None and said != client:
                return None, None
            client = said
            if at < len(elements):
                scheme = _scheme(elements[at].get("proto", "")) or scheme
        return (None if client is None else str(client)), scheme

    def _nearest_stranger(self, hops: list[str]) -> tuple[Address | None, int]:
        client, at = None, len(hops)
        for index in range(len(hops) - 1, -1, -1):
            address = address_of(hops[index])
            if address is None:
                break
            client, at = address, index
            if not self._believes(address):
                break
        return client, min(at, len(hops) - 1) if hops else 0


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return (
        network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))
    )


def _server_believed(request: Any) -> bool:
    """Whether the server has put the client in the place of its peer, for it believes the proxy by itself.

    uvicorn (`--forwarded-allow-ips`, this host by default) and hypercorn's middleware do; nobody can come from port 0.
    waitress (`trusted_proxy`) still knows whom it spoke to.
    """
    if request is None:
        return False
    client = request.get("client")
    if isinstance(client, list | tuple):
        return len(client) == 2 and client[1] == 0 and bool(client[0])
    address = getattr(getattr(request.get("waitress.client_disconnected"), "__self__", None), "addr", None)
    return isinstance(address, tuple) and address[0] != request.get("REMOTE_ADDR")


def _headers(request: Any) -> list[str | None]:
    if request is None:
        return [None, None, None]
    if "REQUEST_METHOD" in request:
        return [request.get(key) for key in _ENVIRON_KEYS]
    found: list[str | None] = [None, None, None]
    headers = request.get("headers") or ()
    if hasattr(headers, "__next__"):  # readable only once, and that is the application's
        return found
    for name, value in headers:
        index = _KEYS.get(name)
        if index is not None:
            before, text = found[index], value.decode("latin-1")
            found[index] = text if before is None else f"{before},{text}"
    return found


def _listed(header: str) -> list[str]:
    """The last entries of a list, without empty ones (RFC 9110 §5.6.1)."""
    if len(header) > MAX_HEADER:
        header = header[-MAX_HEADER:].partition(",")[2]  # the first entry of the rest is a part of one
    return [
        entry for part in header.rsplit(",", 2 * MAX_HOPS)[-2 * MAX_HOPS :] if (entry := part.strip(" \t"))
    ][-MAX_HOPS:]


def _elements(header: str) -> list[dict[str, str]] | None:
    """The hops of a `Forwarded` header (RFC 7239 §4); None if it cannot be read as a whole."""
    if len(header) > MAX_HEADER:
        return None
    elements: list[dict[str, str]] = [{}]
    position = 0
    while position < len(header):
        pair = _PAIR.match(header, position)
        if pair is None:
            return None
        name, value, end = pair.groups()
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        elements[-1].setdefault(name.lower(), value)
        if end == ",":
            elements.append({})
        position = pair.end()
    return elements[-MAX_HOPS:]


def _scheme(text: str) -> str | None:
    scheme = text.strip(" \t").lower()
    return scheme if scheme in _SCHEMES else None
