"""The multi-version store: every revision of every key, on top of an ordered engine.

Records are append-only, ``revision -> KeyValue``; the index of keys lives in memory and is rebuilt from
the records at start.  Writes come from the applier alone: it opens a batch, makes changes, closes each
transaction with ``commit``, and ends the batch once the engine has it.  Between ``put`` and the engine's
write a record is served from memory, so reads inside a transaction see what it wrote.

Compaction is decided at apply (``compact``), which only moves the compact revision; what has become
unreadable is deleted by ``compact_step`` in slices, at any pace and on each member for itself.
"""

from collections.abc import Callable, Iterator
from typing import Final

from kvnode.mvcc.errors import CompactedError, FutureRevisionError
from kvnode.mvcc.events import Change, RevisionChanges
from kvnode.mvcc.key_index import FLIPS_KEPT, Flip, KeyIndex
from kvnode.mvcc.operations import Operations
from kvnode.mvcc.records import (
    encode_first_facts,
    encode_record,
    encode_tombstone,
    key_of_first,
    key_of_record,
    parse_record,
)
from kvnode.mvcc.revision import MAIN_SHIFT, MAX_SUB, REVISIONS_END, is_tombstone, key_of, parse_key
from kvnode.mvcc.rolling import RollingHash
from kvnode.raft.types import Index, Term
from kvnode.storage.engine import Engine, ReadView, WriteBatch
from kvnode.storage.errors import StorageCorruptError
from kvnode.storage.keyspace import REVISION_PREFIX, is_seal_key, meta_key, revision_key, split_seal_key
from kvnode.storage.seal import read_seal, seal_record

__all__ = [
    "COMPACTED_KEY",
    "COMPACT_KEY",
    "NEVER_COMPACTED",
    "Store",
]

#: Signed 64-bit big-endian: the compact revision, and the compact revision up to which unreadable records
#: are known to be deleted.
COMPACT_KEY: Final = meta_key("compact_revision")
COMPACTED_KEY: Final = meta_key("compacted_revision")

#: The compact revision of a store that was never compacted, as etcd reports it.
NEVER_COMPACTED: Final = -1

#: Records are kept in memory after they were written or read singly, in two generations of this size:
#: what was just written is what is read next (watch events with the previous pair, read-modify-write).
CACHE_GENERATION_BYTES: Final = 8 * 2**20


