"""Prometheus metrics, under etcd's names so that its dashboards and alerts work.

Everything is read when Prometheus asks: the members of the hot path only add to plain numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from kvnode.api.member_port import MemberPort
from kvnode.api.probes import Probes
from kvnode.api.version import ETCD_VERSION, program_version
from kvnode.pb.rpc_pb2 import AlarmType
from kvnode.rpc.stats import RpcStats
from kvnode.server.stats import Histogram

__all__ = ["Metrics"]

#: Names of the status codes as Go's gRPC spells them, by number.
_CODE_NAMES = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)


class Metrics:
    """Renders all metrics of one member."""

    def __init__(self, member: MemberPort, rpc: RpcStats, probes: Probes) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_MemberCollector(member, probes))
        self._registry.register(_RpcCollector(rpc, is_extensive=member.config.metrics_extensive))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self._registry)


class _MemberCollector(Collector):
    def __init__(self, member: MemberPort, probes: Probes) -> None:
        self._member = member
        self._probes = probes
        self._version = program_version()

    def collect(self) -> Iterable[Metric]:
        yield from self._raft()
        yield from self._store()
        yield from self._disk()
        yield from self._network()
        yield from self._leases()
        yield from self._health()
        yield _labelled(
            "etcd_server_version", "Which version's API is served.", "server_version", {ETCD_VERSION: 1}
        )
        cluster_version = self._probes.cluster_version.removesuffix(".0")
        yield _labelled(
            "etcd_cluster_version", "API version of the cluster.", "cluster_version", {cluster_version: 1}
        )
        yield _labelled("kvnode_version", "This program's version.", "version", {self._version: 1})

    def _raft(self) -> Iterator[Metric]:
        member, stats = self._member, self._member.stats
        yield _gauge("etcd_server_has_leader", "Whether a leader is known.", member.leader_id != 0)
        yield _gauge("etcd_server_is_leader", "Whether this member leads.", member.is_leader)
        yield _gauge("etcd_server_is_learner", "Whether this member is a learner.", member.is_learner)
        yield _labelled(
            "etcd_server_id", "This member's ID in hex.", "server_id", {f"{member.member_id:x}": 1}
        )
        yield _counter("etcd_server_leader_changes_seen", "Changes of leader.", stats.leader_changes)
        yield _gauge("etcd_server_proposals_committed_total", "Commit index.", member.commit_index)
        yield _gauge("etcd_server_proposals_applied_total", "Applied index.", member.applied_index)
        yield _gauge("etcd_server_proposals_pending", "Writes that wait.", stats.proposals_pending)
        yield _counter("etcd_server_proposals_failed", "Writes that failed.", stats.proposals_failed)
        yield _counter(
            "etcd_server_heartbeat_send_failures",
            "Heartbeats that went out late or not at all.",
            stats.heartbeat_send_failures,
        )
        yield _counter("etcd_server_slow_apply", "Batches applied too slowly.", stats.slow_applies)
        yield _counter(
            "etcd_server_read_indexes_failed", "Linearizable reads that failed.", stats.read_indexes_failed
        )
        yield _counter(
            "etcd_server_slow_read_indexes",
            "Linearizable reads not confirmed in time.",
            stats.slow_read_indexes,
        )
        yield _gauge("kvnode_raft_term", "The member's term.", member.term)

    def _store(self) -> Iterator[Metric]:
        member, store = self._member, self._member.applier.store
        quota_bytes = member.quota_bytes
        yield _gauge(
            "etcd_server_quota_backend_bytes",
            "Quota of the data; 0 is none.",
            0 if quota_bytes is None else quota_bytes,
        )
        yield _gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the state on disk.", member.db_size_bytes)
        yield _gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Size of what the state holds.",
            member.db_size_in_use_bytes,
        )
        yield _gauge("etcd_debugging_mvcc_keys_total", "Live keys.", len(store))
        yield _gauge("etcd_debugging_mvcc_current_revision", "The store's revision.", store.current_revision)
        yield _gauge(
            "etcd_debugging_mvcc_compact_revision", "The compacted revision.", store.compact_revision
        )
        hub = member.hub
        yield _gauge("etcd_debugging_mvcc_watcher_total", "Watches.", len(hub))
        yield _gauge("etcd_debugging_mvcc_slow_watcher_total", "Watches that lag behind.", hub.slow_count)

    def _disk(self) -> Iterator[Metric]:
        stats = self._member.stats
        yield _histogram(
            "etcd_disk_wal_fsync_duration_seconds", "Synced writes of the log.", stats.wal_fsync_s
        )
        yield _histogram(
            "etcd_disk_backend_commit_duration_seconds", "Writes of the state.", stats.backend_commit_s
        )
        yield _histogram("etcd_disk_backend_snapshot_duration_seconds", "Snapshots made.", stats.snapshot_s)
        yield _histogram("etcd_disk_backend_defrag_duration_seconds", "Defragmentations.", stats.defragment_s)
        yield _gauge("etcd_disk_defrag_inflight", "Whether a defragmentation runs.", stats.is_defragmenting)

    def _network(self) -> Iterator[Metric]:
        stats = self._member.stats
        for name, text, values in (
            ("sent_bytes", "Bytes sent to other members.", stats.peer_sent_bytes),
            ("sent_failures", "Messages that could not be sent.", stats.peer_sent_failures),
        ):
            counter = CounterMetricFamily(f"etcd_network_peer_{name}", text, labels=["To"])
            for member_id, value in sorted(values.items()):
                counter.add_metric([member_id], value)
            yield counter
        received = CounterMetricFamily(
            "etcd_network_peer_received_bytes", "Bytes received from other members.", labels=["From"]
        )
        for member_id, value in sorted(stats.peer_received_bytes.items()):
            received.add_metric([member_id], value)
        yield received
        round_trips = HistogramMetricFamily(
            "etcd_network_peer_round_trip_time_seconds", "Round trips to other members.", labels=["To"]
        )
        for member_id, histogram in sorted(stats.peer_round_trip_s.items()):
            round_trips.add_metric([member_id], _buckets(histogram), histogram.total)
        yield round_trips

    def _leases(self) -> Iterator[Metric]:
        stats = self._member.stats
        yield _counter("etcd_debugging_lease_granted", "Leases granted.", stats.lease_granted)
        yield _counter("etcd_debugging_lease_revoked", "Leases revoked.", stats.lease_revoked)
        yield _counter("etcd_debugging_lease_renewed", "Leases renewed.", stats.lease_renewed)
        yield _counter("etcd_debugging_server_lease_expired", "Leases expired.", stats.lease_expired)

    def _health(self) -> Iterator[Metric]:
        probes = self._probes
        # etcd's two counters lack the customary _total, which a counter family would add.
        yield _gauge("etcd_server_health_success", "Times /health was well.", probes.health_successes)
        yield _gauge("etcd_server_health_failures", "Times /health was not.", probes.health_failures)
        checks = CounterMetricFamily(
            "etcd_server_healthchecks", "Checks of /livez and /readyz.", labels=["type", "name", "status"]
        )
        for name, (passed, failed) in probes.check_counts.items():
            checks.add_metric(["/readyz", name, "success"], passed)
            checks.add_metric(["/readyz", name, "error"], failed)
        yield checks
        alarms = GaugeMetricFamily(
            "etcd_debugging_server_alarms", "Raised alarms.", labels=["server_id", "alarm_type"]
        )
        for member_id, alarm in self._member.applier.alarms:
            alarms.add_metric([f"{member_id:x}", AlarmType.Name(AlarmType.ValueType(alarm))], 1)
        yield alarms


class _RpcCollector(Collector):
    def __init__(self, stats: RpcStats, *, is_extensive: bool) -> None:
        self._stats = stats
        self._is_extensive = is_extensive

    def collect(self) -> Iterable[Metric]:
        names = ["grpc_type", "grpc_service", "grpc_method"]
        started = CounterMetricFamily("grpc_server_started", "RPCs begun.", labels=names)
        handled = CounterMetricFamily("grpc_server_handled", "RPCs ended.", labels=[*names, "grpc_code"])
        durations = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Time from request to answer.", labels=names
        )
        for method in self._stats.all_methods():
            labels = [method.kind, method.service, method.method]
            started.add_metric(labels, method.started)
            for code, count in enumerate(method.handled):
                if count or code == 0:
                    handled.add_metric([*labels, _CODE_NAMES[code]], count)
            if method.kind == "unary":
                durations.add_metric(labels, _buckets(method.duration_s), method.duration_s.total)
        yield started
        yield handled
        if self._is_extensive:
            yield durations
        yield _counter(
            "etcd_network_client_grpc_sent_bytes", "Bytes sent to clients.", self._stats.sent_bytes
        )
        yield _counter(
            "etcd_network_client_grpc_received_bytes",
            "Bytes received from clients.",
            self._stats.received_bytes,
        )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    """A counter; ``_total`` is added to its name."""
    return CounterMetricFamily(name, text, value=float(value))


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for label_value, value in values.items():
        family.add_metric([label_value], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=_buckets(histogram), sum_value=histogram.total)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
