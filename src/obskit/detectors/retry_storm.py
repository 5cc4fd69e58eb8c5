"""A route whose clients send the same operations over and over.

Reads what `duplicate_request` found of each request, and sees nothing where that is switched off. Per route and
worker it counts attempts and, among them, duplicates of any kind over the last minute (two halves of 30 s, so that
a storm that begins late in one is seen). When the attempts are at least twice the distinct operations, and ten or
more were duplicates, one request is told off for all: one finding per route and minute, and the workers of a host
agree on who reports it. Each worker judges by its own part of the traffic, a load balancer's fair sample of it.
"""

from __future__ import annotations

from obskit.detectors._remembering import Remembering
from obskit.exchange import Evidence, Exchange
from obskit.findings import Detector, Judge, Setting

AMPLIFICATION = 2.0
ENOUGH = 10
HALF_NS = 30_000_000_000
WINDOW_NS = 2 * HALF_NS
SLOTS = 1_024


class _Route:
    """Attempts and duplicates on one route, in this half of the window and the one before."""

    __slots__ = ("attempts", "attempts_before", "duplicates", "duplicates_before", "until_ns")

    def __init__(self, now_ns: int) -> None:
        self.attempts = self.duplicates = self.attempts_before = self.duplicates_before = 0
        self.until_ns = now_ns + HALF_NS

    def turn(self, now_ns: int) -> None:
        """The half is over. Without traffic for another one, nothing is left of it."""
        stale = now_ns >= self.until_ns + HALF_NS
        self.attempts_before = 0 if stale else self.attempts
        self.duplicates_before = 0 if stale else self.duplicates
        self.attempts = self.duplicates = 0
        self.until_ns = now_ns + HALF_NS


class Storms(Remembering):
    """The judge of one install."""

    TABLE, SLOTS = "storms", SLOTS

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._limit = setting.config.max_series
        self._routes: dict[str | None, _Route] = {}

    def closed(self, exchange: Exchange) -> Evidence | None:
        now_ns = exchange.ended_ns or 0
        route = self._routes.get(exchange.http_route)
        if route is None:
            if len(self._routes) >= self._limit:
                return None
            route = self._routes[exchange.http_route] = _Route(now_ns)
        elif now_ns >= route.until_ns:
            route.turn(now_ns)
        route.attempts += 1
        if exchange.findings and any(found.finding == "duplicate_request" for found in exchange.findings):
            route.duplicates += 1
            return self._judged(exchange.http_route or "", route, now_ns)
        return None

    def _judged(self, name: str, route: _Route, now_ns: int) -> Evidence | None:
        duplicates = route.duplicates + route.duplicates_before
        attempts = route.attempts + route.attempts_before
        operations = max(attempts - duplicates, 1)
        table = self._table
        if duplicates < ENOUGH or attempts < AMPLIFICATION * operations or table is None:
            return None
        fingerprint = table.fingerprint(name.encode("utf-8", "surrogatepass"))
        told = table.get(fingerprint, now_ns)
        if told is not None and now_ns - told.ended_ns < WINDOW_NS:
            return None
        table.put(fingerprint, now_ns, now_ns)
        return {
            "attempts": attempts,
            "operations": operations,
            "amplification": round(attempts / operations, 2),
            "window_s": WINDOW_NS / 1e9,
            "scope": "host" if table.shared else "worker",
        }


def make(setting: Setting) -> Judge:
    return Storms(setting)


DETECTOR = Detector(
    name="retry_storm",
    help="Clients send the same operations over and over: retries have become most of a route's traffic.",
    why="Every retry counts as a request like any other; a rate of requests does not tell work from its repetition.",
    severity="critical",
    runbook="ObskitRetryStorm",
    make=make,
)
