"""An exporter of spans over OTLP/HTTP that costs a fraction of the official one, and keeps its settings.

It encodes by `otlp_wire` and sends by `http_post`. What is beyond these (proxies, credentials from elsewhere, odd
addresses) is left to the official one: `knows_the_way` says so.
"""

from __future__ import annotations

import base64
import logging
import math
import os
import re
import socket
import threading
import weakref
import zlib
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic, time
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

from obskit.signals.answers import judge, why
from obskit.signals.collector import FINE, Saw
from obskit.signals.http_post import NoHttp, Poster
from obskit.signals.otlp_wire import Encoded, encoded, request
from obskit.version import __version__

TRIES: Final = 6
JITTER: Final = 0.2
DEFAULT_TIMEOUT_S: Final = 10.0
# As the official exporter has it; other errors are not worth a second try.
_TRANSIENT: Final = frozenset({429, 502, 503, 504})
_PLAIN_URL: Final = re.compile(
    r"https?://[A-Za-z0-9._~!$&'()*+,;=:@\[\]%-]+(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?",
    re.IGNORECASE,
)
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"(?![ \t])[\t\x20-\x7e\xa0-\xff]*")
_FRAMING: Final = frozenset({"connection", "content-length", "expect", "te", "transfer-encoding", "upgrade"})
_CREDENTIALS: Final = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
)


def setting(name: str) -> str | None:
    """An OTEL_EXPORTER_OTLP_ variable, the one for traces before the one for all signals; None if neither is set."""
    return (
        os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}")
        or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}")
        or None
    )


def address(endpoint: str | None) -> str:
    """Where to POST: `endpoint` as it is, else what the environment says, which may be a base to go on from."""
    whole = endpoint or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if whole:
        return whole
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318"
    return f"{base.removesuffix('/')}/v1/traces"


def knows_the_way(endpoint: str | None) -> bool:
    """Whether spans can be sent there with nothing but a connection to the host that is named. Reads files."""
    url = address(endpoint)
    if any(os.environ.get(name) for name in _CREDENTIALS) or not _PLAIN_URL.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.port == 0:
            return False
    except ValueError:
        return False
    headers = _headers()
    if not all(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers.items()):
        return False
    if _FRAMING & headers.keys():
        return False
    if any(name.lower().endswith("_proxy") and value for name, value in os.environ.items()):
        # Whom they are for is a matter of many rules, and these are the rules of requests.
        from requests.utils import get_environ_proxies, select_proxy  # noqa: PLC0415

        if select_proxy(url, get_environ_proxies(url)):
            return False
    if any(os.path.exists(os.path.expanduser(path)) for path in _netrc_files()):
        from requests.utils import get_netrc_auth  # noqa: PLC0415

        return get_netrc_auth(url) is None
    return True


def _netrc_files() -> tuple[str, ...]:
    named = os.environ.get("NETRC")
    return ("~/.netrc", "~/_netrc") if named is None else (named,)


def _headers() -> dict[str, str]:
    headers = {"content-type": "application/x-protobuf", "user-agent": f"obskit/{__version__}"}
    return headers | dict(parse_env_headers(setting("HEADERS") or "", liberal=True))


def _timeout_s() -> float:
    value = setting("TIMEOUT")
    try:
        seconds = float(value) if value else DEFAULT_TIMEOUT_S
        if seconds > 0 and math.isfinite(seconds):
            return seconds
    except ValueError:
        pass
    _ignored("OTEL_EXPORTER_OTLP_TIMEOUT", value, DEFAULT_TIMEOUT_S)
    return DEFAULT_TIMEOUT_S


def _compression() -> str:
    value = (setting("COMPRESSION") or "none").strip().lower()
    if value in ("none", "gzip", "deflate"):
        return value
    _ignored("OTEL_EXPORTER_OTLP_COMPRESSION", value, "none")
    return "none"


def _ignored(name: str, value: Any, used: Any) -> None:
    told = {"variable": name, "value": str(value)[:64], "used": used}
    logging.getLogger("obskit").warning("telemetry.setting_ignored", extra=told)


def _compressed(data: bytes, how: str) -> bytes:
    if how == "none":
        return data
    packer = zlib.compressobj(wbits=31 if how == "gzip" else 15)
    return packer.compress(data) + packer.flush()


