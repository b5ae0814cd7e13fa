"""Ranges as requests write them.

``range_end`` empty is a single key, ``\\0`` is everything from the key on, and anything else an exclusive
bound.  A bound at or below the key is an empty range and no error.
"""

from kvnode.mvcc.watchers import FROM_KEY

__all__ = ["FROM_KEY", "overlaps", "stop_of"]


def stop_of(range_end: bytes) -> bytes | None:
    """Return the exclusive bound of a range that is no single key; None for no bound."""
    return None if range_end == FROM_KEY else range_end


def overlaps(key: bytes, start: bytes, range_end: bytes) -> bool:
    """Whether ``key`` is in the range ``start``, ``range_end``."""
    if not range_end:
        return key == start
    return key >= start and (range_end == FROM_KEY or key < range_end)
