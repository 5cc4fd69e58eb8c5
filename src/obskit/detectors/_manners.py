"""Learning that repeats are a route's manner: what clients do there by design is no failure."""

from __future__ import annotations

ENOUGH = 20
FORGET_AT = 1_000


class Manners:
    """Of the successes of each route, how many were repeats: counts of this process, of a bounded number of routes.

    A route counts from its first repeat on: what nobody repeats costs nothing, and while `counts` is empty there is
    nothing to learn from a success that repeats none.
    """

    __slots__ = ("_limit", "counts")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.counts: dict[tuple[str, str | None], list[int]] = {}

    def learn(self, method: str, route: str | None, *, repeated: bool) -> None:
        """Take note of one success."""
        counts = self.counts.get((method, route))
        if counts is None:
            if not repeated or len(self.counts) >= self._limit:
                return
            counts = self.counts[method, route] = [0, 0]
        counts[0] += 1
        counts[1] += repeated
        if counts[0] >= FORGET_AT:  # clients change with the next release
            counts[0] //= 2
            counts[1] //= 2

    def by_design(self, method: str, route: str | None) -> bool:
        """Whether more than one in five of at least 20 successes were repeats."""
        counts = self.counts.get((method, route))
        return counts is not None and counts[0] >= ENOUGH and counts[1] * 5 > counts[0]
