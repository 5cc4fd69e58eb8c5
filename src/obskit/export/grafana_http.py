"""Grafana's HTTP API with nothing but the standard library, and with care for the token."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from obskit.export.errors import ExportError

TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 32 * 1024 * 1024
_TOLD_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of whatever status: its JSON as `fields` or `items`, empty when it was another kind or none."""

    path: str
    status: int
    fields: dict[str, Any]
    items: list[dict[str, Any]]
    authorized: bool
    """Whether the request had a token with it."""

    @property
    def described(self) -> str:
        """The status, with Grafana's own words if there are any."""
        words = str(self.fields.get("message") or self.fields.get("database") or "")
        printable = "".join(character if character.isprintable() else " " for character in words)
        return f"{self.status} {printable[:_TOLD_CHARACTERS]}".rstrip()


class Grafana:
    """A Grafana at `url` (no trailing slash), asked with `token` if there is one.

    ExportError for a token that would travel readable for all, unless `insecure`; then for whatever keeps a
    request from being answered.
    """

    def __init__(
        self, url: str, token: str | None, *, insecure: bool = False, timeout_s: float = TIMEOUT_S
    ) -> None:
        parts = urlsplit(url)
        local = _is_loopback(parts.hostname or "")
        token = (token or "").strip()
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            # Not shown: part of it may well be the real one.
            raise ExportError("GRAFANA_TOKEN holds characters that no token has. Set it to the token alone")
        if token and parts.scheme != "https" and not local and not insecure:
            raise ExportError(
                f"--push: GRAFANA_TOKEN would go to {url} unencrypted. Give an https address, or --insecure if the "
                "network in between is yours"
            )
        self.url = url
        self._token = token
        self._timeout_s = timeout_s
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if local:  # a proxy has no business here
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, *, authorized: bool = True) -> Answer:
        """Reads `path`."""
        return self._ask("GET", path, None, authorized=authorized)

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        """Sends `body` to `path`."""
        return self._ask("POST", path, json.dumps(body).encode(), authorized=True)

    def _ask(self, method: str, path: str, body: bytes | None, *, authorized: bool) -> Answer:
        request = urllib.request.Request(f"{self.url}{path}", data=body, method=method)
        request.add_header("Accept", "application/json")
        request.add_header("User-Agent", "obskit-export")
        if body is not None:
            request.add_header("Content-Type", "application/json")
        authorized = authorized and bool(self._token)
        if authorized:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                status, content = response.status, response.read(MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read(MAX_ANSWER_BYTES + 1)
            if 300 <= status < 400:
                where = urlsplit(error.headers.get("Location", ""))._replace(query="", fragment="").geturl()
                # Following could hand the token to another host.
                raise ExportError(
                    f"--push: {self.url}{path} leads on to {where or 'nowhere'} ({status}). Give the address where "
                    "it ends"
                ) from None
        except (OSError, http.client.HTTPException) as error:
            raise ExportError(f"--push: {self.url} {self._trouble(error)}") from None
        if len(content) > MAX_ANSWER_BYTES:
            raise ExportError(f"--push: {self.url}{path} answered with more than {MAX_ANSWER_BYTES} bytes")
        return _answer(path, status, content, authorized=authorized)

    def _trouble(self, error: OSError | http.client.HTTPException) -> str:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"did not answer within {self._timeout_s:g} s"
        if isinstance(reason, ssl.SSLCertVerificationError):
            return (
                f"shows a certificate that is not trusted here ({reason.verify_message}). For one of your own "
                "authority set SSL_CERT_FILE to a file with its certificate"
            )
        if isinstance(reason, ssl.SSLError):
            return f"does not speak TLS as expected ({reason.reason}). Is it an http address?"
        if isinstance(reason, http.client.HTTPException):
            return f"does not speak HTTP as expected ({type(reason).__name__}). Is it an https address?"
        return f"cannot be reached: {getattr(reason, 'strerror', None) or reason}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def _answer(path: str, status: int, content: bytes, *, authorized: bool) -> Answer:
    try:
        parsed = json.loads(content)
    except ValueError:
        parsed = None
    fields = parsed if isinstance(parsed, dict) else {}
    items = [item for item in parsed if isinstance(item, dict)] if isinstance(parsed, list) else []
    return Answer(path, status, fields, items, authorized)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
