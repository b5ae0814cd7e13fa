"""Linearizable reads without log entries (Raft thesis 6.4).

A read may be served at the commit index of the moment it arrived, once a majority confirms that this
leader led at some moment after that.  Reads that arrive between two heartbeats form a round; a heartbeat
carries the newest round's number, and its confirmation confirms all earlier rounds too.  Round numbers
are the leader's own: contexts of different members may be equal.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from kvnode.raft.quorum import reached_by_majority
from kvnode.raft.types import Index, MemberId

__all__ = ["ReadRequest", "ReadRounds"]

_ROUND_BYTES = 8


class ReadRequest(NamedTuple):
    """A read that ``from_id`` asked for under the name ``context``."""

    from_id: MemberId
    context: bytes


class ReadRounds:
    """The reads of one leadership; dropped with it."""

    __slots__ = ("_confirmed", "_newest", "_pending", "_sent", "is_held", "waiting")

    def __init__(self) -> None:
        self._newest = 0
        self._sent = 0
        self._pending: deque[tuple[int, Index, ReadRequest]] = deque()
        self._confirmed: dict[MemberId, int] = {}
        self.waiting: list[ReadRequest] = []
        """Asked for before this leader has committed in its term and so knows the commit index."""
        self.is_held = False
        """The newest heartbeat with a round was kept from some voters."""

    def add(self, index: Index, request: ReadRequest) -> None:
        """Let a read wait for confirmation that ``index`` was current when it arrived."""
        if self._sent == self._newest:
            self._newest += 1
        self._pending.append((self._newest, index, request))

    def has_unsent(self) -> bool:
        """Say whether reads wait for a heartbeat that has not gone out yet."""
        return self._sent != self._newest

    @property
    def oldest_round(self) -> int:
        """The number of the oldest round that is not confirmed; 0: none waits."""
        return self._pending[0][0] if self._pending else 0

    def context(self) -> bytes:
        """Return what a heartbeat must carry now: the newest round, or nothing if no read waits."""
        self._sent = self._newest
        if not self._pending:
            return b""
        return self._newest.to_bytes(_ROUND_BYTES, "big")

    def confirm(self, from_id: MemberId, context: bytes) -> None:
        """Take note that ``from_id`` followed this leader after the round in ``context`` began."""
        number = int.from_bytes(context, "big")
        if number > self._confirmed.get(from_id, 0):
            self._confirmed[from_id] = number

    def release(self, voters: Sequence[MemberId], self_id: MemberId) -> list[tuple[Index, ReadRequest]]:
        """Return the reads that a majority has confirmed, each with the index to be applied first."""
        pending = self._pending
        if not pending:
            return []
        newest = self._newest
        confirmed = self._confirmed
        number = reached_by_majority(
            [newest if voter == self_id else confirmed.get(voter, 0) for voter in voters]
        )
        released = []
        while pending and pending[0][0] <= number:
            _, index, request = pending.popleft()
            released.append((index, request))
        return released
