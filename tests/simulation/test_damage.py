"""A real member whose database is damaged while it runs stops with status 13, whoever meets the damage."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from kvnode.apply.commands import CommandKind
from kvnode.apply.range_read import execute_range
from kvnode.cli.failures import explain
from kvnode.mvcc.watch import WatchSpec
from kvnode.pb import rpc_pb2 as rpc
from kvnode.server.config import NodeConfig
from kvnode.server.errors import ExitCode
from kvnode.server.member import Member
from kvnode.storage.errors import StorageCorruptError
from kvtest.local_member import local_config
from kvtest.silence import Silence

KEYS = [b"key%03d" % number for number in range(100)]


class Deaf:
    """Takes whatever a watch delivers."""

    def deliver(self, watcher: object, revision: int, batch: object) -> bool:
        return True

    def compacted(self, watcher: object, compact_revision: int) -> None:
        pass


async def read(member: Member) -> None:
    for key in KEYS:
        execute_range(member.applier.store, rpc.RangeRequest(key=key))


async def watch(member: Member) -> None:
    member.hub.create(WatchSpec(b"key", b"kez", start_revision=2), Deaf())
    while member.hub.catch_up():
        pass


async def back_up(member: Member) -> None:
    async for _ in member.snapshot_stream():
        pass


async def compare(member: Member) -> None:
    await member.hash_kv(0)


async def started(config: NodeConfig) -> Member:
    member = await Member.start(config, Silence())  # type: ignore[arg-type]
    async with asyncio.timeout(30.0):
        await member.ready()
    return member


@pytest.mark.parametrize("meet", [read, watch, back_up, compare])
async def test_a_member_that_reads_damage_stops_with_its_status(
    tmp_path: Path, meet: Callable[[Member], Awaitable[None]]
) -> None:
    config = local_config(data_dir=tmp_path / "data")
    member = await started(config)
    for key in KEYS:
        put = rpc.PutRequest(key=key, value=key * 50)
        await member.proposed(CommandKind.PUT, put.SerializeToString())
    await member.defragment()
    await member.stop()
    # Started again it has read everything once and keeps no record in memory.
    member = await started(config)
    for table in (tmp_path / "data").rglob("state*/*.ldb"):
        data = bytearray(table.read_bytes())
        for at in range(50, len(data) // 2, 100):
            data[at] ^= 1
        with open(table, "r+b") as file:  # in place: the member has it open
            file.write(data)
    with pytest.raises(StorageCorruptError):
        await meet(member)
    async with asyncio.timeout(10.0):
        error = await member.failed()
    await member.stop()
    assert explain(error).exit_code == ExitCode.DAMAGED
