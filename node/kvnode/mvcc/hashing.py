"""HashKV: one number for all revisions up to a given one, equal on members that hold the same data.

CRC-32C over the records in order of revision, in etcd's layout of their keys (``main _ sub``, a ``t`` behind
a deletion), so that equal histories give etcd's own number.  What a compaction has made unreadable is left
out whether or not it is deleted already: members delete at their own pace.
"""

from itertools import islice
from typing import Final

import google_crc32c

from kvnode.mvcc.errors import CompactedError
from kvnode.mvcc.records import key_of_record
from kvnode.mvcc.revision import MAIN_SHIFT, parse_key
from kvnode.mvcc.store import Store
from kvnode.storage.engine import ReadView
from kvnode.storage.keyspace import REVISION_PREFIX, is_seal_key, revision_key

__all__ = ["RevisionHash", "StateHash"]

#: etcd hashes the name of its bucket first.
_SEED: Final = b"key"


class RevisionHash:
    """A hash in the making: call ``step`` until it returns False, then read ``value``.

    It sees the records of the moment of the first step; writes meanwhile do no harm.

    Args:
        store: what to hash.
        revision: the last revision to include; 0 or less for the current one.

    Raises:
        CompactedError: ``revision`` is below the compact revision.
        FutureRevisionError: it is above the current revision.
    """

    def __init__(self, store: Store, revision: int = 0) -> None:
        if revision > 0:
            store.check_revision(revision)
        self._store = store
        #: The last revision included.
        self.revision = revision if revision > 0 else store.current_revision
        #: Members agree if this is equal as well.
        self.compact_revision = store.compact_revision
        #: The CRC-32C so far.
        self.value: int = google_crc32c.value(_SEED)
        stop = revision_key(self.revision + 1, 0)
        self._records = store.engine.iterate(REVISION_PREFIX, stop)

    def step(self, limit: int) -> bool:
        """Take the next ``limit`` records in; returns whether more remain.

        Raises:
            CompactedError: a compaction above ``revision`` came in between.
        """
        # The index answers what is readable at `revision` only while that is not compacted itself.
        if self._store.compact_revision > self.revision:
            raise CompactedError
        at = self._store.index.at
        compacted = (self.compact_revision + 1) << MAIN_SHIFT
        parts: list[bytes] = []
        for db_key, record in self._records:
            if is_seal_key(db_key):
                limit -= 1
                continue
            packed = parse_key(db_key)
            # Up to the compact revision only what is still the newest counts, and no deletion.
            if packed >= compacted or at(key_of_record(record), self.revision) == packed:
                parts += (db_key[1:9], b"_", db_key[9:], record)
            limit -= 1
            if limit <= 0:
                break
        else:
            self.value = google_crc32c.extend(self.value, b"".join(parts))
            return False
        self.value = google_crc32c.extend(self.value, b"".join(parts))
        return True

    def finish(self) -> int:
        """Take all that remains in at once; returns the hash."""
        while self.step(4096):
            pass
        return self.value


class StateHash:
    """A hash over a whole state database, in the making; used as ``RevisionHash``.

    Says whether one member's data are unchanged.  Members differ: each seals batches of its own, and deletes
    what was compacted at its own pace.
    """

    def __init__(self, engine: ReadView) -> None:
        #: The CRC-32C so far.
        self.value: int = google_crc32c.value(b"")
        self._records = engine.iterate(b"", None)

    def step(self, limit: int) -> bool:
        """Take the next ``limit`` records in; returns whether more remain."""
        parts: list[bytes] = []
        for key, value in islice(self._records, limit):
            parts += (key, value)
        self.value = google_crc32c.extend(self.value, b"".join(parts))
        return len(parts) == 2 * limit
