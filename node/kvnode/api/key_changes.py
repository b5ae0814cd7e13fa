"""A watch from inside the member, for a coroutine that takes events at its own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from kvnode.api.catch_up import CatchUp
from kvnode.mvcc.watch import Watcher, WatchSpec

if TYPE_CHECKING:
    from kvnode.api.member_port import MemberPort
    from kvnode.mvcc.events import Event, EventBatch

__all__ = ["KeyChanges"]

#: Batches that may wait; the hub keeps what is refused.
QUEUE_BATCHES = 64


class KeyChanges:
    """One watch; a context manager that ends it."""

    def __init__(self, member: MemberPort, catch_up: CatchUp, spec: WatchSpec) -> None:
        self._member = member
        self._catch_up = catch_up
        self._batches: deque[EventBatch] = deque()
        self._arrived = asyncio.Event()
        self._is_compacted = False
        self._refused_some = False
        catch_up.stream_opened()
        self._watcher = member.hub.create(spec, self)

    def __enter__(self) -> KeyChanges:
        return self

    def __exit__(self, *_: object) -> None:
        self._member.hub.cancel(self._watcher)
        self._catch_up.stream_closed()

    async def next(self) -> tuple[Event, ...]:
        """Wait for events and return them; none at all: they were compacted, and the watch has ended."""
        while not self._batches:
            if self._is_compacted:
                return ()
            self._arrived.clear()
            await self._arrived.wait()
        batch = self._batches.popleft()
        if self._refused_some:
            self._refused_some = False
            self._catch_up.kick()
        return batch.events

    # The hub's sink.

    def deliver(self, watcher: Watcher, revision: int, batch: EventBatch) -> bool:
        """Keep events for the coroutine, unless it is far behind."""
        if len(self._batches) >= QUEUE_BATCHES:
            self._refused_some = True
            return False
        self._batches.append(batch)
        self._arrived.set()
        return True

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """What comes next can't be had."""
        self._is_compacted = True
        self._arrived.set()
