"""The raft log on disk, and the raft core's read access to it.

One save is one batch: hard state, entries, and a snapshot's metadata reach the disk together or not at
all, with a single sync.  ``save`` has three steps, which can also be called one by one so that a storage
thread does nothing but wait for the disk: ``prepare_save`` encodes, ``PreparedSave.write`` writes,
``finish`` makes the save readable.  Until ``finish`` readers see the log as it was before.

Threads: everything belongs to one thread but ``PreparedSave.write``, which touches only the engine.

Compaction costs no write of its own: ``compact`` moves the base in memory, and the next save carries the new
base in its batch and deletes the entries below it.

Recent entries stay in memory within a bound of bytes, so replication to members that keep up reads no
disk.  The terms of all entries are kept as runs, so ``term`` never does.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from kvnode.raft.errors import CompactedError, RaftInvariantError, UnavailableError
from kvnode.raft.types import (
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Index,
    MemberId,
    SnapshotMetadata,
    Term,
)
from kvnode.storage.engine import LogBatch, LogEngine, ReadView
from kvnode.storage.errors import StorageCorruptError
from kvnode.storage.keyspace import (
    LOG_BASE,
    LOG_ENTRIES_END,
    LOG_ENTRY_PREFIX,
    LOG_FORMAT,
    LOG_GENERATION,
    LOG_HARD_STATE,
    LOG_SNAPSHOT,
    id_of_key,
    log_entry_key,
)

__all__ = [
    "LogStore",
    "PreparedSave",
    "StoredLog",
    "decode_snapshot_metadata",
    "encode_snapshot_metadata",
]

_FORMAT_VERSION: Final = b"1"
_HARD_STATE: Final = struct.Struct(">QQQ")
_BASE: Final = struct.Struct(">QQ")
_METADATA: Final = struct.Struct(">QQHHHH")
_ENTRY_HEAD: Final = struct.Struct(">QB")
_ENTRY_HEAD_BYTES: Final = _ENTRY_HEAD.size
_KINDS: Final = tuple(EntryKind)
#: What an entry weighs in memory besides its data.
_ENTRY_OVERHEAD_BYTES: Final = 150

_pack_entry_head = _ENTRY_HEAD.pack


class PreparedSave:
    """A batch that waits for the disk; made by ``LogStore.prepare_save``, used once."""

    __slots__ = ("_batch", "_engine", "_sync", "entries", "hard_state", "snapshot", "state_generation")

    def __init__(
        self,
        engine: LogEngine,
        batch: LogBatch,
        sync: bool,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        snapshot: SnapshotMetadata | None,
        state_generation: str | None,
    ) -> None:
        self._engine = engine
        self._batch = batch
        self._sync = sync
        self.hard_state = hard_state
        self.entries = entries
        self.snapshot = snapshot
        self.state_generation = state_generation

    def write(self) -> None:
        """Bring the save to the disk.  A failure is final: the engine takes no further write."""
        self._engine.write(self._batch, sync=self._sync)


class _View(NamedTuple):
    """What can be read.  Replaced, never changed, but for ``recent``, which grows."""

    #: The last entry that is no longer readable; its term is still known.
    base_index: Index
    base_term: Term
    last_index: Index
    #: Entries ``recent_first``..``last_index``; the older ones are read from the engine.
    recent_first: Index
    recent: list[Entry]
    #: Runs of equal terms over all readable entries: where each begins, and its term.
    run_starts: tuple[Index, ...]
    run_terms: tuple[Term, ...]


class LogStore:
    """``raft.LogStorage`` over an engine; made by ``create`` or ``open``."""

    def __init__(self, engine: LogEngine, path: str, base: SnapshotMetadata, cache_bytes: int) -> None:
        self._engine = engine
        self._path = path
        self._cache_bytes = cache_bytes
        self._hard_state = HardState()
        self._state_generation = ""
        #: The newest state that could be sent; never below the base.
        self._snapshot = base
        self._view = _View(base.index, base.term, base.index, base.index + 1, [], (), ())
        self._recent_bytes = 0
        #: The base in memory is ahead of the one on disk.
        self._is_base_dirty = False
        self._is_save_pending = False

    @classmethod
    def create(
        cls,
        engine: LogEngine,
        start: SnapshotMetadata | None,
        *,
        state_generation: str,
        path: str = "log",
        cache_bytes: int = 8 << 20,
    ) -> "LogStore":
        """Begin the log of a new member and sync it.

        Args:
            engine: an empty database.
            start: genesis for a founding member, a restored state's metadata, or None for a member
                that joins and will be sent a snapshot.
            state_generation: the state database that belongs to this log.
            path: the database's directory, for messages.
            cache_bytes: bound of the entries kept in memory.
        """
        base = start or SnapshotMetadata(0, 0, ConfState())
        store = cls(engine, path, base, cache_bytes)
        store._hard_state = HardState(base.term, MemberId(0), base.index)
        store._state_generation = state_generation
        batch = engine.batch()
        batch.put(LOG_FORMAT, _FORMAT_VERSION)
        batch.put(LOG_HARD_STATE, _HARD_STATE.pack(*store._hard_state))
        batch.put(LOG_BASE, _BASE.pack(base.index, base.term))
        batch.put(LOG_SNAPSHOT, encode_snapshot_metadata(base))
        batch.put(LOG_GENERATION, state_generation.encode("ascii"))
        engine.write(batch, sync=True)
        return store

    @classmethod
    def open(cls, engine: LogEngine, *, path: str = "log", cache_bytes: int = 8 << 20) -> "LogStore":
        """Take up the log that a former run of this member left.

        Every entry is read once: that verifies its checksum, and the indexes for gaps and the terms for
        order.  The membership in ``initial_state`` and ``snapshot`` is that of the last installed
        snapshot until ``create_snapshot`` says what the state holds.

        Raises:
            StorageCorruptError: records are missing, or contradict each other.
        """
        version = engine.get(LOG_FORMAT)
        if version != _FORMAT_VERSION:
            raise StorageCorruptError(
                path, f"the log's format version is {version!r}, not {_FORMAT_VERSION!r}"
            )
        try:
            snapshot = decode_snapshot_metadata(_required(engine, path, LOG_SNAPSHOT))
            base_index, base_term = _BASE.unpack(_required(engine, path, LOG_BASE))
            term, vote, commit = _HARD_STATE.unpack(_required(engine, path, LOG_HARD_STATE))
            generation = _required(engine, path, LOG_GENERATION).decode("ascii")
        except (struct.error, ValueError) as error:
            raise StorageCorruptError(path, f"a record of the log can't be read: {error}") from error
        base = SnapshotMetadata(base_index, base_term, snapshot.conf_state)
        store = cls(engine, path, base, cache_bytes)
        store._hard_state = HardState(term, MemberId(vote), max(commit, base_index))
        store._state_generation = generation
        store._load()
        return store

    # What the raft core reads.

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._snapshot.conf_state

    def first_index(self) -> Index:
        return self._view.base_index + 1

    def last_index(self) -> Index:
        return self._view.last_index

    def term(self, index: Index) -> Term:
        view = self._view
        if index > view.last_index:
            raise UnavailableError(index, last_index=view.last_index)
        if index > view.base_index:
            starts = view.run_starts
            if index >= starts[-1]:
                return view.run_terms[-1]
            return view.run_terms[bisect_right(starts, index) - 1]
        if index == view.base_index:
            return view.base_term
        raise CompactedError(index, first_index=view.base_index + 1)

    def entries(self, lo: Index, hi: Index, max_bytes: int) -> list[Entry]:
        view = self._view
        if lo <= view.base_index:
            raise CompactedError(lo, first_index=view.base_index + 1)
        if hi > view.last_index + 1:
            raise UnavailableError(hi - 1, last_index=view.last_index)
        first = view.recent_first
        if lo >= first:
            return _limited(view.recent[lo - first : hi - first], max_bytes)
        return self._read(view, lo, hi, max_bytes)

    def snapshot(self) -> SnapshotMetadata:
        return self._snapshot

    # What the shell writes.

    @property
    def hard_state(self) -> HardState:
        """The hard state saved last."""
        return self._hard_state

    @property
    def state_generation(self) -> str:
        """The state database that belongs to this log."""
        return self._state_generation

    def prepare_save(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry] = (),
        snapshot: SnapshotMetadata | None = None,
        *,
        state_generation: str | None = None,
        sync: bool = True,
    ) -> PreparedSave:
        """Encode a save.  Nothing is written yet, and nothing readable changes before ``finish``.

        Args:
            hard_state: None leaves the stored one.
            entries: contiguous; replace everything stored from the first one's index on.
            snapshot: replaces the whole log; ``entries`` continue after it.
            state_generation: the state database that a snapshot was received into.
            sync: False only when nothing is promised by this save (``Persist.must_sync``).

        Raises:
            RaftInvariantError: the entries would leave a gap or touch compacted ones, or an earlier
                save is not finished.
        """
        if self._is_save_pending:
            raise RaftInvariantError("a save was prepared while another is under way")
        engine = self._engine
        batch = engine.batch()
        put = batch.put
        view = self._view
        base, last = view.base_index, view.last_index
        if snapshot is not None:
            put(LOG_SNAPSHOT, encode_snapshot_metadata(snapshot))
            put(LOG_BASE, _BASE.pack(snapshot.index, snapshot.term))
            batch.delete_range(LOG_ENTRY_PREFIX, LOG_ENTRIES_END)
            base = last = snapshot.index
        elif self._is_base_dirty:
            put(LOG_BASE, _BASE.pack(base, view.base_term))
            batch.delete_range(LOG_ENTRY_PREFIX, log_entry_key(base + 1))
        if entries:
            first = entries[0].index
            new_last = entries[-1].index
            if not base < first <= last + 1 or new_last - first != len(entries) - 1:
                raise RaftInvariantError(
                    f"entries {first}..{new_last} ({len(entries)}) don't fit a log of {base + 1}..{last}"
                )
            for term, index, kind, data in entries:
                put(log_entry_key(index), _pack_entry_head(term, kind), data)
            if new_last < last:
                batch.delete_range(log_entry_key(new_last + 1), LOG_ENTRIES_END)
        if hard_state is not None:
            put(LOG_HARD_STATE, _HARD_STATE.pack(*hard_state))
        if state_generation is not None:
            put(LOG_GENERATION, state_generation.encode("ascii"))
        # In this thread: the storage thread would hold up the event loop's with it.
        batch.seal()
        self._is_base_dirty = False
        self._is_save_pending = True
        return PreparedSave(engine, batch, sync, hard_state, entries, snapshot, state_generation)

    def finish(self, save: PreparedSave) -> None:
        """Make a written save readable."""
        self._is_save_pending = False
        if save.snapshot is not None:
            self._reset_to(save.snapshot)
        if save.entries:
            self._append(save.entries)
        if save.hard_state is not None:
            self._hard_state = save.hard_state
        if save.state_generation is not None:
            self._state_generation = save.state_generation

    def save(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry] = (),
        snapshot: SnapshotMetadata | None = None,
        *,
        state_generation: str | None = None,
        sync: bool = True,
    ) -> None:
        """Do a whole save at once; see ``prepare_save``."""
        save = self.prepare_save(hard_state, entries, snapshot, state_generation=state_generation, sync=sync)
        save.write()
        self.finish(save)

    def create_snapshot(self, index: Index, conf_state: ConfState) -> None:
        """Say that the state at ``index`` could be sent to a member from now on.

        Kept in memory only: after a restart the state database says again what it holds.  To be called
        before a RawNode is made, with the state's applied index and membership.

        Raises:
            StorageCorruptError: the log does not reach back, or not up, to the state.
        """
        view = self._view
        if not view.base_index <= index <= view.last_index:
            raise StorageCorruptError(
                self._path,
                f"the state is at {index}, but the log holds {view.base_index + 1}..{view.last_index}",
            )
        self._snapshot = SnapshotMetadata(index, self.term(index), conf_state)

    def compact(self, index: Index) -> None:
        """Forget the entries up to and including ``index``.

        The caller has synced a state that holds their effect, and said so by ``create_snapshot``.

        Raises:
            RaftInvariantError: no snapshot covers ``index``.
        """
        if index > self._snapshot.index:
            raise RaftInvariantError(
                f"compacting to {index}, but the snapshot ends at {self._snapshot.index}"
            )
        view = self._view
        if index <= view.base_index:
            return
        starts, terms = view.run_starts, view.run_terms
        drop = len(starts) if index >= view.last_index else bisect_right(starts, index + 1) - 1
        # What is below the base stays in ``recent`` until its bytes are needed.
        self._view = view._replace(
            base_index=index,
            base_term=self.term(index),
            run_starts=starts[drop:],
            run_terms=terms[drop:],
        )
        self._is_base_dirty = True

    def flush(self) -> None:
        """Write what compaction has put off.  For a calm shutdown."""
        if self._is_base_dirty:
            self.save(None)

    # Private.

    def _load(self) -> None:
        """Read what is on disk."""
        engine, path = self._engine, self._path
        last, term = self._view.base_index, self._view.base_term
        for key, value in engine.iterate(LOG_ENTRY_PREFIX, LOG_ENTRIES_END):
            entry = _decode_entry(path, key, value)
            if entry.index != last + 1:
                raise StorageCorruptError(path, f"entry {entry.index} follows entry {last}")
            if entry.term < term:
                raise StorageCorruptError(
                    path, f"entry {entry.index} has term {entry.term}, the one before it {term}"
                )
            last, term = entry.index, entry.term
            self._append((entry,))
        if self._hard_state.commit > last:
            raise StorageCorruptError(
                path,
                f"entries up to {self._hard_state.commit} were committed, but the log ends at {last}",
            )
        if self._hard_state.term < term:
            raise StorageCorruptError(
                path, f"the stored term is {self._hard_state.term}, but an entry has term {term}"
            )

    def _read(self, view: _View, lo: Index, hi: Index, max_bytes: int) -> list[Entry]:
        """Read from the engine up to where the entries in memory begin, and go on with those."""
        found: list[Entry] = []
        size_bytes = 0
        stop = min(hi, view.recent_first)
        for key, value in self._engine.iterate(log_entry_key(lo), log_entry_key(stop)):
            entry = _decode_entry(self._path, key, value)
            if entry.index != lo + len(found):
                break
            size_bytes += len(entry.data)
            if size_bytes > max_bytes and found:
                return found
            found.append(entry)
        if len(found) != stop - lo:
            if lo <= self._view.base_index:
                raise CompactedError(lo, first_index=self.first_index())
            raise StorageCorruptError(self._path, f"entry {lo + len(found)} is missing")
        for entry in view.recent[: hi - stop]:
            size_bytes += len(entry.data)
            if size_bytes > max_bytes:
                return found
            found.append(entry)
        return found

    def _append(self, entries: Sequence[Entry]) -> None:
        """Show ``entries`` in place of everything from the first one's index on."""
        first = entries[0].index
        if first <= self._view.last_index:
            self._truncate(first)
        base_index, base_term, _, recent_first, recent, starts, terms = self._view
        size_bytes = 0
        for term, index, _, data in entries:
            if not terms or term != terms[-1]:
                starts, terms = (*starts, index), (*terms, term)
            size_bytes += len(data)
        recent.extend(entries)
        self._recent_bytes += size_bytes + _ENTRY_OVERHEAD_BYTES * len(entries)
        if self._recent_bytes > self._cache_bytes:
            recent_first, recent = self._evicted(recent_first, recent)
        self._view = _View(base_index, base_term, entries[-1].index, recent_first, recent, starts, terms)

    def _evicted(self, recent_first: Index, recent: list[Entry]) -> tuple[Index, list[Entry]]:
        """Return the newest entries, as many as half the bound holds (so that this is rare), at least one."""
        count, limit = 0, self._cache_bytes // 2
        while self._recent_bytes > limit and count < len(recent) - 1:
            self._recent_bytes -= len(recent[count].data) + _ENTRY_OVERHEAD_BYTES
            count += 1
        return recent_first + count, recent[count:]

    def _truncate(self, index: Index) -> None:
        """Forget everything from ``index`` on; the disk has been told already."""
        view = self._view
        keep = max(index - view.recent_first, 0)
        for entry in view.recent[keep:]:
            self._recent_bytes -= len(entry.data) + _ENTRY_OVERHEAD_BYTES
        runs = len([start for start in view.run_starts if start < index])
        self._view = view._replace(
            last_index=index - 1,
            recent_first=min(view.recent_first, index),
            recent=view.recent[:keep],
            run_starts=view.run_starts[:runs],
            run_terms=view.run_terms[:runs],
        )

    def _reset_to(self, snapshot: SnapshotMetadata) -> None:
        self._snapshot = snapshot
        self._recent_bytes = 0
        self._view = _View(snapshot.index, snapshot.term, snapshot.index, snapshot.index + 1, [], (), ())


