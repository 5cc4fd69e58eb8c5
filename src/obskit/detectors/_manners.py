"""Learning that repeats are a route's manner: what clients do there by design is no failure."""

from __future__ import annotations

ENOUGH = 20
FORGET_AT = 1_000


class Manners:
    """Of the successes of each route, how many were repeats: counts of this process, of a bounded number of routes.

    A route counts from its first repeat on: what nobody repeats costs nothing.
    """

    __slots__ = ("_counts", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[tuple[str, str | None], list[int]] = {}

    def learn(self, method: str, route: str | None, *, repeated: bool) -> None:
        """Take note of one success."""
        if not self._counts and not repeated:
            return
        counts = self._counts.get((method, route))
        if counts is None:
            if not repeated or len(self._counts) >= self._limit:
                return
            counts = self._counts[method, route] = [0, 0]
        counts[0] += 1
        counts[1] += repeated
        if counts[0] >= FORGET_AT:  # clients change with the next release
            counts[0] //= 2
            counts[1] //= 2

    def by_design(self, method: str, route: str | None) -> bool:
        """Whether more than one in five of at least 20 successes were repeats."""
        counts = self._counts.get((method, route))
        return counts is not None and counts[0] >= ENOUGH and counts[1] * 5 > counts[0]
