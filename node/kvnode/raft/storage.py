"""Where the core reads what is durable; writing is the shell's work.

``LogStorage`` is the port; ``MemoryLogStorage`` fulfils it for tests and simulations.
"""

from collections.abc import Sequence
from typing import Protocol

from kvnode.raft.errors import CompactedError, RaftInvariantError, UnavailableError
from kvnode.raft.types import ConfState, Entry, HardState, Index, MemberId, SnapshotMetadata, Term

__all__ = ["GENESIS_INDEX", "GENESIS_TERM", "LogStorage", "MemoryLogStorage", "genesis"]

#: A bootstrapped member starts as if a snapshot of the empty state had been installed here, so that all
#: founders agree on the membership without an entry for it.
GENESIS_INDEX = 1
GENESIS_TERM = 1


class LogStorage(Protocol):
    """Read access to the durable log; every answer comes from memory or from a short disk read."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Return what the member starts with; read once."""
        ...

    def first_index(self) -> Index:
        """Return the index of the first entry that can be read; last_index() + 1 when there is none."""
        ...

    def last_index(self) -> Index:
        """Return the index of the last durable entry or, without entries, of the snapshot before them."""
        ...

    def term(self, index: Index) -> Term:
        """Return the term of an entry; also answers for first_index() - 1.

        Raises:
            CompactedError: ``index`` is below first_index() - 1.
            UnavailableError: ``index`` is above last_index().
        """
        ...

    def entries(self, lo: Index, hi: Index, max_bytes: int) -> list[Entry]:
        """Return entries from ``lo`` up to but without ``hi``: as many as ``max_bytes`` of data allow, but
        at least one.

        Raises:
            CompactedError: ``lo`` is below first_index().
            UnavailableError: ``hi`` is above last_index() + 1.
        """
        ...

    def snapshot(self) -> SnapshotMetadata:
        """Return which state could be sent to a member now; its index is at least first_index() - 1."""
        ...


def genesis(voters: Sequence[MemberId], learners: Sequence[MemberId] = ()) -> SnapshotMetadata:
    """Return the snapshot that every founding member starts from."""
    conf_state = ConfState(tuple(sorted(voters)), tuple(sorted(learners)))
    return SnapshotMetadata(GENESIS_INDEX, GENESIS_TERM, conf_state)


class MemoryLogStorage:
    """A ``LogStorage`` in memory, with the writes that a shell makes.

    It stands for a disk: what ``save`` was given is durable, so a simulated crash keeps this object and
    throws the RawNode away.
    """

    def __init__(self, start: SnapshotMetadata | None = None) -> None:
        """Hold ``start`` (usually ``genesis(...)``); without it, be the empty log of a joining member."""
        self._base = start or SnapshotMetadata(0, 0, ConfState())
        self._snapshot = self._base
        self._entries: list[Entry] = []
        self._hard_state = HardState(self._base.term, MemberId(0), self._base.index)

    @property
    def hard_state(self) -> HardState:
        """The hard state saved last."""
        return self._hard_state

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._snapshot.conf_state

    def first_index(self) -> Index:
        return self._base.index + 1

    def last_index(self) -> Index:
        return self._base.index + len(self._entries)

    def term(self, index: Index) -> Term:
        offset = index - self._base.index
        if offset == 0:
            return self._base.term
        self._check(index)
        return self._entries[offset - 1].term

    def entries(self, lo: Index, hi: Index, max_bytes: int) -> list[Entry]:
        self._check(lo)
        if hi > self.last_index() + 1:
            raise UnavailableError(hi - 1, last_index=self.last_index())
        found = self._entries[lo - self._base.index - 1 : hi - self._base.index - 1]
        size_bytes = 0
        for count, entry in enumerate(found):
            size_bytes += len(entry.data)
            if size_bytes > max_bytes and count > 0:
                return found[:count]
        return found

    def snapshot(self) -> SnapshotMetadata:
        return self._snapshot

    def save(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None = None,
    ) -> None:
        """Make a Persist durable, as one write."""
        if snapshot is not None:
            self._base = self._snapshot = snapshot
            self._entries = []
        if entries:
            keep = entries[0].index - self._base.index - 1
            if not 0 <= keep <= len(self._entries):
                raise RaftInvariantError(f"entries from {entries[0].index} leave a gap or hit compacted ones")
            del self._entries[keep:]
            self._entries.extend(entries)
        if hard_state is not None:
            self._hard_state = hard_state

    def create_snapshot(self, index: Index, conf_state: ConfState) -> None:
        """Say that the state at ``index`` (an applied entry) could be sent from now on."""
        self._snapshot = SnapshotMetadata(index, self.term(index), conf_state)

    def compact(self, index: Index) -> None:
        """Drop the entries up to and including ``index``, which a snapshot must cover."""
        if index > self._snapshot.index:
            raise RaftInvariantError(
                f"compacting to {index}, but the snapshot ends at {self._snapshot.index}"
            )
        if index <= self._base.index:
            return
        term = self.term(index)
        del self._entries[: index - self._base.index]
        self._base = SnapshotMetadata(index, term, self._snapshot.conf_state)

    def _check(self, index: Index) -> None:
        if index <= self._base.index:
            raise CompactedError(index, first_index=self.first_index())
        if index > self.last_index():
            raise UnavailableError(index, last_index=self.last_index())
