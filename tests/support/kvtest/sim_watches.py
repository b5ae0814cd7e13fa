"""Clients that watch, in a simulation: each holds what it is sent against the one history of changes.

What etcd promises, and what is checked of every response (https://etcd.io/docs/v3.6/learning/api_guarantees/):
ordered, unique, reliable (no gap), atomic (a revision comes whole), resumable (from any member, from the
revision after the last one seen), bookmarkable (a progress report says that nothing before it is missing).
A watch ends by itself only when what it needs next was compacted.

The client knows the first revision it was not told of.  A response that brings events up to a revision must
bring exactly the matching changes of all revisions up to there.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from kvnode.mvcc.errors import CompactedError
from kvnode.mvcc.events import EventBatch
from kvnode.mvcc.watch import Watcher, WatchSpec
from kvnode.pb.kv_pb2 import KeyValue
from kvtest.raft_invariants import InvariantBrokenError
from kvtest.sim_checks import History

if TYPE_CHECKING:
    from kvtest.sim_member import Process

__all__ = ["WatchClient"]

#: Responses that wait for a client that does not read.
QUEUE = 3
#: Key, value (None: deleted), and the value before if it was told.
_Seen = tuple[bytes, bytes | None]
_RANGES = (
    (b"k", b"l"),  # a prefix
    (b"\0", b"\0"),  # everything
    (b"k1", b""),
    (b"k2", b"k5"),
    (b"l", b"\0"),  # from a key on
    (b"k4", b""),
)


@dataclass
class WatchClient:
    """One client with one watch that goes on for the whole run, on whichever member it can be had."""

    number: int
    history: History
    rng: Random
    note: Callable[..., None]
    process: "Process | None" = None
    watcher: Watcher | None = None
    #: The first revision that it was not told of; 0: it has not begun.
    next_revision: int = 0
    queue: deque[tuple[str, int, EventBatch | None]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        key, range_end = _RANGES[self.number % len(_RANGES)]
        kind = self.number // 2 % 3
        self.spec = WatchSpec(key, range_end, 0, self.number % 2 == 0, kind == 1, kind == 2)

    # Its connection.

    @property
    def is_attached(self) -> bool:
        """Whether it has a watch on a living member."""
        return self.process is not None and self.process.is_alive and self.watcher is not None

    @property
    def is_synced(self) -> bool:
        """Whether its member has nothing more for it."""
        return self.watcher is not None and self.watcher.is_synced

    def attach(self, process: "Process") -> None:
        """Begin on a member, from where it stands; what was under way to it is lost."""
        self.detach()
        hub = process.hub
        start = self.next_revision
        if not start and self.rng.random() < 0.5:
            # A client that has just listed, somewhere else.
            start = self.rng.randint(max(process.store.compact_revision, 1), hub.revision + 2)
        try:
            watcher = hub.create(self.spec._replace(start_revision=start), self)
        except CompactedError as error:
            raise InvariantBrokenError(f"watch {self.number} from {start} was refused: {error}") from error
        self.next_revision = start or hub.revision + 1
        self.process, self.watcher = process, watcher
        self.note("watch", self.number, process.member_id, self.next_revision)

    def detach(self) -> None:
        """Leave the member, if it is still there."""
        if self.is_attached and self.process is not None and self.watcher is not None:
            self.process.hub.cancel(self.watcher)
        self.process = self.watcher = None
        self.queue.clear()

    # What the hub calls.

    def deliver(self, watcher: Watcher, revision: int, batch: EventBatch) -> bool:
        """Take a response, unless too many wait."""
        if watcher is not self.watcher:
            raise InvariantBrokenError(f"events for a watch that client {self.number} has ended")
        if len(self.queue) >= QUEUE:
            return False
        self.queue.append(("events", revision, batch))
        self._check_previous(batch)
        return True

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """The member ends the watch."""
        if watcher is self.watcher:
            self.queue.append(("compacted", compact_revision, None))

    def ask_progress(self) -> None:
        """Ask up to where nothing is missing; the answer goes the way of the events."""
        if self.is_attached and self.process is not None and self.watcher is not None:
            revision = self.process.hub.progress((self.watcher,))
            if revision is not None:
                self.queue.append(("progress", revision, None))

    # What the client reads.

    def read(self, count: int) -> None:
        """Read responses that wait."""
        while self.queue and count:
            count -= 1
            kind, revision, batch = self.queue.popleft()
            if batch is not None:
                self._events(revision, batch)
            elif kind == "progress":
                self.note("progress", self.number, revision)
                self._told(revision, [])
            else:
                self._compacted(revision)

    def _events(self, revision: int, batch: EventBatch) -> None:
        last = batch.events[-1].mod_revision
        if last > revision:
            raise InvariantBrokenError(f"events of revision {last} under a header of {revision}")
        told: list[tuple[int, _Seen]] = []
        for event in batch.events:
            pair = KeyValue.FromString(event.record)
            told.append((event.mod_revision, (event.key, None if event.is_deletion else pair.value)))
        self.note("events", self.number, batch.events[0].mod_revision, last)
        self._told(last, told)

    def _told(self, revision: int, told: list[tuple[int, _Seen]]) -> None:
        """Up to ``revision`` this, and only this, has happened to what is watched."""
        if revision < self.next_revision and told:
            raise InvariantBrokenError(
                f"watch {self.number} is told of {told} again, it knows all before {self.next_revision}"
            )
        expected = self.expected(self.next_revision, revision)
        if told != expected:
            raise InvariantBrokenError(
                f"watch {self.number} from {self.next_revision} to {revision}"
                f" on member {self.process.member_id if self.process else None}:"
                f" told {told}, happened {expected}"
            )
        self.next_revision = max(self.next_revision, revision + 1)

    def _compacted(self, revision: int) -> None:
        if revision <= self.next_revision:
            raise InvariantBrokenError(
                f"watch {self.number} ended for compaction at {revision}, but needs only {self.next_revision}"
            )
        self.note("watch compacted", self.number, revision)
        self.detach()
        # It lists at the compacted revision and goes on behind it.
        self.next_revision = revision + 1

    # What must come.

    def expected(self, first: int, last: int) -> list[tuple[int, _Seen]]:
        """Return the changes between two revisions that the watch is for."""
        changes = self.history.changes
        return [
            (revision, change)
            for revision in range(max(first, 2), last + 1)
            for change in changes.get(revision, ())
            if self._concerns(*change)
        ]

    def _concerns(self, key: bytes, value: bytes | None) -> bool:
        spec = self.spec
        if spec.no_put if value is not None else spec.no_delete:
            return False
        if not spec.range_end:
            return key == spec.key
        return key >= spec.key and (spec.range_end == b"\0" or key < spec.range_end)

    def _check_previous(self, batch: EventBatch) -> None:
        """The pair before each change must be that of the revision before, unless that was compacted."""
        if not self.spec.prev_kv or self.process is None:
            return
        compacted = self.process.store.compact_revision
        for event in batch.events:
            found = None if event.previous is None else KeyValue.FromString(event.previous).value
            right = self.history.value_at(event.key, event.mod_revision - 1)
            if found != right and not (found is None and event.mod_revision <= compacted):
                raise InvariantBrokenError(
                    f"watch {self.number}: {event.key!r} was {right!r} before {event.mod_revision},"
                    f" told {found!r}"
                )

    def finish(self, revision: int) -> None:
        """Nothing more happens: all up to ``revision`` must have come."""
        missing = self.expected(self.next_revision, revision)
        if missing:
            raise InvariantBrokenError(f"watch {self.number} was never told of {missing}")
