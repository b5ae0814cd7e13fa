"""What lives as long as the process leads: one loop for each resource, woken by events and by time."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from kvoperator.errors import KubeError, LeadershipLostError
from kvoperator.metrics import Metrics
from kvoperator.reconcile import ClusterReconciler
from kvoperator.snapshots import SnapshotReconciler

__all__ = ["Key", "Runtime", "Stopper"]

logger = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name."""

_RETRY_UNAVAILABLE_S: Final = 2.0
_RETRY_BUG_S: Final = 10.0
_STARTUP_SPREAD_S: Final = 0.5
"""All resources are met at once when the process begins to lead; their first passes are spread over this."""
_STUCK_S: Final = 120.0
"""A pass that takes longer hangs: every request in it has its own, far shorter deadline."""


class Stopper(Protocol):
    """kopf's word that a daemon should end."""

    def is_set(self) -> bool: ...

    async def wait(self, timeout: float | None = None) -> object: ...


class Runtime:
    """The loops and what wakes them.

    A lock per cluster keeps its daemon's pass and its deletion apart: they are different tasks of kopf's, and
    both must see what the other has done.  Nothing else ever waits for it.
    """

    def __init__(
        self,
        *,
        clusters: ClusterReconciler,
        snapshots: SnapshotReconciler,
        metrics: Metrics,
        concurrency: int,
        on_lost: Callable[[str], None],
    ) -> None:
        self._clusters = clusters
        self._snapshots = snapshots
        self._metrics = metrics
        self._slots = asyncio.Semaphore(concurrency)
        self._on_lost = on_lost
        self._wake: dict[Key, asyncio.Event] = {}
        self._locks: dict[Key, asyncio.Lock] = {}
        self._snapshot_wake: dict[Key, asyncio.Event] = {}
        self._snapshot_tasks: dict[Key, asyncio.Task[None]] = {}
        self._running_since: dict[Key, float] = {}

    def nudge_cluster(self, key: Key) -> None:
        """Something of the cluster has changed."""
        wake = self._wake.get(key)
        if wake is not None:
            wake.set()

    def nudge_snapshot(self, key: Key) -> None:
        """A KVSnapshot, or its Job, has changed: look at it until it has ended."""
        task = self._snapshot_tasks.get(key)
        if task is None or task.done():
            self._snapshot_wake[key] = asyncio.Event()
            self._snapshot_tasks[key] = asyncio.create_task(self._keep_snapshot(key))
        else:
            self._snapshot_wake[key].set()

    def oldest_pass_s(self) -> float:
        """Age of the longest running pass."""
        now_s = time.monotonic()
        return max((now_s - since for since in self._running_since.values()), default=0.0)

    @property
    def is_stuck(self) -> bool:
        return self.oldest_pass_s() > _STUCK_S

    async def keep_cluster(self, key: Key, stopped: Stopper) -> None:
        """Pass after pass until the cluster is gone or going, or the process stops."""
        wake = self._wake.setdefault(key, asyncio.Event())
        await stopped.wait(random.random() * _STARTUP_SPREAD_S)
        try:
            while not stopped.is_set():
                wake.clear()
                delay_s = await self._guarded(key, lambda: self._cluster_pass(key))
                if delay_s is None:
                    break
                await _first_of(wake, stopped, delay_s)
        finally:
            if self._wake.get(key) is wake:
                del self._wake[key]

    async def delete_cluster(self, key: Key) -> bool:
        """One step of a cluster's deletion; True when the resource may go."""
        async with self._locks.setdefault(key, asyncio.Lock()):
            try:
                is_done = await self._clusters.run_deletion(*key)
            except LeadershipLostError as error:
                self._on_lost(str(error))
                raise
        if is_done:
            self._locks.pop(key, None)
        return is_done

    async def _cluster_pass(self, key: Key) -> float | None:
        async with self._locks.setdefault(key, asyncio.Lock()), self._slots:
            self._running_since[key] = time.monotonic()
            try:
                with self._metrics.pass_seconds.time():
                    return await self._clusters.run_pass(*key)
            finally:
                self._running_since.pop(key, None)

    async def _keep_snapshot(self, key: Key) -> None:
        while True:
            wake = self._snapshot_wake[key]
            wake.clear()
            delay_s = await self._guarded(key, lambda: self._snapshots.run_pass(*key))
            if delay_s is None:
                break
            try:
                async with asyncio.timeout(delay_s):
                    await wake.wait()
            except TimeoutError:
                continue
        self._snapshot_wake.pop(key, None)
        self._snapshot_tasks.pop(key, None)

    async def _guarded(self, key: Key, run: Callable[[], Awaitable[float | None]]) -> float | None:
        """A pass must not end its loop, whatever happens in it: nobody would start it again."""
        try:
            delay_s = await run()
        except LeadershipLostError as error:
            self._on_lost(str(error))
            return _RETRY_BUG_S
        except KubeError as error:
            self._metrics.passes.labels("unavailable").inc()
            logger.warning("pass failed", extra={"object": "/".join(key), "error": str(error)})
            return _RETRY_UNAVAILABLE_S
        except Exception:
            self._metrics.passes.labels("bug").inc()
            logger.exception("pass broke", extra={"object": "/".join(key)})
            return _RETRY_BUG_S
        self._metrics.passes.labels("done").inc()
        return delay_s


async def _first_of(wake: asyncio.Event, stopped: Stopper, delay_s: float) -> None:
    """Return when woken or stopped, and after the delay in any case."""
    waits = {asyncio.ensure_future(wake.wait()), asyncio.ensure_future(stopped.wait(delay_s))}
    try:
        await asyncio.wait(waits, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()
