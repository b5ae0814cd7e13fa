"""Revisions as one number each.

A revision is ``(main, sub)``: main grows by one per transaction that writes, sub counts the changes
inside it.  The index holds one per version of every key, so here a revision is packed into one integer::

    main | sub: 25 bits | is a deletion: 1 bit

which orders like the pair and, as long as main is below 2^34, is a Python integer of 32 bytes.
"""

from typing import Final

from kvnode.storage.keyspace import REVISION_PREFIX, revision_key, split_revision_key

__all__ = [
    "MAIN_SHIFT",
    "MAX_SUB",
    "NO_REVISION",
    "REVISIONS_END",
    "first_of",
    "is_tombstone",
    "key_of",
    "main_of",
    "pack",
    "parse_key",
    "sub_of",
]

MAIN_SHIFT: Final = 26
#: The last change that fits into one transaction.
MAX_SUB: Final = (1 << (MAIN_SHIFT - 1)) - 1
_SUB_MASK: Final = MAX_SUB

#: Stands for "no such version"; no change ever has main revision 0.
NO_REVISION: Final = 0

#: The first database key behind all revisions.
REVISIONS_END: Final = bytes((REVISION_PREFIX[0] + 1,))


def pack(main: int, sub: int, is_deletion: bool = False) -> int:
    """Return the packed revision."""
    return main << MAIN_SHIFT | sub << 1 | is_deletion


def main_of(packed: int) -> int:
    """The revision that clients see."""
    return packed >> MAIN_SHIFT


def sub_of(packed: int) -> int:
    """The place of the change inside its transaction, from 0."""
    return packed >> 1 & _SUB_MASK


def is_tombstone(packed: int) -> bool:
    """Whether the change deleted its key."""
    return bool(packed & 1)


def first_of(main: int) -> int:
    """The least packed revision that a change of ``main`` can have."""
    return main << MAIN_SHIFT


def key_of(packed: int) -> bytes:
    """Return the database key of the change's record."""
    return revision_key(packed >> MAIN_SHIFT, packed >> 1 & _SUB_MASK, bool(packed & 1))


def parse_key(key: bytes) -> int:
    """Return the packed revision of a database key.

    Raises:
        ValueError: ``key`` is no revision key.
    """
    main, sub, is_deletion = split_revision_key(key)
    return main << MAIN_SHIFT | sub << 1 | is_deletion
