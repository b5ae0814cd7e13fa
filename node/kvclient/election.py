"""Leader election among processes, by etcd's recipe: the oldest candidate leads."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from kvnode.pb import kv_pb2, rpc_pb2

from kvclient.errors import CompactedError, KvClientError
from kvclient.keys import as_bytes, prefix
from kvclient.queueing import Place, first_in, join, leave, wait_for_older
from kvclient.session import Session
from kvclient.txn import compare_create, op_put

__all__ = ["Election", "NoLeaderError", "NotElectedError"]


class NotElectedError(KvClientError):
    """This session does not lead, or leads no longer."""


class NoLeaderError(KvClientError):
    """Nobody leads."""


class Election:
    """One session's part in the election by the name of ``name``."""

    def __init__(self, session: Session, name: str | bytes) -> None:
        self._session = session
        self._name = name
        self._place: Place | None = None

    @property
    def key(self) -> bytes:
        """The candidate's key; empty when it is none."""
        return self._place.key if self._place else b""

    @property
    def revision(self) -> int:
        """The revision that created the key: a fencing token that only grows."""
        return self._place.create_revision if self._place else 0

    async def campaign(self, value: str | bytes) -> None:
        """Stand for leadership with ``value`` and wait to be elected.  Cancelling the wait resigns."""
        client = self._session.client
        wanted = as_bytes(value)
        place = self._place = await join(client, self._name, self._session.lease_id, wanted)
        try:
            if place.value != wanted:
                await self.proclaim(wanted)
            if not place.is_first:
                await wait_for_older(client, self._name, place.create_revision)
        except BaseException:
            self._place = None
            # The wait may have been cancelled; leaving must not be.
            with contextlib.suppress(KvClientError):
                await asyncio.shield(asyncio.ensure_future(leave(client, place)))
            raise

    async def proclaim(self, value: str | bytes) -> rpc_pb2.TxnResponse:
        """Let the leader, this session, announce another value without a new election.

        Raises:
            NotElectedError: It does not lead any more.
        """
        place = self._place
        if place is None:
            raise NotElectedError("election: not leader")
        response = await self._session.client.txn(
            [compare_create(place.key, "=", place.create_revision)],
            [op_put(place.key, as_bytes(value), lease_id=self._session.lease_id)],
        )
        if not response.succeeded:
            self._place = None
            raise NotElectedError("election: not leader")
        return response

    async def resign(self) -> None:
        """Let the next candidate lead; harmless if this one does not."""
        place, self._place = self._place, None
        if place is not None:
            await leave(self._session.client, place)

    async def leader(self) -> rpc_pb2.RangeResponse:
        """The leader's key and value.

        Raises:
            NoLeaderError: There is none.
        """
        response = await first_in(self._session.client, self._name)
        if not response.kvs:
            raise NoLeaderError("election: no leader")
        return response

    async def observe(self) -> AsyncGenerator[rpc_pb2.RangeResponse, None]:
        """Every leader from now on, and every value that one announces, each as a range of one key.

        Wrap it in ``contextlib.aclosing`` if the loop may end early.
        """
        client = self._session.client
        while True:
            response = await first_in(client, self._name)
            if response.kvs:
                shown = rpc_pb2.RangeResponse(header=response.header, kvs=response.kvs)
            else:
                shown = await self._first_candidate(response.header.revision + 1)
            yield shown
            try:
                async with client.watch(
                    shown.kvs[0].key, start_revision=shown.header.revision + 1
                ) as watcher:
                    is_gone = False
                    async for batch in watcher:
                        for event in batch.events:
                            is_gone = event.type == kv_pb2.Event.DELETE
                            if is_gone:
                                break
                            yield rpc_pb2.RangeResponse(header=batch.response.header, kvs=[event.kv])
                        if is_gone:
                            break
            except CompactedError:
                continue  # What came in between is told by who leads now.

    async def _first_candidate(self, from_revision: int) -> rpc_pb2.RangeResponse:
        queue = prefix(as_bytes(self._name) + b"/")
        async with self._session.client.watch(
            queue, start_revision=from_revision, no_deletes=True
        ) as watcher:
            async for batch in watcher:
                for event in batch.events:
                    header = rpc_pb2.ResponseHeader()
                    header.CopyFrom(batch.response.header)
                    header.revision = event.kv.mod_revision
                    return rpc_pb2.RangeResponse(header=header, kvs=[event.kv])
        raise NoLeaderError("election: no leader")
