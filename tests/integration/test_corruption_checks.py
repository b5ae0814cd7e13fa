"""Data that differ between members are found, and the member that holds them is named."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from kvclient import Client
from kvnode.pb import rpc_pb2
from kvnode.server.errors import ExitCode
from kvnode.storage.data_dir import DataDirectory
from kvnode.storage.engines import DiskEngines
from kvnode.storage.keyspace import revision_key
from kvnode.storage.seal import FIRST_REVISION, read_seal, seal_record
from kvtest.processes import ClusterProcesses
from kvtest.workload import eventually

MakeCluster = Callable[..., ClusterProcesses]


def spoil(directory: Path) -> None:
    """Change the value of the first key that was written in a stopped member's state."""
    data = DataDirectory(directory, DiskEngines())
    data.check()
    opened = data.open()
    engine = opened.state_engine
    key, record = next(iter(engine.iterate(revision_key(FIRST_REVISION + 1, 0))))
    assert b"right" in record
    batch = engine.batch()
    batch.put(key, record.replace(b"right", b"wrong"))
    engine.write(batch, sync=True)
    opened.close()
    data.close()


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({"corrupt_check_time": "500ms"}, id="everything"),
        pytest.param(
            {"feature_gates": "CompactHashCheck=true", "compact_hash_check_time": "500ms"}, id="compacted"
        ),
    ],
)
async def test_the_leader_raises_the_alarm_for_the_member_whose_data_differ(
    cluster: MakeCluster, flags: dict[str, str]
) -> None:
    trio = cluster(3, **flags)
    async with Client(trio.endpoints, timeout_s=10.0) as client:
        for number in range(20):
            await client.put(f"k{number}", "right")
        follower = (await asyncio.to_thread(trio.followers))[0]
        member_id = (await asyncio.to_thread(follower.status)).header.member_id
        assert not (await client.maintenance.alarms()).alarms
        await asyncio.to_thread(follower.terminate)
        spoil(follower.data_dir)
        await asyncio.to_thread(follower.start)
        await client.compact((await client.put("k", "right")).header.revision)

        async def is_named() -> bool:
            alarms = (await client.maintenance.alarms()).alarms
            return [(a.memberID, a.alarm) for a in alarms] == [(member_id, rpc_pb2.CORRUPT)]

        await eventually(is_named, what="the CORRUPT alarm names the member")
        assert await asyncio.to_thread(follower.wait_exit) == ExitCode.DAMAGED
        await client.put("k", "the others go on")
        assert (await client.get("k")) is not None


def diverge(directory: Path) -> None:
    """Let a stopped member have applied something else than the others."""
    data = DataDirectory(directory, DiskEngines())
    data.check()
    opened = data.open()
    engine = opened.state_engine
    seal = read_seal(engine)
    batch = engine.batch()
    batch.put(*seal_record(*seal._replace(rolling_hash=seal.rolling_hash ^ 1)))
    engine.write(batch, sync=True)
    opened.close()
    data.close()


async def test_a_member_that_applied_something_else_ends_and_can_be_replaced(cluster: MakeCluster) -> None:
    trio = cluster(3, rolling_hash_check_time="200ms")
    async with Client(trio.endpoints, timeout_s=10.0) as client:
        for number in range(200):
            await client.put(f"k{number}", "right")
        follower = (await asyncio.to_thread(trio.followers))[0]
        member_id = (await asyncio.to_thread(follower.status)).header.member_id
        await asyncio.to_thread(follower.restart, is_clean=True)
        assert not (await client.maintenance.alarms()).alarms, "they agree, over a restart too"
        await asyncio.to_thread(follower.terminate)
        diverge(follower.data_dir)
        await asyncio.to_thread(follower.start)

        async def has_ended() -> bool:
            await client.put("k", "more for the log")
            return not follower.is_running

        await eventually(has_ended, what="the member ends")
        assert follower.returncode == ExitCode.DAMAGED
        assert "the CORRUPT alarm names it" in follower.log_tail
        assert [(a.memberID, a.alarm) for a in (await client.maintenance.alarms()).alarms] == [
            (member_id, rpc_pb2.CORRUPT)
        ]
        for member in trio:
            if member is not follower:
                assert (await asyncio.to_thread(member.http_get, "/health"))[0] == 200
                assert (await asyncio.to_thread(member.http_get, "/readyz"))[0] == 200
        # It does not come back by itself: only its removal ends the alarm, or an operator who knows better.
        await asyncio.to_thread(follower.start)
        assert await asyncio.to_thread(follower.wait_exit) == ExitCode.DAMAGED
        await client.cluster.remove_member(member_id)

        async def is_quiet() -> bool:
            return not (await client.maintenance.alarms()).alarms

        await eventually(is_quiet, what="the alarm of the removed member is gone")


async def test_a_member_with_other_data_does_not_serve_if_it_is_told_to_check(cluster: MakeCluster) -> None:
    trio = cluster(3, initial_corrupt_check="true")
    async with Client(trio.endpoints, timeout_s=10.0) as client:
        for number in range(20):
            await client.put(f"k{number}", "right")
        follower = (await asyncio.to_thread(trio.followers))[0]
        await asyncio.to_thread(follower.restart, is_clean=True)
        await asyncio.to_thread(follower.terminate)
        spoil(follower.data_dir)
        await asyncio.to_thread(follower.start)
        assert await asyncio.to_thread(follower.wait_exit) == ExitCode.DAMAGED
        assert "data differ from those of member" in follower.log_text
        await client.put("k", "served by the others")
