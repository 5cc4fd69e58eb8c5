"""What /metrics answers: who may look, content negotiation, compression.

Formats are prometheus_client's. The page shows this install's metrics, process_* and python_gc_* among them, and the
process-wide default registry with the application's own. How often it is made anew is bounded (`obskit.signals.pages`).
"""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from obskit.config import Config
from obskit.pipeline import Answer
from obskit.signals.app_metrics import AppMetrics
from obskit.signals.pages import Pages
from obskit.trust import bare_address, is_near

# Any of these says that the request came through a proxy, so the peer's address is the proxy's and says nothing
# about who is asking. A stranger who sends one only locks himself out.
_FORWARDING = frozenset(
    (
        *("forwarded", "via", "x-real-ip", "x-real-port", "x-client-ip", "client-ip", "x-cluster-client-ip"),
        *("true-client-ip", "cf-connecting-ip", "cf-ray", "cf-visitor", "fastly-client-ip", "fly-client-ip"),
        *("x-appengine-user-ip", "x-azure-clientip", "x-azure-socketip", "x-proxyuser-ip", "x-original-host"),
        *("x-original-url", "x-rewrite-url", "x-scheme", "x-request-start", "x-queue-start", "cdn-loop"),
        *("x-envoy-external-address", "x-envoy-internal", "x-original-forwarded-for", "proxy-connection"),
    )
)
# Names that no public DNS gives out: a request for one was meant for this host or its own network.
_LOCAL_SUFFIXES = (".localhost", ".local", ".localdomain", ".internal", ".lan", ".home.arpa", ".test")
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]{2,64})\]|(?P<name>[a-z0-9_.-]{0,255}))(?::[0-9]{0,5})?")


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
        self.pages = Pages()
        self._formats: dict[str, tuple[Callable[[Collector], bytes], str]] = {}

    def at_once(self, method: str, headers: Mapping[str, str], client: str | None) -> Answer | None:
        """The answer to who may not look, or asks for what there is not: it is no work. None: ask for the page."""
        refusal = self._refusal(headers, client)
        if refusal is not None:
            return text_answer(403, "Forbidden", refusal, method)
        if method not in ("GET", "HEAD"):
            return text_answer(405, "Method Not Allowed", "use GET or HEAD\n", method, ("Allow", "GET, HEAD"))
        return None

    def __call__(self, method: str, headers: Mapping[str, str], client: str | None) -> Answer:
        answer = self.at_once(method, headers, client)
        if answer is not None:
            return answer
        encode, content_type = self._format(headers.get("accept", ""))
        page = self.pages.get(content_type, lambda: encode(self._registry))
        if page is None:
            busy = "metrics are asked for faster than they can be made\n"
            return text_answer(503, "Service Unavailable", busy, method, ("Retry-After", "1"))
        answer_headers = [
            ("Content-Type", content_type),
            ("Vary", "Accept, Accept-Encoding"),
            ("Cache-Control", "no-store"),
        ]
        if page.age_s is not None:
            answer_headers.append(("Age", str(round(page.age_s))))
        body = page.body
        if len(body) >= _MIN_GZIP_BYTES and _accepts_gzip(headers.get("accept-encoding", "")):
            body = page.compressed()
            answer_headers.append(("Content-Encoding", "gzip"))
        answer_headers.append(("Content-Length", str(len(body))))
        return Answer(200, "OK", answer_headers, b"" if method == "HEAD" else body)

    def _format(self, accept: str) -> tuple[Callable[[Collector], bytes], str]:
        found = self._formats.get(accept)
        if found is None:
            found = choose_encoder(_known_format(accept))
            if len(accept) <= _MAX_ACCEPT and len(self._formats) < _MAX_FORMATS:
                self._formats[accept] = found
        return found

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
        seen = _stranger(headers, client, access)
        if seen is None:
            return None
        return (
            f"metrics_access={access} does not answer {seen}.\n"
            "To open it: obskit.install(app, metrics_access='private') for private networks, 'token' with "
            "OBSKIT_METRICS_TOKEN set, or 'public' (environment: OBSKIT_METRICS_ACCESS); "
            "metrics_port=9464 answers on a port of its own.\n"
        )


def _stranger(headers: Mapping[str, str], client: str | None, access: str) -> str | None:
    """What is strange about who asks, without a word of his own; None if he may look."""
    if not _FORWARDING.isdisjoint(headers) or any(n.startswith("x-forwarded") for n in headers):
        return "a request that came through a proxy"
    address = None if client is None else bare_address(client)
    if address is None:
        return "a request from an unknown peer"  # a Unix socket, a host name: whoever is behind it
    if not is_near(address, access):
        return f"a request from {address}"
    # A proxy that adds no header, or a page in a browser on this host whose name was bound to this address, still
    # says which site it was asked for.
    if access == "loopback" and not _means_this_host(headers.get("host", "")):
        return "a request for another host than this one (its Host header)"
    return None


def _means_this_host(host: str) -> bool:
    asked = _HOST.fullmatch(host.strip().lower())
    if asked is None:
        return False
    if asked["v6"]:
        return bare_address(asked["v6"]) is not None
    name = asked["name"].removesuffix(".")
    return (
        "." not in name
        or bare_address(name) is not None
        or name.endswith(_LOCAL_SUFFIXES)
        or name == socket.gethostname().lower()
    )


_MIN_GZIP_BYTES = 1024
# What scrapers ask for is read once: there are few of them, and they always say the same.
_MAX_FORMATS = 32
_MAX_ACCEPT = 1024


def _known_format(accept: str) -> str:
    """What is asked for, as one of the few formats there are: a version is not echoed, and makes no page of its own."""
    try:
        _, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        return ""
    if not content_type.startswith("application/openmetrics-text"):
        return accept
    escaping = re.search(r"escaping=([a-z0-9-]+)", content_type)
    asked = "application/openmetrics-text;version=1.0.0"
    return f"{asked};escaping={escaping[1]}" if escaping else "application/openmetrics-text"


def _accepts_gzip(accept_encoding: str) -> bool:
    # Not prometheus_client's: it takes "gzip;q=0", which says no (RFC 9110 §12.4.2), for a yes.
    for part in accept_encoding.lower().split(",")[:32]:
        coding, *parameters = (piece.strip() for piece in part.split(";"))
        if coding == "gzip":
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False


def text_answer(status: int, reason: str, body: str, method: str, *more: tuple[str, str]) -> Answer:
    """A short answer in plain text that nobody may keep."""
    data = body.encode("utf-8", "replace")
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Content-Length", str(len(data))),
        *more,
    ]
    return Answer(status, reason, headers, b"" if method == "HEAD" else data)
