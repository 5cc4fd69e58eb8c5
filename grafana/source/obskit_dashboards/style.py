"""Colours and thresholds. A thing has one colour on all dashboards, so that it is known before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard as models

GREEN, YELLOW, ORANGE, RED = "green", "yellow", "orange", "red"

# Regular expression of a series name -> colour.
Colours = Mapping[str, str]

STATUS: Colours = {
    "/^2xx/": GREEN,
    "/^3xx/": "blue",
    "/^4xx/": YELLOW,
    "/^5xx/": RED,
    "/^no status/": "purple",
}
QUANTILES: Colours = {"/^p50/": GREEN, "/^p95/": YELLOW, "/^p99/": ORANGE}
OUTCOMES: Colours = {
    "/^completed/": GREEN,
    "/^client_disconnect/": YELLOW,
    "/^truncated/": ORANGE,
    "/^raised$/": RED,
    "/^raised_after_headers/": "dark-red",
    "/^no_response/": "purple",
    "/^cancelled/": "blue",
    "/^timeout/": "dark-orange",
    "/^unknown/": "text",
}
LEVELS: Colours = {
    "/^debug/": "text",
    "/^info/": GREEN,
    "/^warning/": YELLOW,
    "/^error/": RED,
    "/^critical/": "dark-red",
}
EXPORTS: Colours = {"/success/": GREEN, "/failure/": RED}


@dataclass(frozen=True)
class Thresholds:
    """Values at which a figure turns from green to yellow to red; falling says that low is bad."""

    warn: float
    bad: float
    falling: bool = False

    def build(self) -> builders.ThresholdsConfig:
        """As Grafana has them: steps upward from minus infinity."""
        low, middle, high = (RED, YELLOW, GREEN) if self.falling else (GREEN, YELLOW, RED)
        first, second = sorted((self.warn, self.bad))
        steps = [
            models.Threshold(value=None, color=low),
            models.Threshold(value=first, color=middle),
            models.Threshold(value=second, color=high),
        ]
        return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


ERROR_RATIO = Thresholds(0.01, 0.05)
CLIENT_ERROR_RATIO = Thresholds(0.1, 0.3)
LATENCY = Thresholds(0.5, 1.0)
BUDGET_LEFT = Thresholds(0.5, 0.1, falling=True)
BURN_RATE = Thresholds(1, 6)
LOST_EXPORTS = Thresholds(0.01, 0.1)
INSTANCES = Thresholds(1, 1, falling=True)
FILLED = Thresholds(0.7, 0.9)
ANY_IS_BAD = Thresholds(0.5, 1)
# Attempts per operation: at 2 obskit calls it a storm.
AMPLIFIED = Thresholds(1.3, 2)


def neutral() -> builders.ThresholdsConfig:
    """No judgement: the figure is neither good nor bad."""
    return (
        builders.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(None, "text")])
    )
