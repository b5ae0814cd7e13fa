"""Counting in buckets: the one kind of counter that is more than a number.

It stands below all layers, beside the wire messages, so that pure code can count too.
"""

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["Histogram", "doubling"]


def doubling(first: float, count: int) -> tuple[float, ...]:
    """Return so many bounds, each twice the one before."""
    return tuple(first * 2**i for i in range(count))


class Histogram:
    """Counts by bucket, plus the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        #: One more than ``bounds``: the last counts what is above all of them.
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
