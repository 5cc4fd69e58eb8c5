"""What detectors have in common that remember in a table which the workers of a host share."""

from __future__ import annotations

from obskit.findings import Setting
from obskit.shared import Table


class Remembering:
    """A judge with a table called `TABLE` of `SLOTS` slots, from `begin` to `shutdown`; `_table` is None outside."""

    TABLE: str
    SLOTS: int

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._table: Table | None = None

    def begin(self) -> None:
        # Once: a mapped table stays mapped, and shared, in a process that is forked later.
        if self._table is None:
            self._table = Table.open(
                self._setting.config.state_dir, self._setting.service, self.TABLE, self.SLOTS
            )

    def shutdown(self) -> None:
        # Not closed: a request on another thread may be reading it, and the memory goes with the last of those.
        self._table = None
