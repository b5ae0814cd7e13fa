"""The watch hub: every change to everybody who asked for it, in order, once, without gaps.

A watcher is *synced* when it was given everything up to the hub's revision; it then gets each new revision
as it is applied (``notify``).  Otherwise it is *unsynced* and ``catch_up`` reads what it lacks from the
records, in slices.  A sink that has no room leaves its watcher unsynced; the batch it refused is kept and
offered again first, so nothing is read twice.

The hub belongs to one thread, decides nothing by time, and never calls a sink from ``create``: whoever
creates a watcher can say "created" before the first event.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from kvnode.mvcc.errors import CompactedError, WatchRangeEmptyError
from kvnode.mvcc.events import Change, Event, EventBatch
from kvnode.mvcc.revision import MAIN_SHIFT
from kvnode.mvcc.store import Store
from kvnode.mvcc.watchers import FROM_KEY, Group, WatcherIndex

__all__ = ["CATCH_UP_REVISIONS", "Sink", "WatchHub", "WatchSpec", "Watcher"]

#: Distinct revisions read at a time, and so delivered at most in one batch while catching up.
CATCH_UP_REVISIONS: Final = 1000

#: A catch-up slice ends early, at the end of a revision, once it has read this much.
CATCH_UP_BYTES: Final = 4 * 2**20


class WatchSpec(NamedTuple):
    """What is watched, as the request says it."""

    key: bytes
    #: Empty: that key alone; ``\\0``: everything from the key on.
    range_end: bytes = b""
    #: 0: what comes from now on.
    start_revision: int = 0
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False


class Sink(Protocol):
    """Where a watcher's events go; called by the hub in its own thread, and must not call back."""

    def deliver(self, watcher: "Watcher", revision: int, batch: EventBatch) -> bool:
        """Take events, or return False for lack of room and be offered them again later.

        ``revision`` belongs in the response's header: that of the events while synced, the current one
        while catching up.
        """

    def compacted(self, watcher: "Watcher", compact_revision: int) -> None:
        """The watcher has ended: what it needs next was compacted."""


class Watcher:
    """One watch.  Its fields are the hub's; ``spec`` and ``sink`` may be read."""

    __slots__ = ("_pending", "form", "key", "next_revision", "range_end", "sink", "spec", "state")

    def __init__(self, spec: WatchSpec, sink: Sink, next_revision: int) -> None:
        self.spec = spec
        self.sink = sink
        #: Watchers of one key or range with the same number get the same events.
        self.form = spec.prev_kv | spec.no_put << 1 | spec.no_delete << 2
        # An empty key means all keys, whose first is "\0".
        self.key = spec.key or b"\0"
        self.range_end = spec.range_end
        #: The first revision that was not yet given to the sink.
        self.next_revision = next_revision
        self.state = _UNSYNCED
        #: A batch that the sink refused, with its header revision and the next revision after it.
        self._pending: tuple[int, EventBatch, int] | None = None

    @property
    def is_synced(self) -> bool:
        """Whether everything up to the hub's revision was given to the sink."""
        return self.state == _SYNCED

    @property
    def is_active(self) -> bool:
        """False once cancelled or compacted."""
        return self.state != _ENDED


_SYNCED: Final = 1
_UNSYNCED: Final = 2
#: Unsynced with a refused batch.
_BLOCKED: Final = 3
_ENDED: Final = 4


