"""Locks among processes, by etcd's recipe: whoever has waited longest is next."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from kvnode.pb import rpc_pb2

from kvclient.errors import KvClientError
from kvclient.queueing import Place, join, leave, wait_for_older
from kvclient.session import Session
from kvclient.txn import compare_create

__all__ = ["LockHeldError", "LockLostError", "Mutex"]


class LockHeldError(KvClientError):
    """Another session holds the lock."""


class LockLostError(KvClientError):
    """The session's lease ran out while it waited, or while it held the lock."""


class Mutex:
    """A lock by the name of ``name``; also an async context manager.

    Holding it is only as good as the session: a holder whose lease ran out may still be
    running.  What must never happen twice goes into a transaction with ``is_held``.
    """

    def __init__(self, session: Session, name: str | bytes) -> None:
        self._session = session
        self._name = name
        self._place: Place | None = None

    @property
    def key(self) -> bytes:
        """The key that stands for the lock while it is held; empty otherwise."""
        return self._place.key if self._place else b""

    @property
    def revision(self) -> int:
        """The store's revision when the lock was got: a fencing token that only grows."""
        return self._place.header.revision if self._place else 0

    @property
    def is_held(self) -> rpc_pb2.Compare:
        """A comparison that holds as long as the lock is ours.

        Raises:
            RuntimeError: It was not got, or was given back.
        """
        if self._place is None:
            raise RuntimeError("the lock is not held")
        return compare_create(self._place.key, "=", self._place.create_revision)

    async def try_lock(self) -> None:
        """Get the lock or don't wait for it.

        Raises:
            LockHeldError: Somebody else has it.
        """
        client = self._session.client
        place = await join(client, self._name, self._session.lease_id, b"")
        if not place.is_first:
            await leave(client, place)
            raise LockHeldError("the lock is held by another session")
        self._place = place

    async def lock(self) -> None:
        """Wait for the lock.  Cancelling the wait leaves the queue.

        Raises:
            LockLostError: The session ended meanwhile.
        """
        client = self._session.client
        place = await join(client, self._name, self._session.lease_id, b"")
        if not place.is_first:
            try:
                await wait_for_older(client, self._name, place.create_revision)
                response = await client.range(place.key)
            except BaseException:
                # The wait may have been cancelled; leaving must not be.
                with contextlib.suppress(KvClientError):
                    await asyncio.shield(asyncio.ensure_future(leave(client, place)))
                raise
            if not response.kvs or response.kvs[0].create_revision != place.create_revision:
                raise LockLostError("the session ended while it waited for the lock")
            place = Place(place.key, place.create_revision, response.header, True, b"")
        self._place = place

    async def unlock(self) -> None:
        """Give the lock back.

        Raises:
            LockLostError: It was no longer ours.
        """
        place, self._place = self._place, None
        if place is None:
            raise RuntimeError("the lock is not held")
        if not await leave(self._session.client, place):
            raise LockLostError("the lock was lost before it was given back")

    async def __aenter__(self) -> Self:
        await self.lock()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.unlock()
