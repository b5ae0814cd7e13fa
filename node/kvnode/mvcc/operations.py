"""What a state machine has done, in plain numbers, for whoever watches the member."""

from collections.abc import Callable

from kvnode.counting import Histogram, doubling

__all__ = ["Operations"]

#: Bounds of durations in seconds.
_DURATIONS_S = doubling(0.0001, 20)


class Operations:
    """Counters over all states that one process has worked on; only ever added to.

    They are no part of the state: members that applied the same entries may have counted differently,
    as ranges are read only where somebody wants the answer.

    Args:
        clock: what tells durations, in seconds; without one all of them are 0.
    """

    __slots__ = (
        "applied_s",
        "clock",
        "compacted",
        "deletes",
        "lease_ttl_s",
        "leases_granted",
        "leases_revoked",
        "put_bytes",
        "puts",
        "range_failed_s",
        "range_s",
        "ranges",
        "txns",
    )

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.clock = clock
        #: How long commands took, by kind and whether they succeeded.
        self.applied_s: dict[tuple[int, bool], Histogram] = {}
        #: The same of ranges.
        self.range_s = Histogram(_DURATIONS_S)
        self.range_failed_s = Histogram(_DURATIONS_S)
        self.puts = 0
        #: Of keys and values.
        self.put_bytes = 0
        self.deletes = 0
        self.ranges = 0
        #: Transactions of more than one operation.
        self.txns = 0
        #: Records deleted by compactions.
        self.compacted = 0
        self.leases_granted = 0
        self.leases_revoked = 0
        self.lease_ttl_s = Histogram(doubling(1.0, 24))

    @property
    def total(self) -> int:
        """Puts, deletions and ranges together."""
        return self.puts + self.deletes + self.ranges

    def applied(self, kind: int, succeeded: bool, took_s: float) -> None:
        """Count one command."""
        key = (kind, succeeded)
        histogram = self.applied_s.get(key)
        if histogram is None:
            histogram = self.applied_s[key] = Histogram(_DURATIONS_S)
        histogram.observe(took_s)