class WatchHub:
    """All watchers of one member.

    Args:
        store: what is watched.  The hub starts at its current revision.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        #: Everything up to here was given to the synced watchers.
        self.revision = store.current_revision
        self._synced: WatcherIndex[Watcher] = WatcherIndex()
        #: In the order in which they are served; who was served goes to the end.
        self._unsynced: dict[Watcher, None] = {}
        self._blocked: dict[Watcher, None] = {}
        #: Events that sinks have taken, counted for whoever watches the member.
        self.delivered_events = 0

    def __len__(self) -> int:
        """The number of watchers."""
        return len(self._synced) + self.slow_count

    @property
    def slow_count(self) -> int:
        """The number of watchers that are not synced."""
        return len(self._unsynced) + len(self._blocked)

    @property
    def pending_events(self) -> int:
        """Events that were matched, and that a sink has refused for lack of room."""
        return sum(len(watcher._pending[1]) for watcher in self._blocked if watcher._pending is not None)

    @property
    def needs_catch_up(self) -> bool:
        """Whether ``catch_up`` has something to do or to offer again."""
        return bool(self._unsynced or self._blocked)

    def create(self, spec: WatchSpec, sink: Sink) -> Watcher:
        """Add a watcher; it is called by ``notify`` and ``catch_up`` only.

        Raises:
            WatchRangeEmptyError: no key can be in the range.
            CompactedError: the start revision is negative.
        """
        key = spec.key or b"\0"
        if spec.range_end and spec.range_end != FROM_KEY and key >= spec.range_end:
            raise WatchRangeEmptyError
        start = spec.start_revision
        if start < 0:
            raise CompactedError
        if start == 0 or start > self.revision:
            watcher = Watcher(spec, sink, start or self.revision + 1)
            self._set_synced(watcher)
        else:
            watcher = Watcher(spec, sink, start)
            self._unsynced[watcher] = None
        return watcher

    def cancel(self, watcher: Watcher) -> None:
        """End a watcher: its sink is not called again.  Idempotent."""
        self._remove(watcher)
        watcher.state = _ENDED
        watcher._pending = None

    def notify(self, revision: int, changes: Sequence[Change]) -> None:
        """Give the changes of one revision to the synced watchers.

        To be called for every revision in order, before the store is compacted or written again.
        """
        self.revision = revision
        if not len(self._synced):
            return
        matched: dict[Group[Watcher], list[Change]] = {}
        matches = self._synced.matches
        for change in changes:
            for group in matches(change.key):
                matched.setdefault(group, []).append(change)
        if not matched:
            return
        events = _Events(self._store)
        slow: list[Watcher] = []
        for group, group_changes in matched.items():
            batches = _Batches(events, group_changes)
            form, batch = -1, None
            for watcher in group.members:
                if revision < watcher.next_revision:
                    continue
                if watcher.form != form:
                    form, batch = watcher.form, batches.in_form(watcher)
                if batch is None:
                    continue
                if watcher.sink.deliver(watcher, revision, batch):
                    self.delivered_events += len(batch)
                else:
                    watcher._pending = (revision, batch, revision + 1)
                    slow.append(watcher)
        for watcher in slow:
            self._remove(watcher)
            watcher.next_revision = revision
            watcher.state = _BLOCKED
            self._blocked[watcher] = None

    def catch_up(self, max_revisions: int = CATCH_UP_REVISIONS) -> bool:
        """Serve unsynced watchers once; returns whether calling again at once would get further.

        First what was refused is offered again.  Then one slice of records is read, from where the
        watcher that has waited longest stands, and given to all watchers that stand within it.
        To be called between batches of the store, at once while it returns True and now and then
        while ``needs_catch_up``.
        """
        for watcher in list(self._blocked):
            self._offer_again(watcher)
        for watcher in [w for w in self._unsynced if w.next_revision < self._store.compact_revision]:
            self._end_compacted(watcher)
        # Who waits for a revision to come has nothing to catch up with.
        for watcher in [w for w in self._unsynced if w.next_revision > self.revision]:
            self._set_synced(watcher)
        if self._unsynced:
            self._serve_slice(max_revisions)
        return bool(self._unsynced)

    def progress(self, watchers: Iterable[Watcher]) -> int | None:
        """Return a revision up to which all ``watchers`` were given everything, or None.

        None while one of them is not synced, or waits for a start revision that is still to come (etcd
        issue 20221).  A response that says it must go through the same queue as the events.
        """
        for watcher in watchers:
            if watcher.state != _SYNCED or watcher.spec.start_revision > self.revision:
                return None
        return self.revision

    def reset(self, store: Store) -> None:
        """Go on with another store: the state was replaced by a snapshot.

        Every watcher becomes unsynced and catches up from where it stood.
        """
        for watcher in list(self._synced):
            watcher.next_revision = max(watcher.next_revision, self.revision + 1)
            watcher.state = _UNSYNCED
            self._unsynced[watcher] = None
        self._synced = WatcherIndex()
        self._store = store
        self.revision = store.current_revision

    def _offer_again(self, watcher: Watcher) -> None:
        pending = watcher._pending
        if pending is None:
            raise RuntimeError("a blocked watcher without a batch")
        revision, batch, next_revision = pending
        if not watcher.sink.deliver(watcher, revision, batch):
            return
        self.delivered_events += len(batch)
        watcher._pending = None
        del self._blocked[watcher]
        self._advance(watcher, next_revision)

    def _serve_slice(self, max_revisions: int) -> None:
        start = next(iter(self._unsynced)).next_revision
        standing = [w for w in self._unsynced if w.next_revision >= start]
        index: WatcherIndex[Watcher] = WatcherIndex()
        for watcher in standing:
            index.add(watcher)
        matched: dict[Group[Watcher], list[Change]] = {}
        end = self._read_slice(start, max_revisions, index, matched)
        events = _Events(self._store)
        batches = {group: _Batches(events, changes) for group, changes in matched.items()}
        groups = {watcher: group for group in matched for watcher in group.members}
        for watcher in standing:
            if watcher.next_revision >= end:
                continue
            group = groups.get(watcher)
            batch = None if group is None else batches[group].in_form(watcher, watcher.next_revision)
            if batch is not None and not watcher.sink.deliver(watcher, self.revision, batch):
                watcher._pending = (self.revision, batch, end)
                del self._unsynced[watcher]
                watcher.state = _BLOCKED
                self._blocked[watcher] = None
            else:
                self.delivered_events += len(batch) if batch is not None else 0
                del self._unsynced[watcher]
                self._advance(watcher, end)

    def _read_slice(
        self,
        start: int,
        max_revisions: int,
        index: WatcherIndex[Watcher],
        matched: dict[Group[Watcher], list[Change]],
    ) -> int:
        """Sort the changes from ``start`` on into groups; returns the first revision not read."""
        size = 0
        count = 0
        main = -1
        for change in self._store.changes_since(start):
            if change.main != main:
                main = change.main
                count += 1
                if count > max_revisions or size > CATCH_UP_BYTES:
                    return main
            size += len(change.record)
            for group in index.matches(change.key):
                matched.setdefault(group, []).append(change)
        return self.revision + 1

    def _advance(self, watcher: Watcher, next_revision: int) -> None:
        watcher.next_revision = next_revision
        if next_revision > self.revision:
            self._set_synced(watcher)
        else:
            watcher.state = _UNSYNCED
            self._unsynced[watcher] = None

    def _set_synced(self, watcher: Watcher) -> None:
        self._unsynced.pop(watcher, None)
        watcher.state = _SYNCED
        self._synced.add(watcher)

    def _end_compacted(self, watcher: Watcher) -> None:
        del self._unsynced[watcher]
        watcher.state = _ENDED
        watcher.sink.compacted(watcher, self._store.compact_revision)

    def _remove(self, watcher: Watcher) -> None:
        if watcher.state == _SYNCED:
            self._synced.discard(watcher)
        self._unsynced.pop(watcher, None)
        self._blocked.pop(watcher, None)


class _Events:
    """Events made once from changes, whoever wants them."""

    __slots__ = ("_made", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[int, Event] = {}

    def of(self, change: Change, with_previous: bool) -> Event:
        event = self._made.get(change.packed)
        if event is None:
            event = self._made[change.packed] = Event(change, None)
        if with_previous and event.previous is None and change.previous:
            previous = change.previous
            if previous >> MAIN_SHIFT == change.main:
                # Put by the same transaction: what watchers knew before is what the revision before held.
                previous = self._store.index.at(change.key, change.main - 1)
            if previous:
                event.previous = self._store.record(previous)
        return event


class _Batches:
    """One group's changes in the forms its watchers want."""

    __slots__ = ("_changes", "_events", "_made")

    def __init__(self, events: _Events, changes: Sequence[Change]) -> None:
        self._events = events
        self._changes = changes
        self._made: dict[tuple[int, int], EventBatch | None] = {}

    def in_form(self, watcher: Watcher, from_revision: int = 0) -> EventBatch | None:
        """Return the batch from a revision on; None if nothing is left of it."""
        form = (watcher.form, max(self._changes[0].main, from_revision))
        if form not in self._made:
            self._made[form] = self._make(watcher.spec, from_revision)
        return self._made[form]

    def _make(self, spec: WatchSpec, from_revision: int) -> EventBatch | None:
        of = self._events.of
        events = [
            of(change, spec.prev_kv)
            for change in self._changes
            if change.main >= from_revision and not (spec.no_delete if change.is_deletion else spec.no_put)
        ]
        return EventBatch(events, spec.prev_kv) if events else None
