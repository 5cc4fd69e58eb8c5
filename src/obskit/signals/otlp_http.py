"""The official OTLP/HTTP exporter, with a look at what the collector answers.

For who asks for it (`otlp_exporter`), and where the lean one does not know the way: proxies, credentials.
Imported only where spans are sent this way: the HTTP client behind it takes as long to load as all of obskit.
"""

from __future__ import annotations

import os
from http.client import HTTPException, RemoteDisconnected
from time import monotonic
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from obskit.signals.answers import NotOtlp, judge, why
from obskit.signals.collector import FINE, Saw
from obskit.signals.http_post import MAX_ANSWER


class _Session(requests.Session):
    """Looks at each answer on its way to the exporter."""

    saw = FINE

    def request(self, method: Any, url: Any, **options: Any) -> requests.Response:  # type: ignore[override]
        self.saw = Saw("failed")
        began = monotonic()
        try:
            # Read here, and no more of it than an answer has: a stream that never ends would fill the memory.
            response = super().request(method, url, **{**options, "stream": True})
            body = _read(response, began, options.get("timeout"))
            self.saw = judge(response.status_code, response.headers, body)
        except Exception as error:
            self.saw = why(error, _KINDS)
            raise
        if self.saw.kind == "not_otlp":
            # An exception, for that is all that the exporter takes for a failure.
            raise NotOtlp(self.saw.error)
        return response


def _read(response: requests.Response, began: float, timeout_s: Any) -> bytes:
    body = bytearray()
    with response:
        # Byte by byte, for that is how a chunk comes as soon as it is there; an answer has few of them.
        for chunk in response.iter_content(1):
            body += chunk
            if len(body) > MAX_ANSWER:
                break
            # The timeout of a socket begins anew with each byte of a collector that sends one at a time.
            if isinstance(timeout_s, int | float) and monotonic() - began > timeout_s:
                raise requests.ReadTimeout("the answer came too slowly")
    return bytes(body)


# What the HTTP client behind it raises.
_KINDS: Final[tuple[tuple[Any, str], ...]] = (
    (requests.exceptions.SSLError, "tls"),
    (RemoteDisconnected, "reset"),
    (requests.Timeout, "timeout"),
    (HTTPException, "reset"),
)


class HttpExporter(OTLPSpanExporter):
    """The official exporter, with a session that looks at what it gets."""

    def __init__(self, endpoint: str | None) -> None:
        # A session of the user's own (credentials) comes before ours: its answers stay unread.
        own = any(
            os.environ.get(name)
            for name in (
                "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
                "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
            )
        )
        self._looks = None if own else _Session()
        super().__init__(endpoint=endpoint, session=self._looks)

    @property
    def saw(self) -> Saw | None:
        """What became of the last batch; None where we cannot know more than success or failure."""
        return None if self._looks is None else self._looks.saw
