"""The mutable state of one member and its role changes; the rules that use it are in the modules beside it.

``step`` dispatches to ``follower``, ``candidate`` and ``leader``; these share ``election``, ``replication``,
``membership`` and ``reads``.  All of them are free functions on this state, so that each file holds one idea.
"""

from kvnode.raft.config import RaftConfig
from kvnode.raft.errors import RaftInvariantError
from kvnode.raft.events import (
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    BecamePreCandidate,
    Event,
    LeaderChanged,
)
from kvnode.raft.log import Log
from kvnode.raft.messages import Message
from kvnode.raft.reads import ReadRounds
from kvnode.raft.ready import ReadState, Role
from kvnode.raft.storage import LogStorage
from kvnode.raft.tracker import Tracker
from kvnode.raft.types import NO_MEMBER, Entry, EntryKind, Index, MemberId, Term

__all__ = ["RaftState"]


class RaftState:
    """Fields first; the methods only keep fields that belong together consistent."""

    __slots__ = (
        "awaits_commits",
        "config",
        "dirty",
        "election_deadline_ticks",
        "election_elapsed_ticks",
        "events",
        "handover_pause_ticks",
        "has_held",
        "heartbeat_elapsed_ticks",
        "holds_committed",
        "holds_entries",
        "holds_notices",
        "holds_reads",
        "is_fit",
        "is_leaving",
        "is_replaced",
        "lead_transferee",
        "leader_id",
        "log",
        "member_id",
        "messages",
        "messages_after_persist",
        "pending_conf_index",
        "quickest_id",
        "read_states",
        "reads",
        "role",
        "term",
        "term_start_index",
        "tracker",
        "transfer_elapsed_ticks",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(self, config: RaftConfig, storage: LogStorage) -> None:
        hard_state, conf_state = storage.initial_state()
        self.config = config
        self.member_id = config.member_id
        self.log = Log(storage, hard_state.commit, config.applied_index)
        self.tracker = Tracker(config, config.conf_state or conf_state, self.log.last_index)

        self.term: Term = max(hard_state.term, self.log.last_term)
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader_id = NO_MEMBER
        self.is_fit = True
        """Whether it may lead, as far as the shell knows: a stalled disk takes no vote and no entry."""

        self.awaits_commits = False
        """Clients of this member wait for every commit."""

        self.holds_committed = False
        """Committed entries stay here, as the shell can't apply more at the moment."""

        self.messages: list[Message] = []
        self.messages_after_persist: list[Message] = []
        """They promise something that is not durable yet."""
        self.read_states: list[ReadState] = []
        self.events: list[Event] = []

        self.election_elapsed_ticks = 0
        """Since the leader was heard, a vote given, or (on the leader) the quorum checked."""
        self.election_deadline_ticks = 0
        self.heartbeat_elapsed_ticks = 0
        self.reset_election_deadline()

        # From here on, only a leader's values mean anything.
        self.dirty = False
        """There may be something to send to a peer: entries, a commit index, a read round."""
        self.holds_notices = False
        """A new commit index waits for the entries that go out next, where nobody waits for it."""
        self.holds_entries = False
        """Entries wait for others to go with, at the members that no commit needs."""
        self.holds_reads = False
        """Rounds of reads are kept from the members that a quorum does not need."""
        self.has_held = False
        """Something waits so."""
        self.quickest_id = NO_MEMBER
        """The member whose answer made the last commit or confirmed the last reads."""
        self.term_start_index: Index = 0
        """The first entry of this term: all entries from here on are of this term."""
        self.pending_conf_index: Index = 0
        """No membership change may be proposed before this is applied."""
        self.lead_transferee = NO_MEMBER
        self.transfer_elapsed_ticks = 0
        """Since the transfer began."""
        self.handover_pause_ticks = 0
        """Until a leader that is not fit looks for a successor again."""
        self.is_leaving = False
        """No voter any more: steps down once the voters know that this is committed."""
        self.is_replaced = False
        """They know."""
        self.uncommitted_bytes = 0
        self.reads = ReadRounds()

    # --- roles

    def become_follower(self, term: Term, leader_id: MemberId) -> None:
        """Follow ``leader_id``, or nobody yet, in ``term``."""
        changed = self.role is not Role.FOLLOWER or term != self.term
        if changed:
            self._reset(term)
            self.role = Role.FOLLOWER
        self._set_leader(leader_id)
        if changed:
            self.events.append(BecameFollower(term, leader_id))

    def become_pre_candidate(self) -> None:
        """Ask around; neither term nor vote changes, so failing costs nobody anything."""
        self._refuse_from(Role.LEADER)
        self._reset(self.term)
        self.role = Role.PRE_CANDIDATE
        self._set_leader(NO_MEMBER)
        self.events.append(BecamePreCandidate(self.term))

    def become_candidate(self) -> None:
        """Campaign in the next term.  The own vote counts once it is durable, see ``election``."""
        self._refuse_from(Role.LEADER)
        self._reset(self.term + 1)
        self.role = Role.CANDIDATE
        self.vote = self.member_id
        self._set_leader(NO_MEMBER)
        self.events.append(BecameCandidate(self.term))

    def become_leader(self) -> None:
        """Lead this term, beginning with an empty entry: only it commits what former terms left (5.4.2)."""
        self._refuse_from(Role.FOLLOWER)
        self._reset(self.term)
        self.role = Role.LEADER
        self._set_leader(self.member_id)
        log = self.log
        own = self.tracker.progress[self.member_id]
        own.match_index = log.stable_index
        own.become_replicate()
        # A membership change among the entries of former terms may still be unapplied; finding out
        # would mean reading them all, so none may be proposed before they are all applied.
        self.pending_conf_index = log.last_index
        self.term_start_index = log.last_index + 1
        self.events.append(BecameLeader(self.term))
        log.append((Entry(self.term, log.last_index + 1, EntryKind.NORMAL, b""),))
        self.dirty = True

    def _reset(self, term: Term) -> None:
        if term != self.term:
            self.term = term
            self.vote = NO_MEMBER
        self.election_elapsed_ticks = 0
        self.heartbeat_elapsed_ticks = 0
        self.reset_election_deadline()
        self.tracker.reset(self.log.last_index)
        self.dirty = False
        self.holds_notices = self.holds_entries = self.holds_reads = self.has_held = False
        self.quickest_id = NO_MEMBER
        self.term_start_index = 0
        self.pending_conf_index = 0
        self.lead_transferee = NO_MEMBER
        self.handover_pause_ticks = 0
        self.is_leaving = self.is_replaced = False
        self.uncommitted_bytes = 0
        self.reads = ReadRounds()

    def _set_leader(self, leader_id: MemberId) -> None:
        if leader_id != self.leader_id:
            self.leader_id = leader_id
            self.events.append(LeaderChanged(self.term, leader_id))

    def _refuse_from(self, role: Role) -> None:
        if self.role is role:
            raise RaftInvariantError(f"member {self.member_id:x} can't take this role as a {role}")

    # --- questions

    def reset_election_deadline(self) -> None:
        """Draw the timeout anew (Raft paper 5.2): equal timeouts would split votes again and again."""
        timeout = self.config.election_timeout_ticks
        self.election_deadline_ticks = self.config.random_ticks(timeout, 2 * timeout - 1)

    def is_promotable(self) -> bool:
        """Say whether this member may campaign: a voter whose state is complete, and that is fit to lead."""
        return self.is_fit and self.tracker.is_voter(self.member_id) and self.log.pending_snapshot is None

    def has_lease(self) -> bool:
        """Say whether a leader was heard within an election timeout (Raft thesis 4.2.3)."""
        return (
            self.config.check_quorum
            and self.leader_id != NO_MEMBER
            and self.election_elapsed_ticks < self.config.election_timeout_ticks
        )

    def committed_in_term(self) -> bool:
        """Say whether this leader knows the cluster's commit index: an entry of its term is committed."""
        return self.log.commit_index >= self.term_start_index