class LeanExporter(SpanExporter):
    """Sends spans from one thread at a time, with the settings of the OTEL_EXPORTER_OTLP_ variables.

    Opens no file and no connection before the first batch.
    """

    def __init__(self, endpoint: str | None) -> None:
        """`endpoint`: the whole address, path included; None: as the environment says."""
        parts = urlsplit(address(endpoint))
        self._timeout_s = _timeout_s()
        self._compression = _compression()
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._head = _head(parts, self._compression)
        self._tls = _Tls(self._host) if parts.scheme == "https" else None
        self._random = Random()
        self._shut = False
        self.saw: Saw = FINE
        """What became of the last batch."""
        self._poster = self._new_poster()
        self._restart()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._restart)
            os.register_at_fork(after_in_child=lambda: (restart := child()) and restart())

    def _restart(self) -> None:
        # In a forked child too: the parent goes on speaking over its connection, and its thread may hold the lock.
        self._poster.close()
        self._poster = self._new_poster()
        self._random.seed()
        self._busy = threading.Lock()
        self._end = threading.Event()
        if self._shut:
            self._end.set()

    def _new_poster(self) -> Poster:
        return Poster(self._host, self._port, self._head, self._tls)

    @staticmethod
    def encode(span: ReadableSpan) -> Encoded:
        """A span of anybody's as `export` takes it without more work."""
        return encoded(span)

    def export(self, spans: Sequence[ReadableSpan | Encoded]) -> SpanExportResult:
        """Send a batch, and again while that may help and there is time; `saw` says what became of it."""
        self.saw = Saw("failed")
        with self._busy:
            if not self._shut:
                ready = [span if isinstance(span, Encoded) else encoded(span) for span in spans]
                self.saw = self._sent(_compressed(request(ready), self._compression))
            if self._shut:
                self._poster.close()
        return SpanExportResult.SUCCESS if self.saw.kind in ("", "rejected") else SpanExportResult.FAILURE

    def _sent(self, body: bytes) -> Saw:
        ends = monotonic() + self._timeout_s
        saw = Saw("failed")
        for number in range(TRIES):
            saw, later_s = self._tried(body, ends)
            if later_s is None or number == TRIES - 1:
                break
            later_s = later_s or 2.0**number * self._random.uniform(1 - JITTER, 1 + JITTER)
            if later_s > ends - monotonic() or self._end.wait(later_s):
                break
        return saw

    def _tried(self, body: bytes, ends: float) -> tuple[Saw, float | None]:
        """What became of one attempt, and in how many seconds to make another: 0 if it does not say, None if never."""
        try:
            try:
                answer = self._poster.post(body, ends - monotonic())
            except (OSError, NoHttp):
                # Once more at once: a connection that was kept may have died unseen.
                if self._end.is_set() or monotonic() >= ends:
                    raise
                answer = self._poster.post(body, ends - monotonic())
        except Exception as error:
            return why(error), 0.0 if isinstance(error, OSError | NoHttp) else None
        saw = judge(answer.status, answer.headers, answer.body)
        if answer.status not in _TRANSIENT:
            return saw, None
        return saw, _later_s(answer.headers.get("retry-after", ""))

    def shutdown(self) -> None:
        """Send nothing more, and nothing again; what is under way may come to its end."""
        self._shut = True
        self._end.set()
        if self._busy.acquire(blocking=False):
            self._poster.close()
            self._busy.release()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits in here."""
        return True


def _head(parts: SplitResult, compression: str) -> bytes:
    """The request line and the headers, as far as they are the same for each batch."""
    headers = {"host": parts.netloc.rpartition("@")[2]} | _headers() | {"accept-encoding": "identity"}
    if compression != "none":
        headers.setdefault("content-encoding", compression)
    if parts.username and parts.password is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password)}".encode("latin-1", "replace")
        headers["authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), ""]
    return "\r\n".join(lines).encode("latin-1")


def _later_s(retry_after: str) -> float:
    """What Retry-After says, in seconds or as a date; 0 if nothing."""
    value = retry_after.strip()
    try:
        seconds = float(value)
    except ValueError:
        from email.utils import parsedate_to_datetime  # noqa: PLC0415

        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


class CertificateUnusable(Exception):
    """Certificates that cannot be used: no second try makes them better."""


class _Tls:
    """Makes a connection one of TLS, with the certificates that the environment names."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._wrap: Callable[..., socket.socket] | None = None

    def __call__(self, connection: socket.socket) -> socket.socket:
        if self._wrap is None:
            try:
                self._wrap = _context().wrap_socket
            except OSError as error:
                raise CertificateUnusable from error
        return self._wrap(connection, server_hostname=self._host)


def _context() -> Any:
    # Here: who speaks no TLS need not load it.
    import ssl  # noqa: PLC0415

    trusted = (
        setting("CERTIFICATE") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    )
    if not trusted:
        # The bundle that the official exporter trusts, and not what the host may have.
        import certifi  # noqa: PLC0415

        trusted = certifi.where()
    folder = os.path.isdir(trusted)
    context = ssl.create_default_context(
        cafile=None if folder else trusted, capath=trusted if folder else None
    )
    context.set_alpn_protocols(["http/1.1"])
    certificate, key = setting("CLIENT_CERTIFICATE"), setting("CLIENT_KEY")
    if certificate:
        context.load_cert_chain(certificate, key)
    return context
