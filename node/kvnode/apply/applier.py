"""One batch of committed entries becomes state, answers and events.

Everything is decided from the entries and the state alone, so that all members reach the same state; what
only concerns this member (whose answers to build, when to stop) never changes it.  The records and the
applied index go into one write batch: after a crash the log replays from exactly there.

An error that is no ``KvError`` means that this member can't go on: its memory may be ahead of its disk.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from kvnode.apply.alarms import UNKNOWN_MEMBER, Alarms
from kvnode.apply.auth_commands import AuthCommands, AuthEvent
from kvnode.apply.checks import txn_cost
from kvnode.apply.cluster_version import ClusterVersion, decode_downgrade, decode_version
from kvnode.apply.commands import AS_USER_KIND_OFFSET, COMMAND_HEADER, CommandKind, decode_lease_ids
from kvnode.apply.errors import (
    CommandFormatError,
    CorruptClusterError,
    MalformedCommandError,
    NoSpaceError,
)
from kvnode.apply.membership import (
    MemberChange,
    MemberRecord,
    Membership,
    decode_member_attributes,
    decode_member_change,
)
from kvnode.apply.permissions import Permissions
from kvnode.apply.txn import check_branch, choose_branch, execute_branch, write_branch
from kvnode.apply.writes import KeyWriter
from kvnode.auth.store import AuthStore
from kvnode.lease.errors import LeaseError
from kvnode.lease.lessor import Lessor
from kvnode.mvcc.events import RevisionChanges
from kvnode.mvcc.operations import Operations
from kvnode.mvcc.rolling import CHECKPOINT_ENTRIES
from kvnode.mvcc.store import Store
from kvnode.pb.rpc_pb2 import (
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    CompactionRequest,
    CompactionResponse,
    DeleteRangeRequest,
    DeleteRangeResponse,
    DowngradeResponse,
    LeaseCheckpointRequest,
    LeaseCheckpointResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    Member,
    MemberAddResponse,
    MemberPromoteResponse,
    MemberRemoveResponse,
    MemberUpdateResponse,
    PutRequest,
    PutResponse,
    TxnRequest,
    TxnResponse,
)
from kvnode.raft.types import (
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    Index,
    Term,
    decode_conf_change,
)
from kvnode.status import KvError
from kvnode.storage.engine import Engine, ReadView, WriteBatch
from kvnode.storage.seal import read_seal

__all__ = [
    "AppliedBatch",
    "AppliedPosition",
    "Applier",
    "ApplyResult",
    "member_message",
    "read_applied",
]

ApplyResult: TypeAlias = Message | KvError
_M = TypeVar("_M", bound=Message)


class AppliedPosition(NamedTuple):
    """The last applied entry."""

    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used
    term: Term


class AppliedBatch(NamedTuple):
    """What one call of ``Applier.apply`` did."""

    #: Index of the last entry applied so far.
    last_index: Index
    #: Answers to the requests of this process: (request ID, response or error).  A response has its
    #: header's revision set and nothing else of it.
    results: list[tuple[int, ApplyResult]]
    #: For the watch hub, in order of revision.
    changes: list[RevisionChanges]
    #: The accepted membership changes, to be handed to raft in this order.  A refused one is not here:
    #: for raft its entry changes nothing.
    conf_changes: list[ConfChange]
    membership_changed: bool
    alarms_changed: bool
    #: This member is no longer one.
    is_removed: bool
    #: What became of tokens, in order.
    auth_events: list[AuthEvent]


def read_applied(engine: ReadView) -> AppliedPosition:
    """Return the last applied entry of a state database; zeroes in an empty one.

    Raises:
        StorageCorruptError: it can't be read.
    """
    seal = read_seal(engine)
    return AppliedPosition(seal.index, seal.term)


def member_message(record: MemberRecord) -> Member:
    """Return a member as it is listed on the wire."""
    return Member(
        ID=record.id,
        name=record.name,
        peerURLs=record.peer_urls,
        clientURLs=record.client_urls,
        isLearner=record.is_learner,
    )


class Applier:
    """The state machine of one member.

    Opening reads the whole state and rebuilds the index; nothing is written.

    Args:
        engine: the state database.
        is_local: whether a request ID was given out by this process, so that its answer is wanted.
        member_id: this member; 0 if it does not matter.
        operations: what is counted goes here.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        is_local: Callable[[int], bool],
        member_id: int = 0,
        operations: Operations | None = None,
    ) -> None:
        self.engine = engine
        self.store = Store(engine, operations)
        self.lessor = Lessor.open(engine, self.store.leases)
        self.membership = Membership.open(engine)
        self.alarms = Alarms.open(engine)
        self.cluster_version = ClusterVersion.open(engine)
        self.auth = AuthStore.open(engine)
        self.permissions = Permissions(self.auth, self.lessor)
        applied = read_applied(engine)
        self.applied_index: Index = applied.index
        self.applied_term: Term = applied.term
        self._is_local = is_local
        self._member_id = member_id
        self._writer = KeyWriter(self.store, self.lessor)
        self._handlers: dict[int, Callable[[bytes, bool], ApplyResult | None]] = {
            CommandKind.PUT: self._put,
            CommandKind.DELETE_RANGE: self._delete_range,
            CommandKind.TXN: self._txn,
            CommandKind.COMPACT: self._compact,
            CommandKind.LEASE_GRANT: self._lease_grant,
            CommandKind.LEASE_REVOKE: self._lease_revoke,
            CommandKind.LEASE_REVOKE_MANY: self._lease_revoke_many,
            CommandKind.LEASE_CHECKPOINT: self._lease_checkpoint,
            CommandKind.ALARM: self._alarm,
            CommandKind.MEMBER_ATTRIBUTES: self._member_attributes,
            CommandKind.DOWNGRADE: self._downgrade,
            CommandKind.CLUSTER_VERSION: self._cluster_version,
        }
        self._auth_commands = AuthCommands(
            self.auth,
            self.permissions,
            self._handlers,
            # Entries come without gaps.
            position=lambda: self.applied_index + 1,
            revision=lambda: self.store.current_revision,
        )
        self._batch: WriteBatch = engine.batch()
        self._has_no_space = self._is_corrupt = False
        self._look_at_alarms()
        self._membership_changed = False
        self._alarms_changed = False

    @classmethod
    def open(
        cls,
        engine: Engine,
        *,
        is_local: Callable[[int], bool],
        member_id: int = 0,
        operations: Operations | None = None,
    ) -> "Applier":
        """Return the state machine over ``engine``; see the class."""
        return cls(engine, is_local=is_local, member_id=member_id, operations=operations)

    @property
    def conf_state(self) -> ConfState:
        """The membership at the applied index, as raft counts it."""
        return self.membership.conf_state

    def apply(self, entries: Sequence[Entry], *, sync: bool = False) -> AppliedBatch:
        """Apply committed entries in order; those that were applied before are skipped.

        Args:
            entries: as raft hands them out, without gaps.
            sync: the write batch is on stable storage when this returns.

        Raises:
            CommandFormatError: an entry of a version to come; the member must stop.
            StorageError: the state could not be read or written; the member must stop.
        """
        batch = self._batch = self.engine.batch()
        self.store.begin(batch)
        self._auth_commands.begin(batch)
        self._membership_changed = self._alarms_changed = False
        results: list[tuple[int, ApplyResult]] = []
        conf_changes: list[ConfChange] = []
        for entry in entries:
            if entry.index <= self.applied_index:
                continue
            if entry.kind is EntryKind.CONF_CHANGE:
                self._conf_change(decode_conf_change(entry.data), results, conf_changes)
            elif entry.data:
                self._commands(entry.data, results)
            self.applied_index = entry.index
            self.applied_term = entry.term
            if entry.index % CHECKPOINT_ENTRIES == 0:
                self.store.checkpoint(entry.index)
        changes = self.store.seal(self.applied_index, self.applied_term)
        self.engine.write(batch, sync=sync)
        self.store.end()
        return AppliedBatch(
            self.applied_index,
            results,
            changes,
            conf_changes,
            self._membership_changed,
            self._alarms_changed,
            bool(conf_changes) and self.membership.is_removed(self._member_id),
            self._auth_commands.events,
        )

    def _commands(self, data: bytes, results: list[tuple[int, ApplyResult]]) -> None:
        # decode_commands written out: this loop runs for every write on every member.
        handlers = self._handlers
        is_local = self._is_local
        operations = self.store.operations
        clock, count = operations.clock, operations.applied
        begun_s = clock()
        as_user = int(CommandKind.AS_USER)
        unpack = COMMAND_HEADER.unpack_from
        header_size = COMMAND_HEADER.size
        position, end = 0, len(data)
        while position < end:
            start = position + header_size
            if start > end:
                raise CommandFormatError(f"{end - position} bytes left where a command should begin")
            kind, request_id, length = unpack(data, position)
            position = start + length
            handler = handlers.get(kind)
            if handler is None or position > end:
                raise CommandFormatError(f"a command of kind {kind} and {length} bytes")
            wants_answer = is_local(request_id)
            try:
                result = handler(data[start:position], wants_answer)
            except KvError as error:
                result = error
            if wants_answer and result is not None:
                results.append((request_id, result))
            if kind == as_user and length > AS_USER_KIND_OFFSET:
                kind = data[start + AS_USER_KIND_OFFSET]  # what counts is what was asked for
            ended_s = clock()
            count(kind, not isinstance(result, KvError), ended_s - begun_s)
            begun_s = ended_s

    # One method per kind.  Each either changes nothing and raises or returns a KvError, or does the whole
    # command; the response is built only if it is wanted.

    def _put(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        if self._is_corrupt or self._has_no_space:
            return self._alarmed()
        request = _parse(PutRequest, payload)
        if request.lease or request.ignore_value or request.ignore_lease:
            refusal = self._writer.refusal(request)
            if refusal is not None:
                return refusal
        response = PutResponse() if wants_answer else None
        self._writer.put(request, response)
        self.store.commit()
        return response

    def _delete_range(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        if self._is_corrupt:
            return self._alarmed()
        request = _parse(DeleteRangeRequest, payload)
        response = DeleteRangeResponse() if wants_answer else None
        self._writer.delete_range(request, response)
        self.store.commit()
        return response

    def _txn(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        if self._is_corrupt:
            return self._alarmed()
        request = _parse(TxnRequest, payload)
        if self._has_no_space and txn_cost(request) > 0:
            return self._alarmed()
        branch = choose_branch(self.store, request)
        check_branch(self.store, branch, self._writer.refusal)
        operations = self.store.operations
        before = operations.total
        if not wants_answer:
            write_branch(branch, self._writer)
            operations.txns += operations.total - before > 1
            self.store.commit()
            return None
        response = TxnResponse()
        execute_branch(self.store, branch, self._writer, response)
        operations.txns += operations.total - before > 1
        response.header.revision = self.store.commit()
        return response

    def _compact(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        if self._is_corrupt:
            return self._alarmed()
        self.store.compact(_parse(CompactionRequest, payload).revision)
        if not wants_answer:
            return None
        response = CompactionResponse()
        response.header.revision = self.store.current_revision
        return response

    def _lease_grant(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        if self._is_corrupt or self._has_no_space:
            return self._alarmed()
        request = _parse(LeaseGrantRequest, payload)
        lease = self.lessor.grant(request.ID, request.TTL, self._batch)
        operations = self.store.operations
        operations.leases_granted += 1
        operations.lease_ttl_s.observe(lease.ttl_s)
        if not wants_answer:
            return None
        response = LeaseGrantResponse(ID=lease.id, TTL=lease.ttl_s)
        response.header.revision = self.store.current_revision
        return response

    def _lease_revoke(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        if self._is_corrupt:
            return self._alarmed()
        self._revoke(_parse(LeaseRevokeRequest, payload).ID)
        if not wants_answer:
            return None
        response = LeaseRevokeResponse()
        response.header.revision = self.store.current_revision
        return response

    def _lease_revoke_many(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        if self._is_corrupt:
            return self._alarmed()
        for lease_id in decode_lease_ids(payload):
            try:
                self._revoke(lease_id)
            except LeaseError:
                continue  # revoked by a client, or by an entry before
        if not wants_answer:
            return None
        response = LeaseRevokeResponse()
        response.header.revision = self.store.current_revision
        return response

    def _lease_checkpoint(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        request = _parse(LeaseCheckpointRequest, payload)
        for checkpoint in request.checkpoints:
            self.lessor.checkpoint(checkpoint.ID, checkpoint.remaining_TTL, self._batch)
        if not wants_answer:
            return None
        response = LeaseCheckpointResponse()
        response.header.revision = self.store.current_revision
        return response

    def _alarm(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        request = _parse(AlarmRequest, payload)
        pairs: list[tuple[int, int]] = []
        pair = (request.memberID, request.alarm)
        if request.action == AlarmRequest.AlarmAction.GET:
            pairs = self.alarms.raised(request.alarm)
        elif request.action == AlarmRequest.AlarmAction.ACTIVATE:
            if request.alarm != AlarmType.NONE:
                self.alarms.activate(*pair, self._batch)
                pairs = [pair]
        elif request.action == AlarmRequest.AlarmAction.DEACTIVATE and self.alarms.deactivate(
            *pair, self._batch
        ):
            pairs = [pair]
        if pairs and request.action != AlarmRequest.AlarmAction.GET:
            self._alarms_changed = True
            self._look_at_alarms()
        if not wants_answer:
            return None
        response = AlarmResponse()
        for member_id, alarm in pairs:
            response.alarms.add(memberID=member_id, alarm=AlarmType.ValueType(alarm))
        response.header.revision = self.store.current_revision
        return response

    def _member_attributes(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        attributes = decode_member_attributes(payload)
        refusal = self.membership.check_attributes(attributes)
        if refusal is not None:
            return refusal
        self.membership.apply_attributes(attributes, self._batch)
        self._membership_changed = True
        return MemberUpdateResponse(members=self._members()) if wants_answer else None

    def _downgrade(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        target = decode_downgrade(payload)
        refusal = None if target is None else self.cluster_version.check_downgrade(target)
        if refusal is not None:
            return refusal
        self.cluster_version.set_downgrade(target, self._batch)
        return DowngradeResponse(version=str(self.cluster_version.version)) if wants_answer else None

    def _cluster_version(self, payload: bytes, wants_answer: bool) -> ApplyResult | None:
        self.cluster_version.set_version(decode_version(payload), self._batch)
        return DowngradeResponse(version=str(self.cluster_version.version)) if wants_answer else None

    def _conf_change(
        self, change: ConfChange, results: list[tuple[int, ApplyResult]], accepted: list[ConfChange]
    ) -> None:
        described = decode_member_change(change)
        refusal = self.membership.check(described)
        if refusal is None:
            self.membership.apply(described, self._batch)
            self._membership_changed = True
            accepted.append(change)
            self._look_at_alarms()
        if self._is_local(described.request_id):
            results.append((described.request_id, refusal or self._change_response(described)))

    def _change_response(self, change: MemberChange) -> Message:
        if change.kind is ConfChangeKind.REMOVE:
            return MemberRemoveResponse(members=self._members())
        if change.is_promotion:
            return MemberPromoteResponse(members=self._members())
        added = member_message(self.membership.members[change.member_id])
        return MemberAddResponse(member=added, members=self._members())

    def _members(self) -> list[Member]:
        return [member_message(record) for record in self.membership.sorted()]

    def _revoke(self, lease_id: int) -> None:
        keys = self.lessor.revoke(lease_id, self._batch)
        self._writer.delete(keys)
        operations = self.store.operations
        operations.leases_revoked += 1
        operations.deletes += len(keys)
        self.store.commit()

    @property
    def is_corrupt(self) -> bool:
        """Whether nobody knows whose data are right, so that nothing is changed any more."""
        return self._is_corrupt

    @property
    def is_suspect(self) -> bool:
        """Whether this member's data are wrong, and the others go on without it."""
        return not self._is_corrupt and self._member_id in self.alarms.corrupt_members

    def _look_at_alarms(self) -> None:
        self._has_no_space = self.alarms.has_no_space
        corrupt = self.alarms.corrupt_members
        if corrupt:
            voters = {record.id for record in self.membership.voters}
            self._is_corrupt = UNKNOWN_MEMBER in corrupt or 2 * len(voters - corrupt) <= len(voters)
        else:
            self._is_corrupt = False

    def _alarmed(self) -> KvError:
        return CorruptClusterError() if self._is_corrupt else NoSpaceError()


def _parse(message_type: type[_M], payload: bytes) -> _M:
    # Here and not around the whole command: a stored record that can't be parsed is another matter.
    try:
        return message_type.FromString(payload)
    except DecodeError as error:
        raise MalformedCommandError from error
