"""Whether the service is there at all, and whether anybody would hear of it."""

from __future__ import annotations

from obskit.export.rules.model import Alert
from obskit.export.rules.series import Series


def alerts(series: Series) -> tuple[Alert, ...]:
    return (
        Alert(
            name="ObskitServiceAbsent",
            expr="group by (job) (last_over_time(obskit_app_info{<job>}[1d])) "
            "unless on (job) group by (job) (obskit_app_info{<job>})",
            severity="critical",
            summary="All instances of {{ $labels.job }} are gone",
            description="No instance has reported for 5 minutes, though some did within a day.",
            dashboard="overview",
            hold="5m",
        ),
        Alert(
            name="ObskitWatchdog",
            expr="vector(1)",
            severity="none",
            summary="Always firing: when it stops arriving, no other alert arrives either",
            description="Send it to a dead man's switch, which tells you when it has not heard from it.",
            dashboard="telemetry",
            by=(),
        ),
    )
