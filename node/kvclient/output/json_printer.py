"""One JSON document per result, with etcd's field names and nesting."""

import base64
from collections.abc import Sequence

from google.protobuf.message import Message
from kvnode.pb import rpc_pb2

from kvclient.output.go_text import duration
from kvclient.output.gojson import Json, dumps, message_fields
from kvclient.output.message_printer import MessagePrinter
from kvclient.output.printer import (
    EndpointDefrag,
    EndpointHash,
    EndpointHealth,
    EndpointStatus,
    FileHash,
    RestoredSnapshot,
    SavedFile,
    SnapshotFileStatus,
)
from kvclient.output.stdout import write_line
from kvclient.watch import WatchBatch

__all__ = ["JsonPrinter"]


class JsonPrinter(MessagePrinter):
    """Machine-readable lines."""

    def __init__(self, *, is_hex: bool = False) -> None:
        self._is_hex = is_hex

    def message(self, message: Message) -> None:
        _write(message_fields(message))

    def watch(self, batch: WatchBatch) -> None:
        if batch.is_progress and not batch.response.canceled:
            write_line(f"progress notify: {batch.revision}")
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
        if not self._is_hex:
            self.message(response)
            return
        header = response.header
        _write(
            {
                "header": {
                    "cluster_id": f"{header.cluster_id:x}",
                    "member_id": f"{header.member_id:x}",
                    "raft_term": header.raft_term,
                },
                "members": [
                    {
                        "ID": f"{member.ID:x}",
                        "name": member.name,
                        "peerURLs": list(member.peerURLs) or None,
                        "clientURLs": list(member.clientURLs) or None,
                    }
                    for member in response.members
                ],
            }
        )

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

    def file_hash(self, result: FileHash) -> None:
        _write(
            {
                "hash": result.hash,
                "hashRevision": result.hash_revision,
                "compactRevision": result.compact_revision,
            }
        )

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


def _write(value: object) -> None:
    write_line(dumps(value))
