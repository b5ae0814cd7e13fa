"""Facts that the core reports; the shell logs and counts them, golden scripts read them.

The core never logs: its rules stay free of wording, and a fact has fields instead of text.
"""

from typing import NamedTuple, TypeAlias

from kvnode.raft.errors import DropReason
from kvnode.raft.types import ConfState, Index, MemberId, Term

__all__ = [
    "BecameCandidate",
    "BecameFollower",
    "BecameLeader",
    "BecamePreCandidate",
    "ConfChanged",
    "Event",
    "LeaderChanged",
    "ProposalDropped",
    "QuorumLost",
    "SnapshotIgnored",
    "SnapshotRequested",
    "SnapshotRestored",
    "TransferAborted",
    "TransferStarted",
    "TruncatedLog",
    "VoteCast",
]


class BecameFollower(NamedTuple):
    """The role or the term changed; ``leader_id`` 0: not known yet."""

    term: Term
    leader_id: MemberId


class BecamePreCandidate(NamedTuple):
    """Asks around whether an election in ``term + 1`` could be won."""

    term: Term


class BecameCandidate(NamedTuple):
    """Campaigns in ``term``."""

    term: Term


class BecameLeader(NamedTuple):
    """Won the election of ``term``."""

    term: Term


class LeaderChanged(NamedTuple):
    """Another leader, or none (0), is known from now on."""

    term: Term
    leader_id: MemberId


class VoteCast(NamedTuple):
    """Voted for ``candidate_id``; the answer leaves after the vote is durable."""

    term: Term
    candidate_id: MemberId


class TruncatedLog(NamedTuple):
    """Dropped the uncommitted entries from ``from_index`` to ``to_index``: the leader has others."""

    from_index: Index
    to_index: Index


class SnapshotRequested(NamedTuple):
    """A member is too far behind for the log: it needs the snapshot at ``index``."""

    to_id: MemberId
    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used


class SnapshotRestored(NamedTuple):
    """Continues from the snapshot at ``index``; durable with the next persist."""

    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used
    term: Term


class SnapshotIgnored(NamedTuple):
    """A snapshot was of no use; ``reason`` is for humans."""

    index: Index  # type: ignore[assignment]  # raft's word; tuple.index is never used
    reason: str


class ConfChanged(NamedTuple):
    """This membership counts from now on."""

    conf_state: ConfState


class TransferStarted(NamedTuple):
    """Proposals are refused until ``target`` takes over or an election timeout has passed."""

    term: Term
    target: MemberId


class TransferAborted(NamedTuple):
    """``target`` did not take over; this leader accepts proposals again."""

    term: Term
    target: MemberId


class QuorumLost(NamedTuple):
    """The leader has not heard from a quorum for an election timeout and steps down."""

    term: Term


class ProposalDropped(NamedTuple):
    """A forwarded proposal from ``from_id`` did not enter the log."""

    from_id: MemberId
    reason: DropReason | str


Event: TypeAlias = (
    BecameFollower
    | BecamePreCandidate
    | BecameCandidate
    | BecameLeader
    | LeaderChanged
    | VoteCast
    | TruncatedLog
    | SnapshotRequested
    | SnapshotRestored
    | SnapshotIgnored
    | ConfChanged
    | TransferStarted
    | TransferAborted
    | QuorumLost
    | ProposalDropped
)
