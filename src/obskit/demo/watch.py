"""What /metrics says, and only that: scrapes, increases between them, rates, and quantiles as Prometheus has them."""

from __future__ import annotations

import http.client
import math
import re
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from obskit import names

WINDOW_S = 30.0
SCRAPE_TIMEOUT_S = 5.0

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]

_DURATION_BUCKET = f"{names.REQUEST_DURATION.name}_bucket"
_DURATION_COUNT = f"{names.REQUEST_DURATION.name}_count"
_WATCHED = frozenset(
    {
        _DURATION_BUCKET,
        _DURATION_COUNT,
        names.ACTIVE_REQUESTS.name,
        names.OUTCOMES.name,
        names.FINDINGS.name,
    }
)

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


def parse(text: str, watched: frozenset[str] = _WATCHED) -> Samples:
    """The samples of text format 0.0.4 whose names are in `watched`; other lines are passed over unread."""
    samples: Samples = {}
    for line in text.split("\n"):  # and nowhere else: a label may hold what Python takes for a line end
        if line.partition("{")[0].partition(" ")[0] not in watched:
            continue
        found = _SAMPLE.match(line)
        if found is None:
            raise ValueError(f"no line of the Prometheus text format: {line!r}")
        pairs = _LABEL.findall(found[2] or "")
        labels = tuple(sorted((name, _ESCAPED.sub(_unescape, value)) for name, value in pairs))
        samples[found[1], labels] = float(found[3])
    return samples


