"""Consensus, requests, health, versions and features of a member."""

from collections.abc import Iterator

from kvnode.api.member_port import MemberPort
from kvnode.api.probes import Probes
from kvnode.api.version import ETCD_VERSION, program_version
from kvnode.apply.commands import CommandKind
from kvnode.pb.rpc_pb2 import AlarmType
from kvnode.rpc.metrics.text import Family, counter, gauge, histogram, histograms, labelled
from kvnode.server.features import FEATURES

__all__ = ["server_metrics"]


def server_metrics(member: MemberPort, probes: Probes) -> Iterator[Family]:
    """Yield the families."""
    yield from _raft(member)
    yield from _requests(member)
    yield from _health(member, probes)
    yield from _facts(member, probes)


def _raft(member: MemberPort) -> Iterator[Family]:
    stats = member.stats
    yield gauge("etcd_server_has_leader", "Whether a leader is known.", member.leader_id != 0)
    yield gauge("etcd_server_is_leader", "Whether this member leads.", member.is_leader)
    yield gauge("etcd_server_is_learner", "Whether this member is a learner.", member.is_learner)
    yield counter("etcd_server_leader_changes_seen_total", "Changes of leader.", stats.leader_changes)
    yield gauge("etcd_server_proposals_committed_total", "Commit index.", member.commit_index)
    yield gauge("etcd_server_proposals_applied_total", "Applied index.", member.applied_index)
    yield gauge("etcd_server_proposals_pending", "Writes that wait.", stats.proposals_pending)
    yield counter("etcd_server_proposals_failed_total", "Writes that failed.", stats.proposals_failed)
    yield counter(
        "etcd_server_heartbeat_send_failures_total",
        "Heartbeats that this member, as leader, sent too late.",
        stats.heartbeat_send_failures,
    )
    yield counter(
        "etcd_server_learner_promote_successes", "Learners promoted by this member as leader.",
        stats.learner_promote_successes,
    )  # fmt: skip
    yield labelled(
        "counter",
        "etcd_server_learner_promote_failures",
        "Promotions of learners refused by this member as leader.",
        [((("Reason", reason),), count) for reason, count in sorted(stats.learner_promote_failures.items())],
    )
    yield gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "Whether a received snapshot is being put into use.",
        stats.is_installing_snapshot,
    )
    yield gauge("etcd_debugging_auth_revision", "Revision of users and roles.", member.applier.auth.revision)
    yield gauge("kvnode_raft_term", "The member's term.", member.term)


def _requests(member: MemberPort) -> Iterator[Family]:
    stats = member.stats
    operations = stats.operations
    yield histograms(
        "etcd_server_apply_duration_seconds",
        "Commands applied, before the batch that they are in is written.",
        {
            (("op", _op(kind)), ("success", str(succeeded).lower()), ("version", "v3")): durations_s
            for (kind, succeeded), durations_s in sorted(operations.applied_s.items())
        },
    )
    yield histograms(
        "etcd_server_range_duration_seconds",
        "Ranges read, in transactions too.",
        {
            (("success", success),): durations_s
            for success, durations_s in (("true", operations.range_s), ("false", operations.range_failed_s))
            if any(durations_s.counts)
        },
    )
    yield counter("etcd_server_slow_apply_total", "Batches applied too slowly.", stats.slow_applies)
    yield histogram("kvnode_apply_batch_duration_seconds", "Batches of entries applied.", stats.apply_s)
    yield counter(
        "etcd_server_read_indexes_failed_total", "Linearizable reads that failed.", stats.read_indexes_failed
    )
    yield counter(
        "etcd_server_slow_read_indexes_total",
        "Rounds of linearizable reads not confirmed in time.",
        stats.slow_read_indexes,
    )
    quota_bytes = member.quota_bytes
    yield gauge(
        "etcd_server_quota_backend_bytes",
        "Quota of the data; 0 is none.",
        0 if quota_bytes is None else quota_bytes,
    )


#: etcd's names of commands, where they are not the kind's own words.
_OPS = {
    CommandKind.COMPACT: "Compaction",
    CommandKind.MEMBER_ATTRIBUTES: "ClusterMemberAttrSet",
    CommandKind.DOWNGRADE: "DowngradeInfoSet",
    CommandKind.CLUSTER_VERSION: "ClusterVersionSet",
}


_KINDS = frozenset(CommandKind)


def _op(kind: int) -> str:
    """The name that etcd has for a kind of command."""
    if kind not in _KINDS:
        return str(kind)  # inside a command that was refused as malformed
    known = CommandKind(kind)
    name = _OPS.get(known) or "".join(word.capitalize() for word in known.name.split("_"))
    return f"Auth{name}" if name.startswith(("User", "Role")) else name


def _health(member: MemberPort, probes: Probes) -> Iterator[Family]:
    yield counter("etcd_server_health_success", "Times /health was well.", probes.health_successes)
    yield counter("etcd_server_health_failures", "Times /health was not.", probes.health_failures)
    checks = sorted(probes.check_counts.items())
    yield labelled(
        "gauge",
        "etcd_server_healthcheck",
        "Whether a check of /livez or /readyz passed the last time.",
        [
            ((("name", name), ("type", kind)), counts.is_passing)
            for (kind, name), counts in checks
            if counts.passed or counts.failed
        ],
    )
    yield labelled(
        "counter",
        "etcd_server_healthchecks_total",
        "Checks of /livez and /readyz.",
        [
            ((("name", name), ("status", status), ("type", kind)), count)
            for (kind, name), counts in checks
            for status, count in (("success", counts.passed), ("error", counts.failed))
            if count
        ],
    )
    yield labelled(
        "gauge",
        "etcd_debugging_server_alarms",
        "Raised alarms.",
        [
            ((("alarm_type", AlarmType.Name(AlarmType.ValueType(alarm))), ("server_id", f"{member_id:x}")), 1)
            for member_id, alarm in member.applier.alarms
        ],
    )


def _facts(member: MemberPort, probes: Probes) -> Iterator[Family]:
    def fact(name: str, text: str, label: str, value: str) -> Family:
        return labelled("gauge", name, text, [(((label, value),), 1)])

    # As in etcd's: major and minor only.
    cluster_version = ".".join(probes.cluster_version.split(".")[:2])
    yield fact("etcd_server_version", "Which version's API is served.", "server_version", ETCD_VERSION)
    yield fact("etcd_cluster_version", "API version of the cluster.", "cluster_version", cluster_version)
    yield fact("etcd_server_id", "This member's ID in hex.", "server_id", f"{member.member_id:x}")
    yield fact("kvnode_version", "This program's version.", "version", program_version())
    gates = member.config.feature_gates
    yield labelled(
        "gauge",
        "etcd_server_feature_enabled",
        "Whether a feature gate is on.",
        [
            ((("name", name), ("stage", str(feature.stage))), gates[name])
            for name, feature in FEATURES.items()
        ],
    )
