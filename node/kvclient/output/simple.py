"""etcdctl's plain format, line for line, because scripts parse it."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvnode.pb import kv_pb2, rpc_pb2

from kvclient.output.go_text import duration, hex_escaped, hex_id, size
from kvclient.output.printer import (
    AnswerView,
    EndpointDefrag,
    EndpointHash,
    EndpointHealth,
    EndpointStatus,
    FileHash,
    Printer,
    RangeView,
    RestoredSnapshot,
    SavedFile,
    SnapshotFileStatus,
    TxnViews,
)
from kvclient.output.stdout import flush, write_bytes, write_line
from kvclient.watch import WatchBatch

if TYPE_CHECKING:
    from kvclient.output.printer import AnyResponse

__all__ = ["SimplePrinter", "member_row", "status_row", "unused_percent"]


class SimplePrinter(Printer):
    """Plain lines; keys and values go out as they are, or byte by byte in hexadecimal."""

    def __init__(self, *, is_hex: bool = False) -> None:
        self._is_hex = is_hex

    def answer(self, response: "AnyResponse", view: AnswerView) -> None:
        if view.text:
            write_line(view.text)

    def put(self, response: rpc_pb2.PutResponse) -> None:
        write_line("OK")
        if response.HasField("prev_kv"):
            self._pair(response.prev_kv)

    def range(self, response: rpc_pb2.RangeResponse, view: RangeView) -> None:
        if view.count_only:
            write_line(str(response.count))
            return
        for kv in response.kvs:
            if not view.values_only:
                self._bytes(kv.key)
            self._bytes(kv.value)

    def delete(self, response: rpc_pb2.DeleteRangeResponse) -> None:
        write_line(str(response.deleted))
        for kv in response.prev_kvs:
            self._pair(kv)

    def txn(self, response: rpc_pb2.TxnResponse, views: TxnViews) -> None:
        write_line("SUCCESS" if response.succeeded else "FAILURE")
        self.txn_responses(response, views)

    def before_txn_response(self) -> None:
        write_line("")

    def compact(self, revision: int, response: rpc_pb2.CompactionResponse) -> None:
        write_line(f"compacted revision {revision}")

    def watch(self, batch: WatchBatch) -> None:
        if batch.is_progress and not batch.response.canceled:
            write_line(f"progress notify: {batch.revision}")
        for event in batch.events:
            write_line(kv_pb2.Event.EventType.Name(event.type))
            if event.HasField("prev_kv"):
                self._pair(event.prev_kv)
            self._pair(event.kv)

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
                flush()
                text = f"{report.endpoint} is unhealthy: failed to commit proposal: {report.error}"
                print(text, file=sys.stderr)

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

    def file_hash(self, result: FileHash) -> None:
        write_line(f"{result.hash}, {result.hash_revision}, {result.compact_revision}")

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

    # -- private ---------------------------------------------------------------

    def _pair(self, kv: kv_pb2.KeyValue) -> None:
        self._bytes(kv.key)
        self._bytes(kv.value)

    def _bytes(self, data: bytes) -> None:
        write_bytes(hex_escaped(data).encode() if self._is_hex else data)


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
    return 100 - status.dbSizeInUse * 100 // status.dbSize


def _member_change(member_id: int, what: str, header: rpc_pb2.ResponseHeader) -> None:
    write_line(f"Member {hex_id(member_id):>16} {what} cluster {hex_id(header.cluster_id):>16}")


def _truth(value: bool) -> str:
    return "true" if value else "false"
