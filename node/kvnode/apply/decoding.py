"""Commands as messages, for people who look at a log.

The applier has handlers of its own for each kind; here is only what a payload says.  Secrets are left
out: neither password hashes nor parts of tokens belong in anybody's terminal.
"""

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError, Message

from kvnode.apply.commands import (
    CommandKind,
    decode_as_user,
    decode_authenticate,
    decode_commands,
    decode_lease_ids,
)
from kvnode.apply.errors import CommandFormatError
from kvnode.pb import rpc_pb2 as pb

__all__ = ["DecodedCommand", "decode_entry"]

_MESSAGES: Final[Mapping[CommandKind, type[Message]]] = {
    CommandKind.PUT: pb.PutRequest,
    CommandKind.DELETE_RANGE: pb.DeleteRangeRequest,
    CommandKind.TXN: pb.TxnRequest,
    CommandKind.COMPACT: pb.CompactionRequest,
    CommandKind.LEASE_GRANT: pb.LeaseGrantRequest,
    CommandKind.LEASE_REVOKE: pb.LeaseRevokeRequest,
    CommandKind.LEASE_CHECKPOINT: pb.LeaseCheckpointRequest,
    CommandKind.ALARM: pb.AlarmRequest,
    CommandKind.AUTH_ENABLE: pb.AuthEnableRequest,
    CommandKind.AUTH_DISABLE: pb.AuthDisableRequest,
    CommandKind.USER_ADD: pb.AuthUserAddRequest,
    CommandKind.USER_DELETE: pb.AuthUserDeleteRequest,
    CommandKind.USER_CHANGE_PASSWORD: pb.AuthUserChangePasswordRequest,
    CommandKind.USER_GRANT_ROLE: pb.AuthUserGrantRoleRequest,
    CommandKind.USER_REVOKE_ROLE: pb.AuthUserRevokeRoleRequest,
    CommandKind.ROLE_ADD: pb.AuthRoleAddRequest,
    CommandKind.ROLE_DELETE: pb.AuthRoleDeleteRequest,
    CommandKind.ROLE_GRANT_PERMISSION: pb.AuthRoleGrantPermissionRequest,
    CommandKind.ROLE_REVOKE_PERMISSION: pb.AuthRoleRevokePermissionRequest,
}
_SECRET_FIELDS: Final = ("password", "hashedPassword")
_SECRET_KINDS: Final = (
    CommandKind.AUTHENTICATE,
    CommandKind.USER_ADD,
    CommandKind.USER_CHANGE_PASSWORD,
)


class DecodedCommand(NamedTuple):
    """One command of an entry."""

    #: The kind's name, or its number if this program knows no such kind.
    kind: str
    request_id: int
    #: On whose behalf; None for a member's own, and while authentication is off.
    user: str | None
    #: None if the payload is not what its kind says.
    content: Message | Mapping[str, object] | None
    #: Empty if it could hold a secret.
    payload: bytes


def decode_entry(data: bytes) -> list[DecodedCommand]:
    """Return the commands of a NORMAL entry; none for a leader's first.

    Raises:
        CommandFormatError: the data end in the middle of a command.
    """
    return [_decoded(kind, request_id, payload) for kind, request_id, payload in decode_commands(data)]


def _decoded(kind: int, request_id: int, payload: bytes) -> DecodedCommand:
    user: str | None = None
    try:
        if kind == CommandKind.AS_USER:
            caller, kind, payload = decode_as_user(payload)
            user = caller.user
        name = CommandKind(kind).name
        content = _content(CommandKind(kind), payload)
    except (CommandFormatError, DecodeError, ValueError):
        name = CommandKind(kind).name if kind in CommandKind._value2member_map_ else str(kind)
        content = None
    return DecodedCommand(name, request_id, user, content, b"" if kind in _SECRET_KINDS else payload)


def _content(kind: CommandKind, payload: bytes) -> Message | Mapping[str, object]:
    if kind in _MESSAGES:
        message = _MESSAGES[kind].FromString(payload)
        for name in _SECRET_FIELDS:
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)
        return message
    if kind is CommandKind.LEASE_REVOKE_MANY:
        return {"IDs": list(decode_lease_ids(payload))}
    if kind is CommandKind.AUTHENTICATE:
        return {"name": decode_authenticate(payload)[0]}
    fields = json.loads(payload) if payload else {}
    return fields if isinstance(fields, dict) else {"value": fields}
