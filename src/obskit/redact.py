"""Which keys name a secret: whole words of the key decide, so `author` and `tokens_used` stay readable."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Final

REDACTED: Final = "[redacted]"

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# A secret wherever the word stands in the key ...
_ALWAYS: Final = frozenset(
    {"password", "passwd", "pwd", "passphrase", "secret", "secrets", "authorization", "apikey", "credentials"}
    | {"cookie", "cookies", "jwt", "csrftoken", "sessionid"}
)
# ... and only as its last word (`access_token`, `session_key`), for words that also count or describe things.
_LAST: Final = frozenset({"token", "credential", "dsn", "bearer", "signature"})
_PAIRS: Final = frozenset(
    {("api", "key"), ("private", "key"), ("access", "key"), ("secret", "key"), ("session", "id")}
    | {("session", "key"), ("encryption", "key"), ("card", "number"), ("set", "cookie")}
)


def make_redactor(more: Iterable[str] = ()) -> Callable[[str], bool]:
    """A function that tells whether a key names a secret; `more` are further keys, compared without case."""
    extra = frozenset(name.lower() for name in more)

    @lru_cache(maxsize=4096)
    def is_secret(key: str) -> bool:
        if key.lower() in extra:
            return True
        # Bounded: a key longer than any name is data, and the pattern sees only its start.
        words = [word.lower() for word in _WORDS.findall(key[:128])]
        if not words:
            return False
        return (
            not _ALWAYS.isdisjoint(words)
            or words[-1] in _LAST
            or any(pair in _PAIRS for pair in pairwise(words))
        )

    return is_secret
