"""Linearizable reads, batched: one quorum round serves all that arrived before it.

ReadIndex as in Raft thesis section 6.4.  At most one round is outstanding; reads that arrive
meanwhile share the next.  A round is known by a context that is never used twice, so a late
confirmation of an abandoned round can't be taken for a newer one's.
"""

from collections import deque
from collections.abc import Callable

from kvnode.server.errors import (
    LeaderFailureTimeoutError,
    RequestTimeoutError,
    StoppedError,
    TooManyRequestsError,
)
from kvnode.status import KvError

__all__ = ["Reads"]

ReadDone = Callable[[KvError | None], None]
_Batch = list[tuple[float, ReadDone]]

#: A round without an answer is repeated after this long (a message or the leader was lost).
RETRY_S = 0.5


class Reads:
    """Reads that wait until this member's state holds what was committed before they came."""

    #: Reads held at most; beyond that new ones are refused at once.
    LIMIT_COUNT = 20_000
    #: Room beyond for those that are few and must go on: of leases, health, and administration.
    RESERVE_COUNT = 5_000
    #: Reads let go in one turn of the loop: peers are to be heard within some tens of milliseconds.
    TURN_COUNT = 1_000

    def __init__(self, member_id: int, session: int, *, timeout_s: float) -> None:
        self._prefix = member_id.to_bytes(8, "big") + session.to_bytes(4, "big")
        self._counter = 0
        self._timeout_s = timeout_s
        self._arrived: _Batch = []
        self._asked: _Batch = []
        self._context = b""
        self._asked_s = 0.0
        #: Confirmed at an index that is not applied yet, in the order of the indexes.
        self._confirmed: list[tuple[int, _Batch]] = []
        #: Those that may go on, the next one first.
        self.ready: deque[ReadDone] = deque()
        #: Those that wait and go before others.
        self._urgent: set[ReadDone] = set()
        self.leader_lost_s: float | None = None
        self.failed = 0
        self.slow = 0

    def __len__(self) -> int:
        confirmed = sum(len(batch) for _, batch in self._confirmed)
        return len(self._arrived) + len(self._asked) + confirmed + len(self.ready)

    def add(self, done: ReadDone, now_s: float, *, is_urgent: bool = False) -> None:
        """Let one read wait; ``done`` is called at once if too many do."""
        excess = len(self._arrived) + len(self._asked) + len(self.ready) - self.LIMIT_COUNT
        if excess >= 0 and not (is_urgent and excess < self.RESERVE_COUNT):
            done(TooManyRequestsError())
            return
        if is_urgent:
            self._urgent.add(done)
        self._arrived.append((now_s + self._timeout_s, done))

    def next_context(self, now_s: float) -> bytes | None:
        """Begin a round if one is due; its context, or None."""
        if self._asked:
            if now_s - self._asked_s < RETRY_S:
                return None
            self.slow += 1
        elif not self._arrived:
            return None
        return self._begin(now_s)

    def _begin(self, now_s: float) -> bytes:
        self._asked += self._arrived
        self._arrived = []
        self._counter += 1
        self._context = self._prefix + self._counter.to_bytes(8, "big")
        self._asked_s = now_s
        return self._context

    def leader_changed(self) -> None:
        """Ask the new leader at the next turn instead of waiting for the old one."""
        self._asked_s = 0.0

    def confirmed(self, index: int, context: bytes) -> bool:
        """A round was answered: its reads may go on once ``index`` is applied.

        Returns:
            Whether reads arrived meanwhile, so that another round is due.
        """
        if context == self._context and self._asked:
            self._confirmed.append((index, self._asked))
            self._asked = []
        return bool(self._arrived)

    def applied(self, index: int) -> None:
        """Let the reads go whose index is reached, if they are many not all at once: see ``release``."""
        if not self._confirmed:
            return
        later: list[tuple[int, _Batch]] = []
        ready: list[_Batch] = []
        for needed, batch in self._confirmed:
            if needed <= index:
                ready.append(batch)
            else:
                later.append((needed, batch))
        self._confirmed = later
        urgent = self._urgent
        if not urgent:
            for batch in ready:
                self.ready.extend(done for _, done in batch)
        else:
            first: list[ReadDone] = []
            for batch in ready:
                for _, done in batch:
                    (first if done in urgent else self.ready).append(done)
            urgent.difference_update(first)
            for done in first:
                done(None)
        self.release()

    def release(self) -> None:
        """Let a turn's share of the reads go that may."""
        ready = self.ready
        for _ in range(min(len(ready), self.TURN_COUNT)):
            ready.popleft()(None)

    def expire(self, now_s: float) -> None:
        """Fail what has waited too long."""
        lost_s = self.leader_lost_s
        after_loss = lost_s is not None and now_s - lost_s <= self._timeout_s + 1
        error = LeaderFailureTimeoutError if after_loss else RequestTimeoutError
        late: list[ReadDone] = []
        self._arrived = _split(self._arrived, now_s, late)
        self._asked = _split(self._asked, now_s, late)
        confirmed = [(index, _split(batch, now_s, late)) for index, batch in self._confirmed]
        self._confirmed = [(index, batch) for index, batch in confirmed if batch]
        self.failed += len(late)
        self._urgent.difference_update(late)
        for done in late:
            done(error())

    def abandon(self) -> None:
        """Fail everything that waits."""
        batches = [self._arrived, self._asked, *(batch for _, batch in self._confirmed)]
        batches.append([(0.0, done) for done in self.ready])
        self._arrived, self._asked, self._confirmed = [], [], []
        self.ready.clear()
        self._urgent.clear()
        for batch in batches:
            for _, done in batch:
                done(StoppedError())


def _split(batch: _Batch, now_s: float, late: list[ReadDone]) -> _Batch:
    if not batch or batch[0][0] > now_s:
        return batch
    late.extend(done for deadline_s, done in batch if deadline_s <= now_s)
    return [read for read in batch if read[0] > now_s]
