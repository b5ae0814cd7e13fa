"""What can go wrong in raft, by who can do something about it.

RaftError                    the caller can act
  ProposalDroppedError       nothing entered the log: propose again, later or elsewhere
  ConfChangeError            this change makes no sense for the present membership
  ConfChangeFormatError      these bytes are no membership change
  CompactedError             the log no longer reaches back so far
  UnavailableError           the log does not reach so far yet
RaftInvariantError           the proof is broken: stop this member, do not go on
"""

from enum import StrEnum

__all__ = [
    "CompactedError",
    "ConfChangeError",
    "ConfChangeFormatError",
    "DropReason",
    "ProposalDroppedError",
    "RaftError",
    "RaftInvariantError",
    "UnavailableError",
]


class RaftError(Exception):
    """The request can't be met now; the core's state has not changed."""


class DropReason(StrEnum):
    """Why a proposal never entered the log."""

    NO_LEADER = "no leader"
    TRANSFERRING = "leadership is being transferred"
    LEAVING = "this leader is no longer a voter and steps down"
    TOO_MUCH_UNCOMMITTED = "too many uncommitted bytes"
    CONF_CHANGE_PENDING = "an earlier membership change is not applied yet"


class ProposalDroppedError(RaftError):
    """The proposal never entered the log, so proposing it again is safe."""

    def __init__(self, reason: DropReason, *, leader_id: int) -> None:
        super().__init__(f"proposal dropped: {reason} (leader={leader_id:x})")
        self.reason = reason
        self.leader_id = leader_id


class ConfChangeError(RaftError):
    """The membership change cannot be made from the present membership."""

    def __init__(self, problem: str, *, member_id: int) -> None:
        super().__init__(f"membership change refused for member {member_id:x}: {problem}")
        self.problem = problem
        self.member_id = member_id


class ConfChangeFormatError(RaftError):
    """The data of a CONF_CHANGE entry can't be read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"not a membership change: {data[:32].hex()} ({len(data)} bytes)")
        self.data = data


class CompactedError(RaftError):
    """The entry was compacted away; only a snapshot holds its effect."""

    def __init__(self, index: int, *, first_index: int) -> None:
        super().__init__(f"entry {index} is compacted; the log starts at {first_index}")
        self.index = index
        self.first_index = first_index


class UnavailableError(RaftError):
    """The entry is not in the log (yet)."""

    def __init__(self, index: int, *, last_index: int) -> None:
        super().__init__(f"entry {index} is not in the log, which ends at {last_index}")
        self.index = index
        self.last_index = last_index


class RaftInvariantError(Exception):
    """Something happened that raft proves impossible; going on could lose data."""
