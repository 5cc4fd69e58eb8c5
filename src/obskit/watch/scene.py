"""What every watcher is given when the process begins to serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from obskit.config import Config
from obskit.pipeline import Pipeline
from obskit.watch.server import ServerFacts
from obskit.watch.vantage import Vantage
from obskit.workers import Workers

if TYPE_CHECKING:
    from obskit.watch import Metrics
    from obskit.watch.flight import FlightRecorder


class Scene(NamedTuple):
    """One install in the process that serves it."""

    config: Config
    pipeline: Pipeline
    metrics: Metrics
    workers: Workers
    server: ServerFacts
    flight: FlightRecorder
    vantage: Vantage
