"""What /metrics answers: who may look, content negotiation, compression.

Formats are prometheus_client's. The page shows this install's metrics, process_* and python_gc_* among them, and the
process-wide default registry with the application's own.
"""

from __future__ import annotations

import gzip
import hmac
import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from obskit.config import Config
from obskit.pipeline import Answer
from obskit.signals.app_metrics import AppMetrics

# Any of these says that the request came through a proxy, so the peer's address is the proxy's and says nothing
# about who is asking. A stranger who sends one only locks himself out.
_FORWARDING = ("forwarded", "x-real-ip", "via", "x-client-ip", "x-cluster-client-ip", "true-client-ip")
_MIN_GZIP_BYTES = 1024


class _Both(Collector):
    """This install's registry and the process-wide one, as one page."""

    def __init__(self, own: CollectorRegistry, shared: Collector) -> None:
        self._own = own
        self._shared = shared

    def collect(self) -> Iterator[Metric]:
        yield from self._own.collect()
        yield from self._shared.collect()


class Exposition:
    """The endpoint at `metrics_path`."""

    def __init__(self, config: Config, registry: CollectorRegistry, shared: Collector | None = None) -> None:
        """`shared`: the application's metrics, as the signal knows them of all workers."""
        self._config = config
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Both(registry, AppMetrics() if shared is None else shared))

    def __call__(self, method: str, headers: Mapping[str, str], client: str | None) -> Answer:
        refusal = self._refusal(headers, client)
        if refusal is not None:
            return _text(403, "Forbidden", refusal)
        if method not in ("GET", "HEAD"):
            return _text(405, "Method Not Allowed", "use GET or HEAD\n", ("Allow", "GET, HEAD"))
        try:
            encode, content_type = choose_encoder(headers.get("accept", ""))
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        body = encode(self._registry)
        answer_headers = [
            ("Content-Type", content_type),
            ("Vary", "Accept, Accept-Encoding"),
            ("Cache-Control", "no-store"),
        ]
        if len(body) >= _MIN_GZIP_BYTES and _accepts_gzip(headers.get("accept-encoding", "")):
            body = gzip.compress(body, compresslevel=1)
            answer_headers.append(("Content-Encoding", "gzip"))
        answer_headers.append(("Content-Length", str(len(body))))
        return Answer(200, "OK", answer_headers, b"" if method == "HEAD" else body)

    def _refusal(self, headers: Mapping[str, str], client: str | None) -> str | None:
        access = self._config.metrics_access
        if access == "public":
            return None
        if access == "token":
            scheme, _, given = headers.get("authorization", "").partition(" ")
            expected = self._config.metrics_token or ""
            same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), expected.encode())
            if scheme.lower() == "bearer" and expected and same:
                return None
            return "metrics need 'Authorization: Bearer <token>' with the value of OBSKIT_METRICS_TOKEN\n"
        proxied = any(name in headers for name in _FORWARDING) or any(
            n.startswith("x-forwarded-") for n in headers
        )
        if not proxied and client is not None and _near(client, private=access == "private"):
            return None
        seen = (
            "a request that came through a proxy"
            if proxied
            else f"a request from {client or 'an unknown peer'}"
        )
        return (
            f"metrics_access={access} does not answer {seen}.\n"
            "To open it: obskit.install(app, metrics_access='private') for private networks, 'token' with "
            "OBSKIT_METRICS_TOKEN set, or 'public' (environment: OBSKIT_METRICS_ACCESS).\n"
        )


def _near(client: str, *, private: bool) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(client.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or (private and address.is_private and not address.is_unspecified)


def _accepts_gzip(accept_encoding: str) -> bool:
    # Not prometheus_client's: it takes "gzip;q=0", which says no (RFC 9110 §12.4.2), for a yes.
    for part in accept_encoding.lower().split(",")[:32]:
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        if coding == "gzip":
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False


def _text(status: int, reason: str, body: str, *more: tuple[str, str]) -> Answer:
    data = body.encode("utf-8")
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Content-Length", str(len(data))),
        *more,
    ]
    return Answer(status, reason, headers, data)
