"""Queries, and the pieces of PromQL, LogQL and TraceQL that many panels share."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.models import loki, prometheus, tempo
from grafana_foundation_sdk.models.prometheus import PromQueryFormat as Format

from obskit.export.rules.series import born
from obskit_dashboards.variables import LOKI, PROMETHEUS, TEMPO

# ---- matchers ----------------------------------------------------------------------------------------

JOB = 'job=~"$job"'
SERVICE = f'{JOB},instance=~"$instance"'
METHOD = 'http_request_method=~"$http_request_method"'
ROUTE = f'{SERVICE},http_route=~"$http_route"'
ROUTE_METHOD = f"{ROUTE},{METHOD}"

REQUESTS = "http_server_request_duration_seconds"
OUTCOMES = "obskit_http_server_outcomes_total"
EXCEPTIONS = "obskit_exceptions_total"

# What a panel shows now, and what a table counts over the range that is looked at.
NOW = "$__rate_interval"
RANGE = "$__range"
_SECONDS = {NOW: "$__rate_interval_ms / 1000", RANGE: "$__range_s"}


# ---- PromQL ------------------------------------------------------------------------------------------


def rate(metric: str, matchers: str, by: str = "", suffix: str = "") -> str:
    """The rate per second of a counter, summed by the labels `by`; `suffix` goes behind the range (an offset)."""
    return f"{summed(by)} (rate({metric}{{{matchers}}}[{NOW}]{suffix}))"


def increase(metric: str, matchers: str, by: str = "", window: str = RANGE) -> str:
    """How much a counter grew in the range that is looked at, summed by the labels `by`."""
    return f"{summed(by)} (increase({metric}{{{matchers}}}[{window}]))"


def events(metric: str, matchers: str, by: str = "", window: str = RANGE) -> str:
    """How often something rare happened in the window, the first time included.

    `increase` needs two samples, so it does not see a counter that is born at 1: of a new series its value is what
    happened. New means what it means to the alerts, or a runbook would send its reader to an empty panel.
    """
    counter = f"{metric}{{{matchers}}}"
    new = born(counter, f"last_over_time({counter}[{window}])", window, _SECONDS[window], SERVICE)
    return f"{summed(by)} (({new}) or increase({counter}[{window}]))"


def summed(by: str) -> str:
    """`sum`, by the labels given."""
    return f"sum by ({by})" if by else "sum"


def or_zero(part: str, whole: str) -> str:
    """`part`, and 0 where there is a `whole` but no part: "no 5xx yet" is no series at all."""
    return f"({part} or 0 * {whole})"


def share(part: str, whole: str) -> str:
    """`part` of `whole`, from 0 to 1; nothing where there is no `whole`, for 0 / 0 would be NaN."""
    return f"{or_zero(part, whole)} / ({whole} > 0)"


def quantile(q: float, matchers: str, *, metric: str = REQUESTS, by: str = "", over: str = NOW) -> str:
    """A quantile of a histogram; nothing where nothing was observed, for that would be NaN."""
    function = "rate" if over == NOW else "increase"
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q:g}, sum by ({labels}) ({function}({metric}_bucket{{{matchers}}}[{over}]))) >= 0"


def status(matchers: str, pattern: str) -> str:
    """`matchers` and a status that the regular expression `pattern` matches."""
    return f'{matchers},http_response_status_code=~"{pattern}"'


# ---- LogQL and TraceQL -------------------------------------------------------------------------------

# No label of a log stream is certain; service_name is what OTLP ingestion and the usual collectors set.
LINES = '{service_name=~"$service"} | json'
CANONICAL = f'{LINES} | event="http.request"'
CHOSEN = 'http_route=~"$http_route" | http_request_method=~"$http_request_method"'

SPANS = 'resource.service.name=~"$service"'


# ---- queries -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Query:
    """One PromQL query of a panel and the name of its series."""

    expr: str
    legend: str = "__auto"
    exemplar: bool = False

    def over_time(self, ref: str, *, heatmap: bool = False) -> prometheus.Dataquery:
        """As a curve, or as the buckets of a heatmap."""
        query = self._query(ref)
        query.range_val, query.instant, query.exemplar = True, False, self.exemplar
        query.format_val = Format.HEATMAP if heatmap else Format.TIME_SERIES
        return query

    def now(self, ref: str, *, table: bool = False) -> prometheus.Dataquery:
        """As a figure of this moment. The last point of a curve would be an old one when the curve has ended."""
        query = self._query(ref)
        query.range_val, query.instant, query.exemplar = False, True, False
        query.format_val = Format.TABLE if table else Format.TIME_SERIES
        return query

    def _query(self, ref: str) -> prometheus.Dataquery:
        return prometheus.Dataquery(
            datasource=PROMETHEUS,
            expr=self.expr,
            legend_format=self.legend,
            editor_mode=prometheus.QueryEditorMode.CODE,
            ref_id=ref,
        )


def log_query(expr: str, lines: int = 200) -> loki.Dataquery:
    """The newest lines that a LogQL query finds."""
    return loki.Dataquery(
        datasource=LOKI,
        expr=expr,
        query_type="range",
        max_lines=lines,
        ref_id="A",
    )


def trace_query(query: str, *, spans: bool, limit: int = 50) -> tempo.Dataquery:
    """Spans, or whole traces, that a TraceQL query finds."""
    kind = tempo.SearchTableType.SPANS if spans else tempo.SearchTableType.TRACES
    return tempo.Dataquery(
        datasource=TEMPO, query=query, query_type="traceql", table_type=kind, limit=limit, ref_id="A"
    )
