"""The public face of the core: put in ticks, messages and proposals, take out a ``Ready``.

A shell's turn, in its order:

1. any number of ``tick``, ``step``, ``propose``, ``read_index``, ...
2. ``ready()``: send its messages, start writing its persist, apply its committed entries
3. when the write is synced: send ``persist.messages``, call ``persisted()``; there is a next ``ready()``
4. when entries are applied: ``applied(index)``, and ``apply_conf_change`` for each CONF_CHANGE among them

Steps 1, 2 and 4 go on while a write is under way; what needs the disk gathers for the next write.
Not thread-safe: one owner calls it.
"""

from collections.abc import Sequence

from kvnode.raft import election, follower, leader, membership, reading, replication
from kvnode.raft.config import RaftConfig
from kvnode.raft.errors import DropReason, ProposalDroppedError, RaftInvariantError
from kvnode.raft.messages import AppendEntriesResponse, Message, Propose, ProposeConfChange, TransferLeader
from kvnode.raft.ready import Persist, Ready, Role, SoftState
from kvnode.raft.state import RaftState
from kvnode.raft.status import ProgressView, Status
from kvnode.raft.step import step as step_message
from kvnode.raft.storage import LogStorage
from kvnode.raft.types import (
    NO_MEMBER,
    ConfChange,
    ConfState,
    HardState,
    Index,
    MemberId,
    SnapshotMetadata,
    Term,
)

__all__ = ["RawNode"]


