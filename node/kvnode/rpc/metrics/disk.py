"""How long the disk takes."""

from collections.abc import Iterator

from kvnode.rpc.metrics.text import Family, counter, gauge, histogram
from kvnode.server.stats import MemberStats

__all__ = ["disk_metrics"]


def disk_metrics(stats: MemberStats) -> Iterator[Family]:
    """Yield the families."""
    yield histogram("etcd_disk_wal_fsync_duration_seconds", "Synced writes of the log.", stats.wal_fsync_s)
    yield gauge("etcd_disk_wal_write_bytes_total", "Bytes of entries written to the log.", stats.log_bytes)
    yield histogram(
        "etcd_disk_backend_commit_duration_seconds", "Writes of the state.", stats.backend_commit_s
    )
    yield histogram("etcd_disk_backend_snapshot_duration_seconds", "Snapshots streamed.", stats.snapshot_s)
    yield histogram("etcd_disk_backend_defrag_duration_seconds", "Defragmentations.", stats.defragment_s)
    yield gauge("kvnode_disk_stalled", "Whether a write takes longer than it may.", stats.is_disk_stalled)
    yield counter(
        "kvnode_disk_stalls_total", "Times that a write took longer than it may.", stats.disk_stalls
    )
    yield gauge("kvnode_disk_free_bytes", "Room on the fuller of this member's disks.", stats.disk_free_bytes)
    yield gauge("kvnode_disk_reserve_bytes", "Room below which writes are refused.", stats.disk_reserve_bytes)
    yield gauge("etcd_disk_defrag_inflight", "Whether a defragmentation runs.", stats.is_defragmenting)
