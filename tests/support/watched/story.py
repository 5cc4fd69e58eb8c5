"""One run from healthy through all faults and back, and what was seen of every alert on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.alertmanager import AlertmanagerError, Delivered
from tests.support.watched.faults import TRACKS, Fault
from tests.support.watched.world import TIME_FACTOR, World, world

FIRES_S = 90.0
RESOLVES_S = 120.0


@dataclass
class Seen:
    """What was delivered of one alert that a fault must raise; `problem` says what never came."""

    labels: dict[str, str]
    fault: str
    began: float
    ended: float = 0.0
    fired: Delivered | None = None
    resolved: Delivered | None = None
    problem: str = ""


@dataclass
class Story:
    """What happened in the world, of which Prometheus can still be asked. Times are in seconds since the epoch."""

    world: World
    faults_began: float
    seen: list[Seen] = field(default_factory=list)
    ended: float = 0.0

    def of(self, alertname: str) -> Seen:
        return next(seen for seen in self.seen if seen.labels["alertname"] == alertname)


@contextmanager
def told(directory: Path) -> Iterator[Story]:
    """The story, told to its end; Prometheus and Alertmanager are there until the context is left."""
    with world(directory) as running:
        _wait_for_an_hour(running)
        story = Story(running, faults_began=time.time())
        with ThreadPoolExecutor(len(TRACKS), thread_name_prefix="faults") as pool:
            for seen in pool.map(lambda track: [_play(running, fault) for fault in track], TRACKS):
                story.seen += [one for of_fault in seen for one in of_fault]
        story.ended = time.time()
        # The other tests of the session shall have the machine for themselves.
        running.end_services()
        yield story


def _wait_for_an_hour(running: World) -> None:
    # An hour of the rules' time: until then some of them rightly say nothing of what is new.
    hour_s = 3600 // TIME_FACTOR
    running.prometheus.wait_until(
        f"count(group by (job) (obskit_app_info offset {hour_s}s))",
        lambda result: bool(result) and result[0][1] == 4,
        timeout=hour_s + 60,
    )


def _play(running: World, fault: Fault) -> list[Seen]:
    began = time.time()
    seen = [Seen(labels, fault.name, began) for labels in fault.alerts]
    with fault.cause(running):
        for one in seen:
            try:
                one.fired = running.webhook.wait_for("firing", one.labels, after=began, timeout=FIRES_S)
            except AlertmanagerError as failure:
                one.problem = str(failure)
    ended = time.time()
    for one in seen:
        one.ended = ended
        if one.fired is not None:
            try:
                one.resolved = running.webhook.wait_for(
                    "resolved", one.labels, after=one.fired.at, timeout=RESOLVES_S
                )
            except AlertmanagerError as failure:
                one.problem = str(failure)
    return seen