class StoredLog:
    """A log as it lies on disk, for looking at: entries in order, nothing kept, nothing concluded.

    Unlike ``LogStore.open`` it does not refuse a log whose parts contradict each other.

    Raises:
        StorageCorruptError: there is no log, or one of another format.
    """

    def __init__(self, engine: ReadView, *, path: str = "log") -> None:
        self._engine = engine
        self._path = path
        version = engine.get(LOG_FORMAT)
        if version != _FORMAT_VERSION:
            raise StorageCorruptError(
                path, f"the log's format version is {version!r}, not {_FORMAT_VERSION!r}"
            )
        try:
            self.hard_state = HardState(*_HARD_STATE.unpack(_required(engine, path, LOG_HARD_STATE)))
            #: The last entry that was compacted away.
            self.base_index, self.base_term = _BASE.unpack(_required(engine, path, LOG_BASE))
            self.snapshot = decode_snapshot_metadata(_required(engine, path, LOG_SNAPSHOT))
            self.state_generation = _required(engine, path, LOG_GENERATION).decode("ascii")
        except (struct.error, ValueError) as error:
            raise StorageCorruptError(path, f"a record of the log can't be read: {error}") from error

    def entries(self, first: Index = 0) -> Iterator[Entry]:
        """Yield the entries from ``first`` on that are not compacted."""
        start = log_entry_key(max(first, self.base_index + 1))
        for key, value in self._engine.iterate(start, LOG_ENTRIES_END):
            yield _decode_entry(self._path, key, value)


