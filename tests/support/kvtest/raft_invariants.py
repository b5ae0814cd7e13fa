"""What must hold in every raft cluster at every moment, whatever crashed or got lost.

The names are those of the Raft paper's figure 3; the rest is what our contract between core and shell adds.
A checker is told of every step and remembers what it needs, so a check costs O(what is new).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvnode.raft import Entry, MemberId, MemoryLogStorage, RawNode, ReadState, Ready, Role
from kvnode.raft.events import BecameCandidate, BecameLeader
from kvnode.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Message,
    RequestVoteResponse,
    TimeoutNow,
)
from kvnode.raft.quorum import majority
from kvnode.raft.types import EntryKind

__all__ = ["InvariantBrokenError", "RaftChecker"]


class InvariantBrokenError(AssertionError):
    """The cluster did what raft proves impossible."""


@dataclass
class RaftChecker:
    """Watches a cluster; ``disks`` are the durable logs by member, shared with whoever runs it."""

    disks: Mapping[MemberId, MemoryLogStorage]
    sees_all: bool = False
    """Nothing is put into a member but what another one has sent."""
    leaders: dict[int, MemberId] = field(default_factory=dict)
    votes: dict[tuple[MemberId, int], MemberId] = field(default_factory=dict)
    entries: dict[tuple[int, int], tuple[Entry, int]] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)
    """Index -> term of every entry that some member regards as committed."""
    commit_terms: dict[int, int] = field(default_factory=dict)
    """Index -> term in which an entry was committed, as far as known; never too low."""
    max_committed: int = 0
    commit_seen: dict[MemberId, int] = field(default_factory=dict)
    reads: dict[tuple[MemberId, bytes], int] = field(default_factory=dict)
    confirmed_reads: int = 0
    pre_votes: dict[tuple[MemberId, int], set[MemberId]] = field(default_factory=dict)
    """(candidate, term it asks about) -> who would vote for it."""
    handed_over: set[tuple[MemberId, int]] = field(default_factory=set)
    """(member, term) of everybody that a leader told to campaign in the next term."""

    def ready_made(self, node: RawNode, ready: Ready) -> None:
        """Check a Ready as it leaves the core."""
        for message in ready.messages:
            self.message_sent(message)
        for event in ready.events:
            if isinstance(event, BecameCandidate):
                self._campaign_is_wanted(node, event.term)
            elif isinstance(event, BecameLeader):
                self._election_safety(node, event.term)
        if ready.persist is not None and ready.persist.entries:
            first = ready.persist.entries[0].index
            self._log_matching(node._state.log.term(first - 1), ready.persist.entries)
            if node.role is Role.LEADER:
                self._one_change_at_a_time(node, ready.persist.entries)
        self._handed_out(node, ready)
        for read in ready.read_states:
            self._read_is_fresh(node.member_id, read)

    def message_sent(self, message: Message) -> None:
        """Check a message at the moment it leaves its member."""
        if isinstance(message, AppendEntries):
            self._log_matching(message.prev_term, message.entries)
        elif isinstance(message, AppendEntriesResponse) and not message.rejected:
            disk = self.disks[message.from_id]
            if disk.last_index() < message.index or disk.hard_state.term < message.term:
                raise InvariantBrokenError(f"promised before durable: {message}, disk {disk.hard_state}")
        elif isinstance(message, RequestVoteResponse) and message.granted:
            if message.is_pre_vote:
                self.pre_votes.setdefault((message.to_id, message.term), set()).add(message.from_id)
            else:
                self._one_vote_per_term(message)
        elif isinstance(message, TimeoutNow):
            self.handed_over.add((message.to_id, message.term))

    def stepped(self, node: RawNode) -> None:
        """Check a member after anything happened to it."""
        if node.commit_index > self.commit_seen.get(node.member_id, 0):
            self._state_machine_safety(node)

    def restarted(self, member_id: MemberId, node: RawNode | None = None) -> None:
        """A restarted member may know less of the commit index than before, but not less of its vote."""
        self.commit_seen[member_id] = 0
        if node is not None:
            status = node.status()
            vote = self.votes.get((member_id, status.term), status.vote)
            if vote != status.vote:
                raise InvariantBrokenError(f"{member_id} forgot its vote for {vote} in term {status.term}")

    def read_started(self, member_id: MemberId, context: bytes) -> None:
        """Remember what a read that starts now must see at least."""
        self.reads[(member_id, context)] = self.max_committed

    # --- the properties

    def _election_safety(self, node: RawNode, term: int) -> None:
        other = self.leaders.setdefault(term, node.member_id)
        if other != node.member_id:
            raise InvariantBrokenError(f"election safety: {other} and {node.member_id} lead term {term}")
        own = self.disks[node.member_id].hard_state
        if (own.term, own.vote) < (term, node.member_id) and own.term <= term:
            raise InvariantBrokenError(f"{node.member_id} leads term {term} by a vote it may forget: {own}")
        self._leader_completeness(node)

    def _campaign_is_wanted(self, node: RawNode, term: int) -> None:
        """Nobody raises the term unless a majority would follow, or the leader asks for it (thesis 9.6)."""
        if (
            not self.sees_all
            or not node._state.config.pre_vote
            or (node.member_id, term - 1) in self.handed_over
        ):
            return
        voters = node.conf_state.voters
        willing = {node.member_id} | self.pre_votes.get((node.member_id, term), set())
        if len(willing.intersection(voters)) < majority(len(voters)):
            raise InvariantBrokenError(
                f"pre-vote: {node.member_id} campaigns in term {term}, but only {willing} would follow"
            )

    def _one_change_at_a_time(self, node: RawNode, entries: tuple[Entry, ...]) -> None:
        """Two membership changes under way could have disjoint majorities (thesis 4.1)."""
        changes = [entry.index for entry in entries if entry.kind is EntryKind.CONF_CHANGE]
        log = node._state.log
        if changes and changes[0] > log.applied_index + 1:
            lo = max(log.applied_index + 1, log.first_index)
            before, _ = log.slice(lo, changes[-1], 1 << 30)
            changes = [entry.index for entry in before if entry.kind is EntryKind.CONF_CHANGE]
        if len(changes) > 1:
            raise InvariantBrokenError(f"leader {node.member_id} has membership changes {changes} under way")

    def _leader_completeness(self, node: RawNode) -> None:
        log = node._state.log
        for index in range(log.first_index, self.max_committed + 1):
            if self.commit_terms[index] >= node.term:
                continue  # a member that stood still hears late of its election; others may lead since
            if index > log.last_index or log.term(index) != self.committed[index]:
                raise InvariantBrokenError(
                    f"leader completeness: leader {node.member_id} of term {node.term} lacks entry {index}"
                )

    def _log_matching(self, prev_term: int, entries: tuple[Entry, ...]) -> None:
        """Entries of one term and index are one entry with one predecessor; the rest follows by induction."""
        for entry in entries:
            known = self.entries.setdefault((entry.term, entry.index), (entry, prev_term))
            if known != (entry, prev_term):
                raise InvariantBrokenError(f"log matching: {known} and {(entry, prev_term)}")
            prev_term = entry.term

    def _state_machine_safety(self, node: RawNode) -> None:
        log = node._state.log
        seen = self.commit_seen.get(node.member_id, 0)
        for index in range(max(seen + 1, log.first_index), node.commit_index + 1):
            term = log.term(index)
            if index not in self.committed and node.role is Role.LEADER:
                self._durable_on_majority(node, index, term)
                if log.term(node.commit_index) != node.term:
                    raise InvariantBrokenError(
                        f"leader {node.member_id} of term {node.term} commits {index} of term {term}"
                    )
            self.commit_terms.setdefault(index, node.term)
            if self.committed.setdefault(index, term) != term:
                raise InvariantBrokenError(
                    f"state machine safety: entry {index} has terms {term} and {self.committed[index]}"
                )
        self.commit_seen[node.member_id] = node.commit_index
        self.max_committed = max(self.max_committed, node.commit_index)

    def _durable_on_majority(self, node: RawNode, index: int, term: int) -> None:
        voters = node.conf_state.voters
        holders = [voter for voter in voters if self._holds(voter, index, term)]
        if 2 * len(holders) <= len(voters):
            raise InvariantBrokenError(
                f"entry {index} committed, but only {holders} of {voters} hold it durably"
            )

    def _holds(self, member_id: MemberId, index: int, term: int) -> bool:
        disk = self.disks[member_id]
        if index < disk.first_index():
            return True
        return index <= disk.last_index() and disk.term(index) == term

    def _handed_out(self, node: RawNode, ready: Ready) -> None:
        disk = self.disks[node.member_id]
        for entry in ready.committed_entries:
            if self.committed.get(entry.index) != entry.term:
                raise InvariantBrokenError(f"member {node.member_id} applies {entry}, which is not committed")
            if disk.last_index() < entry.index or disk.term(entry.index) != entry.term:
                raise InvariantBrokenError(
                    f"member {node.member_id} applies {entry}, which it has not made durable"
                )
            if entry.kind is EntryKind.CONF_CHANGE and disk.hard_state.commit < entry.index:
                raise InvariantBrokenError(
                    f"member {node.member_id} would forget that the membership change {entry} is committed"
                )

    def _one_vote_per_term(self, message: RequestVoteResponse) -> None:
        voter, term, candidate = message.from_id, message.term, message.to_id
        if self.votes.setdefault((voter, term), candidate) != candidate:
            raise InvariantBrokenError(f"{voter} voted twice in term {term}")
        hard_state = self.disks[voter].hard_state
        if hard_state.term < term or (hard_state.term == term and hard_state.vote != candidate):
            raise InvariantBrokenError(f"vote before durable: {message}, disk {hard_state}")

    def _read_is_fresh(self, member_id: MemberId, read: ReadState) -> None:
        needed = self.reads.get((member_id, read.context))
        if needed is None:
            return  # asked for by a former life of this member
        self.confirmed_reads += 1
        if read.index < needed:
            raise InvariantBrokenError(
                f"stale read: {read} on {member_id}, but {needed} was committed before"
            )
