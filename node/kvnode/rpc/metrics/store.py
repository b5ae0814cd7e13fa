"""Keys, revisions, watches and leases."""

from collections.abc import Iterator

from kvnode.api.member_port import MemberPort
from kvnode.api.server import Services
from kvnode.rpc.metrics.text import Family, counter, gauge, histogram

__all__ = ["store_metrics"]


def store_metrics(member: MemberPort, services: Services) -> Iterator[Family]:
    """Yield the families."""
    yield from _operations(member)
    yield from _revisions(member)
    yield from _watches(member, services)
    yield from _leases(member)


def _operations(member: MemberPort) -> Iterator[Family]:
    counts = member.stats.operations
    yield counter("etcd_mvcc_put_total", "Puts carried out here.", counts.puts)
    yield counter("etcd_mvcc_delete_total", "Deletions carried out here.", counts.deletes)
    yield counter("etcd_mvcc_range_total", "Ranges read here.", counts.ranges)
    yield counter(
        "etcd_mvcc_txn_total", "Transactions of more than one operation carried out here.", counts.txns
    )
    yield gauge(
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "Size of all keys and values put since the start.",
        counts.put_bytes,
    )


def _revisions(member: MemberPort) -> Iterator[Family]:
    store, stats = member.applier.store, member.stats
    yield gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the state on disk.", member.db_size_bytes)
    yield gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Size of what the state holds.",
        member.db_size_in_use_bytes,
    )
    yield histogram("etcd_mvcc_hash_duration_seconds", "Hashes of the whole state.", stats.hash_s)
    yield histogram("etcd_mvcc_hash_rev_duration_seconds", "Hashes of revisions.", stats.hash_revision_s)
    yield gauge("etcd_debugging_mvcc_keys_total", "Live keys.", len(store))
    yield gauge("etcd_debugging_mvcc_current_revision", "The store's revision.", store.current_revision)
    yield gauge("etcd_debugging_mvcc_compact_revision", "The compacted revision.", store.compact_revision)
    yield counter(
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "Records deleted by compactions.",
        stats.operations.compacted,
    )
    yield gauge(
        "etcd_debugging_mvcc_db_compaction_last",
        "When a compaction was last begun, in seconds of Unix time.",
        stats.compaction_begun_s,
    )
    yield histogram(
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "How long each slice of a compaction held up everything else.",
        stats.compaction_slice_ms,
    )
    yield histogram(
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "Compactions, pauses included.",
        stats.compaction_ms,
    )


def _watches(member: MemberPort, services: Services) -> Iterator[Family]:
    hub = member.hub
    yield gauge("etcd_debugging_mvcc_watcher_total", "Watches.", len(hub))
    yield gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that lag behind.", hub.slow_count)
    yield gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.", services.watch_streams)
    yield counter("etcd_debugging_mvcc_events_total", "Events given to watches.", hub.delivered_events)
    yield gauge(
        "etcd_debugging_mvcc_pending_events_total", "Events that slow watches refused.", hub.pending_events
    )


def _leases(member: MemberPort) -> Iterator[Family]:
    stats, counts = member.stats, member.stats.operations
    yield counter("etcd_debugging_lease_granted_total", "Leases granted.", counts.leases_granted)
    yield counter("etcd_debugging_lease_revoked_total", "Leases revoked.", counts.leases_revoked)
    yield counter("etcd_debugging_lease_renewed_total", "Leases renewed by this leader.", stats.lease_renewed)
    yield histogram(
        "etcd_debugging_lease_ttl_total", "TTLs of leases granted, in seconds.", counts.lease_ttl_s
    )
    yield counter("etcd_debugging_server_lease_expired_total", "Leases expired.", stats.lease_expired)
