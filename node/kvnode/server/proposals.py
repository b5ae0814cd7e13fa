"""Writes that wait to be committed and applied.

A waiting write is known by its request ID, which travels in the log entry, so the member that
took the write answers it when it applies the entry, whoever was leader in between.

A write proposed in term T can enter the log only through T's leader: proposals carry their
term, and a leader takes only those of its own.  So once this member applies an entry of a
later term, every entry of term T that will ever be committed lies behind it (Raft paper
section 5.4.3, Leader Completeness), and a write that is still waiting was lost for certain.
It is proposed again, which makes a change of leader invisible to clients: no error, no
second execution.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from kvnode.apply.commands import CommandKind, encode_command
from kvnode.server.errors import (
    LeaderChangedError,
    LeaderFailureTimeoutError,
    RequestTimeoutError,
    StoppedError,
    TooManyRequestsError,
)
from kvnode.status import KvError

__all__ = ["ALONE_BYTES", "Done", "Proposals"]

#: A write of this size is an entry by itself: to join it with others would copy it, which costs more.
ALONE_BYTES: Final = 32 << 10


class Done(Protocol):
    """Takes the outcome of one write, exactly once."""

    def __call__(self, result: object, /) -> None: ...


class _Waiting:
    __slots__ = ("command", "deadline_s", "done", "only_term", "term")

    def __init__(self, command: bytes, deadline_s: float, done: Done, only_term: int = 0) -> None:
        self.command = command
        self.deadline_s = deadline_s
        self.done = done
        #: The term in which alone it may be proposed; 0: any.
        self.only_term = only_term
        #: Term it was proposed in; 0 while it is still queued.
        self.term = 0


class Proposals:
    """The member's own writes, from acceptance to answer."""

    #: Writes and bytes held at most; beyond that new ones are refused at once, so that
    #: overload costs an error and not the member's memory.
    LIMIT_COUNT: Final = 10_000
    LIMIT_BYTES: Final = 128 * 2**20
    #: Room beyond for what the member itself has to say: that leases ended, what is left of them, alarms.
    RESERVE_COUNT: Final = 2_000
    RESERVE_BYTES: Final = 16 * 2**20

    def __init__(self, session: int, *, timeout_s: float) -> None:
        """``session`` is 32 bits that no other process of this member ever uses."""
        self._session = session << 32
        self._timeout_s = timeout_s
        self._counter = 0
        self._waiting: dict[int, _Waiting] = {}
        self._queue: list[int] = []
        #: What ``take`` returned last.
        self._taken: list[int] = []
        self._bytes = 0
        self._is_stopped = False
        #: Since when there was no leader, or None; decides the text of a timeout.
        self.leader_lost_s: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_queued(self) -> bool:
        """Whether ``take`` would return something."""
        return bool(self._queue)

    def is_local(self, request_id: int) -> bool:
        """Whether this process handed the ID out."""
        return request_id >> 32 == self._session >> 32

    def next_id(self) -> int:
        """A request ID for something that is proposed by other means."""
        self._counter += 1
        return self._session | (self._counter & 0xFFFFFFFF)

    def add(
        self,
        kind: CommandKind,
        payload: bytes,
        done: Done,
        now_s: float,
        *,
        only_term: int = 0,
        is_own: bool = False,
    ) -> None:
        """Queue one write; ``done`` is called at once if it can't be taken.

        With ``only_term`` it fails rather than being proposed in another term: for what a leader
        decides by knowledge that its successor does not share, such as its clock.  That, and what is
        the member's own, is taken when clients are refused already.
        """
        if self._is_stopped:
            done(StoppedError())
            return
        if (len(self._waiting) >= self.LIMIT_COUNT or self._bytes >= self.LIMIT_BYTES) and not (
            (only_term or is_own) and self._has_reserve()
        ):
            done(TooManyRequestsError())
            return
        self._counter += 1
        request_id = self._session | (self._counter & 0xFFFFFFFF)
        command = encode_command(kind, request_id, payload)
        self._waiting[request_id] = _Waiting(command, now_s + self._timeout_s, done, only_term)
        self._queue.append(request_id)
        self._bytes += len(command)

    def _has_reserve(self) -> bool:
        return (
            len(self._waiting) < self.LIMIT_COUNT + self.RESERVE_COUNT
            and self._bytes < self.LIMIT_BYTES + self.RESERVE_BYTES
        )

    def expect(self, done: Done, term: int, now_s: float) -> int:
        """Wait for something that is proposed by other means, in ``term``; returns its request ID.

        It is never proposed again: when its term is over without it, it fails.
        """
        request_id = self.next_id()
        write = _Waiting(b"", now_s + self._timeout_s, done, term)
        write.term = term
        self._waiting[request_id] = write
        return request_id

    def forget(self, request_id: int) -> None:
        """What was expected was never proposed."""
        self._waiting.pop(request_id, None)

    def take(self, term: int, batch_bytes: int) -> list[bytes]:
        """Return all that is queued as entry data, several writes to an entry unless they are large.

        Args:
            term: The term they are proposed in now.
            batch_bytes: An entry is closed once it holds this much.
        """
        datas: list[bytes] = []
        batch: list[bytes] = []
        size = 0
        waiting = self._waiting
        outdated: list[int] = []
        for request_id in self._queue:
            write = waiting.get(request_id)
            if write is None:
                continue
            if write.only_term and write.only_term != term:
                outdated.append(request_id)
                continue
            write.term = term
            command = write.command
            is_large = len(command) >= ALONE_BYTES
            if batch and (is_large or size >= batch_bytes):
                datas.append(b"".join(batch))
                batch, size = [], 0
            batch.append(command)
            # Nothing is joined to a large one.
            size = batch_bytes if is_large else size + len(command)
        if batch:
            datas.append(b"".join(batch))
        self._taken, self._queue = self._queue, []
        if outdated:
            self._fail(outdated, LeaderChangedError)
        return datas

    def resolve(self, results: Iterable[tuple[int, object]]) -> None:
        """Answer writes that were applied."""
        for request_id, result in results:
            write = self._waiting.pop(request_id, None)
            if write is not None:
                self._bytes -= len(write.command)
                write.done(result)

    def term_passed(self, term: int) -> bool:
        """An entry of ``term`` was applied: queue again what older terms lost.

        Returns:
            Whether anything was queued.
        """
        lost = [request_id for request_id, write in self._waiting.items() if 0 < write.term < term]
        self._fail([i for i in lost if self._waiting[i].only_term], LeaderChangedError)
        return self._queue_again(lost)

    def dropped(self) -> None:
        """What ``take`` returned last never left this member: queue it again."""
        self._queue_again(self._taken)

    def _queue_again(self, request_ids: list[int]) -> bool:
        again = [request_id for request_id in request_ids if request_id in self._waiting]
        for request_id in again:
            self._waiting[request_id].term = 0
        self._queue[:0] = again
        return bool(again)

    def skipped_to(self, term: int) -> None:
        """A snapshot stood in for entries up to ``term``: whether these writes are in it is unknown."""
        self._fail(
            [i for i, write in self._waiting.items() if 0 < write.term <= term], LeaderFailureTimeoutError
        )

    def expire(self, now_s: float) -> int:
        """Fail what has waited too long; returns how many."""
        late: list[int] = []
        for request_id, write in self._waiting.items():
            # All wait equally long and the table keeps the order of arrival.
            if write.deadline_s > now_s:
                break
            late.append(request_id)
        lost_s = self.leader_lost_s
        after_loss = lost_s is not None and now_s - lost_s <= self._timeout_s + 1
        self._fail(late, LeaderFailureTimeoutError if after_loss else RequestTimeoutError)
        return len(late)

    def stop(self) -> None:
        """Refuse new writes; those that wait may still be answered."""
        self._is_stopped = True

    def abandon(self) -> None:
        """Fail everything that waits: nothing will be applied any more."""
        self._is_stopped = True
        self._fail(list(self._waiting), StoppedError)

    def _fail(self, request_ids: list[int], error: Callable[[], KvError]) -> None:
        for request_id in request_ids:
            write = self._waiting.pop(request_id)
            self._bytes -= len(write.command)
            write.done(error())
