"""What an instrumented application told during a test: records, findings, lines, spans and how metrics grew."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from threading import Condition, get_ident
from time import monotonic, perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from weakref import ref

from prometheus_client import REGISTRY

from obskit.exchange import Exchange, Finding
from obskit.install import watch
from obskit.pipeline import Pipeline
from obskit.signals.logs import Logs
from obskit.signals.metrics import Metrics
from obskit.signals.traces import Traces
from obskit.testing.counts import Counts, unknown
from obskit.testing.memory import forgetful
from obskit.testing.spans import listen

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

T = TypeVar("T")

# A real server closes its record a little after the client has the last byte: how long reading waits for that.
SETTLE_S = 1.0

NOT_INSTALLED = (
    "no application of this process was installed with obskit, so there is nothing to see: call "
    "obskit.install(app), or import the module that does (and not after obskit.shutdown())"
)


class Telemetry:
    """Everything that the installs of this process tell while this is running: those there are, and those to come.

    A context manager; under pytest the fixture `telemetry` is one that runs. Detectors with a memory (of repeats,
    of what a route usually answers) begin with an empty one. Reading waits up to one second for requests that are on
    their way in other threads. All errors are AssertionErrors that say what was seen.
    """

    name = "testing"

    def __init__(self) -> None:
        self._changed = Condition()
        self._stops: list[Callable[[], None]] = []
        self._pipelines: list[Pipeline] = []
        self._counts: list[Counts] = []
        self._began_ns = self._began_unix_ns = 0
        self._open: dict[int, tuple[ref[Exchange], int]] = {}
        self._forget()

    def _forget(self) -> None:
        self._exchanges: list[Exchange] = []
        self._found: list[Finding] = []
        self._lines: list[dict[str, Any]] = []
        self._log_lines: list[dict[str, Any]] = []
        self._spans: list[ReadableSpan] = []

    def __enter__(self) -> Self:
        self._began_ns, self._began_unix_ns = perf_counter_ns(), time_ns()
        self._counts.append(Counts(REGISTRY))
        self._stops.append(watch(self._installed))
        return self

    def __exit__(self, *_: object) -> None:
        while self._stops:
            self._stops.pop()()

    def _installed(self, pipeline: Pipeline) -> None:
        metrics, logs = cast(Metrics, pipeline._metrics), cast(Logs, pipeline.logs)
        provider = cast(Traces, pipeline._traces)._provider.provider
        if all(cast(Traces, one._traces)._provider.provider is not provider for one in self._pipelines):
            self._stops.append(listen(provider, self._span_ended))
        self._counts.append(Counts(metrics.store))
        self._stops.append(forgetful(pipeline, logs._service[0]))
        self._stops.append(pipeline.observe(self))
        logs.listeners += (self._line_written,)
        self._stops.append(lambda: self._unhear(logs))
        self._pipelines.append(pipeline)

    def _unhear(self, logs: Logs) -> None:
        logs.listeners = tuple(one for one in logs.listeners if one != self._line_written)

    # ---- what the pipelines call ----------------------------------------------------------------------

    def opened(self, exchange: Exchange) -> None:
        with self._changed:
            self._open[id(exchange)] = (ref(exchange), get_ident())

    def closed(self, exchange: Exchange) -> None:
        logs = cast(Logs, exchange.pipeline.logs)
        line = json.loads(logs._format.canonical(exchange))
        with self._changed:
            self._open.pop(id(exchange), None)
            # One that began before the test (or before `clear`) is not of this test.
            if exchange.started_ns >= self._began_ns:
                self._exchanges.append(exchange)
                self._found.extend(exchange.findings)
                self._lines.append(line)
            self._changed.notify_all()

    def found(self, finding: Finding) -> None:
        with self._changed:
            self._found.append(finding)
            self._changed.notify_all()

    def _line_written(self, line: str) -> None:
        with self._changed:
            self._log_lines.append(json.loads(line))

    def _span_ended(self, span: ReadableSpan) -> None:
        with self._changed:
            if span.start_time is None or span.start_time >= self._began_unix_ns:
                self._spans.append(span)

    # ---- what a test reads ----------------------------------------------------------------------------

    @property
    def findings(self) -> list[str]:
        """The names of all findings in the order they were told, those outside of any request included."""
        self._settle()
        return [one.finding for one in self._found]

    def finding(self, name: str) -> Finding:
        """The only finding of this name."""
        self._settle()
        return self._only(f"finding {name!r}", [one for one in self._found if one.finding == name])

    @property
    def exchanges(self) -> list[Exchange]:
        """The closed records, in the order they closed."""
        self._settle()
        return list(self._exchanges)

    @property
    def exchange(self) -> Exchange:
        """The only closed record."""
        return self._only("request", self.exchanges)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The canonical lines as a log reader gets them, whatever log format and level are set."""
        self._settle()
        return list(self._lines)

    @property
    def line(self) -> dict[str, Any]:
        """The only canonical line."""
        return self._only("canonical line", self.lines)

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """All other lines that went through obskit: the application's own, its server's, obskit's notices."""
        self._settle()
        return list(self._log_lines)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The finished spans, those of database and client calls included."""
        self._settle()
        return list(self._spans)

    @property
    def span(self) -> ReadableSpan:
        """The only finished SERVER span: that of the request."""
        return self._only("server span", [one for one in self.spans if one.kind.name == "SERVER"])

    def metric(self, name: str, **labels: str) -> float:
        """How much a counter (or `_count`, `_sum`, `_bucket` of a histogram) grew; of a gauge its value now.

        `name` is the one a scrape shows. Series that have `labels` among theirs are added up, also over several
        installs; none is 0.0. The metrics that the application itself made with prometheus-client are there too.
        """
        self._settle()
        asked = {key: str(value) for key, value in labels.items()}
        names: set[str] = set()
        keys: set[str] = set()
        grown = [one.growth(name, asked, names, keys) for one in self._counts]
        known = [one for one in grown if one is not None]
        if not known:
            raise AssertionError(unknown(name, names))
        if keys and not asked.keys() <= keys:
            wrong = ", ".join(sorted(asked.keys() - keys))
            raise AssertionError(
                f"metric {name!r} has no label {wrong}; its labels are: {', '.join(sorted(keys))}"
            )
        return sum(known)

    def wait_for(self, n: int = 1, *, finding: str | None = None, timeout_s: float = 5.0) -> Self:
        """Wait until `n` requests have closed and, if named, `finding` was told. Returns itself.

        For what the client cannot see end: a server notices later that it left, background work fails later.
        Raises AssertionError, saying what was seen, after `timeout_s` seconds.
        """
        self._check_installed()

        def there() -> bool:
            told = finding is None or any(one.finding == finding for one in self._found)
            return len(self._exchanges) >= n and told

        with self._changed:
            if not self._changed.wait_for(there, timeout_s):
                wanted = f"{n} request(s)" + (f" and the finding {finding!r}" if finding else "")
                raise AssertionError(f"waited {timeout_s:g} s for {wanted}; {self._seen()}")
        return self

    def clear(self) -> None:
        """Forget what was told, and count metrics from here: what comes next is all that a test asks about."""
        self._settle()
        with self._changed:
            self._began_ns, self._began_unix_ns = perf_counter_ns(), time_ns()
            self._forget()
            for one in self._counts:
                one.reset()

    # ---- waiting, and saying what was seen ------------------------------------------------------------

    def _check_installed(self) -> None:
        if not self._pipelines:
            raise AssertionError(NOT_INSTALLED)

    def _settle(self) -> None:
        self._check_installed()
        here = [one for one, thread in self._on_their_way() if thread == get_ident() and _is_wsgi(one)]
        if here:
            del here[:]
            gc.collect()  # a response that nobody holds any more closes its record now
            here = [one for one, thread in self._on_their_way() if thread == get_ident() and _is_wsgi(one)]
        if here:
            raise AssertionError(
                f"the response to {here[0].method} {here[0].url_path} is still open, so its request has not ended: "
                "close it (`with client.get(...) as response:`, or response.close()), or ask the test client for a "
                "buffered one (client.get(..., buffered=True))"
            )
        deadline = monotonic() + SETTLE_S
        with self._changed:
            waited = {id(one) for one, thread in self._on_their_way() if thread != get_ident()}
            while waited & self._open.keys() and (left := deadline - monotonic()) > 0:
                self._changed.wait(left)

    def _on_their_way(self) -> list[tuple[Exchange, int]]:
        with self._changed:
            known = [(one(), thread) for one, thread in list(self._open.values())]
        return [(one, thread) for one, thread in known if one is not None and not one.closed]

    def _only(self, what: str, found: list[T]) -> T:
        if len(found) == 1:
            return found[0]
        raise AssertionError(f"expected one {what}, saw {len(found) or 'none'}; {self._seen()}")

    def _seen(self) -> str:
        if not self._exchanges and not self._found:
            hint = ""
            if "django.test.client" in sys.modules:
                hint = (
                    " (django.test.Client goes past the application that obskit.install returned: "
                    "use the fixture `served`)"
                )
            return f"no request was recorded{hint}"
        told = [
            f"{one.method} {one.http_route} {one.status or 'without status'} {one.outcome} "
            f"{[finding.finding for finding in one.findings]}"
            for one in self._exchanges[-10:]
        ]
        outside = [one.finding for one in self._found if not one.request_id]
        more = f"; outside of requests: {outside}" if outside else ""
        return f"seen were {len(self._exchanges)} request(s): {'; '.join(told)}{more}"


def _is_wsgi(exchange: Exchange) -> bool:
    # A WSGI call cannot be half-way while its own thread reads telemetry: only its response was never closed.
    request = exchange.request
    return request is not None and "REQUEST_METHOD" in request