def encode_snapshot_metadata(metadata: SnapshotMetadata) -> bytes:
    """Return index, term, four counts, and the member ids in the order of ``ConfState``."""
    groups = metadata.conf_state
    ids = [member for group in groups for member in group]
    head = _METADATA.pack(metadata.index, metadata.term, *(len(group) for group in groups))
    return head + struct.pack(f">{len(ids)}Q", *ids)


def decode_snapshot_metadata(data: bytes) -> SnapshotMetadata:
    """Return what ``encode_snapshot_metadata`` wrote.

    Raises:
        ValueError: ``data`` has another form.
    """
    if len(data) < _METADATA.size:
        raise ValueError(f"{len(data)} bytes are no snapshot metadata")
    index, term, *counts = _METADATA.unpack_from(data)
    if len(data) != _METADATA.size + 8 * sum(counts):
        raise ValueError(f"{len(data)} bytes of snapshot metadata for {sum(counts)} members")
    ids = [MemberId(i) for i in struct.unpack_from(f">{sum(counts)}Q", data, _METADATA.size)]
    groups = []
    for count in counts:
        groups.append(tuple(ids[:count]))
        del ids[:count]
    return SnapshotMetadata(index, term, ConfState(*groups))


def _decode_entry(path: str, key: bytes, value: bytes) -> Entry:
    try:
        term, kind = _ENTRY_HEAD.unpack_from(value)
        return Entry(term, id_of_key(key), _KINDS[kind], value[_ENTRY_HEAD_BYTES:])
    except (struct.error, IndexError, ValueError) as error:
        raise StorageCorruptError(path, f"entry {key.hex()} can't be read: {error}") from error


def _limited(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """Return as many of the first entries as ``max_bytes`` of data allow, but at least one."""
    size_bytes = 0
    for count, entry in enumerate(entries):
        size_bytes += len(entry.data)
        if size_bytes > max_bytes and count > 0:
            return entries[:count]
    return entries


def _required(engine: ReadView, path: str, key: bytes) -> bytes:
    value = engine.get(key)
    if value is None:
        raise StorageCorruptError(path, f"the record {key.decode('ascii')!r} of the log is missing")
    return value
