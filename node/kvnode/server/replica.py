"""One member's consensus, state and clients' requests, without clock, network or threads.

The asyncio driver and the simulation both run this: they differ in who carries messages and
in when a disk write is done, not in what happens.
"""

from collections.abc import Callable, Iterator, Sequence

from kvnode.apply.applier import AppliedBatch, Applier
from kvnode.raft.errors import ProposalDroppedError
from kvnode.raft.events import BecameLeader, Event
from kvnode.raft.messages import Message, Propose, ProposeConfChange
from kvnode.raft.raw_node import RawNode
from kvnode.raft.ready import Persist, Role
from kvnode.raft.types import Entry, Index, SnapshotMetadata
from kvnode.server.effects import Apply, Effect, effects_of
from kvnode.server.errors import NotLeaderError
from kvnode.server.proposals import Proposals
from kvnode.server.reads import Reads
from kvnode.storage.log_store import LogStore, PreparedSave

__all__ = ["Renewal", "Replica", "Requests"]

#: An entry is closed at this size, so that a burst is sent and written in pipelined pieces.
BATCH_BYTES = 1 << 20


class Replica:
    """Raft core, log and applier, wired together."""

    #: Forwarded proposals kept while leadership is on the move; beyond that they are dropped,
    #: and their sender proposes again in the next term.
    DEFERRED_LIMIT = 1024

    def __init__(self, node: RawNode, log: LogStore, applier: Applier, *, is_synced: bool = True) -> None:
        """``is_synced`` False gives up durability for speed: for tests only."""
        self._is_synced = is_synced
        self.node = node
        self.log = log
        self.applier = applier
        self._deferred: list[Message] = []
        #: A leader whose leases' clocks have not begun yet; see ``Lessor.promote``.
        self._clocks_extend_s: float | None = None

    def step(self, message: Message) -> None:
        """Take one message from a peer.

        A forwarded proposal is taken only in the term that it was made in, and only by that
        term's leader: ``server.proposals`` relies on it to know when a write was lost.
        """
        if isinstance(message, Propose | ProposeConfChange):
            if self.node.role is not Role.LEADER or message.term != self.node.term:
                return
            if self.node.lead_transferee:
                if len(self._deferred) < self.DEFERRED_LIMIT:
                    self._deferred.append(message)
                return
        self.node.step(message)

    def tick(self) -> None:
        """One heartbeat interval has passed."""
        self.node.tick()
        if self._deferred and not self.node.lead_transferee:
            deferred, self._deferred = self._deferred, []
            for message in deferred:
                self.step(message)

    def effects(self) -> Iterator[Effect]:
        """Yield what the core wants done now, in order; more may be ready when these are done."""
        if self.node.has_ready():
            yield from effects_of(self.node.ready())

    def begin_write(self, persist: Persist, *, state_generation: str | None = None) -> PreparedSave:
        """Encode ``persist``; the caller then calls ``write`` of the result, in any thread.

        Args:
            persist: From ``Write``.
            state_generation: Where the state of ``persist.snapshot`` was received.
        """
        return self.log.prepare_save(
            persist.hard_state,
            persist.entries,
            persist.snapshot,
            state_generation=state_generation,
            sync=persist.must_sync and self._is_synced,
        )

    def written(self, persist: Persist, save: PreparedSave) -> tuple[Message, ...]:
        """``save`` is durable: release what waited for it; returns the messages to send."""
        self.log.finish(save)
        self.node.persisted()
        return persist.messages

    def apply(self, entries: tuple[Entry, ...]) -> AppliedBatch:
        """Apply committed entries, in order, and hand membership changes to the core."""
        batch = self.applier.apply(entries)
        for change in batch.conf_changes:
            self.node.apply_conf_change(change)
        self.node.applied(batch.last_index)
        return batch

    def keep_lease_clocks(self, events: Sequence[Event], now_s: float, extend_s: float) -> None:
        """Let leases run on the leader and nowhere else; see ``Lessor.promote`` for ``extend_s``."""
        for event in events:
            if isinstance(event, BecameLeader):
                self._clocks_extend_s = extend_s
        lessor = self.applier.lessor
        if self.node.role is not Role.LEADER:
            self._clocks_extend_s = None
        if lessor.is_primary and (self.node.role is not Role.LEADER or self._clocks_extend_s is not None):
            lessor.demote()
        self.begin_lease_clocks(now_s)

    def begin_lease_clocks(self, now_s: float) -> None:
        """Begin them on a new leader that has applied all of former ones; to be called after each ``apply``.

        Before, it may know an old remainder of a lease that was renewed since: it would end the lease too
        early, or log the remainder behind the renewal, or promise another renewal without taking it back.
        """
        if self._clocks_extend_s is not None and self.applier.applied_term == self.node.term:
            self.applier.lessor.promote(now_s, self._clocks_extend_s)
            self._clocks_extend_s = None

    def is_installing(self, metadata: SnapshotMetadata) -> bool:
        """Whether the core has accepted this snapshot, so that its state must stay until ``restored``."""
        return self.node.pending_snapshot == metadata

    def restored(self, metadata: SnapshotMetadata, applier: Applier) -> None:
        """The snapshot's state became this member's: continue from it."""
        self.applier = applier
        self.node.applied(metadata.index)

    @property
    def applied_index(self) -> Index:
        """Up to where the state has come."""
        return self.applier.applied_index


