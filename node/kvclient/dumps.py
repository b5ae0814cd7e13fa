"""What lies in a member's data directory, as documents: its log, and its state.

The member may run: what is read are copies, see `kvnode.storage.inspection`.  Passwords are left out,
hashed ones too.
"""

import base64
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kvclient.offline import SnapshotFileError
from kvclient.output.gojson import Json, message_fields

if TYPE_CHECKING:
    from kvnode.apply.decoding import DecodedCommand
    from kvnode.raft.types import Entry
    from kvnode.storage.engine import ReadView
    from kvnode.storage.inspection import Inspection

__all__ = ["log_documents", "state_documents"]


def log_documents(
    data_dir: Path,
    *,
    wal_dir: Path | None = None,
    scratch: Path | None = None,
    first_index: int = 0,
    last_index: int | None = None,
) -> Iterator[Json]:
    """One document about the log as a whole, then one for each entry.

    ``hash`` is the same on all members that have the same entry at the same place: the CRC-32 of
    term, index, kind and data.

    Raises:
        SnapshotFileError: The directory or its log can't be read.
    """
    with _inspecting(data_dir, wal_dir, scratch) as inspection, inspection.log() as log:
        yield {
            "type": "log",
            "cluster_id": f"{inspection.identity.cluster_id:x}",
            "member_id": f"{inspection.identity.member_id:x}",
            "term": log.hard_state.term,
            "vote": f"{log.hard_state.vote:x}",
            "commit": log.hard_state.commit,
            "compacted_index": log.base_index,
            "compacted_term": log.base_term,
            "snapshot_index": log.snapshot.index,
            "snapshot_term": log.snapshot.term,
        }
        for entry in log.entries(first_index):
            if last_index is not None and entry.index > last_index:
                return
            yield _entry_document(entry)


def _entry_document(entry: "Entry") -> Json:
    from kvnode.apply.decoding import decode_entry
    from kvnode.apply.errors import CommandFormatError
    from kvnode.raft.types import EntryKind

    head = f"{entry.term}/{entry.index}/{int(entry.kind)}/".encode()
    document: Json = {
        "type": entry.kind.name.lower(),
        "term": entry.term,
        "index": entry.index,
        "hash": f"{zlib.crc32(entry.data, zlib.crc32(head)):08x}",
    }
    if entry.kind is EntryKind.CONF_CHANGE:
        document.update(_conf_change_fields(entry.data))
        return document
    try:
        document["commands"] = [_command_fields(command) for command in decode_entry(entry.data)]
    except CommandFormatError as error:
        document["error"] = str(error)
    return document


def _command_fields(command: "DecodedCommand") -> Json:
    from google.protobuf.message import Message

    fields: Json = {"kind": command.kind, "request_id": f"{command.request_id:x}"}
    if command.user is not None:
        fields["user"] = command.user
    if isinstance(command.content, Message):
        fields["request"] = message_fields(command.content)
    elif command.content is not None:
        fields["request"] = dict(command.content)
    else:
        fields["payload"] = _text(command.payload)
    return fields


def _conf_change_fields(data: bytes) -> Json:
    from kvnode.apply.errors import CommandFormatError
    from kvnode.apply.membership import decode_member_change
    from kvnode.raft.errors import RaftError
    from kvnode.raft.types import decode_conf_change

    try:
        change = decode_conf_change(data)
        fields: Json = {"change": change.kind.name, "member_id": f"{change.member_id:x}"}
        member = decode_member_change(change)
    except (CommandFormatError, RaftError) as error:
        return {"error": str(error)}
    fields["request_id"] = f"{member.request_id:x}"
    if member.peer_urls:
        fields["peer_urls"] = list(member.peer_urls)
    if member.is_promotion:
        fields["is_promotion"] = True
    return fields


def state_documents(
    data_dir: Path, *, wal_dir: Path | None = None, scratch: Path | None = None, key_prefix: bytes = b""
) -> Iterator[Json]:
    """One document about the state as a whole, then members, leases, alarms, users, roles, and every
    change of every key that is not compacted, oldest first.

    Args:
        key_prefix: Only changes of keys that begin so.
    Raises:
        SnapshotFileError: The directory or its state can't be read.
    """
    with _inspecting(data_dir, wal_dir, scratch) as inspection, inspection.state() as state:
        for section in (_whole, _members, _leases, _alarms, _users, _roles):
            yield from section(state)
        yield from _changes(state, key_prefix)


