"""What a state machine has done, in plain numbers, for whoever watches the member."""

from kvnode.counting import Histogram, doubling

__all__ = ["Operations"]


class Operations:
    """Counters over all states that one process has worked on; only ever added to.

    They are no part of the state: members that applied the same entries may have counted differently,
    as ranges are read only where somebody wants the answer.
    """

    __slots__ = (
        "compacted",
        "deletes",
        "lease_ttl_s",
        "leases_granted",
        "leases_revoked",
        "put_bytes",
        "puts",
        "ranges",
        "txns",
    )

    def __init__(self) -> None:
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
