"""The one table of remote methods: path, message types, and whether repeating a call is harmless."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message
from kvnode.pb import rpc_pb2

__all__ = [
    "ALARM",
    "AUTHENTICATE",
    "AUTH_DISABLE",
    "AUTH_ENABLE",
    "AUTH_STATUS",
    "COMPACT",
    "DEFRAGMENT",
    "DELETE_RANGE",
    "DOWNGRADE",
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
    "RANGE_STREAM",
    "ROLE_ADD",
    "ROLE_DELETE",
    "ROLE_GET",
    "ROLE_GRANT_PERMISSION",
    "ROLE_LIST",
    "ROLE_REVOKE_PERMISSION",
    "SNAPSHOT",
    "STATUS",
    "TXN",
    "USER_ADD",
    "USER_CHANGE_PASSWORD",
    "USER_DELETE",
    "USER_GET",
    "USER_GRANT_ROLE",
    "USER_LIST",
    "USER_REVOKE_ROLE",
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
RANGE_STREAM = _method("KV", "RangeStream", rpc_pb2.RangeRequest, rpc_pb2.RangeStreamResponse, is_read=True)
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
DOWNGRADE = _method("Maintenance", "Downgrade", rpc_pb2.DowngradeRequest, rpc_pb2.DowngradeResponse)

# Checking a password changes nothing that a second check would notice.
AUTHENTICATE = _method(
    "Auth", "Authenticate", rpc_pb2.AuthenticateRequest, rpc_pb2.AuthenticateResponse, is_read=True
)
AUTH_ENABLE = _method("Auth", "AuthEnable", rpc_pb2.AuthEnableRequest, rpc_pb2.AuthEnableResponse)
AUTH_DISABLE = _method("Auth", "AuthDisable", rpc_pb2.AuthDisableRequest, rpc_pb2.AuthDisableResponse)
AUTH_STATUS = _method(
    "Auth", "AuthStatus", rpc_pb2.AuthStatusRequest, rpc_pb2.AuthStatusResponse, is_read=True
)
USER_ADD = _method("Auth", "UserAdd", rpc_pb2.AuthUserAddRequest, rpc_pb2.AuthUserAddResponse)
USER_DELETE = _method("Auth", "UserDelete", rpc_pb2.AuthUserDeleteRequest, rpc_pb2.AuthUserDeleteResponse)
USER_GET = _method("Auth", "UserGet", rpc_pb2.AuthUserGetRequest, rpc_pb2.AuthUserGetResponse, is_read=True)
USER_LIST = _method(
    "Auth", "UserList", rpc_pb2.AuthUserListRequest, rpc_pb2.AuthUserListResponse, is_read=True
)
USER_CHANGE_PASSWORD = _method(
    "Auth",
    "UserChangePassword",
    rpc_pb2.AuthUserChangePasswordRequest,
    rpc_pb2.AuthUserChangePasswordResponse,
)
USER_GRANT_ROLE = _method(
    "Auth", "UserGrantRole", rpc_pb2.AuthUserGrantRoleRequest, rpc_pb2.AuthUserGrantRoleResponse
)
USER_REVOKE_ROLE = _method(
    "Auth", "UserRevokeRole", rpc_pb2.AuthUserRevokeRoleRequest, rpc_pb2.AuthUserRevokeRoleResponse
)
ROLE_ADD = _method("Auth", "RoleAdd", rpc_pb2.AuthRoleAddRequest, rpc_pb2.AuthRoleAddResponse)
ROLE_DELETE = _method("Auth", "RoleDelete", rpc_pb2.AuthRoleDeleteRequest, rpc_pb2.AuthRoleDeleteResponse)
ROLE_GET = _method("Auth", "RoleGet", rpc_pb2.AuthRoleGetRequest, rpc_pb2.AuthRoleGetResponse, is_read=True)
ROLE_LIST = _method(
    "Auth", "RoleList", rpc_pb2.AuthRoleListRequest, rpc_pb2.AuthRoleListResponse, is_read=True
)
ROLE_GRANT_PERMISSION = _method(
    "Auth",
    "RoleGrantPermission",
    rpc_pb2.AuthRoleGrantPermissionRequest,
    rpc_pb2.AuthRoleGrantPermissionResponse,
)
ROLE_REVOKE_PERMISSION = _method(
    "Auth",
    "RoleRevokePermission",
    rpc_pb2.AuthRoleRevokePermissionRequest,
    rpc_pb2.AuthRoleRevokePermissionResponse,
)