class Store:
    """Revisions of keys.  ``index`` answers which, ``record`` answers what.

    Args:
        engine: holds the records; the applier writes the batches.
        operations: what is counted goes here.
    """

    def __init__(self, engine: Engine, operations: Operations | None = None) -> None:
        self.engine = engine
        self.operations = operations if operations is not None else Operations()
        self.index = KeyIndex()
        #: Lease of each live key that has one.
        self.leases: dict[bytes, int] = {}
        seal = read_seal(engine)
        #: That of the last seal that the engine holds.
        self._sealed_revision = seal.revision
        #: The revision that reads see; that of an open transaction is one above.
        self.current_revision = seal.revision
        #: Over all changes.
        self.rolling = RollingHash(seal.hashed_since, seal.rolling_hash)
        #: Reads below it fail.
        self.compact_revision = _meta(engine, COMPACT_KEY, NEVER_COMPACTED)
        #: The compact revision whose deletions are all done; below ``compact_revision`` while they run.
        self.compacted_revision = _meta(engine, COMPACTED_KEY, NEVER_COMPACTED)
        #: Up to here the running compaction has come, as a packed revision.
        self._compact_cursor = max(0, self.compacted_revision) << MAIN_SHIFT
        #: Bytes of all retained records, keys of the engine included.
        self.retained_bytes = 0
        self._restore()

        # The open transaction.
        self._main = self.current_revision + 1
        self._sub = 0
        self._changes: list[Change] = []
        # The open batch, and its method to put a record.
        self._is_open = False
        self._put_record: Callable[[bytes, bytes], None] = _no_batch
        self._committed: list[RevisionChanges] = []
        # Both generations map packed revision to record.
        self._young: dict[int, bytes] = {}
        self._old: dict[int, bytes] = {}
        self._young_bytes = 0

    def __len__(self) -> int:
        """The number of live keys."""
        return len(self.index)

    @property
    def mean_record_bytes(self) -> int:
        """Bytes of a record, about; more where keys have many versions."""
        return self.retained_bytes // max(1, len(self.index))

    # Reading.

    def check_revision(self, revision: int) -> None:
        """Raise if ``revision`` can't be read.

        Raises:
            FutureRevisionError: it is above the current revision.
            CompactedError: it is below the compact revision; reading exactly there is fine.
        """
        if revision > self.current_revision:
            raise FutureRevisionError
        if revision < self.compact_revision:
            raise CompactedError

    def record(self, packed: int) -> bytes:
        """Return the record of a change.

        Raises:
            StorageCorruptError: it is missing or damaged.
        """
        record = self._young.get(packed)
        if record is None:
            record = self._old.get(packed)
            if record is None:
                record = self.engine.get(key_of(packed))
                if record is None:
                    raise StorageCorruptError(
                        "state database", f"revision {packed >> MAIN_SHIFT} is missing from the records"
                    )
            self._young[packed] = record
            self._young_bytes += len(record)
            # Never inside a batch: what it has put is nowhere else yet.
            if self._young_bytes > CACHE_GENERATION_BYTES and not self._is_open:
                self._age()
        return record

    def scanned_record(self, packed: int) -> bytes:
        """``record`` for long lists: does not push what is in memory out."""
        record = self._young.get(packed) or self._old.get(packed) or self.engine.get(key_of(packed))
        if record is None:
            raise StorageCorruptError(
                "state database", f"revision {packed >> MAIN_SHIFT} is missing from the records"
            )
        return record

    def changes_since(self, revision: int) -> Iterator[Change]:
        """Yield the changes from ``revision`` on, in order.

        ``revision`` must not be below the compact revision.  The version before a change counts as
        compacted, and is left out, for a change at the compact revision itself.  Nothing may be written
        while the iterator is in use.
        """
        previous = self.index.previous
        readable_from = (self.compact_revision + 1) << MAIN_SHIFT
        for db_key, record in self.engine.iterate(revision_key(max(revision, 0), 0), REVISIONS_END):
            if is_seal_key(db_key):
                continue
            packed = parse_key(db_key)
            key = key_of_record(record)
            yield Change(key, packed, record, previous(key, packed) if packed >= readable_from else 0)

    # Writing: begin, (put | delete)*, commit, ..., end.

    def begin(self, batch: WriteBatch) -> None:
        """Open a batch: the changes go into ``batch``."""
        self._is_open = True
        self._put_record = batch.put

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        """Set a key in the open transaction."""
        main = self._main
        sub = self._sub
        self._sub = sub + 1
        packed = main << MAIN_SHIFT | sub << 1
        create_revision, version, previous = self.index.put(key, main, packed)
        record = encode_record(key, create_revision, main, version, value, lease)
        self._put_record(revision_key(main, sub), record)
        self._young[packed] = record
        size = len(record)
        self._young_bytes += size
        self.retained_bytes += size + 17
        self._changes.append(Change(key, packed, record, previous))
        if lease:
            self.leases[key] = lease
        elif self.leases:
            self.leases.pop(key, None)

    def delete(self, key: bytes) -> None:
        """Delete a live key in the open transaction."""
        main = self._main
        sub = self._sub
        self._sub = sub + 1
        packed = main << MAIN_SHIFT | sub << 1 | 1
        previous = self.index.delete(key, main, packed)
        record = encode_tombstone(key)
        self._put_record(revision_key(main, sub, True), record)
        self._young[packed] = record
        size = len(record)
        self._young_bytes += size
        self.retained_bytes += size + 18
        self._changes.append(Change(key, packed, record, previous))
        if self.leases:
            self.leases.pop(key, None)

    @property
    def has_changes(self) -> bool:
        """Whether the open transaction has written."""
        return self._sub > 0

    @property
    def room(self) -> int:
        """How many more changes fit into the open transaction."""
        return MAX_SUB + 1 - self._sub

    @property
    def read_revision(self) -> int:
        """The revision that a read inside the open transaction sees."""
        return self.current_revision + 1 if self._sub else self.current_revision

    def commit(self) -> int:
        """Close the transaction; returns the current revision, one higher only if it wrote."""
        if self._sub:
            main = self._main
            self._committed.append((main, self._changes))
            self._changes = []
            self._sub = 0
            self.current_revision = main
            self._main = main + 1
        return self.current_revision

    def compact(self, revision: int) -> None:
        """Move the compact revision, in the open batch.

        Raises:
            CompactedError: it was compacted before.
            FutureRevisionError: it is above the current revision.
        """
        if revision <= self.compact_revision:
            raise CompactedError
        if revision > self.current_revision:
            raise FutureRevisionError
        # A walk that has come as far as the former target may have left deletions standing there.
        self._compact_cursor = min(self._compact_cursor, max(self.compact_revision, 0) << MAIN_SHIFT)
        self.compact_revision = revision
        self._put_record(COMPACT_KEY, _encode(revision))

    def checkpoint(self, index: int) -> None:
        """The open batch has come to this index of the log: note the rolling hash of all changes."""
        self.rolling.take(self._committed)
        self.rolling.checkpoint(index, self.current_revision)

    def seal(self, index: Index, term: Term) -> list[RevisionChanges]:
        """Complete the open batch, to be written by the caller; returns its changes by revision.

        Args:
            index: of the last entry that is applied with it.
            term: of that entry.
        """
        committed, self._committed = self._committed, []
        rolling = self.rolling
        rolling.take(committed)
        key, value = seal_record(self.current_revision, index, term, rolling.since_revision, rolling.sealed())
        self._put_record(key, value)
        return committed

    def end(self) -> None:
        """The engine has the batch."""
        self._sealed_revision = self.current_revision
        self._is_open = False
        self._put_record = _no_batch
        if self._young_bytes > CACHE_GENERATION_BYTES:
            self._age()

    # Compaction.

    @property
    def is_compacting(self) -> bool:
        """Whether records wait to be deleted."""
        return self.compacted_revision < self.compact_revision

    def compact_step(self, limit: int) -> bool:
        """Delete unreadable records among the next ``limit`` ones; returns whether more remain.

        Not to be called while a batch is open.  The walk goes over the changes made since the compaction
        before, because only a change makes the version before it unreadable.  A record is deleted
        no earlier than a record that proves it unreadable was seen, and that one stays or goes later, so
        a walk cut short by a crash is simply repeated.
        """
        target = self.compact_revision
        if self.compacted_revision >= target:
            return False
        batch = self.engine.batch()
        index = self.index
        start = key_of(self._compact_cursor)
        stop = revision_key(max(target, 0) + 1, 0)
        cursor: int | None = None
        seen = 0
        for db_key, record in self.engine.iterate(start, stop):
            if is_seal_key(db_key):
                seen += 1
                # Not by the current revision: a batch that failed has moved that, and left no seal.
                if split_seal_key(db_key) < self._sealed_revision:
                    batch.delete(db_key)
                continue
            if seen >= limit:
                cursor = parse_key(db_key)
                break
            seen += 1
            packed = parse_key(db_key)
            key = key_of_record(record)
            for dropped in index.prune(key, target):
                # What lies ahead is deleted when the walk gets there.
                if dropped < packed:
                    self._drop(batch, dropped, self.engine.get(key_of(dropped)))
            if not index.holds(key, packed):
                self._drop(batch, packed, record)
        is_done = cursor is None
        if cursor is None:
            batch.put(COMPACTED_KEY, _encode(target))
            # Not behind the target: a deletion exactly there stays now and goes with the next compaction.
            cursor = max(target, 0) << MAIN_SHIFT
        self.engine.write(batch, sync=False)
        self._compact_cursor = cursor
        if is_done:
            self.compacted_revision = target
        return not is_done

    def _age(self) -> None:
        self._old = self._young
        self._young = {}
        self._young_bytes = 0

    def _drop(self, batch: WriteBatch, packed: int, record: bytes | None) -> None:
        db_key = key_of(packed)
        batch.delete(db_key)
        self.operations.compacted += 1
        self._young.pop(packed, None)
        self._old.pop(packed, None)
        if record is not None:
            self.retained_bytes -= len(record) + len(db_key)

    def _restore(self) -> None:
        """Rebuild the index from the records.

        What most records are, the only version of a key without a lease, is told from their bytes: that
        halves the time of a start.
        """
        add_first = self.index.restore_first
        restore = self.index.restore
        leases = self.leases
        retained = 0
        main = -1
        facts = b""
        for db_key, record in self.engine.iterate(REVISION_PREFIX, REVISIONS_END):
            if is_seal_key(db_key):
                continue
            packed = parse_key(db_key)
            retained += len(record) + len(db_key)
            if packed >> MAIN_SHIFT != main:
                main = packed >> MAIN_SHIFT
                facts = encode_first_facts(main)
            key = key_of_first(record, facts)
            if key and add_first(key, packed) == packed:
                continue
            message = parse_record(record)
            key = message.key
            restore(key, packed, message.create_revision, message.version)
            if message.lease:
                leases[key] = message.lease
            elif leases:
                leases.pop(key, None)
        self.index.restored(*self._recent_flips())
        self.retained_bytes = retained

    def _recent_flips(self) -> tuple[list[Flip], int]:
        """Return the last flips of keys, and the revision after which none is missing."""
        flips: list[Flip] = []
        complete_since = max(self.compact_revision, 0)
        records = self.engine.iterate(REVISION_PREFIX, REVISIONS_END, reverse=True)
        seen = 0
        for db_key, record in records:
            if is_seal_key(db_key):
                continue
            packed = parse_key(db_key)
            if seen == FLIPS_KEPT:
                complete_since = max(complete_since, packed >> MAIN_SHIFT)
                break
            seen += 1
            if is_tombstone(packed):
                flips.append((packed >> MAIN_SHIFT, key_of_record(record), -1))
            elif (message := parse_record(record)).version == 1:
                flips.append((packed >> MAIN_SHIFT, message.key, 1))
        flips.reverse()
        return flips, complete_since


def _no_batch(key: bytes, value: bytes) -> None:
    raise RuntimeError("a change outside of a batch")


def _encode(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


def _meta(engine: ReadView, key: bytes, default: int) -> int:
    value = engine.get(key)
    return default if value is None else int.from_bytes(value, "big", signed=True)
