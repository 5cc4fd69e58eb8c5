"""The few series that more than one family of rules is written with, recorded or from the counters themselves.

Prometheus evaluates recording rules first and alerts read their result. Grafana-managed rules cannot count on
recorded series, because recording there needs a place to write to: they read the counters.
"""

from __future__ import annotations

from typing import Protocol

from obskit.export.rules.model import Recording

# Probes are not users: many of them would hide a broken route, and one failing probe is the platform's business.
_PROBED = "/(healthz?|readyz?|livez?|ping|metrics)(/.*)?"
PROBES = f'http_route!~"{_PROBED}"'

# What scanners ask for comes and goes, and is no route of the application.
ROUTED = f'http_route!~"unmatched|other|{_PROBED}"'

REQUESTS = "http_server_request_duration_seconds_count"
OUTCOMES = "obskit_http_server_outcomes_total"


def ours(*labels: str) -> str:
    """Keeps what belongs to a service of ours: other libraries give out metrics of the same standard names."""
    on = ", ".join(labels or ("job",))
    return f"and on ({on}) group by ({on}) (obskit_app_info{{<job>}})"


class Series(Protocol):
    """Requests per second without probes, averaged over a window, by job or by job and route."""

    def requests(self, window: str, offset: str = "") -> str:
        """Of each job."""
        ...

    def route_requests(self, window: str, offset: str = "") -> str:
        """Of each route of each job."""
        ...


class RecordedSeries:
    """Read from the recordings below."""

    def requests(self, window: str, offset: str = "") -> str:
        return f"avg_over_time(job:http_server_requests:rate5m{{<job>}}[{window}]{_offset(offset)})"

    def route_requests(self, window: str, offset: str = "") -> str:
        return f"avg_over_time(job_route:http_server_requests:rate5m{{<job>}}[{window}]{_offset(offset)})"


class CountedSeries:
    """Computed from the counters when they are asked for."""

    def requests(self, window: str, offset: str = "") -> str:
        return f"sum by (job) (rate({REQUESTS}{{<job>,{PROBES}}}[{window}]{_offset(offset)}))"

    def route_requests(self, window: str, offset: str = "") -> str:
        return f"sum by (job, http_route) (rate({REQUESTS}{{<job>,{ROUTED}}}[{window}]{_offset(offset)}))"


def recordings() -> tuple[Recording, ...]:
    """What RecordedSeries reads."""
    return (
        Recording(
            "job:http_server_requests:rate5m",
            f"sum by (job) (rate({REQUESTS}{{<job>,{PROBES}}}[5m])) {ours()}",
        ),
        Recording(
            "job_route:http_server_requests:rate5m",
            f"sum by (job, http_route) (rate({REQUESTS}{{<job>,{ROUTED}}}[5m])) {ours()}",
        ),
    )


def _offset(offset: str) -> str:
    return f" offset {offset}" if offset else ""


def rare(metric: str, *by: str, matchers: str = "", window: str = "10m") -> str:
    """Whether a counter that should stand still has moved in `window`, by the labels `by`.

    increase() of a series needs two samples, so it misses the first event of a series that is born with it: `born`
    adds those.
    """
    selector = f"{metric}{{<job>,{matchers}}}" if matchers else f"{metric}{{<job>}}"
    labels = ", ".join(by)
    return (
        # Rounded for the message: increase() extrapolates one event in ten minutes to 1.1.
        f"round(sum by ({labels}) (increase({selector}[{window}]))) > 0 or "
        f"sum by ({labels}) ({born(selector, selector, window, f'seconds({window})', '<job>')}) > 0"
    )


def born(counter: str, now: str, window: str, window_s: str, service: str) -> str:
    """The values `now` of those series of `counter` that were not there one `window` ago (`window_s` seconds).

    Only of processes that were watched then or are younger than the window: otherwise every old counter would count
    as news on the day Prometheus first sees the service, or sees it again. "Before" is one window, no more: a longer
    look back would still find the counter of the process that ran before a restart, and hide the first event of the
    one that runs now. The counters of several workers outlive each of them, so the oldest worker says how old they are.
    `service` are the matchers of the service's own series.
    """
    return (
        f"({now} unless last_over_time({counter}[{window}] offset {window})) "
        f"and on (job, instance) (obskit_app_info{{{service}}} offset {window} "
        f"or time() - min by (job, instance) (process_start_time_seconds{{{service}}}) < {window_s})"
    )
