"""The telemetry's own health: what is lost here makes every other rule blind."""

from __future__ import annotations

from obskit.export.rules.model import Alert
from obskit.export.rules.series import CountedSeries, Series, ours, rare


def alerts(series: Series) -> tuple[Alert, ...]:
    exports = "obskit_telemetry_exports_total"
    by_signal = "sum by (job, instance, signal)"
    return (
        Alert(
            name="ObskitTelemetryExportFailing",
            expr=f'{by_signal} (rate({exports}{{<job>,outcome="failure"}}[5m])) '
            f"/ {by_signal} (rate({exports}{{<job>}}[5m])) > 0.5",
            severity="warning",
            summary="Export of {{ $labels.signal }} from {{ $labels.instance }} of {{ $labels.job }} fails",
            description="{{ $value | humanizePercentage }} of its exports fail; what waits too long is dropped.",
            dashboard="telemetry",
            by=("job", "instance"),
            hold="5m",
            keep_firing="10m",
        ),
        Alert(
            name="ObskitTelemetryDropped",
            expr=rare("obskit_telemetry_dropped_total", "job", "signal", "reason"),
            severity="warning",
            summary="{{ $labels.job }} loses {{ $labels.signal }} ({{ $labels.reason }})",
            description="{{ $value | humanize }} lost in 10 minutes.",
            dashboard="telemetry",
            hold="5m",
            keep_firing="15m",
        ),
        Alert(
            name="ObskitCardinalityLimit",
            expr="max by (job, metric) (obskit_metric_series{<job>} / obskit_metric_series_limit{<job>}) > 0.8",
            severity="warning",
            summary="{{ $labels.metric }} of {{ $labels.job }} is near its series limit",
            description="{{ $value | humanizePercentage }} of the limit is used; "
            'beyond it new routes and errors are counted together as "other".',
            dashboard="telemetry",
            hold="5m",
            keep_firing="15m",
        ),
        Alert(
            name="ObskitLogsSilent",
            # Not of a service that writes warnings only, which has none to write while all is well. Both from the
            # counters: a recorded series has no zeros for the time before a service was there.
            expr=f"({series.requests('5m')} > 0.1) unless on (job) ({_lines('15m')} > 0) "
            f"unless on (job) ({_lines('6h')} < 0.1 * {CountedSeries().requests('6h')}) {ours()}",
            severity="warning",
            summary="{{ $labels.job }} serves requests and writes no log",
            description="{{ $value | humanize }} requests/s and not one line in 15 minutes.",
            dashboard="telemetry",
            hold="10m",
        ),
        Alert(
            name="ObskitInternalErrors",
            expr=rare("obskit_internal_errors_total", "job", "stage"),
            severity="warning",
            summary="obskit itself fails in {{ $labels.job }} ({{ $labels.stage }})",
            description="{{ $value | humanize }} errors of its own in 10 minutes. "
            "The application is not affected; its telemetry is.",
            dashboard="telemetry",
            keep_firing="15m",
        ),
        Alert(
            name="ObskitTargetDown",
            expr="up{<job>} == 0 and on (job, instance) last_over_time(obskit_app_info{<job>}[1d])",
            severity="warning",
            summary="{{ $labels.instance }} of {{ $labels.job }} cannot be scraped",
            description="Prometheus still expects it, and has had no answer for 5 minutes.",
            dashboard="telemetry",
            by=("job", "instance"),
            hold="5m",
        ),
    )


def _lines(window: str) -> str:
    return f"sum by (job) (rate(obskit_log_records_total{{<job>}}[{window}]))"
