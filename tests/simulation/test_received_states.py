"""A real member that is sent a leader's state while its disk or its readers are slow."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kvnode.apply.applier import Applier
from kvnode.apply.commands import CommandKind, encode_command
from kvnode.pb import rpc_pb2 as rpc
from kvnode.raft.messages import Heartbeat, InstallSnapshot
from kvnode.raft.types import Entry, EntryKind, MemberId, SnapshotMetadata
from kvnode.server.config import NodeConfig
from kvnode.server.member import Member
from kvnode.storage import data_dir
from kvnode.storage.errors import StorageError
from kvnode.storage.memory import MemoryEngine
from kvnode.storage.snapshots import SnapshotHeader, SnapshotWriter
from kvtest.local_member import local_config
from kvtest.silence import Silence

PEERS = {"m1": ("http://127.0.0.1:2380",), "m2": ("http://127.0.0.1:2480",)}
TERM = 5


class SlowThread:
    """Holds jobs back until ``release``."""

    def __init__(self, thread: Any) -> None:
        self._thread = thread
        self.held: list[tuple[Callable[[], object], Callable[[object], None]]] | None = []

    def submit(self, work: Callable[[], object], done: Callable[[object], None]) -> None:
        if self.held is None:
            self._thread.submit(work, done)
        else:
            self.held.append((work, done))

    def release(self) -> None:
        held, self.held = self.held or [], None
        for work, done in held:
            self._thread.submit(work, done)

    def close(self) -> None:
        self._thread.close()


class QuickConfig(NodeConfig):
    """Requests that time out at once."""

    @property
    def request_timeout_s(self) -> float:
        return 0.02


def config(path: Path, kind: type[NodeConfig] = NodeConfig) -> NodeConfig:
    usual = local_config(data_dir=path, initial_cluster=PEERS, election_timeout_ms=50_000)
    return kind(**{name: getattr(usual, name) for name in usual.__dataclass_fields__})


class Leader:
    """The other member, as far as its state goes."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._engine = MemoryEngine()
        batch = self._engine.batch()
        for key, value in member.applier.engine.iterate():
            batch.put(key, value)
        self._engine.write(batch)
        self._applier = Applier.open(self._engine, is_local=lambda request_id: False)

    def message(self, index: int) -> tuple[InstallSnapshot, Iterator[bytes]]:
        """Apply writes up to ``index`` and offer the state there."""
        applier, member = self._applier, self._member
        for at in range(applier.applied_index + 1, index + 1):
            put = rpc.PutRequest(key=b"k", value=b"%d" % at).SerializeToString()
            applier.apply([Entry(TERM, at, EntryKind.NORMAL, encode_command(CommandKind.PUT, 1, put))])
        metadata = SnapshotMetadata(index, TERM, applier.conf_state)
        header = SnapshotHeader(
            cluster_id=member.cluster_id,
            member_id=1,
            metadata=metadata,
            revision=applier.store.current_revision,
            compact_revision=applier.store.compact_revision,
        )
        (sender,) = (i for i in applier.membership.members if i != member.member_id)
        message = InstallSnapshot(sender, MemberId(member.member_id), TERM, metadata)
        return message, iter(SnapshotWriter(self._engine.snapshot(), header, chunk_bytes=512))


async def arriving(chunks: Iterable[bytes], gate: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Pass chunks on; the first at once, the others when the gate opens."""
    for chunk in chunks:
        yield chunk
        if gate is not None:
            await gate.wait()


async def soon(condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.001)


async def reopened(path: Path) -> int:
    """Start the member again; returns how far its state has come."""
    member = await Member.start(config(path), Silence())  # type: ignore[arg-type]
    index = member.applied_index
    await member.stop()
    return index


async def test_a_state_stays_while_a_slow_disk_takes_longer_than_requests_may(tmp_path: Path) -> None:
    member = await Member.start(config(tmp_path, QuickConfig), Silence())  # type: ignore[arg-type]
    disk = SlowThread(member._log_thread)
    member.driver._storage = disk  # type: ignore[assignment]
    message, chunks = Leader(member).message(30)
    # An earlier write is still under way when the core accepts the state.
    member.step(Heartbeat(message.from_id, message.to_id, TERM, 1, b""))
    await soon(lambda: bool(disk.held))
    receiving = asyncio.create_task(member.snapshots.receive(message, arriving(chunks)))
    await soon(lambda: member.node.pending_snapshot is not None)
    await asyncio.wait({receiving}, timeout=5 * member.config.request_timeout_s)
    disk.release()
    await asyncio.wait_for(receiving, 10.0)
    await soon(lambda: member.applied_index == 30)
    await member.stop()
    assert await reopened(tmp_path) == 30


async def test_a_state_that_arrives_outlives_the_end_of_the_one_before_the_last(tmp_path: Path) -> None:
    member = await Member.start(config(tmp_path), Silence())  # type: ignore[arg-type]
    leader = Leader(member)
    backup = member.open_snapshot(1 << 10)
    message, chunks = leader.message(30)
    await member.snapshots.receive(message, arriving(chunks))
    assert member.applied_index == 30

    gate = asyncio.Event()
    message, chunks = leader.message(60)
    receiving = asyncio.create_task(member.snapshots.receive(message, arriving(chunks, gate)))
    await soon(lambda: len(list(tmp_path.glob("state-*"))) == 3)
    # The first state was kept for the backup; now it is deleted.
    backup.close()
    await member.state_thread.run(lambda: None)
    gate.set()
    await asyncio.wait_for(receiving, 10.0)
    assert member.applied_index == 60
    await member.stop()
    assert await reopened(tmp_path) == 60


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), None], ids=["EIO", "directory"])
async def test_a_received_state_that_can_not_be_synced_ends_the_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    member = await Member.start(config(tmp_path), Silence())  # type: ignore[arg-type]
    message, chunks = Leader(member).message(30)
    syncs = 0

    def fail(*_: object) -> None:
        nonlocal syncs
        syncs += 1
        raise error or OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(*((os, "fdatasync") if error else (data_dir, "sync_directory")), fail)
    with pytest.raises((StorageError, OSError)):
        await member.snapshots.receive(message, arriving(chunks))
    reason = await asyncio.wait_for(member.failed(), 10.0)
    monkeypatch.undo()
    assert "Input/output error" in str(reason)
    assert syncs == 1, "a failed sync is never tried again"
    await member.stop()
    assert len(list(tmp_path.glob("state-*"))) == 1
