"""The state as a stream: to a peer that lags, from a leader, and to a client's backup."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from kvnode.apply.applier import Applier
from kvnode.raft.messages import InstallSnapshot
from kvnode.raft.types import Index, MemberId, SnapshotMetadata

if TYPE_CHECKING:
    from kvnode.server.member import Member

__all__ = ["SnapshotSource", "Snapshots", "StagedState"]

#: Size of a piece on its way to a peer: large enough that frames cost nothing, small enough
#: that reading one holds up nothing.
PEER_CHUNK_BYTES = 1 << 20
#: etcd sends 32 KiB blobs; its clients take any size.
CLIENT_CHUNK_BYTES = 32 << 10

log = logging.getLogger(__name__)


class Snapshots:
    """Sends and receives the state of one member."""

    def __init__(self, member: "Member") -> None:
        self._member = member
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._sent_index: dict[int, Index] = {}
        self._receiving = asyncio.Lock()
        self._installed: asyncio.Future[None] | None = None

    def send(self, message: InstallSnapshot) -> None:
        """Stream the present state to the peer that ``message`` is for."""
        if message.to_id in self._sending:
            return
        task = asyncio.get_running_loop().create_task(self._send(message), name="send snapshot")
        self._sending[message.to_id] = task
        task.add_done_callback(lambda _: self._sending.pop(message.to_id, None))

    def sent_index(self, member_id: MemberId) -> Index:
        """Return the index of the state that this member was sent last, from its beginning on; 0: none."""
        return self._sent_index.get(member_id, 0)

    async def _send(self, message: InstallSnapshot) -> None:
        member = self._member
        begun_s = member.now_s()
        peer = member.stats.peer(message.to_id)
        peer.snapshots_sending += 1
        source = member.open_snapshot(PEER_CHUNK_BYTES)
        # The state of now, not the one the core knew of: it is newer, and it is what is streamed.
        current = message._replace(metadata=source.metadata)
        self._sent_index[message.to_id] = source.metadata.index
        try:
            await member.transport.send_snapshot(current, source.chunks)
        except Exception as error:
            log.warning("snapshot for peer %x failed: %s", message.to_id, error)
            peer.snapshots_not_sent += 1
            member.report_snapshot(message.to_id, ok=False)
        else:
            peer.snapshots_sent += 1
            peer.snapshot_send_s.observe(member.now_s() - begun_s)
            log.info(
                "sent snapshot at index %d to peer %x in %.3f s",
                current.metadata.index,
                message.to_id,
                member.now_s() - begun_s,
            )
            member.report_snapshot(message.to_id, ok=True)
        finally:
            peer.snapshots_sending -= 1
            source.close()

    async def receive(self, message: InstallSnapshot, chunks: AsyncIterator[bytes]) -> None:
        """Store a streamed state beside the present one, then let the core decide to take it.

        Raises:
            Exception: The stream is damaged or the disk refused it; nothing has changed.
        """
        member = self._member
        begun_s = member.now_s()
        peer = member.stats.peer(message.from_id)
        peer.snapshots_receiving += 1
        try:
            await self._receive(message, chunks)
        except BaseException:
            peer.snapshots_not_received += 1
            raise
        else:
            peer.snapshots_received += 1
            peer.snapshot_receive_s.observe(member.now_s() - begun_s)
        finally:
            peer.snapshots_receiving -= 1

    async def _receive(self, message: InstallSnapshot, chunks: AsyncIterator[bytes]) -> None:
        member = self._member
        async with self._receiving:
            if self._installed is not None:
                # The connection of a former one broke while its state was on the way into use.
                await asyncio.shield(self._installed)
            if message.metadata.index <= member.applied_index:
                member.step(message)
                return
            staged = await member.stage_snapshot(message.metadata, chunks)
            member.offer_snapshot(staged, message)
            if not member.replica.is_installing(message.metadata):
                # The log overtook it meanwhile, or another member leads.
                member.discard_staged()
                return
            # However slow the disk: the log is about to name this state, so it has to stay.
            self._installed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._installed)

    def installed(self, metadata: SnapshotMetadata) -> None:
        """The core took the snapshot that was offered."""
        log.info("continues from the leader's snapshot at index %d", metadata.index)
        installed, self._installed = self._installed, None
        if installed is not None:
            installed.set_result(None)

    async def stream(self) -> AsyncIterator[tuple[bytes, int]]:
        """Yield the present state for a backup: chunks, each with the bytes estimated to follow."""
        begun_s = self._member.now_s()
        source = self._member.open_snapshot(CLIENT_CHUNK_BYTES)
        left = source.size_bytes
        try:
            while (chunk := await asyncio.to_thread(_next, source.chunks)) is not None:
                left = max(left - len(chunk), 0)
                yield chunk, left
            self._member.stats.snapshot_s.observe(self._member.now_s() - begun_s)
        finally:
            source.close()

    async def close(self) -> None:
        """Give up what is being sent."""
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class StagedState(NamedTuple):
    """A received state that is not in use yet."""

    generation: str
    applier: Applier


class SnapshotSource:
    """A consistent view of the state, ready to be streamed."""

    def __init__(
        self,
        metadata: SnapshotMetadata,
        chunks: Iterator[bytes],
        size_bytes: int,
        close: Callable[[], None],
    ) -> None:
        self.metadata = metadata
        self.chunks = chunks
        self.size_bytes = size_bytes
        self.close = close


def _next(chunks: Iterator[bytes]) -> bytes | None:
    return next(chunks, None)
