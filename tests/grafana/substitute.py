"""A query as Prometheus gets it: Grafana's variables and macros replaced the way its Prometheus data source does.

Rules, from Grafana 10 to 13: a choice of one or several values is escaped for a regular expression inside a
PromQL string; several become `(a|b)`; All is the variable's `allValue` as it stands, or all its values when it has
none; `${name:raw}` is not escaped at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Choice = str | Sequence[str]
"""One value as it stands (All, by its allValue; a text box), or the values that were chosen in a list."""

_REFERENCE = re.compile(r"\$\{(?P<braced>\w+)(?::(?P<format>\w+))?\}|\$(?P<plain>\w+)|\[\[(?P<old>\w+)\]\]")
_SPECIAL = re.compile(r"[$^*{}\[\]'+?.()|]")


@dataclass(frozen=True)
class Moment:
    """The time range of a dashboard in seconds since the epoch, and what Grafana makes of it.

    `interval_s` is the step that Grafana took for the width of the panel, `scrape_interval_s` what the data source
    is configured with: 15 s when nobody did.
    """

    start: float
    end: float
    interval_s: int = 15
    scrape_interval_s: int = 15

    @property
    def range_s(self) -> int:
        return round(self.end - self.start)

    @property
    def rate_interval_s(self) -> int:
        return max(self.interval_s + self.scrape_interval_s, 4 * self.scrape_interval_s)

    def macros(self) -> dict[str, str]:
        return {
            "__interval": f"{self.interval_s}s",
            "__interval_ms": f"{self.interval_s * 1000}",
            "__rate_interval": f"{self.rate_interval_s}s",
            "__rate_interval_ms": f"{self.rate_interval_s * 1000}",
            "__range": f"{self.range_s}s",
            "__range_s": f"{self.range_s}",
            "__range_ms": f"{self.range_s * 1000}",
            "__from": f"{self.start * 1000:.0f}",
            "__to": f"{self.end * 1000:.0f}",
        }


@dataclass(frozen=True)
class Substitution:
    """What a dashboard's variables are set to. `choices` is by the name of the variable, without its dollar."""

    moment: Moment
    choices: Mapping[str, Choice] = field(default_factory=dict)

    def apply(self, query: str) -> str:
        """`query` with everything replaced; KeyError names a variable that has no value."""
        macros = self.moment.macros()

        def replaced(reference: re.Match[str]) -> str:
            name = reference["braced"] or reference["plain"] or reference["old"]
            if name in macros:
                return macros[name]
            if name not in self.choices:
                raise KeyError(f"${name} in {query}")
            return _written(self.choices[name], reference["format"])

        return _REFERENCE.sub(replaced, query)


def _written(choice: Choice, form: str | None) -> str:
    if isinstance(choice, str):
        return choice
    if form == "raw":
        return choice[0] if len(choice) == 1 else "{" + ",".join(choice) + "}"
    if form == "pipe":
        return "|".join(choice)
    if form == "regex":
        escaped = [re.escape(value) for value in choice]
    elif form is None:
        escaped = [escape(value) for value in choice]
    else:
        raise ValueError(f"no query for Prometheus needs the format {form!r}")
    return escaped[0] if len(escaped) == 1 else "(" + "|".join(escaped) + ")"


def escape(value: str) -> str:
    """`value` for a regular expression inside a double-quoted PromQL string: the backslash itself is escaped too."""
    return _SPECIAL.sub(lambda found: "\\\\" + found[0], value.replace("\\", "\\\\\\\\"))
