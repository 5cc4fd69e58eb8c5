"""A scraper beside Prometheus: a new connection each time, so any worker may answer; no counter may be seen to fall."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Sequence

EVERY_S = 0.2
TIMEOUT_S = 2.0
DURATION_COUNT = "http_server_request_duration_seconds_count"

_TYPE = re.compile(r"^# TYPE (\S+) (\S+)$", re.M)


def scrape(port: int, timeout_s: float = TIMEOUT_S) -> tuple[str, float]:
    """The page, and the seconds it took. Raises OSError or HTTPException when there is none."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain;version=0.0.4"})
        response = connection.getresponse()
        text = response.read().decode("utf-8")
        if response.status != 200:
            raise http.client.HTTPException(f"{response.status}: {text[:200]}")
    finally:
        connection.close()
    return text, time.perf_counter() - began


def samples(text: str) -> dict[str, float]:
    """Every sample of a page by its name with labels, as they are written."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            found[series] = float(value)
    return found


def cumulative(text: str) -> dict[str, float]:
    """The samples of counters and histograms of all workers together; those of one worker end with it."""
    kinds = {
        name: kind
        for family, kind in _TYPE.findall(text)
        for name in (family, f"{family}_total", f"{family}_bucket", f"{family}_count", f"{family}_sum")
        if kind in ("counter", "histogram")
    }
    return {
        series: value
        for series, value in samples(text).items()
        if series.partition("{")[0] in kinds and 'worker="' not in series
    }


def fell(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """The series that are lower in the later page, or no longer there."""
    return [
        f"{series}: {value!r} then {after.get(series)!r}"
        for series, value in before.items()
        if after.get(series, -1.0) < value
    ]


def total(text: str, name: str) -> float:
    """The sum of all samples of this name."""
    return sum(value for series, value in samples(text).items() if series.partition("{")[0] == name)


def lag_s(answered_at: Sequence[float], counted: Sequence[tuple[float, float]]) -> float:
    """For how long, at most, an answer that a client had as a whole was missing from the counter.

    `answered_at` is when each answer was whole; of each scrape `counted` has when it was asked for, and its count.
    """
    behind = [asked - answered_at[int(count)] for asked, count in counted if count < len(answered_at)]
    return max([0.0, *behind])


class Scraper:
    """Scrapes over and over in a thread of its own, until `stop`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scraper", daemon=True)
        self.pages = 0
        self.missed = 0
        """Scrapes without an answer: the worker that took the connection died or hung."""
        self.fallen: list[str] = []
        self.seconds: list[float] = []
        self.counted: list[tuple[float, float]] = []
        """When each scrape was asked for (monotonic clock), and how many requests it counted."""
        self.most_series = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        before: dict[str, float] = {}
        while not self._stopping.wait(EVERY_S):
            asked = time.monotonic()
            try:
                text, seconds = scrape(self._port)
            except (OSError, http.client.HTTPException):
                self.missed += 1
                continue
            after = cumulative(text)
            self.fallen += fell(before, after)
            before = after
            self.counted.append((asked, total(text, DURATION_COUNT)))
            self.pages += 1
            self.seconds.append(seconds)
            self.most_series = max(self.most_series, len(after))
