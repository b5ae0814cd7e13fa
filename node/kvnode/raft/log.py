"""The log as the rules see it: what storage holds, and a window of newer entries in memory.

Three marks move through it, and ``stable_index <= issued_index <= last_index`` always holds:

    ... storage ... | stable_index | under way to disk | issued_index | not yet written | last_index

The window keeps every entry that is not both durable and handed out for applying, so a steady leader or
follower never reads storage.  Entries are appended to one list and sliced from it; nothing else copies them.
"""

from collections.abc import Sequence

from kvnode.raft.errors import CompactedError, RaftInvariantError, UnavailableError
from kvnode.raft.storage import LogStorage
from kvnode.raft.types import Entry, EntryKind, Index, SnapshotMetadata, Term

__all__ = ["Log"]

_NOTHING: tuple[Entry, ...] = ()


class Log:
    """Reads span storage and window; writes go to the window until the shell has persisted them."""

    __slots__ = (
        "_anchor_term",
        "_slice",
        "_slice_key",
        "_storage",
        "_window",
        "_window_first",
        "applied_index",
        "commit_index",
        "conf_barrier",
        "durable_commit",
        "handed_index",
        "issued_index",
        "last_index",
        "last_term",
        "pending_snapshot",
        "snapshot_issued",
        "stable_index",
    )

    def __init__(self, storage: LogStorage, commit_index: Index, applied_index: Index | None) -> None:
        """Continue from storage.

        Raises:
            RaftInvariantError: the state machine misses compacted entries, or the log misses entries that
                were applied or are known to be committed.
        """
        before = storage.first_index() - 1
        last = storage.last_index()
        applied = before if applied_index is None else applied_index
        if not before <= applied <= last:
            raise RaftInvariantError(
                f"applied up to {applied}, but the log reaches from {before + 1} to {last}"
            )
        if commit_index > last:
            raise RaftInvariantError(
                f"committed up to {commit_index}, but the log ends at {last}: entries are lost"
            )
        self._storage = storage
        self._window: list[Entry] = []
        self._window_first = last + 1
        self._anchor_term = storage.term(last)
        """The term of the entry before the window, so that a prev_term needs no storage."""
        self._slice_key = (0, 0, 0)
        self._slice = (_NOTHING, 0)
        self.last_index = last
        self.last_term = self._anchor_term
        self.stable_index = last
        """Durable on this member."""
        self.issued_index = last
        """Durable, or in the Persist under way and still wanted."""
        self.commit_index = max(commit_index, applied)
        self.durable_commit = max(commit_index, applied)
        """The newest commit index that a restart would know of."""
        self.conf_barrier: Index = 0
        """A committed membership change that waits for durable_commit; 0: none.

        A member must not forget a membership that it has counted by: after a change from two voters to one
        it would wait for the other's vote for ever."""
        self.handed_index = applied
        """Given to the shell for applying."""
        self.applied_index = applied
        """Reported by the shell as applied."""
        self.pending_snapshot: SnapshotMetadata | None = None
        """Restored but not durable yet; nothing is handed out meanwhile."""
        self.snapshot_issued = False

    # --- reading

    @property
    def first_index(self) -> Index:
        """The first entry that can be read."""
        if self.pending_snapshot is not None:
            return self.pending_snapshot.index + 1
        return self._storage.first_index()

    def term(self, index: Index) -> Term:
        """Return the term of an entry.

        Raises:
            CompactedError: ``index`` is too old.
            UnavailableError: ``index`` is above last_index.
        """
        offset = index - self._window_first
        if offset >= 0:
            if index > self.last_index:
                raise UnavailableError(index, last_index=self.last_index)
            return self._window[offset].term
        if offset == -1:
            return self._anchor_term
        if self.pending_snapshot is not None:
            raise CompactedError(index, first_index=self.first_index)
        return self._storage.term(index)

    def matches(self, index: Index, term: Term) -> bool:
        """Say whether the entry at ``index`` has ``term``; one that is missing does not."""
        if index > self.last_index:
            return False
        try:
            return self.term(index) == term
        except CompactedError:
            return False

    def is_up_to_date(self, last_index: Index, last_term: Term) -> bool:
        """Say whether a log ending there may replace this one's authority (Raft paper 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def slice(self, lo: Index, hi: Index, max_bytes: int) -> tuple[tuple[Entry, ...], int]:
        """Return entries from ``lo`` up to and including ``hi`` (at most), and the bytes of their data.

        At least one entry comes back, and no more than ``max_bytes`` of data unless the first alone has
        more.  The last answer is kept: a leader asks the same for each member.

        Raises:
            CompactedError: ``lo`` is too old.
        """
        key = (lo, hi, max_bytes)
        if key == self._slice_key:
            return self._slice
        found: list[Entry]
        if lo >= self._window_first:
            found = self._window[lo - self._window_first : hi + 1 - self._window_first]
        elif self.pending_snapshot is not None:
            raise CompactedError(lo, first_index=self.first_index)
        else:
            found = self._storage.entries(lo, min(hi + 1, self._window_first), max_bytes)
            if lo + len(found) == self._window_first <= hi:
                found = found + self._window[: hi + 1 - self._window_first]
        self._slice = _limited(found, max_bytes)
        self._slice_key = key
        return self._slice

    def snapshot(self) -> SnapshotMetadata:
        """Return which state could be sent to a member now."""
        return self._storage.snapshot()

    def find_agreement(self, index: Index, term: Term) -> tuple[Index, Term]:
        """Return the last entry at or before ``index`` whose term is not above ``term``, and its term.

        Two logs can't agree on entries of terms that only one of them has, so either side skips whole
        terms by this instead of single entries (Raft paper 5.3, end).  Term 0: compacted, not known.
        """
        index = min(index, self.last_index)
        while index > 0:
            try:
                found = self.term(index)
            except CompactedError:
                return index, 0
            if found <= term:
                return index, found
            index -= 1
        return 0, 0

    # --- writing

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow the last one."""
        self._window.extend(entries)
        last = entries[-1]
        self.last_index = last.index
        self.last_term = last.term

    def merge(self, prev_index: Index, entries: Sequence[Entry]) -> tuple[Index, Index] | None:
        """Add what is new of a leader's ``entries``, which follow ``prev_index``, where both logs match.

        Returns:
            The range of own entries that were dropped because the leader has others, or None.
        Raises:
            RaftInvariantError: a committed entry would be dropped, or there is a gap.
        """
        if entries[0].index != prev_index + 1:
            raise RaftInvariantError(f"entries from {entries[0].index} cannot follow {prev_index}")
        if prev_index == self.last_index:
            self.append(entries)
            return None
        for count, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                dropped = None
                if entry.index <= self.last_index:
                    dropped = (entry.index, self.last_index)
                    self._truncate(entry.index)
                self.append(entries[count:])
                return dropped
        return None

    def _truncate(self, from_index: Index) -> None:
        """Drop ``from_index`` and everything after it; storage follows with the next Persist.

        Moving issued_index back also disowns what the Persist under way still writes of the old tail:
        ``persisted`` won't count it.
        """
        if from_index <= self.commit_index:
            raise RaftInvariantError(f"entry {from_index} conflicts, but {self.commit_index} is committed")
        if from_index < self._window_first:
            self._anchor_term = self.term(from_index - 1)
            self._window_first = from_index
        del self._window[from_index - self._window_first :]
        self.stable_index = min(self.stable_index, from_index - 1)
        self.issued_index = min(self.issued_index, from_index - 1)
        self.last_index = from_index - 1
        self.last_term = self.term(self.last_index)
        self._slice_key = (0, 0, 0)

    def commit_to(self, index: Index) -> bool:
        """Move the commit index forward to ``index``; say whether it moved.

        Raises:
            RaftInvariantError: the log does not reach so far.
        """
        if index <= self.commit_index:
            return False
        if index > self.last_index:
            raise RaftInvariantError(f"commit index {index} is beyond the log's end {self.last_index}")
        self.commit_index = index
        return True

    def restore(self, metadata: SnapshotMetadata) -> None:
        """Start over behind a snapshot; durable with the next Persist."""
        self._window = []
        self._window_first = metadata.index + 1
        self._anchor_term = metadata.term
        self._slice_key = (0, 0, 0)
        self.last_index = self.stable_index = self.issued_index = metadata.index
        self.last_term = metadata.term
        self.commit_index = metadata.index
        self.conf_barrier = 0
        self.pending_snapshot = metadata
        self.snapshot_issued = False

    # --- the contract with the shell

    def take_unwritten(self) -> tuple[tuple[Entry, ...], SnapshotMetadata | None]:
        """Return what the next Persist must hold, and regard it as under way."""
        snapshot = None
        if self.pending_snapshot is not None and not self.snapshot_issued:
            snapshot = self.pending_snapshot
            self.snapshot_issued = True
        if self.issued_index == self.last_index:
            return _NOTHING, snapshot
        entries = tuple(self._window[self.issued_index + 1 - self._window_first :])
        self.issued_index = self.last_index
        return entries, snapshot

    def has_unwritten(self) -> bool:
        """Say whether ``take_unwritten`` would return anything."""
        return self.issued_index != self.last_index or (
            self.pending_snapshot is not None and not self.snapshot_issued
        )

    def persisted(self, durable_commit: Index) -> None:
        """Take note that the Persist under way is durable, and with it this commit index."""
        self.stable_index = self.issued_index
        self.durable_commit = max(self.durable_commit, durable_commit)
        if self.conf_barrier <= self.durable_commit:
            self.conf_barrier = 0
        if self.pending_snapshot is not None and self.snapshot_issued:
            self.handed_index = self.applied_index = self.pending_snapshot.index
            self.pending_snapshot = None
            self.snapshot_issued = False

    def has_committed(self) -> bool:
        """Say whether ``take_committed`` may return anything."""
        return self._takeable_index() > self.handed_index and self.pending_snapshot is None

    def _takeable_index(self) -> Index:
        index = min(self.commit_index, self.stable_index)
        return min(index, self.conf_barrier - 1) if self.conf_barrier else index

    def take_committed(self, max_bytes: int) -> tuple[tuple[Entry, ...], int]:
        """Return the next entries to apply and the bytes of their data, and regard them as handed out."""
        if not self.has_committed():
            return _NOTHING, 0
        entries, size_bytes = self.slice(self.handed_index + 1, self._takeable_index(), max_bytes)
        if entries[-1].index > self.durable_commit:
            entries = self._before_barrier(entries)
            if not entries:
                return _NOTHING, 0
        self.handed_index = entries[-1].index
        self._trim()
        return entries, size_bytes

    def _before_barrier(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Hold back a membership change, and all after it, until its commitment is durable."""
        change = EntryKind.CONF_CHANGE
        for count, entry in enumerate(entries):
            if entry[2] is change and entry.index > self.durable_commit:
                self.conf_barrier = entry.index
                return entries[:count]
        return entries

    def applied(self, index: Index) -> None:
        """Take note of the shell's progress; an older report than the last changes nothing.

        Raises:
            RaftInvariantError: ``index`` was never handed out.
        """
        if index > self.handed_index:
            raise RaftInvariantError(f"applied {index}, but only {self.handed_index} was handed out")
        self.applied_index = max(self.applied_index, index)

    def _trim(self) -> None:
        """Forget the front of the window that is durable and handed out."""
        count = min(self.stable_index, self.handed_index) + 1 - self._window_first
        if count > 0:
            self._anchor_term = self._window[count - 1].term
            del self._window[:count]
            self._window_first += count


def _limited(entries: Sequence[Entry], max_bytes: int) -> tuple[tuple[Entry, ...], int]:
    total = 0
    for count, entry in enumerate(entries):
        size_bytes = len(entry.data)
        if total + size_bytes > max_bytes and count > 0:
            return tuple(entries[:count]), total
        total += size_bytes
    return tuple(entries), total
