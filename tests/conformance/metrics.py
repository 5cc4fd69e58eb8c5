"""What /metrics says about HTTP requests, and what of it changed between two scrapes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import httpx

TEXT = "text/plain; version=0.0.4"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

DURATION = "http_server_request_duration_seconds"
TTFB = "http_server_time_to_first_byte_seconds"
OUTCOMES = "obskit_http_server_outcomes_total"
REQUEST_SIZE = "http_server_request_body_size_bytes"
RESPONSE_SIZE = "http_server_response_body_size_bytes"
ACTIVE = "http_server_active_requests"
INTERNAL_ERRORS = "obskit_internal_errors_total"
FINDINGS = "obskit_findings_total"
DUPLICATES = "obskit_duplicate_requests_total"
PARTIAL_WRITES = "obskit_partial_writes_total"
INVARIANTS = "obskit_invariant_checks_total"

# Buckets are left out but for exemplars: a page holds thousands, and the counts say the same.
_READ = (
    f"{DURATION}_count",
    f"{DURATION}_sum",
    f"{TTFB}_count",
    f"{TTFB}_sum",
    f"{REQUEST_SIZE}_sum",
    f"{RESPONSE_SIZE}_sum",
    ACTIVE,
    OUTCOMES,
    INTERNAL_ERRORS,
    FINDINGS,
    DUPLICATES,
    PARTIAL_WRITES,
    INVARIANTS,
)
_SAMPLE = re.compile(rf"^({'|'.join(_READ)})(?:\{{(.*)\}})? (\S+)", re.M)
_EXEMPLAR = re.compile(rf'^{DURATION}_bucket\{{(.*)\}} \S+ # \{{.*?trace_id="([0-9a-f]{{32}})"', re.M)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = frozenset[tuple[str, str]]


def _labels(text: str | None) -> Labels:
    pairs = _LABEL.findall(text or "")
    return frozenset(
        (name, value.replace(r"\"", '"').replace(r"\n", "\n").replace("\\\\", "\\")) for name, value in pairs
    )


@dataclass(frozen=True)
class Scrape:
    samples: dict[tuple[str, Labels], float]

    @classmethod
    def parse(cls, text: str) -> Scrape:
        return cls({(m[1], _labels(m[2])): float(m[3]) for m in _SAMPLE.finditer(text)})

    def since(self, before: Scrape) -> Change:
        changed = {
            key: value - before.samples.get(key, 0.0)
            for key, value in self.samples.items()
            if value != before.samples.get(key, 0.0)
        }
        return Change(changed)


@dataclass(frozen=True)
class Change:
    """The difference of two scrapes: only what moved."""

    samples: dict[tuple[str, Labels], float]

    def _of(self, name: str) -> list[tuple[dict[str, str], float]]:
        return [(dict(labels), value) for (key, labels), value in self.samples.items() if key == name]

    def requests(self) -> Counter[tuple[str, str, str]]:
        """How many requests were counted, by (route, method, status as label)."""
        found: Counter[tuple[str, str, str]] = Counter()
        for labels, value in self._of(f"{DURATION}_count"):
            key = (labels["http_route"], labels["http_request_method"], labels["http_response_status_code"])
            found[key] += int(value)
        return found

    def error_types(self) -> set[str]:
        return {labels["error_type"] for labels, _ in self._of(f"{DURATION}_count")}

    def outcomes(self) -> Counter[tuple[str, str]]:
        """How many requests were counted, by (route, outcome)."""
        found: Counter[tuple[str, str]] = Counter()
        for labels, value in self._of(OUTCOMES):
            found[labels["http_route"], labels["outcome"]] += int(value)
        return found

    def duration_sum(self) -> float:
        return sum(value for _, value in self._of(f"{DURATION}_sum"))

    def first_bytes(self) -> int:
        """How many times to first byte were observed."""
        return int(sum(value for _, value in self._of(f"{TTFB}_count")))

    def first_byte_sum(self) -> float:
        return sum(value for _, value in self._of(f"{TTFB}_sum"))

    def request_bytes(self) -> int:
        return int(sum(value for _, value in self._of(f"{REQUEST_SIZE}_sum")))

    def response_bytes(self) -> int:
        return int(sum(value for _, value in self._of(f"{RESPONSE_SIZE}_sum")))

    def findings(self) -> Counter[tuple[str, str]]:
        """How many findings were counted, by (finding, route)."""
        return Counter(
            {(labels["finding"], labels["http_route"]): int(v) for labels, v in self._of(FINDINGS)}
        )

    def kinds(self, metric: str) -> Counter[tuple[str, str]]:
        """What a finding's own counter counted, by (kind, route)."""
        return Counter({(labels["kind"], labels["http_route"]): int(v) for labels, v in self._of(metric)})

    def invariants(self) -> Counter[tuple[str, str]]:
        """How many assumptions were checked, by (name, result)."""
        return Counter(
            {(labels["invariant"], labels["result"]): int(v) for labels, v in self._of(INVARIANTS)}
        )

    def left_active(self) -> int:
        """How many more requests are in flight than before."""
        return int(sum(value for _, value in self._of(ACTIVE)))

    def internal_errors(self) -> dict[str, float]:
        return {labels.get("stage", ""): value for labels, value in self._of(INTERNAL_ERRORS)}


def scrape(http: httpx.Client, port: int) -> Scrape:
    """One scrape in the classic text format."""
    return Scrape.parse(_get(http, port, TEXT))


def exemplar_trace_ids(http: httpx.Client, port: int, routes: set[str]) -> set[str]:
    """The trace ids in the exemplars of the routes' duration buckets, by an OpenMetrics scrape."""
    found = _EXEMPLAR.findall(_get(http, port, OPENMETRICS))
    return {trace_id for labels, trace_id in found if dict(_labels(labels))["http_route"] in routes}


def _get(http: httpx.Client, port: int, accept: str) -> str:
    response = http.get(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    assert response.status_code == 200, f"/metrics answered {response.status_code}: {response.text[:300]}"
    media_type = accept.split(";", maxsplit=1)[0]
    assert response.headers["content-type"].startswith(media_type), response.headers["content-type"]
    return response.text