def _whole(state: "ReadView") -> Iterator[Json]:
    from kvnode.apply.membership import Membership
    from kvnode.auth.store import AuthStore
    from kvnode.mvcc.store import COMPACT_KEY
    from kvnode.storage.seal import read_seal

    seal = read_seal(state)
    auth = AuthStore.open(state)
    yield {
        "type": "state",
        "cluster_id": f"{Membership.open(state).cluster_id:x}",
        "revision": seal.revision,
        "compact_revision": _number(state.get(COMPACT_KEY), -1),
        "applied_index": seal.index,
        "applied_term": seal.term,
        "auth_enabled": auth.is_enabled,
        "auth_revision": auth.revision,
    }


def _members(state: "ReadView") -> Iterator[Json]:
    from kvnode.apply.membership import Membership

    membership = Membership.open(state)
    for member in membership.sorted():
        yield {
            "type": "member",
            "id": f"{member.id:x}",
            "name": member.name,
            "peer_urls": list(member.peer_urls),
            "client_urls": list(member.client_urls),
            "is_learner": member.is_learner,
        }
    for member_id in sorted(membership.removed):
        yield {"type": "removed_member", "id": f"{member_id:x}"}


def _leases(state: "ReadView") -> Iterator[Json]:
    from kvnode.lease.lessor import Lessor

    lessor = Lessor.open(state, {})
    for lease_id in sorted(lessor.leases()):
        lease = lessor.get(lease_id)
        if lease is not None:
            yield {
                "type": "lease",
                "id": f"{lease.id:x}",
                "ttl_s": lease.ttl_s,
                "remaining_s": lease.remaining_s,
            }


def _alarms(state: "ReadView") -> Iterator[Json]:
    from kvnode.apply.alarms import Alarms
    from kvnode.pb.rpc_pb2 import AlarmType

    for member_id, kind in sorted(Alarms.open(state)):
        yield {
            "type": "alarm",
            "member_id": f"{member_id:x}",
            "alarm": AlarmType.Name(AlarmType.ValueType(kind)),
        }


def _users(state: "ReadView") -> Iterator[Json]:
    from kvnode.auth.records import User
    from kvnode.storage.keyspace import USER_PREFIX, prefix_end

    for _, value in state.iterate(USER_PREFIX, prefix_end(USER_PREFIX)):
        user = User.decode(value)
        yield {
            "type": "user",
            "name": user.name,
            "roles": list(user.roles),
            "has_password": bool(user.password_hash) and not user.has_no_password,
        }


def _roles(state: "ReadView") -> Iterator[Json]:
    from kvnode.auth.records import Role
    from kvnode.storage.keyspace import ROLE_PREFIX, prefix_end

    for _, value in state.iterate(ROLE_PREFIX, prefix_end(ROLE_PREFIX)):
        role = Role.decode(value)
        yield {
            "type": "role",
            "name": role.name,
            "permissions": [message_fields(permission.message()) for permission in role.permissions],
        }


def _changes(state: "ReadView", key_prefix: bytes) -> Iterator[Json]:
    from kvnode.mvcc.records import parse_record
    from kvnode.storage.keyspace import REVISION_PREFIX, is_seal_key, prefix_end, split_revision_key

    for key, record in state.iterate(REVISION_PREFIX, prefix_end(REVISION_PREFIX)):
        if is_seal_key(key):
            continue
        main, sub, is_tombstone = split_revision_key(key)
        pair = parse_record(record)
        if not pair.key.startswith(key_prefix):
            continue
        document: Json = {
            "type": "tombstone" if is_tombstone else "put",
            "revision": main,
            "sub": sub,
            "key": _text(pair.key),
        }
        if not is_tombstone:
            document.update(
                value=_text(pair.value), create_revision=pair.create_revision, version=pair.version
            )
            if pair.lease:
                document["lease"] = f"{pair.lease & (1 << 64) - 1:x}"
        yield document


@contextmanager
def _inspecting(data_dir: Path, wal_dir: Path | None, scratch: Path | None) -> "Iterator[Inspection]":
    from kvnode.storage.engines import DiskEngines
    from kvnode.storage.errors import StorageError
    from kvnode.storage.inspection import inspect

    try:
        with inspect(data_dir, DiskEngines(), wal_dir=wal_dir, scratch=scratch) as inspection:
            yield inspection
    except StorageError as error:
        raise SnapshotFileError(str(error)) from error


def _number(data: bytes | None, default: int) -> int:
    return default if data is None else int.from_bytes(data, "big", signed=True)


def _text(data: bytes) -> str:
    """Bytes as everywhere in etcd's JSON."""
    return base64.b64encode(data).decode()
