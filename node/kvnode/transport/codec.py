"""Raft messages to bytes and back.

A message is ``tag u8 | from u64 | to u64 | term u64`` and then the fields of its type, all
big-endian; entries follow one another as ``term u64 | kind u8 | length u32 | data``, their
indexes counting up from ``prev_index + 1``.  A notice has a tag of its own.
"""

import struct

from kvnode.raft.errors import ConfChangeFormatError
from kvnode.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    Propose,
    ProposeConfChange,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
    TransferLeader,
)
from kvnode.raft.types import (
    ConfState,
    Entry,
    EntryKind,
    MemberId,
    SnapshotMetadata,
    decode_conf_change,
    encode_conf_change,
)

__all__ = ["MessageError", "decode_message", "encode_message", "message_parts"]

_HEAD = struct.Struct(">BQQQ")
_APPEND = struct.Struct(">QQQI")
_ENTRY = struct.Struct(">QBI")
_APPEND_RESPONSE = struct.Struct(">Q?QQ")
_U64 = struct.Struct(">Q")
_U32 = struct.Struct(">I")
_VOTE = struct.Struct(">QQ??")
_VOTE_RESPONSE = struct.Struct(">??")
_SNAPSHOT = struct.Struct(">QQ")
_KINDS = {int(kind): kind for kind in EntryKind}


class MessageError(Exception):
    """Bytes from a peer that are no Raft message."""


def _encode_conf_state(conf_state: ConfState) -> bytes:
    parts: list[bytes] = []
    for group in conf_state:
        parts.append(_U32.pack(len(group)))
        parts.extend(_U64.pack(member) for member in group)
    return b"".join(parts)


def _decode_conf_state(data: bytes, position: int) -> ConfState:
    groups: list[tuple[MemberId, ...]] = []
    for _ in ConfState._fields:
        (count,) = _U32.unpack_from(data, position)
        position += 4
        groups.append(tuple(MemberId(m) for m in struct.unpack_from(f">{count}Q", data, position)))
        position += 8 * count
    return ConfState(*groups)


def encode_message(message: Message) -> bytes:
    """Return the bytes of ``message``."""
    return b"".join(message_parts(message))


def message_parts(message: Message) -> list[bytes]:
    """Return the bytes of ``message`` in parts: the data of its entries are not copied."""
    if isinstance(message, AppendEntries):
        parts = [
            _HEAD.pack(14 if message.is_notice else 1, message.from_id, message.to_id, message.term),
            _APPEND.pack(message.prev_index, message.prev_term, message.leader_commit, len(message.entries)),
        ]
        for entry in message.entries:
            parts.append(_ENTRY.pack(entry.term, entry.kind, len(entry.data)))
            parts.append(entry.data)
        return parts
    tag, body = _encode_rest(message)
    return [_HEAD.pack(tag, message.from_id, message.to_id, message.term) + body]


def _encode_rest(message: Message) -> tuple[int, bytes]:
    match message:
        case AppendEntriesResponse():
            return 2, _APPEND_RESPONSE.pack(
                message.index, message.rejected, message.reject_hint, message.hint_term
            )
        case Heartbeat():
            return 3, _U64.pack(message.leader_commit) + message.context
        case HeartbeatResponse():
            return 15 if message.awaits_commits else 4, message.context
        case RequestVote():
            return 5, _VOTE.pack(
                message.last_index, message.last_term, message.is_pre_vote, message.is_transfer
            )
        case RequestVoteResponse():
            return 6, _VOTE_RESPONSE.pack(message.granted, message.is_pre_vote)
        case InstallSnapshot():
            metadata = message.metadata
            return 7, _SNAPSHOT.pack(metadata.index, metadata.term) + _encode_conf_state(metadata.conf_state)
        case TimeoutNow():
            return 8, b""
        case Propose():
            return 9, b"".join(_U32.pack(len(data)) + data for data in message.datas)
        case ReadIndexRequest():
            return 10, message.context
        case ReadIndexResponse():
            return 11, _U64.pack(message.index) + message.context
        case TransferLeader():
            return 12, _U64.pack(message.target)
        case ProposeConfChange():
            return 13, encode_conf_change(message.change)
    raise MessageError(f"no encoding for {type(message).__name__}")


def decode_message(data: bytes) -> Message:
    """Return the message in ``data``.

    Raises:
        MessageError: The bytes are cut short, too long, or of an unknown type.
    """
    try:
        return _decode(data)
    except (struct.error, ValueError, KeyError, ConfChangeFormatError) as error:
        raise MessageError(f"malformed Raft message: {error}") from error


def _decode(data: bytes) -> Message:
    tag, sender, receiver, term = _HEAD.unpack_from(data, 0)
    at = _HEAD.size
    if tag in (1, 14):
        return _decode_append(data, sender, receiver, term, is_notice=tag == 14)
    match tag:
        case 2:
            return AppendEntriesResponse(sender, receiver, term, *_APPEND_RESPONSE.unpack_from(data, at))
        case 3:
            return Heartbeat(sender, receiver, term, _U64.unpack_from(data, at)[0], data[at + 8 :])
        case 4 | 15:
            return HeartbeatResponse(sender, receiver, term, data[at:], tag == 15)
        case 5:
            return RequestVote(sender, receiver, term, *_VOTE.unpack_from(data, at))
        case 6:
            return RequestVoteResponse(sender, receiver, term, *_VOTE_RESPONSE.unpack_from(data, at))
        case 7:
            index, snapshot_term = _SNAPSHOT.unpack_from(data, at)
            conf_state = _decode_conf_state(data, at + _SNAPSHOT.size)
            return InstallSnapshot(sender, receiver, term, SnapshotMetadata(index, snapshot_term, conf_state))
        case 8:
            return TimeoutNow(sender, receiver, term)
        case 9:
            return Propose(sender, receiver, term, _decode_datas(data, at))
        case 10:
            return ReadIndexRequest(sender, receiver, term, data[at:])
        case 11:
            return ReadIndexResponse(sender, receiver, term, _U64.unpack_from(data, at)[0], data[at + 8 :])
        case 12:
            return TransferLeader(sender, receiver, term, MemberId(_U64.unpack_from(data, at)[0]))
        case 13:
            return ProposeConfChange(sender, receiver, term, decode_conf_change(data[at:]))
    raise MessageError(f"unknown message tag {tag}")


def _decode_append(
    data: bytes, sender: MemberId, receiver: MemberId, term: int, *, is_notice: bool
) -> AppendEntries:
    prev_index, prev_term, leader_commit, count = _APPEND.unpack_from(data, _HEAD.size)
    at = _HEAD.size + _APPEND.size
    entries = []
    for index in range(prev_index + 1, prev_index + 1 + count):
        entry_term, kind, length = _ENTRY.unpack_from(data, at)
        at += 13
        end = at + length
        if end > len(data):
            raise MessageError("entry runs past the end of its message")
        entries.append(Entry(entry_term, index, _KINDS[kind], data[at:end]))
        at = end
    return AppendEntries(
        sender, receiver, term, prev_index, prev_term, leader_commit, tuple(entries), is_notice
    )


def _decode_datas(data: bytes, at: int) -> tuple[bytes, ...]:
    datas = []
    while at < len(data):
        (length,) = _U32.unpack_from(data, at)
        at += 4
        if at + length > len(data):
            raise MessageError("proposal runs past the end of its message")
        datas.append(data[at : at + length])
        at += length
    return tuple(datas)
