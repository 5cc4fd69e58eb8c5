"""Ended spans on their way to an exporter: a bounded queue, and every span of it sent or counted as lost.

Not the SDK's batch processor, which does the same without the accounts: it logs from inside the request when it is
full, waits half a minute for a collector that hangs when the process is to end, and loses spans silently then.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from obskit.signals.collector import FINE, Hush, Saw, Teller, heard_of, saw_of
from obskit.signals.otlp_wire import Encoded
from obskit.signals.scrubbing import scrubbed

STAGE = "traces.queue"
MAX_HOLD_S = 30.0
"""How long a collector may make us wait that asks for it with Retry-After."""
MAX_REQUEST = 4 << 20
"""Bytes of one request: what receivers take by default."""
SLICE = 16
REST_S = 0.000_1
"""After so many spans are made ready, who answers requests gets the interpreter: it would be kept from them until the
whole batch is done, or for the five milliseconds that the interpreter gives a thread."""


class Books(Protocol):
    """Where losses, exports and faults of ours are counted."""

    def export(self, outcome: str) -> None: ...
    def dropped(self, reason: str, spans: int) -> None: ...
    def fault(self, stage: str, error: BaseException) -> None: ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """The OTEL_BSP_* settings."""

    capacity: int = 2048
    batch: int = 512
    delay_s: float = 5.0

    @classmethod
    def from_environ(cls) -> Sizes:
        """A value that is no number above 0 is told and the default taken, as OpenTelemetry's specification has it."""
        capacity = _number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        batch = _number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
        return cls(capacity, min(batch, capacity), _number("OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000)


def _parts(ready: list[ReadableSpan | Encoded]) -> Iterator[list[ReadableSpan | Encoded]]:
    """Requests that are not too large for a receiver; what is not encoded has no size yet."""
    part: list[ReadableSpan | Encoded] = []
    size = 0
    for span in ready:
        more = len(span.data) if isinstance(span, Encoded) else 0
        if part and size + more > MAX_REQUEST:
            yield part
            part, size = [], 0
        part.append(span)
        size += more
    if part:
        yield part


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "").strip()
    if value.isascii() and value.isdigit() and 0 < int(value[:12]) <= 10_000_000:
        return int(value)
    if value:
        told = {"variable": name, "value": value[:64], "used": default}
        logging.getLogger("obskit").warning("telemetry.setting_ignored", extra=told)
    return default


class SpanQueue(SpanProcessor):
    """Takes spans from any thread and hands them to `exporter` in batches, from a thread of its own.

    A span in it is waiting, or under way, and then sent or lost; each loss is counted when it happens.
    """

    def __init__(
        self, exporter: SpanExporter, books: Books, teller: Teller, sizes: Sizes | None = None
    ) -> None:
        self._exporter = exporter
        self._encode: Callable[[ReadableSpan], Encoded] | None = getattr(exporter, "encode", None)
        self._books = books
        self._teller = teller
        self._sizes = sizes or Sizes.from_environ()
        self._hush = Hush()
        self._hush.attach()
        self.before_flush: Callable[[], None] = lambda: None
        """Puts in what has ended and is not here yet."""
        self._closed = False
        self._restart()
        if hasattr(os, "register_at_fork"):
            child = weakref.WeakMethod(self._restart)
            os.register_at_fork(after_in_child=lambda: (restart := child()) and restart())

    def _restart(self) -> None:
        # In a forked child too: what waits is sent by the parent, and its thread is not here.
        self._waiting: deque[ReadableSpan | Encoded] = deque()
        # Where spans are put: the same, but for a queue that is closed.
        self._into: deque[ReadableSpan | Encoded] = deque(maxlen=0) if self._closed else self._waiting
        # So many need a look: the first one, which may have to start the thread, then each that makes a batch.
        self._enough = 1
        # Reentrant, for a garbage collection in here may end a span itself.
        self._lock = threading.RLock()
        # Shut while there is nothing to hurry for. A bare lock, which guards nothing: an Event has a lock inside, and
        # what ends a span in a garbage collection may do so inside of that.
        gate = threading.Lock()
        gate.acquire()
        self._wait, self._open = gate.acquire, gate.release
        self._hurried = False
        self._thread: threading.Thread | None = None
        self._flushes: list[threading.Event] = []
        self._under_way = 0
        self._pushed_out = 0
        self._hold_until = 0.0

    # ---- the side of the requests ------------------------------------------------------------------------------

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended. Never raises, never waits."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        self.put(span)

    def put(self, item: ReadableSpan | Encoded) -> None:
        """Take a span that is to be sent. Never raises, never waits."""
        try:
            # No lock: each of these is one step for the interpreter, and whoever sees that there are too many, or
            # enough for a batch, looks again under the lock.
            into = self._into
            into.append(item)
            if len(into) >= self._enough:
                self._look()
        except Exception as error:
            self._books.fault(STAGE, error)

    def _look(self) -> None:
        pushed_out = 0
        with self._lock:
            waiting = self._waiting
            while len(waiting) > self._sizes.capacity:
                waiting.popleft()
                pushed_out += 1
            self._pushed_out += pushed_out
            if len(waiting) >= self._sizes.batch:
                self._hurry()
        if pushed_out:
            self._books.dropped("queue_full", pushed_out)
        if self._thread is None:  # in a forked child
            self.begin()

    def _hurry(self) -> None:
        if not self._hurried:
            self._hurried = True
            self._enough = self._sizes.capacity + 1
            try:
                self._open()
            except RuntimeError:
                pass  # open already

    def begin(self) -> None:
        """Start the thread that exports."""
        with self._lock:
            if self._thread is not None or self._closed:
                return
            thread = self._thread = threading.Thread(target=self._run, name="obskit-spans", daemon=True)
            self._enough = self._sizes.batch
        try:
            thread.start()  # not under the lock: greenlets change places in here
        except BaseException:
            self._thread, self._enough = None, 1
            raise

    @property
    def size(self) -> int:
        """How many spans wait."""
        return len(self._waiting)

    @property
    def capacity(self) -> int:
        """How many may."""
        return self._sizes.capacity

    # ---- the side of the exporter -----------------------------------------------------------------------------

    def _run(self) -> None:
        # What the exporter does is no part of what it exports: instrumented HTTP clients stay silent in here.
        otel_context.attach(otel_context.set_value(otel_context._SUPPRESS_INSTRUMENTATION_KEY, True))
        while not self._closed:
            hold_s = self._hold_until - monotonic()
            self._wait(timeout=max(hold_s, self._sizes.delay_s))
            with self._lock:
                flushes, self._flushes = self._flushes, []
                # While it is to wait, full batches do not hurry it again.
                held = self._hurried = not flushes and self._hold_until > monotonic()
                # Before the queue is emptied: what was put until now is seen below, what comes later asks again.
                self._enough = self._sizes.capacity + 1 if held else self._sizes.batch
            try:
                if not held:
                    self._drain(whole=bool(flushes))
            except Exception as error:
                self._books.fault(STAGE, error)
            for done in flushes:
                done.set()
        try:
            self._drain(whole=True)
        except Exception as error:
            self._books.fault(STAGE, error)
        for done in self._flushes:
            done.set()
        self._hush.detach()

    def _drain(self, *, whole: bool) -> None:
        """Export all that waits now; or one batch, and more while there are whole ones and nobody asks for more."""
        left = len(self._waiting)
        while left > 0:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(self._sizes.batch, len(self._waiting)))]
                self._under_way = len(batch)
            if not batch:
                return
            self._export(batch)
            left -= len(batch)
            if not whole:
                left = len(self._waiting)
                if left < self._sizes.batch or self._flushes or self._hold_until > monotonic():
                    return

    def _export(self, batch: list[ReadableSpan | Encoded]) -> None:
        for part in _parts(self._ready(batch)):
            try:
                self._export_part(part)
            except Exception as error:
                self._books.fault(STAGE, error)
        with self._lock:
            pushed_out, self._pushed_out = self._pushed_out, 0
        if pushed_out:
            self._teller.pushed_out(pushed_out, self._sizes.capacity)

    def _export_part(self, part: list[ReadableSpan | Encoded]) -> None:
        if not self._under_way:
            return  # given up
        saw = Saw("failed")
        try:
            saw = self._sent(part)
        finally:
            with self._lock:
                given_up = not self._under_way
                self._under_way = max(0, self._under_way - len(part))
            if not given_up:
                self._settled(saw, len(part))

    def _ready(self, batch: list[ReadableSpan | Encoded]) -> list[ReadableSpan | Encoded]:
        """The spans without what is secret in them, as the exporter takes them.

        One that cannot be cleaned or encoded is lost, never sent as it was, and never takes others with it.
        """
        ready: list[ReadableSpan | Encoded] = []
        encode, made = self._encode, 0
        for span in batch:
            if isinstance(span, Encoded):
                ready.append(span)
                continue
            try:
                clean = scrubbed(span)
                ready.append(clean if encode is None else encode(clean))
            except Exception as error:
                self._books.fault("traces.scrub", error)
                with self._lock:
                    given_up = not self._under_way
                    self._under_way -= not given_up
                if not given_up:
                    self._books.dropped("unprintable", 1)
            made += 1
            if made % SLICE == 0:
                time.sleep(REST_S)
        return ready

    def _sent(self, batch: list[Any]) -> Saw:
        failure: Exception | None = None
        result = SpanExportResult.FAILURE
        with self._hush.listening() as heard:
            try:
                result = self._exporter.export(batch)
            except Exception as error:
                failure = error
        saw = saw_of(self._exporter)
        if result is SpanExportResult.SUCCESS:
            return saw if saw is not None and saw.kind in ("", "rejected") else FINE
        if saw is None or not saw.kind or failure is not None:
            saw = heard_of(heard, failure)
        return saw

    def _settled(self, saw: Saw, spans: int) -> None:
        if saw.retry_after_s:
            self._hold_until = monotonic() + min(saw.retry_after_s, MAX_HOLD_S)
        if not saw.kind:
            self._books.export("success")
            self._teller.arrived()
            if saw.says:
                self._teller.warned(saw.says)
        elif saw.kind == "rejected":
            lost = min(saw.rejected, spans)
            self._books.export("success")
            self._books.dropped("rejected", lost)
            self._teller.failed(saw, lost)
        else:
            self._books.export("failure")
            self._books.dropped("not_otlp" if saw.kind == "not_otlp" else "export_failed", spans)
            self._teller.failed(saw, spans)

    # ---- the end -----------------------------------------------------------------------------------------------

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what waits now; False if that takes longer than the time given."""
        self.before_flush()
        done = threading.Event()
        with self._lock:
            if self._closed or self._thread is None or not (self._waiting or self._under_way):
                return True
            self._flushes.append(done)
            self._hurried = False
            self._hurry()
        return done.wait(timeout_millis / 1000)

    def give_up(self) -> int:
        """Lose what was not sent until now, counted; returns how much it was."""
        with self._lock:
            spans = len(self._waiting) + self._under_way
            self._waiting.clear()
            self._under_way = 0
        if spans:
            self._books.dropped("shutdown", spans)
            self._teller.gave_up(spans)
        return spans

    def shutdown(self, timeout_s: float = 5.0) -> None:
        """Export what waits for at most so many seconds, count the rest as lost, and end."""
        self.before_flush()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._into = deque(maxlen=0)
            thread = self._thread
            self._hurried = False
            self._hurry()
        if thread is not None and thread.ident is not None:
            thread.join(timeout_s)
        self.give_up()
        # Also while it still exports: it is not to try again what was just counted as lost.
        self._exporter.shutdown()
        if thread is None or not thread.is_alive():
            self._hush.detach()