def _unescape(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


def histogram_quantile(quantile: float, buckets: Iterable[tuple[float, float]]) -> float:
    """The `quantile` (0 to 1) of cumulative `buckets` (upper bound, count), as Prometheus' function of that name.

    Linear within a bucket, whose lower bound is 0 for the first; the highest finite bound if the quantile lies
    beyond it. NaN without observations or without a +Inf bucket.
    """
    ordered = sorted(buckets)
    if len(ordered) < 2 or ordered[-1][0] != math.inf:
        return math.nan
    # Scraped while being written, or made of sums of floats: Prometheus mends what is not monotonic, too.
    counts = [0.0]
    for _, count in ordered:
        counts.append(max(count, counts[-1]))
    total = counts[-1]
    if total == 0 or math.isnan(quantile):
        return math.nan
    if not 0 <= quantile <= 1:
        return math.copysign(math.inf, quantile)
    rank = quantile * total
    index = next(i for i, count in enumerate(counts[1:]) if count >= rank)
    if index == len(ordered) - 1:
        return ordered[-2][0]
    upper = ordered[index][0]
    if index == 0 and upper <= 0:
        return upper
    lower = ordered[index - 1][0] if index else 0.0
    inside = counts[index + 1] - counts[index]
    return lower + (upper - lower) * ((rank - counts[index]) / inside) if inside else lower


@dataclass(frozen=True)
class RouteReport:
    """One route over a stretch of time; quantiles in seconds, NaN without requests."""

    route: str
    methods: tuple[str, ...]
    requests: int
    errors: int
    rate: float
    p50_s: float
    p95_s: float
    other_outcomes: dict[str, int] = field(default_factory=dict)
    """Since the start, by outcome, without `completed`: they are too rare for a window."""


@dataclass(frozen=True)
class Report:
    """All routes over `seconds`: requests per second, and the share of them that are errors (0 to 1)."""

    seconds: float
    requests: int
    errors: int
    rate: float
    error_ratio: float
    in_flight: int
    routes: tuple[RouteReport, ...]
    findings: dict[str, int] = field(default_factory=dict)
    """What the detectors found since the start, by name."""


def summarise(increase: Mapping[tuple[str, Labels], float], since_start: Samples, seconds: float) -> Report:
    """A report on `increase`, what the counters grew by in `seconds`; outcomes and in-flight from `since_start`."""
    requests: dict[str, float] = defaultdict(float)
    errors: dict[str, float] = defaultdict(float)
    methods: dict[str, set[str]] = defaultdict(set)
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    outcomes: dict[str, dict[str, int]] = defaultdict(dict)
    findings: dict[str, int] = defaultdict(int)
    in_flight = 0.0
    for (name, labels), value in increase.items():
        of = dict(labels)
        if name == _DURATION_COUNT:
            route = of["http_route"]
            requests[route] += value
            if value > 0 and (of["error_type"] or of["http_response_status_code"].startswith("5")):
                errors[route] += value
        elif name == _DURATION_BUCKET:
            buckets[of["http_route"]][float(of["le"])] += value
    for (name, labels), value in since_start.items():
        of = dict(labels)
        if name == _DURATION_COUNT:
            methods[of["http_route"]].add(of["http_request_method"])
        elif name == names.OUTCOMES.name and of["outcome"] != "completed" and value > 0:
            outcomes[of["http_route"]][of["outcome"]] = int(value)
        elif name == names.FINDINGS.name and value > 0:
            findings[of["finding"]] += int(value)
        elif name == names.ACTIVE_REQUESTS.name:
            in_flight += value
    span = max(seconds, 1e-9)
    routes = tuple(
        RouteReport(
            route,
            tuple(sorted(methods[route])),
            int(requests[route]),
            int(errors[route]),
            requests[route] / span,
            histogram_quantile(0.5, buckets[route].items()),
            histogram_quantile(0.95, buckets[route].items()),
            outcomes.get(route, {}),
        )
        # What no route matched comes last, the rest by name: rows that jump about cannot be read.
        for route in sorted(methods, key=lambda route: (not route.startswith("/"), route))
    )
    total, failed = sum(requests.values()), sum(errors.values())
    ratio = failed / total if total else 0.0
    return Report(
        seconds, int(total), int(failed), total / span, ratio, int(in_flight), routes, dict(findings)
    )


class Watch:
    """Scrapes one /metrics and remembers what its counters grew by, over restarts of the process behind it."""

    def __init__(self, port: int, path: str = "/metrics") -> None:
        self._port = port
        self._path = path
        self._last: Samples = {}
        self._grown: Samples = {}
        self._started = time.monotonic()
        self._history: deque[tuple[float, Samples]] = deque([(self._started, {})])

    def scrape(self) -> None:
        """Fetch and take in one scrape. Raises OSError or http.client.HTTPException without an answer of 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SCRAPE_TIMEOUT_S)
        try:
            connection.request("GET", self._path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise http.client.HTTPException(f"{self._path} answered {response.status}")
        self.take(parse(body.decode("utf-8")), time.monotonic())

    def take(self, samples: Samples, at: float) -> None:
        """Take in what was scraped `at` that time (seconds, monotonic)."""
        grown = dict(self._grown)
        for key, value in samples.items():
            if key[0] == names.ACTIVE_REQUESTS.name:
                grown[key] = value
                continue
            before = self._last.get(key, 0.0)
            # A counter that fell was born again with its process: all it shows is new. One that is new counts
            # from 0, which Prometheus cannot know and we can: the first scrape came before the first request.
            grown[key] = grown.get(key, 0.0) + (value - before if value >= before else value)
        self._last, self._grown = samples, grown
        self._history.append((at, grown))
        while len(self._history) > 2 and self._history[1][0] <= at - WINDOW_S:
            self._history.popleft()

    @property
    def counted(self) -> int:
        """Requests that /metrics has counted since the start."""
        return int(sum(value for (name, _), value in self._grown.items() if name == _DURATION_COUNT))

    @property
    def in_flight(self) -> int:
        """Requests that were in flight at the last scrape."""
        return int(
            sum(value for (name, _), value in self._grown.items() if name == names.ACTIVE_REQUESTS.name)
        )

    def window(self) -> Report:
        """The last WINDOW_S seconds, or as much of them as has been seen."""
        (first_at, first), (last_at, last) = self._history[0], self._history[-1]
        increase = {key: value - first.get(key, 0.0) for key, value in last.items()}
        return summarise(increase, last, last_at - first_at)

    def since_start(self) -> Report:
        """Everything from the start to the last scrape."""
        return summarise(self._grown, self._grown, self._history[-1][0] - self._started)
