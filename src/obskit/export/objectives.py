"""Service level objectives: what share of requests must be good, for the service as a whole or for one route.

Written as ``availability=99.9`` or ``latency=99:0.5s``, for one route as ``latency@/checkout=95:0.25s``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from obskit.export.errors import ExportError
from obskit.names import DURATION_BUCKETS

_FORM = "availability=99.9, latency=99:0.5s or, for one route, latency@/checkout=95:0.25s"
_THRESHOLD = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_HIGHEST = Decimal("99.999")
# A burn of 14.4 times the budget must be possible at all: below this every request failing would not reach it.
_LOWEST = Decimal(94)


@dataclass(frozen=True, slots=True)
class Objective:
    """What share of requests must be good: answered at all, or answered within a threshold.

    `percent` is of the requests of 30 days. `threshold_s` is in seconds, a bound of the duration histogram, and
    None for availability. `route` is a template as the framework writes it, None for the whole service.
    """

    percent: Decimal
    threshold_s: float | None = None
    route: str | None = None

    @property
    def slo(self) -> str:
        """The value of the `slo` label: availability or latency."""
        return "availability" if self.threshold_s is None else "latency"

    @property
    def target(self) -> str:
        """The share as a number below 1, such as 0.999."""
        return _plain(self.percent / 100)

    @property
    def budget(self) -> str:
        """The share that may be bad, such as 0.001."""
        return _plain(1 - self.percent / 100)

    @property
    def text(self) -> str:
        """The objective in words: 99.9 % of requests succeed."""
        good = "succeed" if self.threshold_s is None else f"are answered within {self.threshold_s:g} s"
        return f"{_plain(self.percent)} % of requests {good}"


DEFAULTS = (Objective(Decimal("99.9")), Objective(Decimal(99), threshold_s=0.5))


def parse(texts: Iterable[str]) -> tuple[Objective, ...]:
    """The objectives that `texts` ask for; one not given for the whole service keeps its default.

    ExportError for an unknown form, a share that cannot be alerted on, a threshold the histogram does not know,
    and for two objectives of the same thing.
    """
    found: dict[tuple[str, str | None], Objective] = {}
    for text in texts:
        objective = _parse_one(text)
        key = objective.slo, objective.route
        if key in found:
            raise ExportError(f"--slo: {text!r} is the second {_described(*key)}: give one")
        found[key] = objective
    for default in DEFAULTS:
        found.setdefault((default.slo, None), default)
    return tuple(found[key] for key in sorted(found, key=lambda key: (key[1] or "", key[0])))


def _parse_one(text: str) -> Objective:
    # From the right: a route may hold an equals sign, a share never does.
    subject, equals, value = text.rpartition("=")
    kind, at, route = subject.partition("@")
    if not equals or kind not in ("availability", "latency") or (at and not route.startswith("/")):
        raise ExportError(f"--slo: saw {text!r}, expected {_FORM}")
    # The texts of alerts are templates, and would read two braces as one of their own.
    if "{{" in route or not route.isprintable():
        raise ExportError(f"--slo: saw the route {route!r}, expected a template such as /orders/{{order_id}}")
    share, colon, threshold = value.partition(":")
    if (kind == "latency") != bool(colon):
        raise ExportError(f"--slo: saw {text!r}, expected {_FORM}")
    return Objective(_percent(share), _threshold_s(threshold) if colon else None, route or None)


def _percent(text: str) -> Decimal:
    try:
        percent = Decimal(text.removesuffix("%"))
    except InvalidOperation:
        percent = Decimal("NaN")
    if not percent.is_finite():
        raise ExportError(
            f"--slo: saw {text!r} as the share of good requests, expected a percentage such as 99.9"
        )
    if not _LOWEST <= percent <= _HIGHEST:
        raise ExportError(
            f"--slo: saw {text} % of good requests, expected {_LOWEST} to {_HIGHEST}: burn-rate alerts cannot tell "
            "a fast burn below that, and above it a single request is the budget of a day"
        )
    return percent


def _threshold_s(text: str) -> float:
    match = _THRESHOLD.fullmatch(text)
    seconds = 0.0 if match is None else float(match[1]) / (1000 if match[2] == "ms" else 1)
    if seconds not in DURATION_BUCKETS:
        bounds = " ".join(f"{bound:g}s" for bound in DURATION_BUCKETS)
        raise ExportError(
            f"--slo: saw {text!r} as latency threshold. Only a bound of the duration histogram can be counted "
            f"exactly: {bounds}"
        )
    return seconds


def _described(slo: str, route: str | None) -> str:
    return f"objective for {slo}" + (f" of {route}" if route else "")


def _plain(number: Decimal) -> str:
    text = format(number.normalize(), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
