"""Counters of one member, kept as plain numbers so that counting costs an addition.

``kvnode.rpc.metrics`` reads them when Prometheus asks; nothing here knows Prometheus.
"""

import time

from kvnode.counting import Histogram, doubling
from kvnode.mvcc.operations import Operations

__all__ = ["MemberStats", "PeerStats"]

#: Upper bounds, doubling as etcd's do: of fsyncs and commits, defragmentations, snapshots, hashes.
DISK_BUCKETS_S = doubling(0.001, 14)
DEFRAGMENT_BUCKETS_S = doubling(0.1, 13)
SNAPSHOT_BUCKETS_S = doubling(0.01, 17)
HASH_BUCKETS_S = doubling(0.01, 15)
#: Of round trips between members, snapshots between members, and batches of entries applied.
ROUND_TRIP_BUCKETS_S = doubling(0.0001, 16)
PEER_SNAPSHOT_BUCKETS_S = doubling(0.1, 10)
APPLY_BUCKETS_S = doubling(0.0001, 20)
#: Of slices of a compaction, and of whole ones, in milliseconds.
SLICE_BUCKETS_MS = doubling(1, 13)
COMPACTION_BUCKETS_MS = doubling(100, 14)


class PeerStats:
    """What passes between this member and one other."""

    def __init__(self) -> None:
        self.is_connected = False
        #: Connections to it that were lost.
        self.disconnects = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.send_failures = 0
        self.receive_failures = 0
        self.round_trip_s = Histogram(ROUND_TRIP_BUCKETS_S)
        self.snapshots_sent = 0
        self.snapshots_not_sent = 0
        self.snapshots_sending = 0
        self.snapshot_send_s = Histogram(PEER_SNAPSHOT_BUCKETS_S)
        self.snapshots_received = 0
        self.snapshots_not_received = 0
        self.snapshots_receiving = 0
        self.snapshot_receive_s = Histogram(PEER_SNAPSHOT_BUCKETS_S)


class MemberStats:
    """What the member counts about itself; only ever added to, save for what says so."""

    def __init__(self) -> None:
        #: What the state machine has done, over all states that this process has worked on.
        self.operations = Operations(time.perf_counter)
        self.leader_changes = 0
        self.proposals_failed = 0
        #: Now.
        self.proposals_pending = 0
        self.heartbeat_send_failures = 0
        self.learner_promote_successes = 0
        #: By reason.
        self.learner_promote_failures: dict[str, int] = {}
        self.slow_applies = 0
        self.apply_s = Histogram(APPLY_BUCKETS_S)
        self.read_indexes_failed = 0
        self.slow_read_indexes = 0
        self.wal_fsync_s = Histogram(DISK_BUCKETS_S)
        self.disk_stalls = 0
        #: Now.
        self.is_disk_stalled = False
        #: As of the last look.
        self.disk_free_bytes = 0
        self.disk_reserve_bytes = 0
        #: Of entries, before LevelDB compresses them.
        self.log_bytes = 0
        self.backend_commit_s = Histogram(DISK_BUCKETS_S)
        self.snapshot_s = Histogram(SNAPSHOT_BUCKETS_S)
        self.defragment_s = Histogram(DEFRAGMENT_BUCKETS_S)
        #: Now.
        self.is_defragmenting = False
        self.is_installing_snapshot = False
        self.hash_s = Histogram(HASH_BUCKETS_S)
        self.hash_revision_s = Histogram(HASH_BUCKETS_S)
        #: Unix time of the last one; 0: none yet.
        self.compaction_begun_s = 0.0
        self.compaction_slice_ms = Histogram(SLICE_BUCKETS_MS)
        self.compaction_ms = Histogram(COMPACTION_BUCKETS_MS)
        self.lease_renewed = 0
        self.lease_expired = 0
        self.peers: dict[int, PeerStats] = {}

    def peer(self, member_id: int) -> PeerStats:
        """Return the counters of another member, made on first use."""
        stats = self.peers.get(member_id)
        if stats is None:
            stats = self.peers[member_id] = PeerStats()
        return stats
