"""One JSON document per result, with etcd's field names and nesting."""

import base64
from collections.abc import Sequence

from google.protobuf.message import Message
from kvnode.pb import rpc_pb2

from kvclient.output.go_text import duration
from kvclient.output.gojson import Json, dumps, message_fields
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
from kvclient.output.stdout import write_line
from kvclient.watch import WatchBatch

__all__ = ["JsonPrinter"]


class JsonPrinter(Printer):
    """Machine-readable lines."""

    def put(self, response: rpc_pb2.PutResponse) -> None:
        _message(response)

    def range(self, response: rpc_pb2.RangeResponse, view: RangeView) -> None:
        _message(response)

    def delete(self, response: rpc_pb2.DeleteRangeResponse) -> None:
        _message(response)

    def txn(self, response: rpc_pb2.TxnResponse, views: TxnViews) -> None:
        _message(response)

    def compact(self, revision: int, response: rpc_pb2.CompactionResponse) -> None:
        _message(response)

    def watch(self, batch: WatchBatch) -> None:
        response = batch.response
        events: list[Json] | None = [message_fields(event) for event in response.events] or None
        _write(
            {
                "Header": message_fields(response.header),
                "Events": events,
                "CompactRevision": response.compact_revision,
                "Canceled": response.canceled,
                "Created": response.created,
            }
        )

    def lease_granted(self, response: rpc_pb2.LeaseGrantResponse) -> None:
        _write(
            {
                **message_fields(response.header),
                "ID": response.ID,
                "TTL": response.TTL,
                "Error": response.error,
            }
        )

    def lease_revoked(self, lease_id: int, response: rpc_pb2.LeaseRevokeResponse) -> None:
        _message(response)

    def lease_renewed(self, response: rpc_pb2.LeaseKeepAliveResponse) -> None:
        _write({**message_fields(response.header), "ID": response.ID, "TTL": response.TTL})

    def lease_time_to_live(self, response: rpc_pb2.LeaseTimeToLiveResponse, *, with_keys: bool) -> None:
        keys = [base64.b64encode(key).decode() for key in response.keys]
        _write(
            {
                **message_fields(response.header),
                "id": response.ID,
                "ttl": response.TTL,
                "granted-ttl": response.grantedTTL,
                "keys": keys or None,
            }
        )

    def leases(self, response: rpc_pb2.LeaseLeasesResponse) -> None:
        _write(
            {
                **message_fields(response.header),
                "leases": [{"id": lease.ID} for lease in response.leases],
            }
        )

    def members(self, response: rpc_pb2.MemberListResponse) -> None:
        _message(response)

    def member_added(self, name: str, response: rpc_pb2.MemberAddResponse) -> None:
        _message(response)

    def member_removed(self, member_id: int, response: rpc_pb2.MemberRemoveResponse) -> None:
        _message(response)

    def member_updated(self, member_id: int, response: rpc_pb2.MemberUpdateResponse) -> None:
        _message(response)

    def member_promoted(self, member_id: int, response: rpc_pb2.MemberPromoteResponse) -> None:
        _message(response)

    def endpoint_status(self, reports: Sequence[EndpointStatus]) -> None:
        _write(
            [{"Endpoint": report.endpoint, "Status": message_fields(report.response)} for report in reports]
        )

    def endpoint_health(self, reports: Sequence[EndpointHealth]) -> None:
        documents = []
        for report in reports:
            document: Json = {
                "endpoint": report.endpoint,
                "health": report.is_healthy,
                "took": duration(report.took_s),
            }
            if report.error:
                document["error"] = report.error
            documents.append(document)
        _write(documents)

    def endpoint_hashes(self, reports: Sequence[EndpointHash]) -> None:
        _write(
            [{"Endpoint": report.endpoint, "HashKV": message_fields(report.response)} for report in reports]
        )

    def defragmented(self, reports: Sequence[EndpointDefrag]) -> None:
        _write(
            [
                {"endpoint": report.endpoint, "took": duration(report.took_s), "error": report.error}
                for report in reports
            ]
        )

    def alarms(self, response: rpc_pb2.AlarmResponse) -> None:
        _message(response)

    def leader_moved(self, from_id: int, to_id: int, response: rpc_pb2.MoveLeaderResponse) -> None:
        _message(response)

    def snapshot_saved(self, saved: SavedFile) -> None:
        _write(
            {
                "path": str(saved.path),
                "size": saved.size_bytes,
                "sha256": saved.sha256,
                "version": saved.server_version,
                "endpoint": saved.endpoint,
            }
        )

    def snapshot_status(self, status: SnapshotFileStatus) -> None:
        _write(
            {
                "hash": status.hash,
                "revision": status.revision,
                "totalKey": status.total_keys,
                "totalSize": status.size_bytes,
                "version": status.version,
                "compactRevision": status.compact_revision,
                "clusterID": status.cluster_id,
                "memberID": status.member_id,
            }
        )

    def snapshot_restored(self, restored: RestoredSnapshot) -> None:
        _write(
            {
                "dataDir": str(restored.data_dir),
                "name": restored.name,
                "clusterID": restored.cluster_id,
                "memberID": restored.member_id,
                "revision": restored.revision,
            }
        )


def _message(message: Message) -> None:
    _write(message_fields(message))


def _write(value: object) -> None:
    write_line(dumps(value))
