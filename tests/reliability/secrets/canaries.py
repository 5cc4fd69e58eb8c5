"""Canaries: distinct secrets, each with the place it was planted in, and the search for them in whatever form."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

_CORE = re.compile(rb"zq([0-9a-f]{6}x[0-9a-f]{6})", re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\-]{16,}={0,2}")
_ESCAPE = re.compile(rb"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")
_ROUNDS = 3


class Canaries:
    """Makes one canary for each place; the same place has the same one, in every process that has the same seed."""

    def __init__(self, seed: str, ledger: Path | None = None) -> None:
        self._seed = seed
        self._ledger = ledger
        """Where a process that may be killed writes down which canary stands for which place."""
        self.places: dict[str, str] = {}
        """By canary."""

    def __call__(self, place: str, shape: str = "word") -> str:
        """The canary of `place`, dressed as `shape` says."""
        digest = hashlib.sha256(f"{self._seed} {place}".encode()).hexdigest()
        canary = f"{digest[:6]}x{digest[6:12]}"
        if canary not in self.places:
            self.places[canary] = place
            if self._ledger is not None:
                with self._ledger.open("a", encoding="utf-8") as file:
                    file.write(f"{canary} {place}\n")
        core = f"Zq{canary}"
        return _SHAPES[shape].format(core=core, CORE=core.upper()) if shape != "base64" else _in_base64(core)


_SHAPES = {
    "word": "{core}",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjF9{core}.{core}",
    "github": "ghp_{core}abcdefghijklmnopqrst",
    "github-pat": "github_pat_{core}_abcdefghijklmnop",
    "gitlab": "glpat-{core}abcdef",
    "slack": "xoxb-123456-{core}",
    "stripe": "sk_live_{core}",
    "google": "AIza{core}abcdefghijklmnopqrstu",
    "npm": "npm_{core}abcdefghijklmnopqrst",
    "pypi": "pypi-{core}abcdefghij",
    "aws": "AKIA{CORE}A",
    "openai": "sk-proj-{core}abcdefgh",
    "dsn": "postgresql://app:{core}@db.internal:5432/shop",
    "dsn-user": "https://{core}@errors.internal/1",
    "dsn-words": "host=db user=app password={core} dbname=shop",
    "encoded": "postgresql%3A%2F%2Fapp%3A{core}%40db%2Fshop",
    "encoded-twice": "next%253Fpassword%253D{core}%2526page%253D2",
    "url": "https://api.internal/v1/pay?access_token={core}&page=2",
    "bearer": "Authorization: Bearer {core}.abc",
    "basic-text": "Authorization: Basic {core}==",
    "cookie": "Cookie: theme=dark; sid={core}; lang=en",
    "json": '{{"user": "ann", "password": "{core}"}}',
    "json-in-json": '{{\\"api_key\\": \\"{core}\\"}}',
    "python": "{{'client_secret': '{core}', 'user': 'ann'}}",
    "headers": "[(b'host', b'shop'), (b'authorization', b'Bearer {core}'), (b'accept', b'*/*')]",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\n{core}\n{core}\n-----END RSA PRIVATE KEY-----",
    "command": "Command '['mysql', '--password={core}', 'shop']' returned 1",
}
SHAPES = tuple(_SHAPES)


def _in_base64(core: str) -> str:
    return base64.b64encode(f"ann:{core}".encode()).decode()


def found_in(data: bytes) -> set[str]:
    """The canaries in `data`: as it is, percent-decoded, JSON- and Python-unescaped, base64-decoded."""
    canaries: set[str] = set()
    forms = [data]
    for _ in range(_ROUNDS):
        forms.append(unquote_to_bytes(forms[-1]))
        if forms[-1] == forms[-2]:
            break
    for form in [*forms]:
        forms.append(_ESCAPE.sub(_unescaped, form.replace(b"\\\\", b"\\").replace(b'\\"', b'"')))
    for form in [*forms]:
        forms.append(b"\n".join(_decoded(_BASE64.findall(form))))
    for form in forms:
        canaries.update(canary.decode().lower() for canary in _CORE.findall(form))
    return canaries


def _unescaped(match: re.Match[bytes]) -> bytes:
    return chr(int(match[1] or match[2], 16)).encode("utf-8", "replace")


def _decoded(texts: Iterable[bytes]) -> Iterable[bytes]:
    for text in texts:
        bare = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        # A token in a longer run of such characters begins at any of four places.
        for start in range(4):
            part = bare[start:]
            if len(part) % 4 == 1:
                part = part[:-1]  # no base64 has such a length
            try:
                yield base64.b64decode(part + b"=" * (-len(part) % 4))
            except binascii.Error:
                continue


def percent(text: str, times: int = 1) -> str:
    for _ in range(times):
        text = quote(text, safe="")
    return text
