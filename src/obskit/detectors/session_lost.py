"""A client that presented a session cookie, and a framework that found no session for it.

The adapters say what the framework found: that takes a session of Django, of Flask's own kind or of Starlette's
SessionMiddleware. One lost session is one finding, however many requests its cookie still comes with: cookies that
were lost are remembered, as keyed hashes in a memory of fixed size that the workers of one host share, and so are
those that the application ended itself, so that a tab which had not heard of the log-out lost nothing.

What it cannot see, and takes for a loss: a session that was ended on another host, by a query of the application's
own (Session.objects.filter(...).delete()), or so long ago that the memory has let it go; a cookie somebody made up; a
cookie of the same name set by another application of the same domain. What it cannot see, and keeps silent about: a
session that no code of the request asked for where the framework loads lazily (Django), one that was lost, found
again and lost once more, and frameworks' third-party session stores that check signatures themselves.
"""

from __future__ import annotations

from time import perf_counter_ns

from obskit import names
from obskit.detectors._remembering import Remembering
from obskit.exchange import Evidence, Exchange
from obskit.findings import Detector

# 1 MiB: the last 32,768 cookies that were lost or ended on this host.
SLOTS = 32_768


class _Judge(Remembering):
    TABLE, SLOTS = "sessions", SLOTS

    def session_ended(self, exchange: Exchange) -> None:
        """The application ends a session now, and another request may ask for it before this one closes."""
        session, table = exchange.session, self._table
        if session is not None and table is not None:
            now = perf_counter_ns()
            table.put(table.fingerprint(session.cookie.encode("utf-8", "surrogatepass")), now, now)

    def closed(self, exchange: Exchange) -> Evidence | None:
        session = exchange.session
        if session is None:
            return None
        table = self._table
        if table is None or not (session.lost or session.ended):
            return None
        now = exchange.ended_ns or exchange.started_ns
        cookie = table.fingerprint(session.cookie.encode("utf-8", "surrogatepass"))
        known = table.get(cookie, now)
        # Known ones, too: what is still being sent must not be the first to be forgotten.
        table.put(cookie, now, now)
        return {"reason": session.lost} if session.lost and known is None else None


DETECTOR = Detector(
    name="session_lost",
    help="A client came with a session cookie, and there was no session for it: the user is logged out, the cart gone.",
    why="Whoever has lost their session gets an ordinary answer: the page of somebody who is new here.",
    severity="warning",
    runbook="ObskitSessionsLost",
    make=_Judge,
    about="session",
    metric=names.SESSIONS_LOST,
)
