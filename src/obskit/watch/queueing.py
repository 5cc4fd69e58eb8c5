"""How long a request waited in front of this server, by the time that the proxy wrote into it.

`X-Request-Start` and `X-Queue-Start` are nobody's standard. nginx writes ``t=`` and seconds with a fraction, Apache
``t=`` and microseconds, Heroku milliseconds; by its size a number tells its unit. Anybody can send one, and with it
page the team: only that of a proxy which is named arrives here (`obskit.trust`), and what is believed of it is bounded.
"""

from __future__ import annotations

MAX_LENGTH = 32
# A clock that runs ahead of ours by less than this is taken for equal, by more for wrong.
MAX_SKEW_S = 5.0
# Longer than this no proxy waits; it is a wrong clock, or somebody's joke.
MAX_QUEUE_S = 3600.0
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))


def queue_seconds(header: str, now_unix_s: float) -> float | None:
    """Seconds between the time in a header and now; None for what is no time, or none that can be.

    `now_unix_s` is this host's clock: the proxy's is another one, unless it runs on the same host.
    """
    if len(header) > MAX_LENGTH:
        return None
    text = header.strip().removeprefix("t=")
    if not (text.isascii() and text.replace(".", "", 1).isdigit()):
        return None
    value = float(text)
    if value >= _UNITS[-1][0]:
        value /= next(per_second for least, per_second in _UNITS if value >= least)
    waited = now_unix_s - value
    if not -MAX_SKEW_S <= waited <= MAX_QUEUE_S:
        return None
    return waited if waited > 0.0 else 0.0
