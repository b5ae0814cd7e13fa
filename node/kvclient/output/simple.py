"""etcdctl's plain format, line for line, because scripts parse it."""

from collections.abc import Sequence

from kvnode.pb import kv_pb2, rpc_pb2

from kvclient.output.go_text import duration, hex_id, size
from kvclient.output.printer import (
    EndpointDefrag,
    EndpointHash,
    EndpointHealth,
    EndpointStatus,
    Printer,
    RangeView,
    RestoredSnapshot,
    SavedFile,
    SnapshotFileStatus,
    TxnViews,
)
from kvclient.output.stdout import write_bytes, write_line
from kvclient.watch import WatchBatch

__all__ = ["SimplePrinter", "member_row", "status_row", "unused_percent"]

_ALL = RangeView()


class SimplePrinter(Printer):
    """Plain lines; bytes go out as they are."""

    def put(self, response: rpc_pb2.PutResponse) -> None:
        write_line("OK")
        if response.HasField("prev_kv"):
            _pair(response.prev_kv)

    def range(self, response: rpc_pb2.RangeResponse, view: RangeView) -> None:
        if view.count_only:
            write_line(str(response.count))
            return
        for kv in response.kvs:
            if not view.values_only:
                write_bytes(kv.key)
            write_bytes(kv.value)

    def delete(self, response: rpc_pb2.DeleteRangeResponse) -> None:
        write_line(str(response.deleted))
        for kv in response.prev_kvs:
            _pair(kv)

    def txn(self, response: rpc_pb2.TxnResponse, views: TxnViews) -> None:
        write_line("SUCCESS" if response.succeeded else "FAILURE")
        chosen = views.success if response.succeeded else views.failure
        for position, op in enumerate(response.responses):
            write_line("")
            match op.WhichOneof("response"):
                case "response_put":
                    self.put(op.response_put)
                case "response_range":
                    self.range(op.response_range, chosen[position] if position < len(chosen) else _ALL)
                case "response_delete_range":
                    self.delete(op.response_delete_range)
                case "response_txn":
                    self.txn(op.response_txn, TxnViews())

    def compact(self, revision: int, response: rpc_pb2.CompactionResponse) -> None:
        write_line(f"compacted revision {revision}")

    def watch(self, batch: WatchBatch) -> None:
        if batch.is_progress:
            write_line(f"progress notify: {batch.revision}")
        for event in batch.events:
            write_line(kv_pb2.Event.EventType.Name(event.type))
            if event.HasField("prev_kv"):
                _pair(event.prev_kv)
            _pair(event.kv)

    def lease_granted(self, response: rpc_pb2.LeaseGrantResponse) -> None:
        write_line(f"lease {response.ID:016x} granted with TTL({response.TTL}s)")

    def lease_revoked(self, lease_id: int, response: rpc_pb2.LeaseRevokeResponse) -> None:
        write_line(f"lease {lease_id:016x} revoked")

    def lease_renewed(self, response: rpc_pb2.LeaseKeepAliveResponse) -> None:
        write_line(f"lease {response.ID:016x} keepalived with TTL({response.TTL})")

    def lease_time_to_live(self, response: rpc_pb2.LeaseTimeToLiveResponse, *, with_keys: bool) -> None:
        if response.TTL == -1 and response.grantedTTL == 0:
            write_line(f"lease {response.ID:016x} already expired")
            return
        line = (
            f"lease {response.ID:016x} granted with TTL({response.grantedTTL}s), remaining({response.TTL}s)"
        )
        if with_keys:
            keys = " ".join(key.decode("utf-8", "surrogateescape") for key in response.keys)
            line += f", attached keys([{keys}])"
        write_line(line)

    def leases(self, response: rpc_pb2.LeaseLeasesResponse) -> None:
        write_line(f"found {len(response.leases)} leases")
        for lease in response.leases:
            write_line(f"{lease.ID:016x}")

    def members(self, response: rpc_pb2.MemberListResponse) -> None:
        for member in response.members:
            write_line(", ".join(member_row(member)))

    def member_added(self, name: str, response: rpc_pb2.MemberAddResponse) -> None:
        as_learner = " as learner" if response.member.isLearner else ""
        cluster_id = hex_id(response.header.cluster_id)
        write_line(f"Member {hex_id(response.member.ID):>16} added{as_learner} to cluster {cluster_id:>16}")
        everyone = []
        for member in response.members:
            member_name = name if member.ID == response.member.ID else member.name
            everyone += [f"{member_name}={url}" for url in member.peerURLs]
        everyone.sort()
        write_line("")
        write_line(f'ETCD_NAME="{name}"')
        write_line(f'ETCD_INITIAL_CLUSTER="{",".join(everyone)}"')
        write_line(f'ETCD_INITIAL_ADVERTISE_PEER_URLS="{",".join(response.member.peerURLs)}"')
        write_line('ETCD_INITIAL_CLUSTER_STATE="existing"')

    def member_removed(self, member_id: int, response: rpc_pb2.MemberRemoveResponse) -> None:
        _member_change(member_id, "removed from", response.header)

    def member_updated(self, member_id: int, response: rpc_pb2.MemberUpdateResponse) -> None:
        _member_change(member_id, "updated in", response.header)

    def member_promoted(self, member_id: int, response: rpc_pb2.MemberPromoteResponse) -> None:
        _member_change(member_id, "promoted in", response.header)

    def endpoint_status(self, reports: Sequence[EndpointStatus]) -> None:
        for report in reports:
            write_line(", ".join(status_row(report)))

    def endpoint_health(self, reports: Sequence[EndpointHealth]) -> None:
        for report in reports:
            if report.is_healthy:
                took = duration(report.took_s)
                write_line(f"{report.endpoint} is healthy: successfully committed proposal: took = {took}")
            else:
                write_line(f"{report.endpoint} is unhealthy: {report.error}")

    def endpoint_hashes(self, reports: Sequence[EndpointHash]) -> None:
        for report in reports:
            write_line(f"{report.endpoint}, {report.response.hash}, {report.response.hash_revision}")

    def defragmented(self, reports: Sequence[EndpointDefrag]) -> None:
        for report in reports:
            if not report.error:
                took = duration(report.took_s)
                write_line(f"Finished defragmenting etcd member[{report.endpoint}]. took {took}")

    def alarms(self, response: rpc_pb2.AlarmResponse) -> None:
        for alarm in response.alarms:
            write_line(f"memberID:{alarm.memberID} alarm:{rpc_pb2.AlarmType.Name(alarm.alarm)} ")

    def leader_moved(self, from_id: int, to_id: int, response: rpc_pb2.MoveLeaderResponse) -> None:
        write_line(f"Leadership transferred from {hex_id(from_id)} to {hex_id(to_id)}")

    def snapshot_saved(self, saved: SavedFile) -> None:
        write_line(f"Snapshot saved at {saved.path}")
        write_line(f"Server version {saved.server_version}")

    def snapshot_status(self, status: SnapshotFileStatus) -> None:
        write_line(
            f"{status.hash:x}, {status.revision}, {status.total_keys}, "
            f"{size(status.size_bytes)}, {status.version}"
        )

    def snapshot_restored(self, restored: RestoredSnapshot) -> None:
        write_line(
            f"Restored revision {restored.revision} into {restored.data_dir} "
            f"as member {hex_id(restored.member_id)} ({restored.name}) "
            f"of cluster {hex_id(restored.cluster_id)}"
        )


