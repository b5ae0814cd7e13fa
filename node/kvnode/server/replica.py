"""One member's consensus and state, without clock, network or threads.

The asyncio driver and the simulation both run this: they differ in who carries messages and
in when a disk write is done, not in what happens.
"""

from collections.abc import Iterator

from kvnode.apply.applier import AppliedBatch, Applier
from kvnode.raft.messages import Message, Propose, ProposeConfChange
from kvnode.raft.raw_node import RawNode
from kvnode.raft.ready import Persist, Role
from kvnode.raft.types import Entry, Index, SnapshotMetadata
from kvnode.server.effects import Effect, effects_of
from kvnode.storage.log_store import LogStore, PreparedSave

__all__ = ["Replica"]


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

    def restored(self, metadata: SnapshotMetadata, applier: Applier) -> None:
        """The snapshot's state became this member's: continue from it."""
        self.applier = applier
        self.node.applied(metadata.index)

    @property
    def applied_index(self) -> Index:
        """Up to where the state has come."""
        return self.applier.applied_index
