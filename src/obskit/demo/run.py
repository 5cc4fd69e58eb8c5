"""`obskit demo` from start to end: serve, send, watch, show; then compare, sum up and leave nothing behind."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from obskit.demo import plain
from obskit.demo.errors import ServiceDied
from obskit.demo.service import HOST, METRICS_PATH, SERVICES, Demonstration, check_packages, check_port
from obskit.demo.state import Picture, Result
from obskit.demo.traffic import Traffic
from obskit.demo.watch import Watch

SCRAPE_INTERVAL_S = 1.0
DRAIN_TIMEOUT_S = 10.0
DRAIN_POLL_S = 0.1
LINES_KEPT = 10


class View(Protocol):
    """Shows pictures between open and close."""

    def open(self) -> None: ...
    def show(self, picture: Picture) -> None: ...
    def close(self) -> None: ...


def run(*, service: str, duration_s: float | None, rate: float, port: int | None, as_json: bool) -> int:
    """Run the demonstration until Ctrl-C or for `duration_s` seconds; returns the exit status.

    Raises DemoError when it cannot start, ServiceDied when the service ends before it was told to.
    """
    chosen = SERVICES[service]
    check_packages(chosen)
    if port is not None:
        check_port(port)
    with _stop_signals() as stop:
        with Demonstration(chosen, port, stop.is_set) as demonstration:
            if stop.is_set():
                return 0
            result = _Session(demonstration, rate, stop).live(_view(as_json), duration_s)
        # Printed when every child is gone: whoever reads the end of it may rely on that.
        if as_json:
            print(json.dumps(result.as_json(), indent=2, ensure_ascii=False))
        else:
            print("\n".join(plain.summary(result)))
        sys.stdout.flush()
    return 0 if result.agrees else 1


class Stop:
    """An event that a signal handler may set.

    Not a threading.Event: the handler runs in the thread that waits, and when it interrupts `wait` between taking
    and releasing the event's lock, `set` waits for that lock for ever. A pipe has no lock.
    """

    def __init__(self) -> None:
        self._told, self._tell = os.pipe()
        self._is_set = False

    def set(self) -> None:
        if not self._is_set:
            self._is_set = True
            os.write(self._tell, b"!")

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout_s: float) -> None:
        """Until it is set, at most `timeout_s` seconds."""
        if not self._is_set:
            select.select([self._told], [], [], timeout_s)

    def close(self) -> None:
        os.close(self._told)
        os.close(self._tell)


class _Session:
    """One run against a service that answers."""

    def __init__(self, demonstration: Demonstration, rate: float, stop: Stop) -> None:
        self._demonstration = demonstration
        self._stop = stop
        self._traffic = Traffic(demonstration.service.name, HOST, demonstration.port, rate)
        self._watch = Watch(demonstration.port, METRICS_PATH)

    def live(self, view: View, duration_s: float | None) -> Result:
        """Send and show until it is time to end; then wait for the last answers and their count."""
        try:
            self._scrape()
            self._traffic.first_order()
            self._demonstration.stock()
        except (OSError, sqlite3.Error) as error:
            self._demonstration.check_alive()
            raise ServiceDied(f"the service does not work: {error}") from error
        started = time.monotonic()
        view.open()
        try:
            self._traffic.start()
            ends = None if duration_s is None else started + duration_s
            while not self._stop.is_set() and (ends is None or time.monotonic() < ends):
                view.show(self._picture())
                left = SCRAPE_INTERVAL_S if ends is None else min(SCRAPE_INTERVAL_S, ends - time.monotonic())
                self._stop.wait(max(0.0, left))
                self._scrape()
        finally:
            self._traffic.stop()
            view.close()
        took = time.monotonic() - started
        self._drain()
        return self._result(took)

    def _scrape(self) -> None:
        self._demonstration.check_alive()
        try:
            self._watch.scrape()
        except (OSError, http.client.HTTPException):
            # Either it died between the two calls, or it is too busy for one scrape: the next one tells.
            self._demonstration.check_alive()

    def _drain(self) -> None:
        """Wait until every request that was sent has been counted, within a bound."""
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        self._traffic.join(DRAIN_TIMEOUT_S)
        while True:
            self._scrape()
            done = self._watch.counted >= self._traffic.tally.sent and self._watch.in_flight == 0
            if done or time.monotonic() > deadline:
                return
            time.sleep(DRAIN_POLL_S)

    def _picture(self) -> Picture:
        demonstration = self._demonstration
        return Picture(
            demonstration.service.name,
            demonstration.service.server,
            demonstration.process.pid,
            demonstration.url,
            demonstration.metrics_url,
            time.monotonic() - demonstration.started,
            self._watch.window(),
            demonstration.process.stdout.last(LINES_KEPT),
            self._traffic.tally,
            self._watch.counted,
        )

    def _result(self, took_s: float) -> Result:
        demonstration = self._demonstration
        log = demonstration.process.stdout
        # A line is written before its request is counted, but it comes through a pipe.
        deadline = time.monotonic() + 1.0
        while log.canonical_seen < self._watch.counted and time.monotonic() < deadline:
            time.sleep(DRAIN_POLL_S)
        last = log.last(1)
        return Result(
            demonstration.service.name,
            demonstration.service.server,
            demonstration.metrics_url,
            took_s,
            self._traffic.tally,
            self._watch.counted,
            self._watch.since_start(),
            last[0] if last else None,
            log.canonical_seen,
        )


def _view(as_json: bool) -> View:
    if as_json:
        return plain.QuietView()
    if sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        from obskit.demo.screen import ScreenView  # noqa: PLC0415

        return ScreenView()
    return plain.PlainView()


@contextmanager
def _stop_signals() -> Iterator[Stop]:
    """A Stop that Ctrl-C, SIGTERM and a closed terminal set, instead of tearing us from the children's side."""
    stop = Stop()
    # Signals are the main thread's.
    main = threading.current_thread() is threading.main_thread()
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if main else ()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in watched}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
