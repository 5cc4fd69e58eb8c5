"""Telemetry: can the other dashboards be believed?"""

from __future__ import annotations

from pathlib import Path

from obskit_dashboards.board import Board, Row
from obskit_dashboards.panels import Column, Panel, logs, stat, table, timeseries
from obskit_dashboards.queries import LINES, NOW, SERVICE, Query, events, or_zero, rate, share
from obskit_dashboards.style import ANY_IS_BAD, EXPORTS, FILLED, LEVELS, LOST_EXPORTS

_INSTANCE = "{{job}} {{instance}}"
_EXPORTS = "obskit_telemetry_exports_total"
_DROPPED = "obskit_telemetry_dropped_total"
_INTERNAL = "obskit_internal_errors_total"

# Other scrapes run under the same Prometheus: only jobs that obskit has been seen in.
_OURS = (
    "* on (job, instance) group_left () group by (job, instance)"
    f" (last_over_time(obskit_app_info{{{SERVICE}}}[1d]))"
)


def board(grafana: Path) -> Board:
    """Targets, exports, drops, series, log levels, scrapes, obskit's own errors."""
    return Board(
        slug="telemetry",
        title="Telemetry health",
        description="Whether metrics, logs and traces arrive, and what obskit itself lost or got wrong.",
        rows=(
            Row("Scrapes", _scrapes()),
            Row("Exports and losses", _exports()),
            Row("Series", _series()),
            Row("Log lines and own errors", _lines()),
        ),
        hidden=frozenset({"http_route", "http_request_method"}),
    )


def _scrapes() -> list[Panel]:
    return [
        stat(
            "Targets down",
            "Targets that Prometheus cannot scrape: it sees nothing of them. See the target page of "
            "Prometheus for the error; 403 means that metrics_access does not let it in.",
            Query(f"sum((1 - up{{{SERVICE}}}) {_OURS})"),
            "short",
            empty="no target",
            thresholds=ANY_IS_BAD,
            height=8,
        ),
        timeseries(
            "Targets",
            "1 is scraped, 0 is not. While it is 0, all other panels show gaps for that instance.",
            Query(f"up{{{SERVICE}}} {_OURS}", _INSTANCE),
            "none",
            empty="no target",
            at_most=1,
            width=10,
        ),
        timeseries(
            "Scrape duration",
            "Near the scrape timeout: samples get lost. Usually too many series, see below.",
            Query(f"scrape_duration_seconds{{{SERVICE}}} {_OURS}", _INSTANCE),
            "s",
            empty="no target",
            width=10,
        ),
        timeseries(
            "Samples per scrape",
            "How many series each instance gives. A steady rise: a label takes values without end.",
            Query(f"scrape_samples_scraped{{{SERVICE}}} {_OURS}", _INSTANCE),
            "short",
            empty="no target",
            width=24,
            height=6,
        ),
    ]


def _exports() -> list[Panel]:
    every = rate(_EXPORTS, SERVICE, "signal")
    return [
        stat(
            "Failed exports",
            "Share of export calls that failed. Red: the collector is away or refuses; traces or logs of "
            "this time will be missing.",
            Query(share(rate(_EXPORTS, f'{SERVICE},outcome="failure"'), rate(_EXPORTS, SERVICE))),
            "percentunit",
            empty="nothing exported",
            thresholds=LOST_EXPORTS,
            height=8,
        ),
        timeseries(
            "Exports",
            "Calls to the collector, by signal and how they ended.",
            [
                Query(
                    or_zero(rate(_EXPORTS, f'{SERVICE},outcome="{outcome}"', "signal"), every),
                    f"{{{{signal}}}} {outcome}",
                )
                for outcome in ("success", "failure")
            ],
            "ops",
            empty="nothing exported",
            colours=EXPORTS,
            width=10,
        ),
        timeseries(
            "Lost log lines and spans",
            "By reason. A full queue: more is made than can be sent; sample, or give the collector more "
            "room. Anything here is missing in Loki or Tempo.",
            Query(rate(_DROPPED, SERVICE, "signal, reason"), "{{signal}} {{reason}}"),
            "ops",
            empty="none lost",
            width=10,
        ),
        timeseries(
            "Spans waiting to be exported",
            "As many as there may be: the oldest are lost. The collector is away or slow, or more spans are made "
            "than one thread can send.",
            [
                Query(f"sum by (signal) (obskit_telemetry_queue_size{{{SERVICE}}})", "{{signal}} waiting"),
                Query(
                    f"sum by (signal) (obskit_telemetry_queue_capacity{{{SERVICE}}})",
                    "there may be {{signal}}",
                ),
            ],
            "short",
            empty="no exporter",
            dashed=("/^there may be/",),
            width=24,
            height=6,
        ),
        table(
            "Lost in this range",
            "How many log lines and spans are missing, and why.",
            [Column("lost", f"{events(_DROPPED, SERVICE, 'signal, reason, job, instance')} > 0", "short")],
            ("signal", "reason", "job", "instance"),
            empty="none lost",
            sort="lost",
            height=6,
        ),
    ]


def _series() -> list[Panel]:
    used = f"obskit_metric_series{{{SERVICE}}}"
    limit = f"obskit_metric_series_limit{{{SERVICE}}}"
    return [
        timeseries(
            "Series against the limit",
            "Label sets in use, as share of the limit. At 1 new routes are counted as `other`: raise "
            "max_series, or find the label that takes too many values.",
            Query(f"max by (job, metric) ({used} / ({limit} > 0))", "{{metric}} {{job}}"),
            "percentunit",
            empty="no data",
            thresholds=FILLED,
        ),
        table(
            "Series by metric",
            "Fullest first.",
            [
                Column("in use", f"max by (job, metric) ({used})", "short"),
                Column("limit", f"max by (job, metric) ({limit})", "short"),
                Column("filled", f"max by (job, metric) ({used} / ({limit} > 0))", "percentunit", FILLED),
            ],
            ("metric", "job"),
            empty="-",
            sort="filled",
            width=12,
            height=8,
        ),
    ]


def _lines() -> list[Panel]:
    return [
        timeseries(
            "Log lines by level",
            "What the service writes. None at all while there is traffic: the log pipeline is cut. Errors "
            "without 5xx: trouble that no user has seen yet.",
            Query(rate("obskit_log_records_total", SERVICE, "level"), "{{level}}"),
            "ops",
            empty="no lines",
            colours=LEVELS,
            stacked=True,
        ),
        timeseries(
            "Errors of obskit itself",
            "How many, by stage. They were kept from the application, but telemetry of those requests is "
            "incomplete. Please report them with the stack from the lines below.",
            Query(events(_INTERNAL, SERVICE, "stage", NOW), "{{stage}}"),
            "short",
            empty="none",
            bars=True,
        ),
        logs(
            "What obskit says",
            "obskit's own lines: its start with what it found, warnings, and its errors with their stack.",
            f'{LINES} | logger=~"obskit([.].+)?" | logger!="obskit.http"',
        ),
    ]
