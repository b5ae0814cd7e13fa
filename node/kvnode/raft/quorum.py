"""Majority arithmetic for votes, for the commit index and for read rounds.

Two questions are answered here and nothing else: is a vote decided, and which number has a majority
reached.  Only plain values go in and out, so a table can test it.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from kvnode.raft.types import MemberId

__all__ = ["VoteResult", "majority", "reached_by_majority", "vote_result"]


class VoteResult(StrEnum):
    """How a vote stands; LOST as soon as it can't be won any more."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voter_count: int) -> int:
    """Return how many of ``voter_count`` voters any two majorities need to share one."""
    return voter_count // 2 + 1


def reached_by_majority(numbers: Iterable[int]) -> int:
    """Return the highest number that a majority has reached, given what each voter has reached.

    For match indexes it counts replicas and is not yet permission to commit: a leader may commit only
    up to an entry of its own term (Raft paper 5.4.2, figure 8), which ``replication.maybe_commit`` checks.

    Raises:
        ValueError: there are no voters, which no caller should pass.
    """
    ordered = sorted(numbers)
    if not ordered:
        raise ValueError("a majority needs at least one voter")
    return ordered[(len(ordered) - 1) // 2]


def vote_result(voters: Sequence[MemberId], votes: Mapping[MemberId, bool]) -> VoteResult:
    """Return how the vote among ``voters`` stands; votes of others don't count."""
    needed = majority(len(voters))
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    if granted >= needed:
        return VoteResult.WON
    if len(voters) - refused < needed:
        return VoteResult.LOST
    return VoteResult.PENDING