class RawNode:
    """One member of a raft group."""

    __slots__ = ("_issued", "_reported", "_state", "_writing")

    def __init__(self, config: RaftConfig, storage: LogStorage) -> None:
        """Start, or start again, from what ``storage`` holds.

        Raises:
            RaftInvariantError: config.applied_index does not fit the log.
        """
        state = self._state = RaftState(config, storage)
        self._issued = HardState(state.term, state.vote, state.log.durable_commit)
        """The hard state on disk, or in the Persist under way."""
        self._writing = False
        """A Persist is under way."""
        self._reported = SoftState(NO_MEMBER, Role.FOLLOWER)

    # --- what happens

    def tick(self) -> None:
        """Let one tick of time pass."""
        state = self._state
        if state.role is Role.LEADER:
            leader.tick(state)
            return
        state.election_elapsed_ticks += 1
        if state.election_elapsed_ticks >= state.election_deadline_ticks and state.is_promotable():
            state.election_elapsed_ticks = 0
            election.campaign(state)

    def step(self, message: Message) -> None:
        """React to a message from another member.

        Before an ``InstallSnapshot``, apply everything that was handed out: the membership jumps with it.

        Raises:
            RaftInvariantError: the message contradicts what raft guarantees; stop this member.
        """
        step_message(self._state, message)

    def propose(self, datas: Sequence[bytes]) -> None:
        """Ask for one entry for each of ``datas``; a follower passes them on to the leader.

        A proposal may still be lost without notice: wait for the entry, with a deadline.

        Raises:
            ProposalDroppedError: certainly none of them will become an entry.
        """
        state = self._state
        if state.role is Role.LEADER:
            leader.propose(state, datas)
        else:
            to_id = self._known_leader()
            state.messages.append(Propose(state.member_id, to_id, state.term, tuple(datas)))

    def propose_conf_change(self, change: ConfChange) -> None:
        """Ask for a membership change; a follower passes it on to the leader.

        Raises:
            ProposalDroppedError: it will certainly not become an entry.
            ConfChangeError: it can't be made from the present membership.
        """
        state = self._state
        if state.role is Role.LEADER:
            leader.propose_conf_change(state, change)
        else:
            to_id = self._known_leader()
            state.messages.append(ProposeConfChange(state.member_id, to_id, state.term, change))

    def _known_leader(self) -> MemberId:
        leader_id = self._state.leader_id
        if leader_id == NO_MEMBER:
            raise ProposalDroppedError(DropReason.NO_LEADER, leader_id=leader_id)
        return leader_id

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Count by the membership after ``change``, and return it.

        Call it when the entry is applied, in log order, before ``applied`` for it; not at all for a change
        that the state machine refused, nor for an entry older than a snapshot restored since.

        Raises:
            ConfChangeError: no voter would be left; nothing has changed.
        """
        return membership.apply_conf_change(self._state, change)

    def read_index(self, context: bytes) -> None:
        """Ask from which index on a read that starts now is linearizable.

        The answer is a ReadState with this ``context``, which must be unique on this member.  It may never
        come, if messages are lost or the leader changes: ask again.
        """
        reading.request(self._state, context)

    def transfer_leadership(self, to_id: MemberId) -> None:
        """Let the voter ``to_id`` take over; a follower passes the wish on.

        The leader refuses proposals meanwhile, for an election timeout at most.  Without a leader, or for a
        member that can't lead, nothing happens.
        """
        state = self._state
        if state.role is Role.LEADER:
            leader.transfer_leadership(state, to_id)
        elif state.leader_id != NO_MEMBER:
            state.messages.append(TransferLeader(state.member_id, state.leader_id, state.term, to_id))

    def campaign(self) -> None:
        """Campaign now instead of at the next election timeout."""
        election.campaign(self._state)

    def report_unreachable(self, member_id: MemberId) -> None:
        """Say that messages to ``member_id`` were probably lost."""
        if self._state.role is Role.LEADER:
            leader.report_unreachable(self._state, member_id)

    def report_gone(self, member_id: MemberId) -> None:
        """Say that the process of ``member_id`` has ended: if it led, this member campaigns soon."""
        election.leader_gone(self._state, member_id)

    def await_commits(self, *, awaits: bool) -> None:
        """Say whether clients of this member, such as watches, wait for every commit; at first none does.

        Its leader then keeps nothing from it: see ``hold_notices`` and ``hold_entries``.
        """
        follower.await_commits(self._state, awaits=awaits)

    def hold_notices(self, *, holds: bool) -> None:
        """Say whether a new commit index may wait for entries that are expected to follow soon.

        As leader: where no client of a member waits for it, the index then travels with the next entries,
        which saves each member a message and a turn.  Its heartbeats tell it in any case.
        """
        state = self._state
        state.holds_notices = holds
        if state.has_held and not holds:
            state.dirty = True

    def hold_entries(self, *, holds: bool) -> None:
        """Say whether members beyond a quorum may wait for more entries than there are now.

        As leader: entries go to as many voters at once as a commit takes, those that have answered first of
        late, and to the others a few at a time, until the next heartbeat at most.  That saves these messages
        and turns, but a commit that a member of the quorum holds up then waits until the shell lets go.
        """
        state = self._state
        state.holds_entries = holds
        if state.has_held and not holds:
            state.dirty = True

    def hold_reads(self, *, holds: bool) -> None:
        """Say whether only as many voters are asked to confirm reads as it takes.

        As leader, as with ``hold_entries``: those that have answered first of late are asked, and the others
        only once the shell lets go, or by the next heartbeat.
        """
        state = self._state
        state.holds_reads = holds
        if state.reads.is_held and not holds:
            state.dirty = True

    def hold_committed(self, *, holds: bool) -> None:
        """Say whether committed entries are to stay here for now, as applying more would take too long.

        All else goes on; proposals are refused once too much waits.
        """
        self._state.holds_committed = holds

    def report_fitness(self, *, is_fit: bool) -> None:
        """Say whether this member may lead; at first it may.

        One whose disk takes no more writes should not, and nothing else would end its term: it goes on to
        send heartbeats.  While it is not fit it stands for no election, and as leader it hands over.
        """
        election.set_fitness(self._state, is_fit=is_fit)

    def report_snapshot(self, member_id: MemberId, ok: bool) -> None:
        """Say that the transfer of a snapshot to ``member_id`` ended, and how.

        Must follow every InstallSnapshot sooner or later: nothing else is sent to the member before, unless
        it reports the snapshot itself.
        """
        if self._state.role is Role.LEADER:
            leader.report_snapshot(self._state, member_id, ok=ok)

    # --- what to do

    def has_ready(self) -> bool:
        """Say whether ``ready()`` has something to do."""
        state = self._state
        if state.dirty or state.messages or state.events or state.read_states:
            return True
        if state.log.has_committed() and not state.holds_committed:
            return True
        if state.leader_id != self._reported.leader_id or state.role is not self._reported.role:
            return True
        return not self._writing and (bool(state.messages_after_persist) or self._has_unwritten())

    def ready(self) -> Ready:
        """Return everything to be done now; whoever calls this must do it."""
        state = self._state
        if state.dirty:
            replication.flush(state)
        # Before the persist: a membership change found here wants its commitment in it.
        limit_bytes = state.config.max_committed_bytes_per_ready
        committed, size_bytes = ((), 0) if state.holds_committed else state.log.take_committed(limit_bytes)
        persist = None if self._writing else self._take_persist()
        if committed and state.uncommitted_bytes:
            state.uncommitted_bytes = max(0, state.uncommitted_bytes - size_bytes)
        soft_state = None
        if state.leader_id != self._reported.leader_id or state.role is not self._reported.role:
            soft_state = self._reported = SoftState(state.leader_id, state.role)
        ready = Ready(
            soft_state,
            tuple(state.messages),
            persist,
            committed,
            tuple(state.read_states),
            tuple(state.events),
        )
        state.messages = []
        if state.read_states:
            state.read_states = []
        if state.events:
            state.events = []
        return ready

    def _has_unwritten(self) -> bool:
        """Say whether a write is due; a new commit index is worth one only if it changes members."""
        state, issued = self._state, self._issued
        return (
            state.log.has_unwritten()
            or state.term != issued.term
            or state.vote != issued.vote
            or state.log.conf_barrier > issued.commit
            or (state.role is Role.LEADER and replication.withholds_commit(state, issued.commit))
        )

    def _take_persist(self) -> Persist | None:
        state = self._state
        if state.term != self._issued.term:
            # What was to be promised to a former leader may be gone from the log, and be written never.
            state.messages_after_persist = [
                message
                for message in state.messages_after_persist
                if message.term == state.term or not isinstance(message, AppendEntriesResponse)
            ]
        if not self._has_unwritten():
            # All that these messages promise is durable already.
            state.messages += state.messages_after_persist
            state.messages_after_persist = []
            return None
        now = HardState(state.term, state.vote, state.log.commit_index)
        hard_state = None if now == self._issued else now
        self._issued = now
        entries, snapshot = state.log.take_unwritten()
        messages = tuple(state.messages_after_persist)
        state.messages_after_persist = []
        self._writing = True
        return Persist(hard_state, entries, snapshot, messages, True)

    def persisted(self) -> None:
        """Say that the Persist under way is synced.

        Raises:
            RaftInvariantError: none is under way.
        """
        if not self._writing:
            raise RaftInvariantError("no Persist is under way")
        self._writing = False
        state = self._state
        state.log.persisted(self._issued.commit)
        if state.role is Role.LEADER:
            leader.persisted(state)
        else:
            election.count_durable_vote(state, self._issued)

    def applied(self, index: Index) -> None:
        """Say that every entry up to ``index`` is applied.

        Raises:
            RaftInvariantError: ``index`` was never handed out.
        """
        self._state.log.applied(index)

    # --- questions

    @property
    def member_id(self) -> MemberId:
        return self._state.member_id

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def is_leader(self) -> bool:
        return self._state.role is Role.LEADER

    @property
    def term(self) -> Term:
        return self._state.term

    @property
    def leader_id(self) -> MemberId:
        """The leader of this term as far as known; 0: none."""
        return self._state.leader_id

    @property
    def commit_index(self) -> Index:
        return self._state.log.commit_index

    @property
    def applied_index(self) -> Index:
        return self._state.log.applied_index

    @property
    def last_index(self) -> Index:
        return self._state.log.last_index

    @property
    def has_held(self) -> bool:
        """Whether a commit index or entries wait at this leader for other entries to go with."""
        return self._state.has_held

    @property
    def held_round(self) -> int:
        """The oldest round of reads that this leader waits for, having asked some voters only; 0: none."""
        reads = self._state.reads
        return reads.oldest_round if reads.is_held else 0

    @property
    def pending_snapshot(self) -> SnapshotMetadata | None:
        """The snapshot that was accepted and is not persisted yet."""
        return self._state.log.pending_snapshot

    @property
    def lead_transferee(self) -> MemberId:
        """Who is about to take over from this leader; 0: nobody."""
        return self._state.lead_transferee

    @property
    def conf_state(self) -> ConfState:
        """The membership that counts now."""
        return self._state.tracker.conf_state

    def is_learner(self, member_id: MemberId) -> bool:
        return member_id in self._state.tracker.conf_state.learners

    def status(self) -> Status:
        """Return a copy of everything worth knowing."""
        state = self._state
        log = state.log
        progress = state.tracker.progress if state.role is Role.LEADER else {}
        return Status(
            id=state.member_id,
            role=state.role,
            term=state.term,
            vote=state.vote,
            leader_id=state.leader_id,
            commit_index=log.commit_index,
            applied_index=log.applied_index,
            stable_index=log.stable_index,
            first_index=log.first_index,
            last_index=log.last_index,
            conf_state=state.tracker.conf_state,
            lead_transferee=state.lead_transferee,
            progress={member_id: ProgressView.of(view) for member_id, view in progress.items()},
        )