def member_row(member: rpc_pb2.Member) -> list[str]:
    """ID, status, name, peer URLs, client URLs, whether a learner."""
    return [
        hex_id(member.ID),
        "started" if member.name else "unstarted",
        member.name,
        ",".join(member.peerURLs),
        ",".join(member.clientURLs),
        _truth(member.isLearner),
    ]


def status_row(report: EndpointStatus) -> list[str]:
    """The sixteen columns of ``endpoint status``, in etcdctl's order."""
    status = report.response
    return [
        report.endpoint,
        hex_id(status.header.member_id),
        status.version,
        status.storageVersion,
        size(status.dbSize),
        size(status.dbSizeInUse),
        f"{unused_percent(status)}%",
        size(status.dbSizeQuota),
        _truth(status.leader == status.header.member_id),
        _truth(status.isLearner),
        str(status.raftTerm),
        str(status.raftIndex),
        str(status.raftAppliedIndex),
        ", ".join(status.errors),
        status.downgradeInfo.targetVersion,
        _truth(status.downgradeInfo.enabled),
    ]


def unused_percent(status: rpc_pb2.StatusResponse) -> int:
    """Share of the database file that holds nothing."""
    if status.dbSize <= 0:
        return 0
    return int((1 - status.dbSizeInUse / status.dbSize) * 100)


def _pair(kv: kv_pb2.KeyValue) -> None:
    write_bytes(kv.key)
    write_bytes(kv.value)


def _member_change(member_id: int, what: str, header: rpc_pb2.ResponseHeader) -> None:
    write_line(f"Member {hex_id(member_id):>16} {what} cluster {hex_id(header.cluster_id):>16}")


def _truth(value: bool) -> str:
    return "true" if value else "false"
