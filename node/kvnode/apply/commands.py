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

__all__ = [
    "COMMAND_HEADER",
    "CommandKind",
    "decode_commands",
    "decode_lease_ids",
    "encode_command",
    "encode_lease_ids",
]

#: kind, request ID, payload length.
COMMAND_HEADER: Final = struct.Struct(">BQI")


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
