"""What a leader knows of one member's log, and how much it may send it.

    PROBE      the point where the logs agree is not known: one append at a time, each waits for an answer
    REPLICATE  it is known: appends follow each other without waiting, as far as ``Inflights`` allows
    SNAPSHOT   the member needs entries that are compacted: nothing is sent until the snapshot is there

PROBE -> REPLICATE on the first accepted append; REPLICATE -> PROBE on a rejection or a broken connection;
either -> SNAPSHOT when the log has been compacted; SNAPSHOT -> REPLICATE when the member reports an index
that the log reaches again, SNAPSHOT -> PROBE when the shell reports that the transfer ended or failed.
"""

from collections import deque
from enum import StrEnum

from kvnode.raft.types import Index

__all__ = ["Inflights", "Progress", "ProgressState"]


class ProgressState(StrEnum):
    """How a leader replicates to one member; see the module's text."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Inflights:
    """The appends under way to one member, bounded by their number and by their bytes."""

    __slots__ = ("_max_bytes", "_max_messages", "_sent", "size_bytes")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._sent: deque[tuple[Index, int]] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    def is_full(self) -> bool:
        """Say whether the next append must wait; one oversized append never blocks itself."""
        return len(self._sent) >= self._max_messages or self.size_bytes >= self._max_bytes

    def add(self, last_index: Index, size_bytes: int) -> None:
        """Remember an append whose last entry is ``last_index``."""
        self._sent.append((last_index, size_bytes))
        self.size_bytes += size_bytes

    def free_to(self, index: Index) -> None:
        """Forget the appends that an answer for ``index`` covers: answers are cumulative."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            self.size_bytes -= sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self.size_bytes = 0


class Progress:
    """One member as its leader sees it; plain mutable fields, since every message touches them."""

    __slots__ = (
        "awaited_index",
        "awaits_commits",
        "check_loss",
        "inflights",
        "is_learner",
        "match_index",
        "next_index",
        "pending_snapshot",
        "probe_sent",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, next_index: Index, inflights: Inflights, *, is_learner: bool) -> None:
        self.state = ProgressState.PROBE
        self.match_index: Index = 0
        """Durable on the member and equal to the leader's log up to here."""
        self.next_index = next_index
        """The first entry of the next append; match_index < next_index."""
        self.is_learner = is_learner
        self.recent_active = False
        """Heard from since the last quorum check."""
        self.probe_sent = False
        """PROBE: an append is under way, or the shell said to wait for a sign of life."""
        self.pending_snapshot: Index = 0
        """SNAPSHOT: the index of the snapshot that was asked for; otherwise 0."""
        self.sent_commit: Index = 0
        """The newest commit index that was sent."""
        self.awaited_index: Index = 0
        """Up to where clients of the member wait for the commit index."""
        self.awaits_commits = False
        """Clients of the member wait for every commit index."""
        self.check_loss = False
        """A heartbeat has gone out since answers were last compared with what was sent."""
        self.inflights = inflights

    def is_paused(self) -> bool:
        """Say whether an append must wait for an answer first."""
        if self.state is ProgressState.REPLICATE:
            return self.inflights.is_full()
        return self.state is ProgressState.SNAPSHOT or self.probe_sent

    def become_probe(self) -> None:
        """Send one append at a time, starting behind what is known (or presumed) to be there."""
        self.next_index = max(self.match_index, self.pending_snapshot) + 1
        self._enter(ProgressState.PROBE)

    def become_replicate(self) -> None:
        self._enter(ProgressState.REPLICATE)
        self.next_index = self.match_index + 1

    def become_snapshot(self, index: Index) -> None:
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.probe_sent = False
        self.pending_snapshot = 0
        self.sent_commit = 0
        self.inflights.clear()

    def advance(self, index: Index) -> bool:
        """Take note that the member holds everything up to ``index``; say whether that is news."""
        if self.next_index <= index:
            self.next_index = index + 1
        if index <= self.match_index:
            return False
        self.match_index = index
        return True

    def retreat(self, rejected: Index, hint: Index) -> bool:
        """Move next_index back after an append at ``rejected`` did not fit; ``hint`` is the last fit at best.

        Returns:
            False when the rejection answers an older append and says nothing new.
        """
        if self.state is ProgressState.SNAPSHOT or rejected <= self.match_index:
            return False
        if self.state is ProgressState.REPLICATE:
            self.become_probe()
            self.next_index = max(min(rejected, hint + 1), self.match_index + 1)
            return True
        if rejected != self.next_index - 1:
            return False
        self.next_index = max(min(rejected, hint + 1), self.match_index + 1)
        self.probe_sent = False
        return True
