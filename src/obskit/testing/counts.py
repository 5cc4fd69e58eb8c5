"""How much the metrics of an install have grown, by the names a scrape shows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

Labels = frozenset[tuple[str, str]]
Series = dict[tuple[str, Labels], float]

_SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_count", "_sum", "_bucket"),
    "summary": ("_count", "_sum"),
}


class Counts:
    """The samples of some prometheus-client collectors, and what they were when we began to look."""

    def __init__(self, collector: Any) -> None:
        """`collector` has collect()."""
        self._collector = collector
        self._base: Series = {}
        self.reset()

    def reset(self) -> None:
        """Count from here on."""
        self._base = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self._collector.collect()
            for sample in family.samples
        }

    def growth(self, name: str, labels: Mapping[str, str], names: set[str], keys: set[str]) -> float | None:
        """The growth of the samples called `name` whose labels include `labels` (a gauge: their value now).

        None when there is no such metric. Adds every sample name to `names`, and the labels of this one to `keys`.
        """
        wanted, total, found = set(labels.items()), 0.0, False
        for family in self._collector.collect():
            shown = sample_names(family)
            names.update(shown)
            if name not in shown:
                continue
            found = True
            keys.update(getattr(family, "_labelnames", ()))
            for sample in family.samples:
                keys.update(sample.labels)
                if sample.name == name and wanted <= set(sample.labels.items()):
                    key = (sample.name, frozenset(sample.labels.items()))
                    total += sample.value - (0.0 if family.type == "gauge" else self._base.get(key, 0.0))
        return total if found else None


def sample_names(family: Any) -> set[str]:
    """What a family's samples are called on a scrape, also while it has none."""
    suffixes = _SUFFIXES.get(family.type, ("",))
    return {family.name + suffix for suffix in suffixes} | {s.name for s in family.samples}


def unknown(name: str, names: Iterable[str]) -> str:
    """What to say of a metric that nobody has."""
    close = difflib.get_close_matches(name, sorted(names), n=3)
    own = [one for one in sorted(names) if one.startswith(f"{name}_")]
    hint = f"; did you mean {' or '.join(own or close)}?" if own or close else ""
    return f"there is no metric {name!r}{hint} (a name as a scrape shows it, such as obskit_findings_total)"
