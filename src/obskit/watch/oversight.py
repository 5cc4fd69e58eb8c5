"""Each of the two watching threads looks after the other: what hangs in one is told of, and what waits goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

from obskit.watch.ticker import HUNG_S, Ticker

EVERY_S = 1.0


class Oversight:
    """Looks after what one install has in a ticker. Called once a second, in the other one."""

    def __init__(
        self, over: Ticker, owners: Mapping[str, object], failed: Callable[[str, BaseException], None]
    ) -> None:
        """`owners` are by the stage under which their failures are counted."""
        self._over = over
        self._owners = owners
        self._failed = failed
        self._told_s: dict[str, float] = {}
        self._looked = monotonic()

    def look(self) -> None:
        """Tell of each call that hangs, once it does, and again each time that its wait has doubled."""
        now = monotonic()
        late, self._looked = now - self._looked - EVERY_S, now
        self._over.rescue()
        for stage, owner in self._owners.items():
            waited_s = self._over.running_s(owner)
            if waited_s < HUNG_S:
                self._told_s.pop(stage, None)
            # Unless this thread did not run either: the process as a whole stood still.
            elif late < EVERY_S and waited_s >= 2 * self._told_s.get(stage, 0.0):
                self._told_s[stage] = waited_s
                self._failed(stage, TimeoutError(f"it hangs, and has not come back for {waited_s:.0f} s"))
