"""Counters of one member, kept as plain numbers so that counting costs an addition.

``kvnode.rpc.metrics`` reads them when Prometheus asks; nothing here knows Prometheus.
"""

from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["Histogram", "MemberStats"]

#: Upper bounds in seconds, doubling from 1 ms: etcd's buckets for fsync and commit durations.
DISK_BUCKETS_S = tuple(0.001 * 2**i for i in range(14))
#: Doubling from 0.1 ms: etcd's buckets for round trips between members.
ROUND_TRIP_BUCKETS_S = tuple(0.0001 * 2**i for i in range(16))


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


class MemberStats:
    """What the member counts about itself; only ever added to, save for ``proposals_pending``."""

    def __init__(self) -> None:
        self.leader_changes = 0
        self.proposals_failed = 0
        self.proposals_pending = 0
        self.heartbeat_send_failures = 0
        self.slow_applies = 0
        self.read_indexes_failed = 0
        self.slow_read_indexes = 0
        self.wal_fsync_s = Histogram(DISK_BUCKETS_S)
        self.backend_commit_s = Histogram(DISK_BUCKETS_S)
        self.snapshot_s = Histogram(DISK_BUCKETS_S)
        self.defragment_s = Histogram(DISK_BUCKETS_S)
        self.is_defragmenting = False
        #: By the other member's ID in lower-case hex.
        self.peer_sent_bytes: dict[str, int] = {}
        self.peer_received_bytes: dict[str, int] = {}
        self.peer_sent_failures: dict[str, int] = {}
        self.peer_round_trip_s: dict[str, Histogram] = {}
        self.lease_granted = 0
        self.lease_revoked = 0
        self.lease_renewed = 0
        self.lease_expired = 0

    def peer_round_trip(self, member: str, seconds: float) -> None:
        """Count one round trip to ``member`` (its ID in hex)."""
        histogram = self.peer_round_trip_s.get(member)
        if histogram is None:
            histogram = self.peer_round_trip_s[member] = Histogram(ROUND_TRIP_BUCKETS_S)
        histogram.observe(seconds)
