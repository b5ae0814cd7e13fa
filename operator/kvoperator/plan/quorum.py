"""Majority arithmetic: which membership changes leave a quorum of members known to be healthy.

Only proven health counts: a member that did not answer is neither healthy nor unhealthy, and nothing may
rely on it.  The members check the same when asked; two layers fail independently.
"""

from collections.abc import Collection, Set

from kvoperator.model.observed import MemberId

__all__ = ["can_add_learner", "can_promote", "can_remove", "quorum_of", "tolerates_restart"]


def quorum_of(voters: int) -> int:
    return voters // 2 + 1


def _has_quorum(voters: Collection[MemberId], healthy: Set[MemberId]) -> bool:
    return bool(voters) and sum(voter in healthy for voter in voters) >= quorum_of(len(voters))


def can_add_learner(voters: Collection[MemberId], healthy: Set[MemberId]) -> bool:
    """A learner changes no majority; the change itself must still be agreed upon."""
    return _has_quorum(voters, healthy)


def can_remove(target: MemberId, voters: Collection[MemberId], healthy: Set[MemberId]) -> bool:
    """Whether the voters can agree on removing ``target`` and still have a quorum without it."""
    if not _has_quorum(voters, healthy):
        return False
    if target not in voters:
        return True
    return _has_quorum([voter for voter in voters if voter != target], healthy)


def can_promote(learner: MemberId, voters: Collection[MemberId], healthy: Set[MemberId]) -> bool:
    """Whether the voters can agree on promoting ``learner`` and have a quorum with it."""
    return learner in healthy and _has_quorum(voters, healthy) and _has_quorum([*voters, learner], healthy)


def tolerates_restart(target: MemberId, voters: Collection[MemberId], healthy: Set[MemberId]) -> bool:
    """Whether a quorum of all voters stays healthy while ``target`` is away."""
    others = sum(voter in healthy for voter in voters if voter != target)
    return others >= quorum_of(len(voters))
