"""The values that raft keeps and exchanges: entries, durable state, membership.

Everything here is a ``NamedTuple``: these values are built and read on the hot path, where a tuple
costs a third of a frozen dataclass.  Nothing here has behaviour beyond its own text or byte form.
"""

import struct
from enum import IntEnum
from typing import NamedTuple, NewType, TypeAlias

from kvnode.raft.errors import ConfChangeFormatError

__all__ = [
    "NO_MEMBER",
    "ConfChange",
    "ConfChangeKind",
    "ConfState",
    "Entry",
    "EntryKind",
    "HardState",
    "Index",
    "MemberId",
    "SnapshotMetadata",
    "Term",
    "decode_conf_change",
    "encode_conf_change",
]

MemberId = NewType("MemberId", int)
Term: TypeAlias = int
Index: TypeAlias = int

#: Stands for "nobody" where a field must hold a number: no vote cast, no leader known.
NO_MEMBER = MemberId(0)


class EntryKind(IntEnum):
    """What an entry's data means to whoever applies it."""

    NORMAL = 0
    CONF_CHANGE = 1


class Entry(NamedTuple):
    """One unit of the log; ``(term, index)`` names it uniquely (Raft paper 5.3, log matching).

    Empty ``data`` of kind NORMAL is the entry that a leader writes at the start of its term.
    """

    term: Term
    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used
    kind: EntryKind
    data: bytes


class HardState(NamedTuple):
    """What must be on disk before a member speaks of it (Raft paper figure 2).

    ``commit`` is kept for a faster restart only: losing it is harmless, it is learned again.
    """

    term: Term = 0
    vote: MemberId = NO_MEMBER
    commit: Index = 0


class ConfState(NamedTuple):
    """The membership; each tuple is sorted and holds no member twice.

    ``voters_outgoing`` and ``learners_next`` belong to joint consensus, which this core does not use:
    one member changes at a time (Raft thesis 4.1), so both stay empty.
    """

    voters: tuple[MemberId, ...] = ()
    learners: tuple[MemberId, ...] = ()
    voters_outgoing: tuple[MemberId, ...] = ()
    learners_next: tuple[MemberId, ...] = ()


class ConfChangeKind(IntEnum):
    """The membership changes that one entry can make."""

    ADD_VOTER = 0
    """Adds a voter, or promotes a learner to one."""
    ADD_LEARNER = 1
    """Adds a learner, or demotes a voter to one."""
    REMOVE = 2


class ConfChange(NamedTuple):
    """A change of one member; ``context`` is the proposer's and means nothing to raft."""

    kind: ConfChangeKind
    member_id: MemberId
    context: bytes = b""


class SnapshotMetadata(NamedTuple):
    """Which state a snapshot holds: everything up to ``index``, and the membership there."""

    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used
    term: Term
    conf_state: ConfState


_CONF_CHANGE = struct.Struct(">BQ")


def encode_conf_change(change: ConfChange) -> bytes:
    """Return the data of a CONF_CHANGE entry: kind u8, member id u64 big-endian, then the context."""
    return _CONF_CHANGE.pack(change.kind, change.member_id) + change.context


def decode_conf_change(data: bytes) -> ConfChange:
    """Return the change that ``encode_conf_change`` wrote.

    Raises:
        ConfChangeFormatError: ``data`` is too short or names an unknown kind.
    """
    if len(data) < _CONF_CHANGE.size:
        raise ConfChangeFormatError(data)
    kind, member_id = _CONF_CHANGE.unpack_from(data)
    try:
        return ConfChange(ConfChangeKind(kind), MemberId(member_id), data[_CONF_CHANGE.size :])
    except ValueError as error:
        raise ConfChangeFormatError(data) from error
