"""``"Name" : value`` lines, one per field, as etcdctl's ``-w fields``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvnode.pb import kv_pb2, rpc_pb2

from kvclient.output.go_text import duration, quoted
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
from kvclient.output.stdout import write_line
from kvclient.watch import WatchBatch

if TYPE_CHECKING:
    from kvclient.output.printer import AnyResponse

__all__ = ["FieldsPrinter"]


class FieldsPrinter(Printer):
    """Every field on a line of its own; ids in hexadecimal if asked for."""

    def __init__(self, *, is_hex: bool = False) -> None:
        self._is_hex = is_hex

    def answer(self, response: "AnyResponse", view: AnswerView) -> None:
        self._header(response.header)
        for name, value in view.fields:
            write_line(f'"{name}" :{value}')

    def put(self, response: rpc_pb2.PutResponse) -> None:
        self._header(response.header)
        if response.HasField("prev_kv"):
            self._kv(response.prev_kv, "Prev")

    def range(self, response: rpc_pb2.RangeResponse, view: RangeView) -> None:
        self._header(response.header)
        for kv in response.kvs:
            self._kv(kv)
        _field("More", response.more)
        _field("Count", response.count)

    def delete(self, response: rpc_pb2.DeleteRangeResponse) -> None:
        self._header(response.header)
        _field("Deleted", response.deleted)
        for kv in response.prev_kvs:
            self._kv(kv, "Prev")

    def txn(self, response: rpc_pb2.TxnResponse, views: TxnViews) -> None:
        self._header(response.header)
        _field("Succeeded", response.succeeded)
        self.txn_responses(response, views)

    def compact(self, revision: int, response: rpc_pb2.CompactionResponse) -> None:
        self._header(response.header)

    def watch(self, batch: WatchBatch) -> None:
        if batch.is_progress and not batch.response.canceled:
            write_line(f"progress notify: {batch.revision}")
        self._header(batch.response.header)
        for event in batch.events:
            write_line(f'"Type" : {kv_pb2.Event.EventType.Name(event.type)}')
            if event.HasField("prev_kv"):
                self._kv(event.prev_kv, "Prev")
            self._kv(event.kv)

    def lease_granted(self, response: rpc_pb2.LeaseGrantResponse) -> None:
        self._header(response.header)
        self._lease_id("ID", response.ID)
        _field("TTL", response.TTL)

    def lease_revoked(self, lease_id: int, response: rpc_pb2.LeaseRevokeResponse) -> None:
        self._header(response.header)

    def lease_renewed(self, response: rpc_pb2.LeaseKeepAliveResponse) -> None:
        self._header(response.header)
        self._lease_id("ID", response.ID)
        _field("TTL", response.TTL)

    def lease_time_to_live(self, response: rpc_pb2.LeaseTimeToLiveResponse, *, with_keys: bool) -> None:
        self._header(response.header)
        self._lease_id("ID", response.ID)
        _field("TTL", response.TTL)
        _field("GrantedTTL", response.grantedTTL)
        for key in response.keys:
            _field("Key", key)

    def leases(self, response: rpc_pb2.LeaseLeasesResponse) -> None:
        self._header(response.header)
        for lease in response.leases:
            self._lease_id("ID", lease.ID)

    def members(self, response: rpc_pb2.MemberListResponse) -> None:
        self._header(response.header)
        for member in response.members:
            self._member(member)

    def member_added(self, name: str, response: rpc_pb2.MemberAddResponse) -> None:
        self._header(response.header)
        self._member(response.member)

    def member_removed(self, member_id: int, response: rpc_pb2.MemberRemoveResponse) -> None:
        self._header(response.header)

    def member_updated(self, member_id: int, response: rpc_pb2.MemberUpdateResponse) -> None:
        self._header(response.header)

    def member_promoted(self, member_id: int, response: rpc_pb2.MemberPromoteResponse) -> None:
        self._header(response.header)

    def endpoint_status(self, reports: Sequence[EndpointStatus]) -> None:
        for report in reports:
            status = report.response
            self._header(status.header)
            _field("Version", status.version)
            _field("StorageVersion", status.storageVersion)
            _field("DBSize", status.dbSize)
            _field("DBSizeInUse", status.dbSizeInUse)
            _field("DBSizeQuota", status.dbSizeQuota)
            _field("Leader", status.leader)
            _field("IsLearner", status.isLearner)
            _field("RaftIndex", status.raftIndex)
            _field("RaftTerm", status.raftTerm)
            _field("RaftAppliedIndex", status.raftAppliedIndex)
            write_line(f'"Errors" : [{" ".join(quoted(error) for error in status.errors)}]')
            _field("Endpoint", report.endpoint)
            _field("DowngradeTargetVersion", status.downgradeInfo.targetVersion)
            _field("DowngradeEnabled", status.downgradeInfo.enabled)
            write_line("")

    def endpoint_health(self, reports: Sequence[EndpointHealth]) -> None:
        for report in reports:
            _field("Endpoint", report.endpoint)
            _field("Health", report.is_healthy)
            write_line(f'"Took" : {duration(report.took_s)}')
            write_line(f'"Error" : {report.error}')
            write_line("")

    def endpoint_hashes(self, reports: Sequence[EndpointHash]) -> None:
        for report in reports:
            self._header(report.response.header)
            _field("Endpoint", report.endpoint)
            _field("Hash", report.response.hash)
            _field("HashRevision", report.response.hash_revision)
            write_line("")

    def defragmented(self, reports: Sequence[EndpointDefrag]) -> None:
        for report in reports:
            _field("Endpoint", report.endpoint)
            write_line(f'"Took" : {duration(report.took_s)}')
            _field("Error", report.error)
            write_line("")

    def alarms(self, response: rpc_pb2.AlarmResponse) -> None:
        self._header(response.header)
        for alarm in response.alarms:
            self._id("MemberID", alarm.memberID)
            write_line(f'"AlarmType" : {rpc_pb2.AlarmType.Name(alarm.alarm)}')
            write_line("")

    def leader_moved(self, from_id: int, to_id: int, response: rpc_pb2.MoveLeaderResponse) -> None:
        _field("From", from_id)
        _field("To", to_id)

    def snapshot_saved(self, saved: SavedFile) -> None:
        _field("Path", str(saved.path))
        _field("Size", saved.size_bytes)
        _field("SHA256", saved.sha256)
        _field("Version", saved.server_version)
        _field("Endpoint", saved.endpoint)

    def snapshot_status(self, status: SnapshotFileStatus) -> None:
        _field("Hash", status.hash)
        _field("Revision", status.revision)
        _field("Keys", status.total_keys)
        _field("Size", status.size_bytes)
        _field("Version", status.version)
        _field("CompactRevision", status.compact_revision)
        _field("ClusterID", status.cluster_id)
        _field("MemberID", status.member_id)

    def snapshot_restored(self, restored: RestoredSnapshot) -> None:
        _field("DataDir", str(restored.data_dir))
        _field("Name", restored.name)
        _field("ClusterID", restored.cluster_id)
        _field("MemberID", restored.member_id)
        _field("Revision", restored.revision)

    def file_hash(self, result: FileHash) -> None:
        _field("Hash", result.hash)
        _field("HashRevision", result.hash_revision)
        _field("CompactRevision", result.compact_revision)

    # -- private ---------------------------------------------------------------

    def _header(self, header: rpc_pb2.ResponseHeader) -> None:
        self._id("ClusterID", header.cluster_id)
        self._id("MemberID", header.member_id)
        # Answers about members, for example, have no revision.
        if header.revision > 0:
            _field("Revision", header.revision)
        _field("RaftTerm", header.raft_term)

    def _id(self, name: str, number: int) -> None:
        write_line(f'"{name}" : {number:x}' if self._is_hex else f'"{name}" : {number}')

    def _lease_id(self, name: str, number: int) -> None:
        write_line(f'"{name}" : {number:016x}' if self._is_hex else f'"{name}" : {number}')

    def _kv(self, kv: kv_pb2.KeyValue, prefix: str = "") -> None:
        _field(f"{prefix}Key", kv.key)
        _field(f"{prefix}CreateRevision", kv.create_revision)
        _field(f"{prefix}ModRevision", kv.mod_revision)
        _field(f"{prefix}Version", kv.version)
        _field(f"{prefix}Value", kv.value)
        self._lease_id(f"{prefix}Lease", kv.lease)

    def _member(self, member: rpc_pb2.Member) -> None:
        self._id("ID", member.ID)
        _field("Name", member.name)
        for url in member.peerURLs:
            _field("PeerURL", url)
        for url in member.clientURLs:
            _field("ClientURL", url)
        _field("IsLearner", member.isLearner)
        write_line("")


def _field(name: str, value: bool | int | str | bytes) -> None:
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int):
        text = str(value)
    else:
        text = quoted(value)
    write_line(f'"{name}" : {text}')
