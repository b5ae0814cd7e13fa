"""Sets of keys, given as ranges, and whether they cover a requested range.

Ranges are as on the wire: ``range_end`` empty is a single key, ``\\0`` is everything from the key on, and
anything else an exclusive bound.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

__all__ = ["OPEN_END", "RangeSet", "is_grantable"]

#: As ``range_end``: no bound.
OPEN_END: Final = b"\0"


class RangeSet:
    """The union of ranges, kept as disjoint intervals in ascending order: asking it takes O(log n).

    Intervals that touch become one, so a request may span several grants.
    """

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._starts: list[bytes] = []
        #: Exclusive; None for no bound, which only the last can have.
        self._stops: list[bytes | None] = []
        for start, range_end in sorted(ranges):
            stop = _stop_of(start, range_end)
            if not self._starts:
                self._starts.append(start)
                self._stops.append(stop)
                continue
            last = self._stops[-1]
            if last is None:
                break
            if start > last:
                self._starts.append(start)
                self._stops.append(stop)
            elif stop is None or stop > last:
                self._stops[-1] = stop

    def covers(self, key: bytes, range_end: bytes = b"") -> bool:
        """Whether every key of a range is in the set.

        Of an empty range, whose bound is at or below its key, the key has to be there.  (etcd's answer
        depends on how its tree happens to be balanced; in a small one it is the same.)
        """
        place = bisect_right(self._starts, key) - 1
        if place < 0:
            return False
        stop = self._stops[place]
        if stop is None:
            return True
        if range_end == OPEN_END:
            return False
        return range_end <= stop if range_end > key else key < stop


def is_grantable(key: bytes, range_end: bytes) -> bool:
    """Whether a permission may be granted on the range: it must hold at least one key."""
    return bool(key) and (not range_end or range_end == OPEN_END or key < range_end)


def _stop_of(start: bytes, range_end: bytes) -> bytes | None:
    if not range_end:
        return start + b"\0"
    return None if range_end == OPEN_END else range_end
