"""The seal of a batch: what the state has come to with it.

Each batch ends with one, under a key right behind those of its revisions.  So what a batch writes of changes
and of itself lies behind all that was written before, and LevelDB does not have to merge it: a table of new
revisions, with no other record among them, overlaps no other.  A key of its own for, say, the applied index
would be in every table.

The last seal is the one that counts; those before it go with the next compaction.
"""

import struct
from typing import Final, NamedTuple

from kvnode.raft.types import Index, Term
from kvnode.storage.engine import ReadView
from kvnode.storage.errors import StorageCorruptError
from kvnode.storage.keyspace import REVISION_PREFIX, is_seal_key, prefix_end, seal_key, split_seal_key

__all__ = ["FIRST_REVISION", "Seal", "read_seal", "seal_record"]

#: The revision of a state in which nothing was ever written; the first write is one above.
FIRST_REVISION: Final = 1

#: Applied index and term, revision at which the rolling hash began, and that hash.
_SEAL: Final = struct.Struct(">QQQI")

_pack = _SEAL.pack


class Seal(NamedTuple):
    """A state at the end of a batch."""

    revision: int
    #: Of the last applied entry.
    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used
    term: Term
    #: The revision at which the rolling hash began.
    hashed_since: int
    rolling_hash: int


def seal_record(
    revision: int, index: Index, term: Term, hashed_since: int, rolling_hash: int
) -> tuple[bytes, bytes]:
    """Return key and value of a seal."""
    return seal_key(revision), _pack(index, term, hashed_since, rolling_hash)


def read_seal(engine: ReadView) -> Seal:
    """Return the last seal of a state database; in an empty one that of nothing applied.

    Raises:
        StorageCorruptError: records follow it, or it is no seal.
    """
    last = next(engine.iterate(REVISION_PREFIX, prefix_end(REVISION_PREFIX), reverse=True), None)
    if last is None:
        return Seal(FIRST_REVISION, 0, 0, FIRST_REVISION, 0)
    key, value = last
    if not is_seal_key(key) or len(value) != _SEAL.size:
        raise StorageCorruptError("state database", f"its last record is no seal of a batch: {key.hex()}")
    return Seal(split_seal_key(key), *_SEAL.unpack(value))
