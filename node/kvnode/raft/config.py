"""The settings of one raft member, checked once."""

from collections.abc import Callable
from dataclasses import dataclass

from kvnode.raft.types import ConfState, Index, MemberId

__all__ = ["RaftConfig"]

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Who this member is, its timing in ticks, and how much may be under way at once."""

    member_id: MemberId
    """This member; never 0, which stands for nobody."""

    random_ticks: Callable[[int, int], int]
    """``random_ticks(lo, hi)`` returns a number with lo <= n <= hi, like ``random.Random.randint``.

    The core has no randomness of its own, so that a seed replays a run exactly."""

    election_timeout_ticks: int = 10
    """A follower that hears nothing for this long, plus a random part of up to as much again, campaigns."""

    heartbeat_interval_ticks: int = 1
    """How often a leader sends heartbeats; below election_timeout_ticks, a tenth of it as a rule."""

    pre_vote: bool = True
    """Ask whether an election could be won before disturbing the term (Raft thesis 9.6)."""

    check_quorum: bool = True
    """A leader that hears from no quorum for an election timeout steps down, and a member that has heard
    from its leader within the timeout ignores vote requests (Raft thesis 4.2.3 and 6.2)."""

    max_size_per_message_bytes: int = _MIB
    """An AppendEntries carries no more entry data than this, but always at least one entry."""

    max_inflight_messages: int = 256
    """AppendEntries under way to one member before its first answer is waited for."""

    max_inflight_bytes: int = 64 * _MIB
    """Entry data under way to one member; at least max_size_per_message_bytes."""

    max_uncommitted_bytes: int = 256 * _MIB
    """A leader refuses proposals while more than this waits to be committed; its log stays in memory
    that long.  A single larger proposal is still accepted when nothing waits."""

    max_committed_bytes_per_ready: int = 8 * _MIB
    """Entry data handed out for applying by one Ready; bounds a turn when a long log is replayed."""

    applied_index: Index | None = None
    """Up to where the state machine of a restarted member has applied; None: up to where its log starts."""

    conf_state: ConfState | None = None
    """The membership as of applied_index; None: the one that the storage returns."""

    def __post_init__(self) -> None:
        positive = {
            "member_id": self.member_id,
            "heartbeat_interval_ticks": self.heartbeat_interval_ticks,
            "max_size_per_message_bytes": self.max_size_per_message_bytes,
            "max_inflight_messages": self.max_inflight_messages,
            "max_uncommitted_bytes": self.max_uncommitted_bytes,
            "max_committed_bytes_per_ready": self.max_committed_bytes_per_ready,
        }
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"{name} must be positive, is {value}")
        _check_above(
            "election_timeout_ticks", self.election_timeout_ticks,
            "heartbeat_interval_ticks", self.heartbeat_interval_ticks + 1,
        )  # fmt: skip
        _check_above(
            "max_inflight_bytes", self.max_inflight_bytes,
            "max_size_per_message_bytes", self.max_size_per_message_bytes,
        )  # fmt: skip


def _check_above(name: str, value: int, bound_name: str, bound: int) -> None:
    if value < bound:
        raise ValueError(f"{name} is {value}, must be at least {bound} because of {bound_name}")
