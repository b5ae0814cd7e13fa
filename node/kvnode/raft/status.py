"""A member's view of itself and of the others, for status calls, metrics and tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kvnode.raft.progress import Progress, ProgressState
from kvnode.raft.ready import Role
from kvnode.raft.types import ConfState, Index, MemberId, Term

__all__ = ["ProgressView", "Status"]


class ProgressView(NamedTuple):
    """A leader's view of one member at one moment."""

    match_index: Index
    next_index: Index
    state: ProgressState
    is_learner: bool
    recent_active: bool
    is_paused: bool
    pending_snapshot: Index
    inflight_messages: int

    @classmethod
    def of(cls, progress: Progress) -> "ProgressView":
        """Return a copy that later messages don't change."""
        return cls(
            progress.match_index,
            progress.next_index,
            progress.state,
            progress.is_learner,
            progress.recent_active,
            progress.is_paused(),
            progress.pending_snapshot,
            len(progress.inflights),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A member at one moment."""

    id: MemberId
    role: Role
    term: Term
    vote: MemberId
    """0: none cast in this term."""
    leader_id: MemberId
    """0: none known."""
    commit_index: Index
    applied_index: Index
    stable_index: Index
    """Durable on this member."""
    first_index: Index
    last_index: Index
    conf_state: ConfState
    lead_transferee: MemberId
    """0: leadership is not being transferred."""
    progress: Mapping[MemberId, ProgressView]
    """Every member, this one included; empty unless this member leads."""
