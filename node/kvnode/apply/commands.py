"""What the data of a NORMAL log entry looks like.

An entry holds a batch of commands, laid end to end::

    kind u8 | request id u64 | payload length u32 | payload        (big-endian)

The payload is the client's request, byte for byte: nothing is encoded twice on the way from the client
to the last follower.  A request ID is unique per proposing member and process start; whoever proposed
the command finds its waiting caller by it, everyone else ignores it.  No data at all is the entry that
a leader writes at the start of its term.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from kvnode.apply.errors import CommandFormatError
from kvnode.auth.caller import Caller

__all__ = [
    "AS_USER_KIND_OFFSET",
    "COMMAND_HEADER",
    "CommandKind",
    "decode_as_user",
    "decode_authenticate",
    "decode_commands",
    "decode_lease_ids",
    "encode_as_user",
    "encode_authenticate",
    "encode_command",
    "encode_lease_ids",
]

#: kind, request ID, payload length.
COMMAND_HEADER: Final = struct.Struct(">BQI")

#: auth revision, length of the user's name, kind of the command inside.
_AS_USER: Final = struct.Struct(">QIB")
#: Where the kind of the command inside stands in a payload of AS_USER.
AS_USER_KIND_OFFSET: Final = _AS_USER.size - 1


class CommandKind(IntEnum):
    """What a payload is, and so what applying it means.  Numbers are durable: never reuse one."""

    PUT = 1
    """PutRequest"""
    DELETE_RANGE = 2
    """DeleteRangeRequest"""
    TXN = 3
    """TxnRequest"""
    COMPACT = 4
    """CompactionRequest"""
    LEASE_GRANT = 5
    """LeaseGrantRequest; the proposer has settled ID and TTL, which members could choose differently"""
    LEASE_REVOKE = 6
    """LeaseRevokeRequest"""
    LEASE_REVOKE_MANY = 7
    """Expired leases, u64 IDs end to end (see ``encode_lease_ids``): one entry for many expiries"""
    LEASE_CHECKPOINT = 8
    """LeaseCheckpointRequest"""
    ALARM = 9
    """AlarmRequest"""
    MEMBER_ATTRIBUTES = 10
    """JSON of what a member says of itself, or of its new peer URLs (see ``membership``)"""
    DOWNGRADE = 11
    """The target of a downgrade, or nothing to end it (see ``cluster_version``)"""
    CLUSTER_VERSION = 12
    """What the leader found all members to speak (see ``cluster_version``)"""
    AS_USER = 20
    """Another command on behalf of a user (see ``encode_as_user``), checked when it is applied"""
    AUTH_ENABLE = 21
    """AuthEnableRequest"""
    AUTH_DISABLE = 22
    """AuthDisableRequest"""
    AUTHENTICATE = 23
    """A user whose password was right, and the beginning of the new token (``encode_authenticate``)"""
    USER_ADD = 24
    """AuthUserAddRequest with the password's hash, never with the password"""
    USER_DELETE = 25
    """AuthUserDeleteRequest"""
    USER_CHANGE_PASSWORD = 26
    """AuthUserChangePasswordRequest with the password's hash, never with the password"""
    USER_GRANT_ROLE = 27
    """AuthUserGrantRoleRequest"""
    USER_REVOKE_ROLE = 28
    """AuthUserRevokeRoleRequest"""
    ROLE_ADD = 29
    """AuthRoleAddRequest"""
    ROLE_DELETE = 30
    """AuthRoleDeleteRequest"""
    ROLE_GRANT_PERMISSION = 31
    """AuthRoleGrantPermissionRequest"""
    ROLE_REVOKE_PERMISSION = 32
    """AuthRoleRevokePermissionRequest"""


def encode_command(kind: CommandKind, request_id: int, payload: bytes) -> bytes:
    """Return one command's bytes; an entry's data is any number of them joined."""
    return COMMAND_HEADER.pack(kind, request_id, len(payload)) + payload


def decode_commands(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield ``(kind, request_id, payload)`` of every command in an entry's data.

    The kind stays a plain number: the applier looks it up in a table, and an unknown one is its error.

    Raises:
        CommandFormatError: the data end in the middle of a command.
    """
    position, end = 0, len(data)
    header_size = COMMAND_HEADER.size
    unpack = COMMAND_HEADER.unpack_from
    while position < end:
        start = position + header_size
        if start > end:
            raise CommandFormatError(f"{end - position} bytes left where a command should begin")
        kind, request_id, length = unpack(data, position)
        position = start + length
        if position > end:
            raise CommandFormatError(f"a payload of {length} bytes runs past the end of its entry")
        yield kind, request_id, data[start:position]


def encode_lease_ids(lease_ids: list[int]) -> bytes:
    """Return the payload of LEASE_REVOKE_MANY."""
    return struct.pack(f">{len(lease_ids)}q", *lease_ids)


def decode_lease_ids(payload: bytes) -> tuple[int, ...]:
    """Return the lease IDs of a LEASE_REVOKE_MANY.

    Raises:
        CommandFormatError: the length is no multiple of 8.
    """
    if len(payload) % 8:
        raise CommandFormatError(f"lease IDs of {len(payload)} bytes")
    return struct.unpack(f">{len(payload) // 8}q", payload)


def encode_as_user(caller: Caller, kind: CommandKind, payload: bytes) -> bytes:
    """Return the payload of AS_USER: auth revision u64 | name length u32 | kind u8 | name | payload.

    No user's revision is as high as that of ``MEMBER``.
    """
    user = caller.user.encode()
    return _AS_USER.pack(caller.auth_revision, len(user), kind) + user + payload


def decode_as_user(payload: bytes) -> tuple[Caller, int, bytes]:
    """Return caller, kind and payload of the command inside an AS_USER.

    Raises:
        CommandFormatError: ``encode_as_user`` did not make it.
    """
    if len(payload) < _AS_USER.size:
        raise CommandFormatError(f"a command on behalf of a user in {len(payload)} bytes")
    auth_revision, name_length, kind = _AS_USER.unpack_from(payload)
    end = _AS_USER.size + name_length
    if end > len(payload):
        raise CommandFormatError(f"a user name of {name_length} bytes runs past the end of its command")
    return Caller(_text(payload[_AS_USER.size : end]), auth_revision), kind, payload[end:]


def encode_authenticate(user: str, token_prefix: str) -> bytes:
    """Return the payload of AUTHENTICATE: length of the prefix u8 | prefix | name.

    Without prefix nobody has to remember a token: it proves itself.
    """
    prefix = token_prefix.encode()
    return bytes((len(prefix),)) + prefix + user.encode()


def decode_authenticate(payload: bytes) -> tuple[str, str]:
    """Return user and token prefix of an AUTHENTICATE.

    Raises:
        CommandFormatError: ``encode_authenticate`` did not make it.
    """
    if not payload or len(payload) < 1 + payload[0]:
        raise CommandFormatError("an authentication without its token")
    end = 1 + payload[0]
    return _text(payload[end:]), _text(payload[1:end])


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CommandFormatError("a name that is no text") from error
