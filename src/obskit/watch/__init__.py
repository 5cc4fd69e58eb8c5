"""What is seen from outside a request: while it runs, while it hangs, and after its worker has died.

`Watch` is one install's. It begins with the first request of the process that serves: it joins the workers of that
server (`obskit.workers`), so that their metrics are one, and lets each watcher begin. A watcher is a file of this
room; what it sees goes to `Pipeline.tell` (a request in trouble), `Pipeline.report` (outside of all) and the metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from obskit import names
from obskit.config import Config
from obskit.exchange import Exchange
from obskit.listeners import listeners
from obskit.names import Metric
from obskit.pipeline import Pipeline
from obskit.redact import is_secret_name
from obskit.watch import inquiry, oversight
from obskit.watch.flight import FlightRecorder
from obskit.watch.loop import LoopWatch
from obskit.watch.oversight import Oversight
from obskit.watch.queueing import queue_seconds
from obskit.watch.saturation import Saturation
from obskit.watch.scene import Scene
from obskit.watch.server import ServerFacts, server_facts
from obskit.watch.stuck import StuckWatch
from obskit.watch.ticker import HUNG_S, housekeeper, ticker
from obskit.watch.vantage import Vantage, vantage
from obskit.workers import Member, State, Workers

HOUSEKEEPING_S = 1.0


class Metrics(Protocol):
    """What the watch asks of the metrics signal."""

    def set(self, metric: Metric, value: float, *labels: str) -> None: ...
    def count(self, metric: Metric, amount: float, *labels: str) -> None: ...
    def observe(self, metric: Metric, value: float, *labels: str) -> None: ...
    def forget(self, metric: Metric) -> None: ...
    def count_answer(self, method: str, route: str, status: int, duration_s: float) -> None: ...
    def join(self, workers: Workers) -> None: ...
    def publish(self, *, last: bool = False) -> None: ...
    def inherit(self, member: Member) -> None: ...
    def leave(self) -> None: ...


class Watch:
    """The watchers of one install, and its membership among the workers of its server."""

    name = "watch"

    def __init__(
        self,
        config: Config,
        service: str,
        install: int,
        metrics: Metrics,
        is_secret: Callable[[str], bool] = is_secret_name,
    ) -> None:
        """`install` is the number of this install in its process: installs are strangers to each other."""
        self._config = config
        self._service = service
        self._install = install
        self._metrics = metrics
        self.flight = FlightRecorder(metrics, is_secret)
        self.scene: Scene | None = None
        self._watchers: tuple[StuckWatch | LoopWatch | Saturation, ...] = ()
        self._stuck: StuckWatch | None = None
        self.pipeline: Pipeline | None = None
        """Set by the composition root, before anything is served."""
        # What each request calls, without a step in between.
        self.opened: Callable[[Exchange], None] = self.flight.opened
        self.answering: Callable[[Exchange], None] = self.flight.answering
        self.rests: Callable[[Exchange], bool] = self.flight.rests
        self.counted: Callable[[Exchange], None] = self.flight.counted
        self.closed: Callable[[Exchange], None] = self.flight.closed
        self._oversight: tuple[Oversight, ...] = ()

    def look(self) -> tuple[Vantage, ServerFacts]:
        """What is to be seen from the thread that has the first request; opens no file."""
        return vantage(), server_facts()

    def placed(self) -> bool:
        """Whether this process has the socket it serves on, before its first request."""
        return bool(listeners())

    def begin(self, seen: tuple[Vantage, ServerFacts]) -> None:
        """Join the workers of this server and begin to watch. Call it in the process that serves, from any thread."""
        pipeline = self.pipeline
        if pipeline is None:
            return
        config = self._config
        here, server = seen
        if config.share_workers:
            workers = Workers.join(
                config.state_dir,
                self._service,
                install=self._install,
                promised=pipeline.hears_shutdown,
                timeout_s=server.timeout_s,
            )
        else:
            workers = Workers("", "", 0, -1, "share_workers is off")
        scene = self.scene = Scene(config, pipeline, self._metrics, workers, server, self.flight, here)
        try:
            self._metrics.join(workers)
        except OSError as error:  # no room: this worker keeps its numbers for itself
            pipeline.failed("watch.metrics", error)
        self.flight.begin(scene)
        self._stuck = StuckWatch(scene)
        self._watchers = (self._stuck, LoopWatch(scene), Saturation(scene))
        for watcher in self._watchers:
            try:
                watcher.begin()
                if watcher.every_s:
                    ticker.add(watcher.tick, watcher.every_s)
            except Exception as error:
                pipeline.failed(f"watch.{type(watcher).__name__}", error)
        self._house()
        self._each(lambda: workers.inherit((self.flight.inherit,)))
        house, watchers = (
            Oversight(housekeeper, {"watch.housekeeping": self}, pipeline.failed),
            Oversight(
                ticker, {f"watch.{type(one).__name__}": one for one in self._watchers}, pipeline.failed
            ),
        )
        self._oversight = (house, watchers)
        housekeeper.add(self._house, HOUSEKEEPING_S)
        housekeeper.add(watchers.look, oversight.EVERY_S)
        ticker.add(house.look, oversight.EVERY_S)

    def _house(self) -> None:
        """Give a sign of life, show what is shown once a second, answer who asks, and bury the dead."""
        scene, stuck = self.scene, self._stuck
        if scene is None or stuck is None:
            return
        workers = scene.workers
        self._each(
            workers.touch,
            self.flight.note,
            self._metrics.publish,
            lambda: inquiry.answer(scene, stuck),
            lambda: workers.bury((self.flight.inherit, self._metrics.inherit)),
        )

    def _each(self, *steps: Callable[[], object]) -> None:
        """Take all steps, whichever of them fails."""
        for step in steps:
            try:
                step()
            except Exception as error:
                if self.pipeline is not None:
                    self.pipeline.failed("watch.housekeeping", error)

    def queued(self, exchange: Exchange) -> None:
        """Look how long a request waited in front of this server."""
        if exchange.queue_start is not None:
            waited = queue_seconds(exchange.queue_start, exchange.started_unix_ns * 1e-9)
            if waited is not None:
                exchange.queue_s = waited
                self._metrics.observe(names.QUEUE_DURATION, waited)

    def timed_out(self) -> None:
        """The server has ended a request, and with it this worker, for it took too long."""
        if self.scene is not None:
            self.scene.workers.end(State.TIMED_OUT)

    def goodbye(self) -> None:
        """The process is about to end in good order."""
        if self.scene is not None and housekeeper.running_s(self) < HUNG_S:  # or this would hang, too
            self._metrics.publish(last=True)
            self.scene.workers.end(State.EXITED)

    def shutdown(self) -> None:
        """Stop watching, and leave what this worker counted to its heirs."""
        scene, self.scene = self.scene, None
        if scene is None:
            return
        for one in self._oversight:
            ticker.remove(one)
            housekeeper.remove(one)
        for watcher in self._watchers:
            ticker.remove(watcher)
            watcher.shutdown()
        self._watchers, self._stuck, self._oversight = (), None, ()
        if not housekeeper.remove(self):
            return  # the disk hangs, and so would all that follows
        self._metrics.publish()
        scene.workers.end(State.EXITED)
        self.flight.shutdown()
        self._metrics.leave()
        scene.workers.leave()
