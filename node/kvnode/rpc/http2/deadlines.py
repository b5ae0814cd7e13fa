"""One timer for the deadlines of all calls."""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Protocol

__all__ = ["Deadlines", "Waiting"]

#: How late a deadline may be noticed: many then share one look.
COARSENESS_S: Final = 0.01


class Waiting(Protocol):
    """What has a deadline."""

    is_over: bool

    def deadline_passed(self) -> None:
        """The time has come; nothing is to be done if it ``is_over``."""


class Deadlines:
    """Tells calls when their time has passed.

    Most calls end long before, so that an entry is left where it is and found out of date later.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Waiting]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._limit = 1024

    def add(self, waiting: Waiting, deadline_s: float) -> None:
        """Watch over a call until a time by the event loop's clock."""
        heappush(self._heap, (deadline_s, next(self._order), waiting))
        if len(self._heap) > self._limit:
            self._tidy()
        if self._timer is None or deadline_s < self._timer_s:
            self._arm(deadline_s)

    def close(self) -> None:
        """Forget everything."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tidy(self) -> None:
        self._heap = [entry for entry in self._heap if not entry[2].is_over]
        heapify(self._heap)
        self._limit = max(1024, 2 * len(self._heap))

    def _arm(self, deadline_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = deadline_s + COARSENESS_S
        self._timer = self._loop.call_at(self._timer_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        heap = self._heap
        while heap and (heap[0][0] <= now_s or heap[0][2].is_over):
            waiting = heappop(heap)[2]
            if not waiting.is_over:
                waiting.deadline_passed()
        if heap:
            self._arm(heap[0][0])
