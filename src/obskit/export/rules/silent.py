"""Responses that a status code calls fine, or never calls anything: told by how requests ended, and by their size."""

from __future__ import annotations

from dataclasses import dataclass

from obskit.export.rules.model import Alert
from obskit.export.rules.series import OUTCOMES, REQUESTS, ROUTED, Series, ours, rare


@dataclass(frozen=True, slots=True)
class _Seldom:
    """An outcome that should not happen at all: the first one is news."""

    alert: str
    outcome: str
    summary: str
    description: str


SELDOM = (
    _Seldom(
        "ObskitTruncatedResponses",
        "truncated",
        "{{ $labels.http_route }} of {{ $labels.job }} sends responses that are cut short",
        "{{ $value | humanize }} in 10 minutes ended with fewer bytes than declared; their status says success.",
    ),
    _Seldom(
        "ObskitRaisedAfterHeaders",
        "raised_after_headers",
        "{{ $labels.http_route }} of {{ $labels.job }} fails in the middle of its responses",
        "{{ $value | humanize }} in 10 minutes were cut off by an exception after their status had been sent.",
    ),
    _Seldom(
        "ObskitNoResponse",
        "no_response",
        "{{ $labels.http_route }} of {{ $labels.job }} returns without answering",
        "{{ $value | humanize }} requests in 10 minutes got no response from the application, and no exception.",
    ),
    _Seldom(
        "ObskitRequestsCancelled",
        "cancelled",
        "{{ $labels.http_route }} of {{ $labels.job }} is cancelled by its server",
        "{{ $value | humanize }} requests in 10 minutes were ended by the server while their client was waiting.",
    ),
)


def alerts(series: Series) -> tuple[Alert, ...]:
    return (_client_disconnects(), *(_seldom(one) for one in SELDOM), _size_collapse())


def _seldom(one: _Seldom) -> Alert:
    return Alert(
        name=one.alert,
        expr=rare(OUTCOMES, "job", "http_route", matchers=f'outcome="{one.outcome}"'),
        severity="warning",
        summary=one.summary,
        description=one.description,
        dashboard="silent-failures",
        by=("job", "http_route"),
        keep_firing="15m",
    )


def _client_disconnects() -> Alert:
    left, all_of_them = f'{OUTCOMES}{{<job>,outcome="client_disconnect"}}', f"{OUTCOMES}{{<job>}}"
    by = "sum by (job, http_route)"

    def share(window: str, offset: str = "") -> str:
        return f"{by} (rate({left}[{window}]{offset})) / {by} (rate({all_of_them}[{window}]{offset}))"

    return Alert(
        name="ObskitClientDisconnects",
        # Somebody always leaves, and a stream of events ends in no other way: news is far more than yesterday, which
        # the fault itself cannot have changed. A route that had no yesterday is compared with its own day.
        expr=f"{share('10m')} > 0.1 and {by} (increase({left}[10m])) >= 10 "
        f"unless on (job, http_route) "
        f"({share('10m')} <= 2 * ({share('1d', ' offset 1d')} or {share('1d')}))",
        severity="warning",
        summary="Clients give up on {{ $labels.http_route }} of {{ $labels.job }}",
        description="{{ $value | humanizePercentage }} of its requests are abandoned before their answer, "
        "more than twice the share of the day before.",
        dashboard="silent-failures",
        by=("job", "http_route"),
        hold="5m",
        keep_firing="10m",
    )


def _size_collapse() -> Alert:
    by = "sum by (job, http_route, http_request_method)"
    size = "http_server_response_body_size_bytes"
    sent, answers = f"{size}_sum{{<job>,{ROUTED}}}", f"{size}_count{{<job>,{ROUTED}}}"
    good = f'{REQUESTS}{{<job>,{ROUTED},http_response_status_code=~"2.."}}'

    def mean(window: str, offset: str = "") -> str:
        return f"{by} (rate({sent}[{window}]{offset})) / ({by} (rate({answers}[{window}]{offset})) > 0)"

    return Alert(
        name="ObskitResponseSizeCollapse",
        # Against the whole day before, so that no hour with large downloads makes the next one look small, and
        # against the same half hour of yesterday, for what is large in the morning only. Answers without a body by
        # design (304) and errors, which other alerts tell of, are no collapse: most answers must be successes.
        expr=f"{mean('30m')} < 0.2 * ({mean('1d', ' offset 1h')} > 256) "
        f"and {mean('30m')} < 0.2 * {mean('30m', ' offset 1d')} "
        f"and {by} (increase({answers}[30m])) >= 20 "
        f"and {by} (rate({good}[30m])) > 0.8 * {by} (rate({REQUESTS}{{<job>,{ROUTED}}}[30m])) {ours()}",
        severity="warning",
        summary="Answers of {{ $labels.http_route }} of {{ $labels.job }} have shrunk",
        description="Successful answers to {{ $labels.http_request_method }} have {{ $value | humanize1024 }}B on "
        "average, less than a fifth of what they had in the day before.",
        dashboard="routes",
        by=("job", "http_route", "http_request_method"),
        hold="10m",
        keep_firing="10m",
    )
