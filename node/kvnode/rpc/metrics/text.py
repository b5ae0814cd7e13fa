"""Prometheus' text format, version 0.0.4.

Written out here because etcd's names don't follow the customs that Prometheus' own library enforces
(counters without ``_total``, gauges with it), and dashboards go by name and type.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kvnode.counting import Histogram

__all__ = ["Family", "Labels", "counter", "gauge", "histogram", "histograms", "labelled", "render"]

#: Label names with their values.
Labels = tuple[tuple[str, str], ...]


class Family(NamedTuple):
    """One metric with all its samples."""

    name: str
    #: ``counter``, ``gauge`` or ``histogram``.
    kind: str
    text: str
    #: Suffix of the name, labels, value.
    samples: list[tuple[str, Labels, float]]


def counter(name: str, text: str, value: float) -> Family:
    """Return a counter without labels."""
    return Family(name, "counter", text, [("", (), value)])


def gauge(name: str, text: str, value: float) -> Family:
    """Return a gauge without labels."""
    return Family(name, "gauge", text, [("", (), value)])


def labelled(kind: str, name: str, text: str, values: Iterable[tuple[Labels, float]]) -> Family:
    """Return a counter or gauge with a sample for each set of labels."""
    return Family(name, kind, text, [("", labels, value) for labels, value in values])


def histogram(name: str, text: str, value: Histogram) -> Family:
    """Return a histogram without labels."""
    return histograms(name, text, {(): value})


def histograms(name: str, text: str, values: Mapping[Labels, Histogram]) -> Family:
    """Return a histogram for each set of labels."""
    samples: list[tuple[str, Labels, float]] = []
    for labels, value in values.items():
        count = 0
        for bound, counted in zip(value.bounds, value.counts, strict=False):
            count += counted
            samples.append(("_bucket", (*labels, ("le", _number(bound))), count))
        count += value.counts[-1]
        samples.append(("_bucket", (*labels, ("le", "+Inf")), count))
        samples += [("_sum", labels, value.total), ("_count", labels, count)]
    return Family(name, "histogram", text, samples)


def render(families: Iterable[Family]) -> bytes:
    """Return what Prometheus reads, sorted by name."""
    lines = []
    for family in sorted(families):
        lines += [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}"]
        for suffix, labels, value in family.samples:
            listed = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
            lines.append(
                f"{family.name}{suffix}{{{listed}}} {_number(value)}"
                if listed
                else f"{family.name}{suffix} {_number(value)}"
            )
    return ("\n".join(lines) + "\n").encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    """As Go prints a float64: whole numbers without a point, large ones with an exponent of two digits."""
    if isinstance(value, int):
        return str(int(value))
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.10g}"
