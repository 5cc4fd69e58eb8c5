"""Requests that no longer arrive: the one failure that no error rate shows."""

from __future__ import annotations

from obskit.export.rules.model import Alert
from obskit.export.rules.series import Series, ours


def alerts(series: Series) -> tuple[Alert, ...]:
    # The same time last week, or yesterday while there is no last week. The window is as long as that of now, or the
    # end of a batch that comes every day would look different from the one before.
    usual = f"({series.requests('15m', '1w')} or {series.requests('15m', '1d')})"
    return (
        Alert(
            name="ObskitTrafficDrop",
            expr=f"({usual} > 0.2) unless on (job) ({series.requests('15m')} > 0.3 * {usual}) {ours()}",
            severity="warning",
            summary="Traffic to {{ $labels.job }} collapsed",
            description="Less than 30 % of the usual {{ $value | humanize }} requests/s arrive "
            "(the same time last week, or yesterday).",
            dashboard="overview",
            hold="10m",
            keep_firing="10m",
        ),
        Alert(
            name="ObskitTrafficStopped",
            # Unless it was just as still at this time yesterday: work that comes in batches, an office that closes.
            expr=f"({series.requests('1h', '15m')} > 0.1) unless on (job) ({series.requests('5m')} > 0) "
            f"unless on (job) ({series.requests('5m', '1d')} == 0) {ours()}",
            severity="critical",
            summary="{{ $labels.job }} runs and receives no requests",
            description="It served {{ $value | humanize }} requests/s in the hour before, and none since.",
            dashboard="overview",
            hold="5m",
            keep_firing="10m",
        ),
        Alert(
            name="ObskitRouteTrafficVanished",
            # Only while the service as a whole is asked: otherwise ObskitTrafficStopped says it once. And not on a
            # Saturday for what only Fridays see.
            expr=f"({series.route_requests('1h', '1d')} > 0.1) "
            f"unless on (job, http_route) ({series.route_requests('30m')} > 0) "
            f"unless on (job, http_route) ({series.route_requests('1h', '1w')} <= 0.1) "
            f"and on (job) ({series.requests('30m')} > 0) {ours()}",
            severity="warning",
            summary="{{ $labels.http_route }} of {{ $labels.job }} is no longer called",
            description="Yesterday at this time it had {{ $value | humanize }} requests/s; the last half hour none.",
            dashboard="routes",
            by=("job", "http_route"),
            hold="10m",
        ),
    )
