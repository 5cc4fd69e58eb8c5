"""Reads the Prometheus text format into plain dictionaries, with Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Samples = dict[str, dict[Labels, float]]


def labels(**named: object) -> Labels:
    """The key of a sample: `samples["x_total"][labels(code=200)]`."""
    return frozenset((name, str(value)) for name, value in named.items())


def parse(text: str) -> Samples:
    """{sample name: {labels: value}} of text format 0.0.4; a histogram is its _bucket, _sum and _count.

    Raises ValueError on text Prometheus would refuse, and on a sample that is given twice.
    """
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            of_name = samples.setdefault(sample.name, {})
            key = frozenset(sample.labels.items())
            if key in of_name:
                raise ValueError(f"{sample.name} is given twice with the labels {dict(sample.labels)}")
            of_name[key] = sample.value
    return samples


def delta(
    before: Mapping[str, Mapping[Labels, float]], after: Mapping[str, Mapping[Labels, float]]
) -> Samples:
    """What changed from one scrape to the next; a sample that is new counts from 0, an equal one is left out."""
    changed: Samples = {}
    for name, of_name in after.items():
        old = before.get(name, {})
        moved = {
            key: value - old.get(key, 0.0) for key, value in of_name.items() if value != old.get(key, 0.0)
        }
        if moved:
            changed[name] = moved
    return changed
