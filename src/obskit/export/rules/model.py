"""Alert and recording rules as data, and how their expressions become PromQL.

Expressions are PromQL with two marks of ours, so that one text serves every export:

- ``<job>`` first among the matchers of a selector: the service's own `job`, or nothing for rules over all jobs.
- ``seconds(1h)``: a duration as a number, where PromQL has none.

Durations in ranges, offsets and `seconds(...)` can be divided by one factor, which lets a test see in minutes what
takes days in production.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["critical", "warning", "info", "none"]

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+)([smhdw])")
_IN_EXPRESSION = re.compile(r"(?<=\[)\d+[smhdw](?=[\]:])|(?<=:)\d+[smhdw](?=\])|(?<=offset )\d+[smhdw]\b")
_SET_OPERATORS = ("and ", "or ", "unless ")
_SECONDS = re.compile(r"seconds\((\d+[smhdw])\)")


@dataclass(frozen=True, slots=True)
class Recording:
    """A series computed at every evaluation; `labels` are added to the result."""

    record: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert rule. Two rules may share a name when they tell of the same thing with another urgency.

    `hold` is how long the condition must last before it fires, `keep_firing` how long it stays after the last
    time it held; both in Prometheus' notation, empty for none. `by` are the labels of the result, which become
    the variables of the link to the dashboard `dashboard` (a slug). `summary` and `description` are written in
    the alert templating language.
    """

    name: str
    expr: str
    severity: Severity
    summary: str
    description: str
    dashboard: str
    by: tuple[str, ...] = ("job",)
    hold: str = ""
    keep_firing: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


Rule = Recording | Alert


@dataclass(frozen=True, slots=True)
class Group:
    """Rules evaluated one after the other every `interval`, so that a later one sees what an earlier recorded."""

    name: str
    interval: str
    rules: tuple[Rule, ...]

    @property
    def alerts(self) -> tuple[Alert, ...]:
        return tuple(rule for rule in self.rules if isinstance(rule, Alert))


def in_seconds(duration: str) -> int:
    """Seconds of a duration with one unit, such as ``90s`` or ``3d``. ValueError for anything else."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f"saw {duration!r}, expected a number and one of s, m, h, d, w")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def quoted(text: str) -> str:
    """`text` as a string of PromQL."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class Rendering:
    """What turns an expression into PromQL: the service's job, if the rules are for one, and the factor of time."""

    job: str | None = None
    time_factor: int = 1

    def duration(self, duration: str) -> str:
        """`duration` divided by the factor of time, at least a second."""
        if self.time_factor == 1 or not duration:
            return duration
        return f"{max(1, round(in_seconds(duration) / self.time_factor))}s"

    def expression(self, text: str) -> str:
        """The PromQL of an expression, one line for each side of its outermost and, or, unless."""
        text = " ".join(text.split())
        text = _SECONDS.sub(lambda match: self._number(match[1]), text)
        text = _IN_EXPRESSION.sub(lambda match: self.duration(match[0]), text)
        if self.job is None:
            text = text.replace("{<job>}", "").replace("{<job>,", "{")
        else:
            # With its brace: a route such as /jobs/<job> is no mark of ours.
            text = text.replace("{<job>", f"{{job={quoted(self.job)}")
        return _in_lines(text)

    def _number(self, duration: str) -> str:
        return f"{in_seconds(duration) / self.time_factor:g}"


def _in_lines(expression: str) -> str:
    lines, depth, start, quoted = [], 0, 0, False
    for at, character in enumerate(expression):
        if character == '"' and expression[at - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (character in "([{") - (character in ")]}")
            if depth == 0 and character == " " and expression.startswith(_SET_OPERATORS, at + 1):
                lines.append(expression[start:at])
                start = at + 1
    return "\n".join([*lines, expression[start:]])
