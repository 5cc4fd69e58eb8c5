"""How long the search for secrets takes on what nearly is one, and how that grows."""

from __future__ import annotations

import time

from obskit.plain import _BEYOND, MAX_TEXT
from obskit.redact import make_redactor, scrub

SIZE = 65_536
# What is ever looked at of one text: the rest is cut off before.
LOOKED_AT = MAX_TEXT + _BEYOND
NEAR_MISSES = (
    "a", "eyJ", "eyJaaaaaaaa.", "password", "password=", "token:", "://a:", "://", "://a:b/", "://a@", "@", "%25",
    "%2525",
    "-----BEGIN PRIVATE KEY", "4111 1111 ", "'a', ", "('password', ", "Bearer ", "AKIA", "=", ":", '\\"', 'password="',
    "password='a", "a=b&", "_", "-", "ghp_", "glpat-", "Basic aaaaaaaaaaaa", "=\\", "Cookie: ", "[SQL: ", "DETAIL: ",
    "?a=b", "Zq1.", "x-", "sk-", "a: b, ", "https://a.example/b?c=d ",
)  # fmt: skip


def seconds(piece: str, size: int) -> float:
    """The best of five: CPU seconds to look through `size` characters of this near-miss."""
    text = (piece * (size // len(piece) + 1))[:size]
    is_secret = make_redactor(["iban"])  # names of one's own: no short cut by our own words
    best = float("inf")
    for _ in range(5):
        started = time.thread_time()
        scrub(text, is_secret)
        best = min(best, time.thread_time() - started)
    return best


def doubling() -> tuple[float, float, float]:
    """Milliseconds of the slowest 64 KB and of the slowest text that is ever looked at, and the largest factor that a
    text of twice the size takes."""
    worst = ratio = 0.0
    for piece in NEAR_MISSES:
        one, two = seconds(piece, SIZE), seconds(piece, 2 * SIZE)
        worst = max(worst, one)
        if one > 0.0005:  # below that, the clock is what is measured
            ratio = max(ratio, two / one)
    longest = max(seconds(piece, LOOKED_AT) for piece in NEAR_MISSES)
    return worst * 1e3, longest * 1e3, ratio
