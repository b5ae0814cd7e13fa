"""Membership changes as a pure function on the membership.

One member changes at a time, so a majority before and a majority after always share a voter and no joint
phase is needed (Raft thesis 4.1).  That only one change is under way is the leader's duty, see
``membership.check_proposal``.
"""

from kvnode.raft.errors import ConfChangeError
from kvnode.raft.types import ConfChange, ConfChangeKind, ConfState

__all__ = ["changed"]


def changed(conf_state: ConfState, change: ConfChange) -> ConfState:
    """Return the membership after ``change``; one that is true already changes nothing.

    Raises:
        ConfChangeError: no voter would be left.
    """
    voters = set(conf_state.voters)
    learners = set(conf_state.learners)
    voters.discard(change.member_id)
    learners.discard(change.member_id)
    if change.kind is ConfChangeKind.ADD_VOTER:
        voters.add(change.member_id)
    elif change.kind is ConfChangeKind.ADD_LEARNER:
        learners.add(change.member_id)
    if not voters:
        raise ConfChangeError("it is the last voter", member_id=change.member_id)
    return ConfState(tuple(sorted(voters)), tuple(sorted(learners)))