class Renewal:
    """One renewal of leases by the leader, in two halves around a round of the quorum.

    A leader that was cut off or stood still does not know that another one keeps the leases'
    clocks.  Once a read is confirmed that began after the first half, in the same term, there was
    no other leader at that moment, and one that comes later gives each lease its whole TTL anew,
    unless the log holds a checkpoint of it: ``checkpointed`` says which must be taken back before.
    """

    def __init__(self, replica: Replica, lease_ids: Sequence[int], now_s: float) -> None:
        """Renew; the caller then takes checkpoints back and begins a linearizable read.

        Raises:
            NotLeaderError: Ask the leader.
        """
        self._replica = replica
        self._lease_ids = lease_ids
        self._term = replica.node.term
        self._renew(now_s)
        lessor = replica.applier.lessor
        #: To be logged with a checkpoint of 0, in this term, before ``finish``.
        self.checkpointed = [lease_id for lease_id in lease_ids if lessor.has_checkpoint(lease_id)]

    def finish(self, now_s: float) -> list[int]:
        """The read is confirmed: return each lease's TTL, 0 if it is gone.

        A grant that only followers had applied before may have come here meanwhile, so it counts.

        Raises:
            NotLeaderError: Ask the leader.
        """
        if self._replica.node.term != self._term:
            raise NotLeaderError
        return self._renew(now_s)

    def _renew(self, now_s: float) -> list[int]:
        lessor = self._replica.applier.lessor
        # A leader keeps the clocks once it has applied an entry of its term.
        if self._replica.node.role is not Role.LEADER or not lessor.is_primary:
            raise NotLeaderError
        return [lessor.renew(lease_id, now_s) for lease_id in self._lease_ids]


class Requests:
    """What this member's clients asked for, on its way through the replica."""

    def __init__(self, replica: Replica, proposals: Proposals, reads: Reads) -> None:
        self._replica = replica
        self._proposals = proposals
        self._reads = reads
        self._applied_term = 0

    def begin(self, now_s: float) -> None:
        """Propose what is queued and ask for the reads that arrived; nothing without a leader."""
        if self._reads.ready:
            self._reads.release()
        node = self._replica.node
        if not node.leader_id:
            return
        proposals = self._proposals
        if proposals.has_queued and not node.lead_transferee:
            datas = proposals.take(node.term, BATCH_BYTES)
            try:
                if datas:
                    node.propose(datas)
            except ProposalDroppedError:
                proposals.dropped()
        context = self._reads.next_context(now_s)
        if context is not None:
            node.read_index(context)

    def leadership(self, leader_id: int, now_s: float) -> None:
        """Another member leads, or none does."""
        if not leader_id:
            self._proposals.leader_lost_s = self._reads.leader_lost_s = now_s
        self._reads.leader_changed()

    def apply(self, effect: Apply, on_applied: Callable[[AppliedBatch], object]) -> bool:
        """Apply entries, then answer the writes that they hold and the reads that they let go.

        Args:
            effect: What to apply.
            on_applied: Hears what was done before any client does.

        Returns:
            Whether ``begin`` has something to do.
        """
        proposals, reads = self._proposals, self._reads
        is_due = False
        for read in effect.read_states:
            is_due = reads.confirmed(read.index, read.context) or is_due
        if effect.entries:
            batch = self._replica.apply(effect.entries)
            on_applied(batch)
            proposals.resolve(batch.results)
            term = effect.entries[-1].term
            if term > self._applied_term:
                self._applied_term = term
                is_due = proposals.term_passed(term) or is_due
        reads.applied(self._replica.applied_index)
        return is_due

    def skipped(self, metadata: SnapshotMetadata) -> None:
        """A snapshot's state became this member's: what it stands in for will never be applied here."""
        self._proposals.skipped_to(metadata.term)
        self._reads.applied(metadata.index)
