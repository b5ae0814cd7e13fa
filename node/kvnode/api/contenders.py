"""Who is first in line for a lock or an election: the keys under a prefix, by creation.

The owner is whoever has the oldest key.  Creations have ever higher revisions, so that a key without an
older one beside it never gets one: what this member's own state says of it is true for all of them, and
waiting needs neither polling nor the log.

All who wait under one prefix share one watch and one queue, and a change under the prefix costs the same
however many they are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from kvnode.api.catch_up import CatchUp
from kvnode.mvcc.watch import Watcher, WatchSpec
from kvnode.storage.keyspace import prefix_end

if TYPE_CHECKING:
    from kvnode.api.member_port import MemberPort
    from kvnode.mvcc.events import EventBatch

__all__ = ["Contenders"]


class Contenders:
    """All queues of one member; one exists while somebody waits in it."""

    def __init__(self, member: MemberPort) -> None:
        self._member = member
        self._catch_up = CatchUp(member)
        self._queues: dict[bytes, _Queue] = {}

    def __len__(self) -> int:
        """The number of queues."""
        return len(self._queues)

    async def turn(self, prefix: bytes, key: bytes, create_revision: int) -> bool:
        """Wait until no key under ``prefix`` is older than ``key``.

        Local state must have reached ``create_revision``.

        Returns:
            False if the key of that creation is gone, so that its turn will never come.
        """
        queue = self._queues.get(prefix)
        if queue is None:
            queue = self._queues[prefix] = _Queue(self._member, prefix)
            self._catch_up.stream_opened()
        waiter = queue.enter(key, create_revision)
        try:
            return await waiter
        finally:
            queue.leave(create_revision, waiter)
            if queue.is_idle:
                del self._queues[prefix]
                queue.close()
                self._catch_up.stream_closed()


class _Queue:
    """The keys under one prefix, and the callers that wait for theirs to become the oldest."""

    def __init__(self, member: MemberPort, prefix: bytes) -> None:
        self._member = member
        self._prefix = prefix
        self._loop = asyncio.get_running_loop()
        #: Create revision of each key.
        self._created: dict[bytes, int] = {}
        #: (create revision, key), ascending.  Deleted keys leave when they come to the front.
        self._order: deque[tuple[int, bytes]] = deque()
        #: By create revision of the key that is waited with.
        self._waiters: dict[int, dict[asyncio.Future[bool], bytes]] = {}
        self._watcher = self._load()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits."""
        return not self._waiters

    def enter(self, key: bytes, create_revision: int) -> asyncio.Future[bool]:
        """Return what becomes True at the key's turn, and False if the key is lost before."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiters.setdefault(create_revision, {})[waiter] = key
        if self._created.get(key) != create_revision:
            waiter.set_result(False)
        else:
            self._grant()
        return waiter

    def leave(self, create_revision: int, waiter: asyncio.Future[bool]) -> None:
        """Forget a waiter."""
        waiters = self._waiters.get(create_revision, {})
        waiters.pop(waiter, None)
        if not waiters:
            self._waiters.pop(create_revision, None)

    def close(self) -> None:
        """Stop watching."""
        self._member.hub.cancel(self._watcher)

    # The hub's sink.

    def deliver(self, watcher: Watcher, revision: int, batch: EventBatch) -> bool:
        """Follow the changes under the prefix."""
        for event in batch.events:
            key = event.key
            if event.is_deletion:
                created = self._created.pop(key, None)
                if created is not None:
                    self._lose(created, key)
            elif key not in self._created:
                self._created[key] = event.mod_revision
                self._order.append((event.mod_revision, key))
        self._grant()
        return True

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """This member was given a snapshot in which the changes in between are no more."""
        # Not at once: the hub must not be called from here.
        self._loop.call_soon(self._reload)

    def _load(self) -> Watcher:
        store = self._member.applier.store
        facts = store.index.facts
        end = prefix_end(self._prefix)
        self._created = {key: facts(key)[1] for key in store.index.keys(self._prefix, end)}
        self._order = deque(sorted((created, key) for key, created in self._created.items()))
        spec = WatchSpec(self._prefix, end or b"\0", start_revision=store.current_revision + 1)
        return self._member.hub.create(spec, self)

    def _reload(self) -> None:
        if self.is_idle:
            return
        self._watcher = self._load()
        for created, waiters in list(self._waiters.items()):
            for key in set(waiters.values()):
                if self._created.get(key) != created:
                    self._lose(created, key)
        self._grant()

    def _lose(self, created: int, key: bytes) -> None:
        for waiter, waiting_key in self._waiters.get(created, {}).items():
            if waiting_key == key and not waiter.done():
                waiter.set_result(False)

    def _grant(self) -> None:
        order, created = self._order, self._created
        while order and created.get(order[0][1]) != order[0][0]:
            order.popleft()
        if order:
            # Keys of one transaction are equally old.
            for waiter in self._waiters.get(order[0][0], ()):
                if not waiter.done():
                    waiter.set_result(True)
