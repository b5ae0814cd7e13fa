"""The one table of remote methods: path, message types, and whether repeating a call is harmless."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message
from kvnode.pb import rpc_pb2

__all__ = [
    "ALARM",
    "COMPACT",
    "DEFRAGMENT",
    "DELETE_RANGE",
    "HASH_KV",
    "LEASE_GRANT",
    "LEASE_KEEP_ALIVE",
    "LEASE_LEASES",
    "LEASE_REVOKE",
    "LEASE_TIME_TO_LIVE",
    "MEMBER_ADD",
    "MEMBER_LIST",
    "MEMBER_PROMOTE",
    "MEMBER_REMOVE",
    "MEMBER_UPDATE",
    "MOVE_LEADER",
    "PUT",
    "RANGE",
    "SNAPSHOT",
    "STATUS",
    "TXN",
    "WATCH",
    "Method",
]

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Resp]):
    """One remote method."""

    path: str
    serialize: Callable[[Req], bytes]
    deserialize: Callable[[bytes], Resp]
    is_read: bool
    """Sending it twice changes nothing, so it is retried after any Unavailable."""


def _method(
    service: str, name: str, request: type[Req], response: type[Resp], *, is_read: bool = False
) -> Method[Req, Resp]:
    return Method(f"/etcdserverpb.{service}/{name}", request.SerializeToString, response.FromString, is_read)


RANGE = _method("KV", "Range", rpc_pb2.RangeRequest, rpc_pb2.RangeResponse, is_read=True)
PUT = _method("KV", "Put", rpc_pb2.PutRequest, rpc_pb2.PutResponse)
DELETE_RANGE = _method("KV", "DeleteRange", rpc_pb2.DeleteRangeRequest, rpc_pb2.DeleteRangeResponse)
# A transaction may be only reads; `Client.txn` looks inside and says so per call.
TXN = _method("KV", "Txn", rpc_pb2.TxnRequest, rpc_pb2.TxnResponse)
COMPACT = _method("KV", "Compact", rpc_pb2.CompactionRequest, rpc_pb2.CompactionResponse)

WATCH = _method("Watch", "Watch", rpc_pb2.WatchRequest, rpc_pb2.WatchResponse, is_read=True)

LEASE_GRANT = _method("Lease", "LeaseGrant", rpc_pb2.LeaseGrantRequest, rpc_pb2.LeaseGrantResponse)
LEASE_REVOKE = _method("Lease", "LeaseRevoke", rpc_pb2.LeaseRevokeRequest, rpc_pb2.LeaseRevokeResponse)
LEASE_KEEP_ALIVE = _method(
    "Lease", "LeaseKeepAlive", rpc_pb2.LeaseKeepAliveRequest, rpc_pb2.LeaseKeepAliveResponse, is_read=True
)
LEASE_TIME_TO_LIVE = _method(
    "Lease", "LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest, rpc_pb2.LeaseTimeToLiveResponse, is_read=True
)
LEASE_LEASES = _method(
    "Lease", "LeaseLeases", rpc_pb2.LeaseLeasesRequest, rpc_pb2.LeaseLeasesResponse, is_read=True
)

MEMBER_LIST = _method(
    "Cluster", "MemberList", rpc_pb2.MemberListRequest, rpc_pb2.MemberListResponse, is_read=True
)
MEMBER_ADD = _method("Cluster", "MemberAdd", rpc_pb2.MemberAddRequest, rpc_pb2.MemberAddResponse)
MEMBER_REMOVE = _method("Cluster", "MemberRemove", rpc_pb2.MemberRemoveRequest, rpc_pb2.MemberRemoveResponse)
MEMBER_UPDATE = _method("Cluster", "MemberUpdate", rpc_pb2.MemberUpdateRequest, rpc_pb2.MemberUpdateResponse)
MEMBER_PROMOTE = _method(
    "Cluster", "MemberPromote", rpc_pb2.MemberPromoteRequest, rpc_pb2.MemberPromoteResponse
)

STATUS = _method("Maintenance", "Status", rpc_pb2.StatusRequest, rpc_pb2.StatusResponse, is_read=True)
ALARM = _method("Maintenance", "Alarm", rpc_pb2.AlarmRequest, rpc_pb2.AlarmResponse)
DEFRAGMENT = _method("Maintenance", "Defragment", rpc_pb2.DefragmentRequest, rpc_pb2.DefragmentResponse)
HASH_KV = _method("Maintenance", "HashKV", rpc_pb2.HashKVRequest, rpc_pb2.HashKVResponse, is_read=True)
SNAPSHOT = _method("Maintenance", "Snapshot", rpc_pb2.SnapshotRequest, rpc_pb2.SnapshotResponse, is_read=True)
MOVE_LEADER = _method("Maintenance", "MoveLeader", rpc_pb2.MoveLeaderRequest, rpc_pb2.MoveLeaderResponse)
