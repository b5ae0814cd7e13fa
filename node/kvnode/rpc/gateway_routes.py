"""Where the gateway's paths lead (etcd's, from the annotations of its API)."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from kvnode.pb import election_pb2, lock_pb2, rpc_pb2

__all__ = ["METHOD_OF_PATH", "MessageTypes", "message_types"]

_ETCD = "/etcdserverpb."
_LOCK = "/v3lockpb.Lock/"
_ELECTION = "/v3electionpb.Election/"

METHOD_OF_PATH: Final[Mapping[str, str]] = {
    "/v3/kv/range": _ETCD + "KV/Range",
    "/v3/kv/put": _ETCD + "KV/Put",
    "/v3/kv/deleterange": _ETCD + "KV/DeleteRange",
    "/v3/kv/txn": _ETCD + "KV/Txn",
    "/v3/kv/compaction": _ETCD + "KV/Compact",
    "/v3/watch": _ETCD + "Watch/Watch",
    "/v3/lease/grant": _ETCD + "Lease/LeaseGrant",
    "/v3/lease/revoke": _ETCD + "Lease/LeaseRevoke",
    "/v3/kv/lease/revoke": _ETCD + "Lease/LeaseRevoke",
    "/v3/lease/keepalive": _ETCD + "Lease/LeaseKeepAlive",
    "/v3/lease/timetolive": _ETCD + "Lease/LeaseTimeToLive",
    "/v3/kv/lease/timetolive": _ETCD + "Lease/LeaseTimeToLive",
    "/v3/lease/leases": _ETCD + "Lease/LeaseLeases",
    "/v3/kv/lease/leases": _ETCD + "Lease/LeaseLeases",
    "/v3/cluster/member/add": _ETCD + "Cluster/MemberAdd",
    "/v3/cluster/member/remove": _ETCD + "Cluster/MemberRemove",
    "/v3/cluster/member/update": _ETCD + "Cluster/MemberUpdate",
    "/v3/cluster/member/list": _ETCD + "Cluster/MemberList",
    "/v3/cluster/member/promote": _ETCD + "Cluster/MemberPromote",
    "/v3/maintenance/alarm": _ETCD + "Maintenance/Alarm",
    "/v3/maintenance/status": _ETCD + "Maintenance/Status",
    "/v3/maintenance/defragment": _ETCD + "Maintenance/Defragment",
    "/v3/maintenance/hash": _ETCD + "Maintenance/Hash",
    "/v3/maintenance/hashkv": _ETCD + "Maintenance/HashKV",
    "/v3/maintenance/snapshot": _ETCD + "Maintenance/Snapshot",
    "/v3/maintenance/transfer-leadership": _ETCD + "Maintenance/MoveLeader",
    "/v3/maintenance/downgrade": _ETCD + "Maintenance/Downgrade",
    "/v3/auth/enable": _ETCD + "Auth/AuthEnable",
    "/v3/auth/disable": _ETCD + "Auth/AuthDisable",
    "/v3/auth/status": _ETCD + "Auth/AuthStatus",
    "/v3/auth/authenticate": _ETCD + "Auth/Authenticate",
    "/v3/auth/user/add": _ETCD + "Auth/UserAdd",
    "/v3/auth/user/get": _ETCD + "Auth/UserGet",
    "/v3/auth/user/list": _ETCD + "Auth/UserList",
    "/v3/auth/user/delete": _ETCD + "Auth/UserDelete",
    "/v3/auth/user/changepw": _ETCD + "Auth/UserChangePassword",
    "/v3/auth/user/grant": _ETCD + "Auth/UserGrantRole",
    "/v3/auth/user/revoke": _ETCD + "Auth/UserRevokeRole",
    "/v3/auth/role/add": _ETCD + "Auth/RoleAdd",
    "/v3/auth/role/get": _ETCD + "Auth/RoleGet",
    "/v3/auth/role/list": _ETCD + "Auth/RoleList",
    "/v3/auth/role/delete": _ETCD + "Auth/RoleDelete",
    "/v3/auth/role/grant": _ETCD + "Auth/RoleGrantPermission",
    "/v3/auth/role/revoke": _ETCD + "Auth/RoleRevokePermission",
    "/v3/lock/lock": _LOCK + "Lock",
    "/v3/lock/unlock": _LOCK + "Unlock",
    "/v3/election/campaign": _ELECTION + "Campaign",
    "/v3/election/proclaim": _ELECTION + "Proclaim",
    "/v3/election/leader": _ELECTION + "Leader",
    "/v3/election/observe": _ELECTION + "Observe",
    "/v3/election/resign": _ELECTION + "Resign",
}

_FILES: Final[Mapping[str, FileDescriptor]] = {
    "etcdserverpb": rpc_pb2.DESCRIPTOR,
    "v3lockpb": lock_pb2.DESCRIPTOR,
    "v3electionpb": election_pb2.DESCRIPTOR,
}


class MessageTypes(NamedTuple):
    """What a method takes and returns."""

    request: type[Message]
    response: type[Message]


def message_types(method_path: str) -> MessageTypes:
    """Return the types of a gRPC method of the table."""
    service, _, method = method_path[1:].partition("/")
    package, _, name = service.partition(".")
    descriptor = _FILES[package].services_by_name[name].methods_by_name[method]
    return MessageTypes(GetMessageClass(descriptor.input_type), GetMessageClass(descriptor.output_type))
