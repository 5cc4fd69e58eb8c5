"""open → judge → report: the only place that guards the application against our own failures.

The pipeline knows neither framework nor signal library. It is handed its signals, detectors and endpoints by
`install` and calls them in a fixed order: on open traces come first, because they give the ids; on close detectors
come first, so that every signal shows what they found, and traces last, so that a span of a failed report still
carries what the others saw.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from secrets import token_hex
from threading import Lock
from time import monotonic, perf_counter_ns
from typing import TYPE_CHECKING, Any

from obskit.aside import WAIT_S, Once, aside, pause_until
from obskit.context import _current
from obskit.exchange import Exchange, Outcome
from obskit.findings import Detector, Judge
from obskit.judging import Judging
from obskit.names import UNMATCHED_ROUTE
from obskit.parts import (
    UNAVAILABLE,
    Answer,
    Blind,
    ContextSignal,
    Endpoint,
    LogSignal,
    MetricSignal,
    Observer,
    Reporter,
    Signal,
    Watching,
)
from obskit.redact import scrub
from obskit.together import FEW, Together
from obskit.trust import Trust

if TYPE_CHECKING:
    from contextvars import Token

    from obskit.config import Config

__all__ = ["UNAVAILABLE", "Answer", "Endpoint", "Entered", "Pipeline"]

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # which no secret looks like


Entered = tuple["Token[Exchange | None] | None", Any]

_TELL_EVERY_S = 60.0
# A member of an enumeration takes ten times as long to look up as a name.
_COMPLETED, _TIMEOUT = Outcome.COMPLETED, Outcome.TIMEOUT


class Pipeline(Judging):
    """One install: its config, its signals in order, and the endpoints answered before the application."""

    def __init__(
        self,
        config: Config,
        traces: ContextSignal,
        metrics: MetricSignal,
        logs: LogSignal,
        reporter: Reporter,
        endpoints: Mapping[str, Endpoint] | None = None,
        detectors: Sequence[tuple[Detector, Judge | None]] = (),
        watch: Watching | None = None,
    ) -> None:
        """`detectors` are asked in this order, each with its Judge if it has a memory."""
        self.config = config
        self.watch: Watching = watch or Blind()
        self.route_for: Callable[[str, str], str | None] | None = None
        """The route of a method and a path, where the framework can be asked; for what is rare."""
        self.notice: Mapping[str, Any] | None = None
        """What to say of this install where it begins to serve."""
        self.hears_shutdown = True
        """Whether its server tells this process that it is to end."""
        super().__init__(endpoints or {})
        self.excluded = frozenset(config.exclude)
        self.carrier_headers = traces.carrier_headers
        self.echo_request_id = config.echo_request_id
        self._trust = Trust(config.trusted_proxies) if config.trusted_proxies else None
        self.logs = logs
        self._traces = traces
        self._enter, self._leave, self._keeps = traces.enter, traces.leave, traces.keeps
        self._signals: tuple[Signal, ...] = (traces, metrics, logs)
        self._openers = tuple((f"{s.name}.open", s.opened) for s in (traces, metrics))
        # Right behind the count it is marked as counted, and let go when there is a line: a worker may be killed at any
        # moment, and its heir is to count what was not, and to tell of what has no line.
        self._closers: tuple[tuple[str, Callable[[Exchange], None]], ...] = (
            ("metrics.close", metrics.closed),
            ("watch.close", self.watch.counted),
            ("logs.close", logs.closed),
            ("watch.close", self.watch.closed),
            ("traces.close", traces.closed),
        )
        self._metrics = metrics
        self._reporter = reporter
        self._told: dict[str, float] = {}
        self._observers: tuple[Observer, ...] = ()
        self._together = Together(self._show, self._may_wait, self.failed)
        self._after_fork()
        self.ask(detectors)
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._after_fork)
            os.register_at_fork(after_in_child=lambda: (reset := child()) and reset())

    def _after_fork(self) -> None:
        self._begun = self._judging = False
        self._begin_lock = Lock()
        self._judging_lock = Lock()
        self._findings_lock = Lock()
        self._beginning = Once(lambda _: self.begin(), partial(self._late, "begin"))
        self._serving = Once(self._serve, partial(self._late, "watch.begin"), self._look)

    def begin(self) -> None:
        """Start what must run in the process that serves (exporters): at the first request or lifespan startup."""
        self._begin_signals()
        with self._judging_lock:
            if not self._judging:
                self._each_judge("begin")
                self._judging = True

    def _begin_signals(self) -> None:
        """What opens no file; the first span that ends is to find its exporter."""
        with self._begin_lock:
            if self._begun:
                return
            self._begun = True
            for signal in self._signals:
                try:
                    signal.begin()
                except Exception as error:
                    self.failed(f"{signal.name}.begin", error)
            if self.notice is not None:
                self.logs.emit("info", "obskit.installed", "obskit", self.notice)

    async def begun(self) -> None:
        """`begin`, seen from an event loop that is to go on meanwhile: files are opened."""
        if not self._judging:
            await aside(self._beginning.wait)

    def serve(self) -> None:
        """Start to watch. The first request waits for it, or no heir would know of it; a second at most."""
        self._serving.wait()

    def serve_soon(self) -> None:
        """The same from within an event loop, which goes on: what is counted meanwhile moves with it."""
        self._begin_signals()
        self._serving.start()
        pause_until(
            lambda: self._judging
        )  # a millisecond, without a lifespan: detectors are to have their memory

    async def serve_early(self) -> None:
        """The same at lifespan startup, where the socket is there already, as workers inherit it."""
        self._serving.look()
        await aside(lambda: self.serve() if self.watch.placed() else None)

    def _look(self) -> Any:
        try:
            return self.watch.look()
        except Exception as error:
            self.failed("watch.look", error)
            return None

    def _serve(self, seen: Any) -> None:
        self.begin()
        try:
            self.watch.begin(seen)
        except Exception as error:
            self.failed("watch.begin", error)

    def _late(self, stage: str) -> None:
        self.failed(stage, TimeoutError(f"not done within {WAIT_S:g} s: requests go on without it"))

    def open(self, exchange: Exchange, request_id: str | None) -> None:
        """Begin the record: ids, span, in-flight gauge. Never raises."""
        exchange.pipeline = self
        if not self._serving.over:
            try:
                self.serve()
            except Exception as error:
                self.failed("watch.begin", error)
        if self._trust is not None:  # first: every signal shows the client's address
            try:
                self._trust.apply(exchange)
            except Exception as error:
                exchange.queue_start = None
                self.failed("trust", error)
            if exchange.queue_start is not None:
                try:
                    self.watch.queued(exchange)
                except Exception as error:
                    self.failed("watch.open", error)
        elif exchange.queue_start is not None:
            exchange.queue_start = None  # no proxy is named: anybody may have sent it
        for stage, opened in self._openers:
            try:
                opened(exchange)
            except Exception as error:
                self.failed(stage, error)
        try:
            if not exchange.trace_id:  # the traces have failed: its lines still find each other
                exchange.trace_id, exchange.span_id = token_hex(16), token_hex(8)
            exchange.request_id = exchange.trace_id
            given = request_id
            if given is not None and (_UUID.fullmatch(given) or _is_name(given)):
                exchange.request_id = given
            self.watch.opened(exchange)
        except Exception as error:
            self.failed("watch.open", error)
        for stage, opened in self._watchers:
            try:
                opened(exchange)
            except Exception as error:
                self.failed(stage, error)

    def answering(self, exchange: Exchange) -> None:
        """The last byte of the answer is about to be handed to the server. Never raises."""
        try:
            self.watch.answering(exchange)
        except Exception as error:
            self.failed("watch.answering", error)

    def enter(self, exchange: Exchange) -> Entered:
        """Make the exchange current for application code; give the result to `leave` in the same context.

        Never raises.
        """
        token = None
        try:
            token = _current.set(exchange)
            return token, self._enter(exchange)
        except Exception as error:
            self.failed("traces.enter", error)
            return token, None

    def leave(self, entered: Entered | None) -> None:
        """Undo `enter`. Never raises: a generator closed from elsewhere leaves in a context it never entered."""
        if entered is None:
            return
        token, trace_token = entered
        try:
            if token is not None:
                _current.reset(token)
        except ValueError:
            return  # another context: nothing of ours is current in it, so there is nothing to undo
        except Exception as error:
            self.failed("traces.leave", error)
        if trace_token is not None:
            try:
                self._leave(trace_token)
            except Exception as error:
                self.failed("traces.leave", error)

    def close(self, exchange: Exchange) -> None:
        """Judge the record once and have every signal see it, now or a moment later. Never raises.

        A second call does nothing.
        """
        if exchange.closed:
            return
        together, uneventful = self._together, False
        try:
            uneventful = exchange.end(perf_counter_ns())
            if exchange.http_route is None:
                exchange.http_route = UNMATCHED_ROUTE
            self._detect(
                exchange, uneventful or (exchange.outcome is _COMPLETED and exchange.exception is None)
            )
            if not uneventful or exchange.findings:
                uneventful = False
                exchange.level = exchange.severity()
                if exchange.outcome is _TIMEOUT:
                    self.watch.timed_out()
        except Exception as error:
            uneventful = False
            exchange.outcome = exchange.outcome or Outcome.UNKNOWN
            self.failed("close", error)
        if not exchange.sampled:
            try:
                exchange.kept = self._keeps(exchange)
            except Exception as error:
                self.failed("traces.keeps", error)
        try:
            ended_ns = exchange.ended_ns or 0
            if uneventful and ended_ns < together.until_ns and self._rests(exchange):
                together.waiting.append(exchange)
                exchange.closed = True
                if len(together.waiting) >= FEW:
                    together.show()
                return
            if together.waiting:
                together.show()  # in the order in which they ended
            together.ended(ended_ns)
        except Exception as error:
            self.failed("close", error)
            if exchange.closed:
                return
        try:
            exchange.settle()
        except Exception as error:
            self.failed("close", error)
        for stage, closed in self._closers:
            try:
                closed(exchange)
            except Exception as error:
                self.failed(stage, error)
        exchange.closed = True
        exchange.exception = None  # its traceback holds our frames, which hold the exchange: break the cycle
        try:
            exchange.let_go()
        except Exception as error:
            self.failed("close", error)

    # ---- shown together ------------------------------------------------------------------------------------

    def _rests(self, exchange: Exchange) -> bool:
        """Prepare one for being shown later; false if there is a reason to do it at once. Raises what a signal raises.

        Who waits is in flight no more, its span has ended, and it stands where an heir of this worker looks.
        """
        if (
            exchange.protocol != "http"
            or exchange.kept
            or not self.watch.rests(exchange)
            or not self._traces.rests(exchange)
        ):
            return False
        self._metrics.left(exchange)
        exchange.let_go()
        return True

    def _may_wait(self) -> bool:
        return not self._observers and self.logs.may_wait() and self._traces.may_wait()

    def show(self) -> None:
        """Show what waits. Never raises: it is called by whoever writes a line or reads a metric next."""
        if self._together.waiting:
            try:
                self._together.show()
            except Exception as error:
                self.failed("close", error)

    def _show(self, records: list[Exchange]) -> None:
        """Count each, write their lines, let go of them: of a worker killed in between, the heir does what is left."""
        counted, unwritten = 0, iter(records)
        try:
            for exchange in records:
                exchange.settle()
            for exchange in records:
                try:
                    self._metrics.counted(exchange)
                except Exception as error:
                    self.failed("metrics.close", error)
                try:
                    self.watch.counted(exchange)
                except Exception as error:
                    self.failed("watch.close", error)
                counted += 1
            for _ in range(len(records) + 1):
                try:
                    self.logs.closed_together(unwritten)
                    break
                except Exception as error:
                    self.failed("logs.close", error)
            # Last, as they are everywhere: they show texts as the lines have cleaned them.
            for exchange in records:
                try:
                    self._traces.closed(exchange)
                except Exception as error:
                    self.failed("traces.close", error)
        except BaseException:  # there is no memory, or this thread is told to end
            self._together.put_back(records[counted:])
            for _ in zip(range(counted), unwritten, strict=False):
                self.dropped("logs", "shutdown")
            raise
        finally:
            for exchange in records[:counted]:
                try:
                    self.watch.closed(exchange)
                except Exception as error:
                    self.failed("watch.close", error)

    def inherited(self, exchange: Exchange, pid: int, *, counted: bool) -> None:
        """Show what a worker that is dead has answered, and could not show any more. Never raises."""
        if not counted:
            try:
                self._metrics.counted(exchange)
            except Exception as error:
                self.failed("metrics.close", error)
        try:
            self.logs.inherited(exchange, pid)
        except Exception as error:
            self.failed("logs.close", error)

    def lost(self, exchange: Exchange | None, stage: str, error: BaseException) -> None:
        """A door could not follow this request to its end: how it ended, nobody knows. Never raises."""
        try:
            self.failed(stage, error)
            if exchange is not None and not exchange.closed:
                exchange.outcome = exchange.outcome or Outcome.UNKNOWN
                self.close(exchange)
        except Exception:
            return  # as in `failed`

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Show each record to `observer` when all signals have seen it, until the returned function is called."""
        opener, closer = (
            (f"{observer.name}.open", observer.opened),
            (f"{observer.name}.close", observer.closed),
        )
        # New tuples each time: a request on its way walks over the old ones.
        self._openers += (opener,)
        self._closers += (closer,)
        self._observers += (observer,)
        self._together.stop()

        def stop() -> None:
            self._openers = tuple(one for one in self._openers if one is not opener)
            self._closers = tuple(one for one in self._closers if one is not closer)
            self._observers = tuple(one for one in self._observers if one is not observer)

        return stop

    def failed(self, stage: str, error: BaseException) -> None:
        """Count an error of our own and tell it at most once a minute per stage. Never raises."""
        try:
            self._reporter.internal_error(stage)
            now = monotonic()
            last = self._told.get(stage)
            if last is None or now - last >= _TELL_EVERY_S:
                self._told[stage] = now
                self.logs.tell(stage, error)
        except Exception:
            return  # nothing is left that could count or tell this; the application goes on

    def dropped(self, signal: str, reason: str) -> None:
        """Count telemetry that was lost. Never raises."""
        try:
            self._reporter.dropped(signal, reason)
        except Exception as error:
            self.failed("dropped", error)

    def flush(self, timeout_s: float) -> None:
        """Push out what is buffered, giving up after `timeout_s` seconds per signal. Never raises."""
        self.show()
        for signal in self._signals:
            try:
                signal.flush(timeout_s)
            except Exception as error:
                self.failed(f"{signal.name}.flush", error)

    def shutdown(self, timeout_s: float) -> None:
        """Flush and stop everything this install started, within `timeout_s` seconds per signal. Never raises."""
        self._serving.settle()
        try:
            self._together.end()
        except Exception as error:
            self.failed("close", error)
        for signal in self._signals:
            try:
                signal.shutdown(timeout_s)
            except Exception as error:
                self.failed(f"{signal.name}.shutdown", error)
        self._each_judge("shutdown")
        try:
            self.watch.shutdown()
        except Exception as error:
            self.failed("watch.shutdown", error)

    def goodbye(self) -> None:
        """This process is about to end in good order. Never raises."""
        self.show()
        try:
            self._traces.goodbye()
        except Exception as error:
            self.failed("traces.goodbye", error)
        try:
            self.watch.goodbye()
        except Exception as error:
            self.failed("watch.goodbye", error)


def _is_name(request_id: str) -> bool:
    """Whether it may be on every line: a name, and no token that somebody took for one."""
    return _REQUEST_ID.fullmatch(request_id) is not None and scrub(request_id) is request_id
