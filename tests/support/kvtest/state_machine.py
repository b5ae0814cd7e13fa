"""An applier over memory, fed one command or one batch at a time, as raft would feed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from google.protobuf.message import Message
from kvnode.apply.applier import AppliedBatch, Applier, ApplyResult
from kvnode.apply.commands import CommandKind, encode_as_user, encode_command, encode_lease_ids
from kvnode.apply.genesis import GENESIS_INDEX, write_genesis
from kvnode.apply.membership import MemberChange, MemberRecord, encode_member_change
from kvnode.auth.caller import Caller
from kvnode.mvcc.hashing import RevisionHash
from kvnode.pb import rpc_pb2 as rpc
from kvnode.raft.types import Entry, EntryKind, MemberId, encode_conf_change
from kvnode.status import KvError
from kvnode.storage.keyspace import REVISION_PREFIX, is_seal_key, prefix_end, seal_key
from kvnode.storage.memory import MemoryEngine

__all__ = ["CLUSTER_ID", "FIRST_MEMBER", "AsUser", "Raw", "StateMachine", "command", "kind_of"]

CLUSTER_ID = 0xC1
FIRST_MEMBER = MemberRecord(MemberId(0xA), "a", ("http://a:2380",), ("http://a:2379",), False)

_KINDS: dict[type[Message], CommandKind] = {
    rpc.PutRequest: CommandKind.PUT,
    rpc.DeleteRangeRequest: CommandKind.DELETE_RANGE,
    rpc.TxnRequest: CommandKind.TXN,
    rpc.CompactionRequest: CommandKind.COMPACT,
    rpc.LeaseGrantRequest: CommandKind.LEASE_GRANT,
    rpc.LeaseRevokeRequest: CommandKind.LEASE_REVOKE,
    rpc.LeaseCheckpointRequest: CommandKind.LEASE_CHECKPOINT,
    rpc.AlarmRequest: CommandKind.ALARM,
    rpc.AuthEnableRequest: CommandKind.AUTH_ENABLE,
    rpc.AuthDisableRequest: CommandKind.AUTH_DISABLE,
    rpc.AuthUserAddRequest: CommandKind.USER_ADD,
    rpc.AuthUserDeleteRequest: CommandKind.USER_DELETE,
    rpc.AuthUserChangePasswordRequest: CommandKind.USER_CHANGE_PASSWORD,
    rpc.AuthUserGrantRoleRequest: CommandKind.USER_GRANT_ROLE,
    rpc.AuthUserRevokeRoleRequest: CommandKind.USER_REVOKE_ROLE,
    rpc.AuthRoleAddRequest: CommandKind.ROLE_ADD,
    rpc.AuthRoleDeleteRequest: CommandKind.ROLE_DELETE,
    rpc.AuthRoleGrantPermissionRequest: CommandKind.ROLE_GRANT_PERMISSION,
    rpc.AuthRoleRevokePermissionRequest: CommandKind.ROLE_REVOKE_PERMISSION,
}


class AsUser(NamedTuple):
    """A request on behalf of a user."""

    caller: Caller
    request: Message


def kind_of(request: Message) -> CommandKind:
    """Return the command that carries this request."""
    return _KINDS[type(request)]


class Raw(NamedTuple):
    """A command whose payload is no message."""

    kind: CommandKind
    payload: bytes


Request: TypeAlias = "Message | AsUser | Raw"


def command(request: Request) -> tuple[CommandKind, bytes]:
    """Return kind and payload of the command that carries a request."""
    if isinstance(request, AsUser):
        kind, payload = command(request.request)
        return CommandKind.AS_USER, encode_as_user(request.caller, kind, payload)
    if isinstance(request, Raw):
        return request
    return kind_of(request), request.SerializeToString()


class StateMachine:
    """One member's state machine, and the log that it was fed."""

    def __init__(self, members: Sequence[MemberRecord] = (FIRST_MEMBER,), *, member_id: int = 0xA) -> None:
        self.engine = MemoryEngine()
        self.member_id = member_id
        write_genesis(self.engine, CLUSTER_ID, members)
        self.log: list[Entry] = []
        self.batches: list[AppliedBatch] = []
        self.applier = self._open()

    def _open(self) -> Applier:
        return Applier.open(self.engine, is_local=lambda request_id: request_id > 0, member_id=self.member_id)

    def reopen(self) -> None:
        """Restart the process: every write is kept, memory is not."""
        self.engine.restart()
        self.applier = self._open()

    def entry(self, *requests: Request) -> Entry:
        """Return the next log entry, a batch of commands, without applying it."""
        data = b"".join(
            encode_command(kind, number, payload)
            for number, (kind, payload) in enumerate(map(command, requests), 1)
        )
        return self._append(EntryKind.NORMAL, data)

    def batch(self, *requests: Request) -> list[ApplyResult]:
        """Apply one entry; returns the answers in order."""
        return [result for _, result in self.feed(self.entry(*requests)).results]

    def do(self, request: Request) -> Message:
        """Apply one command; returns its response or raises its error."""
        (result,) = self.batch(request)
        return _unwrap(result)

    def expire(self, *lease_ids: int) -> Message:
        """Revoke leases as the leader does."""
        payload = encode_lease_ids(list(lease_ids))
        return self.raw(CommandKind.LEASE_REVOKE_MANY, payload)

    def raw(self, kind: int, payload: bytes) -> Message:
        """Apply one command of any kind; returns its response or raises its error."""
        data = encode_command(CommandKind(kind), 1, payload)
        ((_, result),) = self.feed(self._append(EntryKind.NORMAL, data)).results
        return _unwrap(result)

    def change_member(self, change: MemberChange) -> ApplyResult:
        """Apply a conf change; returns its answer."""
        data = encode_conf_change(encode_member_change(change))
        ((_, result),) = self.feed(self._append(EntryKind.CONF_CHANGE, data)).results
        return result

    def feed(self, *entries: Entry) -> AppliedBatch:
        """Apply entries as one batch."""
        applied = self.applier.apply(entries)
        self.batches.append(applied)
        return applied

    def put(self, key: bytes, value: bytes = b"v", **fields: object) -> Message:
        """Put a key."""
        return self.do(rpc.PutRequest(key=key, value=value, **fields))  # type: ignore[arg-type]

    def delete(self, key: bytes, range_end: bytes = b"") -> Message:
        """Delete a key or a range."""
        return self.do(rpc.DeleteRangeRequest(key=key, range_end=range_end))

    def compact(self, revision: int, *, finish: bool = True) -> None:
        """Compact, and delete what became unreadable unless told not to."""
        self.do(rpc.CompactionRequest(revision=revision))
        while finish and self.applier.store.compact_step(3):
            pass

    @property
    def revision(self) -> int:
        """The current revision."""
        return self.applier.store.current_revision

    def hash(self, revision: int = 0) -> int:
        """HashKV up to a revision."""
        return RevisionHash(self.applier.store, revision).finish()

    def dump(self) -> dict[bytes, bytes]:
        """Everything that is stored and counts: of the seals the last one."""
        last = seal_key(self.revision)
        return {key: value for key, value in self.engine.iterate() if key == last or not _is_seal(key)}

    def revisions(self) -> dict[bytes, bytes]:
        """The records of revisions that are stored."""
        end = prefix_end(REVISION_PREFIX)
        return {key: value for key, value in self.engine.iterate(REVISION_PREFIX, end) if not _is_seal(key)}

    def _append(self, kind: EntryKind, data: bytes) -> Entry:
        entry = Entry(1, GENESIS_INDEX + 1 + len(self.log), kind, data)
        self.log.append(entry)
        return entry


def _is_seal(key: bytes) -> bool:
    return key.startswith(REVISION_PREFIX) and is_seal_key(key)


def _unwrap(result: ApplyResult) -> Message:
    if isinstance(result, KvError):
        raise result
    return result
