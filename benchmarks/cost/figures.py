"""From rows to figures: medians, spreads, whether the machine was quiet enough to tell, and the goals met or missed."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from benchmarks.cost.inprocess import TWIN
from benchmarks.cost.variants import FAMILIES

NOISE_LIMIT_US = 2.0
"""What the machine may make up, in microseconds a request: a tenth of what the cheapest variants add."""

SERVER_NOISE_LIMIT = 0.25
"""How far the bare servers may be apart: what is under them adds three times that and more."""

Figures = dict[str, dict[str, float]]


class Goal(NamedTuple):
    """A ratio of two variants' added cost that must not be exceeded."""

    name: str
    ours: str
    theirs: str
    limits: dict[str, float]
    """By family."""
    what: str = "added_us"


GOALS = (
    Goal(
        "three signals against the assembled stack", "signals", "assembled", {"ASGI": 1 / 30, "WSGI": 1 / 10}
    ),
    Goal("three signals against the careful stack", "signals", "careful", {"ASGI": 1 / 12, "WSGI": 1 / 9}),
    Goal("three signals against the tuned floor", "signals", "floor-lean", {"ASGI": 1.5, "WSGI": 1.5}),
    Goal("as it comes against the assembled stack", "obskit", "assembled", {"ASGI": 1 / 20, "WSGI": 1 / 8}),
    Goal(
        "not sampled against contrib's unsampled span alone",
        "obskit-unsampled",
        "contrib-unsampled",
        {"ASGI": 1 / 8, "WSGI": 1 / 5},
    ),
    Goal(
        "background per span against the official exporter",
        "signals",
        "careful",
        {"ASGI": 1 / 4, "WSGI": 1 / 4},
        "background_us_per_span",
    ),
)
SERVER_GOAL = Goal(
    "under a server against the assembled stack",
    "signals",
    "assembled",
    {"ASGI": 1 / 25, "WSGI": 1 / 8},
)
SAME_WITH_ROUTES = ("signals", "obskit")
SAME_US = 5.0
"""However noisy the machine: more than this is not the same."""


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def unsure(values: list[float]) -> float:
    """Half the width of the 95 % interval of the median (McGill, Tukey, Larsen 1978: the notch of a box plot)."""
    _, low, high = spread(values)
    return float(1.57 * (high - low) / len(values) ** 0.5)


def figures(measured: dict[str, Any]) -> Figures:
    """Per variant: what it adds to its bare application in microseconds a request, and what follows from that."""
    found: Figures = {}
    for key, rows in measured["rows"].items():
        added = [row["cpu"] - row["bare_cpu"] for row in rows]
        middle, low, high = spread(added)
        bare_us = statistics.median(row["bare_cpu"] for row in rows)
        one = found[key] = {
            "added_us": middle,
            "low_us": low,
            "high_us": high,
            "unsure_us": unsure(added),
            "bare_us": bare_us,
            "of_bare": middle / bare_us,
        }
        if "wall" in rows[0]:
            one["rate_of_bare"] = statistics.median(row["bare_wall"] / row["wall"] for row in rows)
            one["background_us"] = statistics.median(row["background"] for row in rows)
        if "rate" in rows[0]:
            one["rate_of_bare"] = statistics.median(row["rate"] / row["bare_rate"] for row in rows)
        spans = measured.get("seen", {}).get(key, {}).get("spans", 0.0)
        if spans:
            one["spans"] = spans
            one["background_us_per_span"] = one["background_us"] / spans
    for one in found.values():
        for other in ("assembled", "careful", "floor-lean"):
            if other in found:
                one[f"of_{other}"] = one["added_us"] / found[other]["added_us"]
    return found


def noise(found: Figures) -> float:
    """What the twin of the bare application may seem to add, in microseconds a request.

    The middle of it may be off for good (two processes do not lie in memory alike), the rest is the machine's.
    """
    twin = found[TWIN]
    return abs(twin["added_us"]) + twin["unsure_us"]


def too_noisy(by_framework: dict[str, Figures], limit_us: float) -> list[str]:
    """Why nothing should be reported; empty where it may be."""
    return [
        f"{framework}: the bare application beside itself seems to cost {found[TWIN]['added_us']:+.1f} ± "
        f"{found[TWIN]['unsure_us']:.1f} µs of {found[TWIN]['bare_us']:.0f} ({limit_us:.1f} can be borne)"
        for framework, found in by_framework.items()
        if noise(found) > limit_us
    ]


def servers_too_noisy(servers: dict[str, Any], limit: float) -> list[str]:
    """The same for servers, each of which has its bare application twice, in two environments.

    `limit` is the share of each other by which their CPU, and the median of waiting for them, may differ.
    """
    reasons = []
    for server, one in servers.items():
        costs = {round(variant["bare_us"], 3) for variant in one["figures"].values()}
        waits = {key: waited["p50_us"] for key, waited in one["waited"].items() if key.startswith("bare")}
        for what, values in (("CPU", costs), ("waiting", set(waits.values()))):
            if max(values) > min(values) * (1 + limit):
                reasons.append(
                    f"{server}: {what} of the bare applications from {min(values):.0f} to {max(values):.0f} µs "
                    f"({limit:.0%} can be borne)"
                )
    return reasons


class Judged(NamedTuple):
    goal: str
    where: str
    limit: str
    seen: str
    met: bool


def judge(by_framework: dict[str, Figures], servers: dict[str, Any]) -> list[Judged]:
    """Each goal for each framework and server for which there are the figures."""
    found = []
    for goal in GOALS:
        for family, frameworks in FAMILIES.items():
            for framework in frameworks:
                one = by_framework.get(framework, {})
                if goal.what in one.get(goal.ours, {}) and goal.what in one.get(goal.theirs, {}):
                    ratio = one[goal.ours][goal.what] / one[goal.theirs][goal.what]
                    found.append(_judged(goal, framework, goal.limits[family], ratio))
    for name in SAME_WITH_ROUTES:
        for framework, one in by_framework.items():
            if {name, f"{name}+routes"} <= set(one):
                few, many = one[name], one[f"{name}+routes"]
                more = many["added_us"] - few["added_us"]
                bound = min(few["unsure_us"] + many["unsure_us"] + noise(one), SAME_US)
                title = "three signals" if name == "signals" else "as it comes"
                found.append(
                    Judged(
                        f"{title}: the same with 100 routes before",
                        framework,
                        f"± {bound:.1f} µs",
                        f"{more:+.1f} µs",
                        abs(more) <= bound,
                    )
                )
    for server, one in servers.items():
        family = next(family for family, some in FAMILIES.items() if one["framework"] in some)
        values = one["figures"]
        ratio = values[SERVER_GOAL.ours]["added_us"] / values[SERVER_GOAL.theirs]["added_us"]
        found.append(_judged(SERVER_GOAL, f"{server}, {one['framework']}", SERVER_GOAL.limits[family], ratio))
    return found


def _judged(goal: Goal, where: str, limit: float, ratio: float) -> Judged:
    return Judged(goal.name, where, _ratio(limit), _ratio(ratio), ratio <= limit)


def _ratio(value: float) -> str:
    return f"1/{1 / value:.1f}".removesuffix(".0") if 0 < value < 1 else f"{value:.2f}"
