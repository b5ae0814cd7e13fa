"""Disks that stall, fail and fill up under real processes."""

import asyncio
import time
from collections.abc import Callable

import pytest
from kvclient import Client, KvClientError, NoSpaceError, prefix
from kvnode.pb import rpc_pb2
from kvtest import faulty_disk
from kvtest.processes import ClusterProcesses, MemberProcess
from kvtest.workload import Writer, check_kept, equal_hashes, eventually, writing

MakeCluster = Callable[..., ClusterProcesses]


async def readyz(member: MemberProcess) -> tuple[int, str]:
    return await asyncio.to_thread(member.http_get, "/readyz?verbose")


async def metric(member: MemberProcess, name: str) -> float:
    _, text = await asyncio.to_thread(member.http_get, "/metrics")
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


async def leader_of(trio: ClusterProcesses) -> MemberProcess:
    return await asyncio.to_thread(trio.leader)


async def test_a_leader_whose_disk_stalls_hands_over_and_comes_back_by_itself(cluster: MakeCluster) -> None:
    trio = cluster(3, command=faulty_disk.COMMAND, disk_stall_timeout="500ms")
    old = await leader_of(trio)
    others = [member for member in trio if member is not old]
    async with Client([member.client_url for member in others]) as client:
        async with writing([member.client_url for member in others]) as writers:
            for writer in writers:
                await writer.more(10)
            faulty_disk.stall(old.data_dir)

            async def is_deposed() -> bool:
                return (await metric(others[0], "etcd_server_is_leader")) + (
                    await metric(others[1], "etcd_server_is_leader")
                ) == 1

            await eventually(is_deposed, what="another member leads")
            status, checks = await readyz(old)
            assert status == 503
            assert "[-]disk_io failed: a write to the disk has been under way for" in checks
            assert (await asyncio.to_thread(old.http_get, "/health"))[0] == 503
            assert (await asyncio.to_thread(old.http_get, "/livez"))[0] == 200
            assert await metric(old, "kvnode_disk_stalled") == 1
            assert "the disk has stalled" in old.log_text
            async with Client(old.client_url, timeout_s=2.0) as there:
                for refused in (there.put("k", "v"), there.get("k")):
                    with pytest.raises(KvClientError, match="disk stalled"):
                        await refused
                assert (await there.range("k", is_serializable=True)).count == 0
            for writer in writers:
                await writer.more(20)
            faulty_disk.heal(old.data_dir)
            await asyncio.to_thread(old.wait_serving)
            assert (await readyz(old))[0] == 200
            assert await metric(old, "kvnode_disk_stalled") == 0
            assert await metric(old, "kvnode_disk_stalls_total") == 1
            assert "the disk answers again" in old.log_text
        await check_kept(client, writers)
        assert not [str(error) for writer in writers for error in writer.errors]
    await equal_hashes(trio)


async def test_a_frozen_process_does_not_take_its_own_absence_for_a_stall(cluster: MakeCluster) -> None:
    trio = cluster(3, command=faulty_disk.COMMAND, disk_stall_timeout="1s")
    leader = await leader_of(trio)
    async with Client(leader.client_url) as client:
        faulty_disk.stall(leader.data_dir)
        pending = asyncio.create_task(client.put("k", "v"))

        async def is_under_way() -> bool:
            return await metric(leader, "etcd_server_proposals_pending") >= 1

        await eventually(is_under_way, what="the write waits for the disk")
        leader.pause()
        continued_s = time.monotonic() + 3.0  # the fault itself: the process is away for so long
        await eventually(lambda: time.monotonic() > continued_s, what="three seconds pass")
        faulty_disk.heal(leader.data_dir)
        leader.resume()
        await asyncio.to_thread(leader.wait_serving)
        assert await metric(leader, "kvnode_disk_stalls_total") == 0
        pending.cancel()


async def ends_and_returns(trio: ClusterProcesses, member: MemberProcess, writers: list[Writer]) -> None:
    assert await asyncio.to_thread(member.wait_exit) == 1
    assert "sync failed: injected" in member.log_tail
    assert member.log_text.count(" fails\n") == 1, "the sync was tried again"
    faulty_disk.heal(member.data_dir)
    await asyncio.to_thread(member.restart)
    for writer in writers:
        await writer.more(10)


async def test_a_failed_sync_of_the_log_or_the_state_ends_a_member_at_once(cluster: MakeCluster) -> None:
    trio = cluster(3, command=faulty_disk.COMMAND, snapshot_count="20", snapshot_catchup_entries="10")
    for database in ("log", "state"):
        leader = await leader_of(trio)
        leader.log_path.write_text("")
        async with Client(trio.endpoints) as client:
            async with writing(trio.endpoints) as writers:
                for writer in writers:
                    await writer.more(5)
                faulty_disk.fail_sync(leader.data_dir, database)
                await ends_and_returns(trio, leader, writers)
            await check_kept(client, writers)
    await equal_hashes(trio)


async def alarms(client: Client) -> list[int]:
    return [alarm.alarm for alarm in (await client.maintenance.alarms()).alarms]


async def refused_for_want_of_room(client: Client) -> bool:
    try:
        await client.put("tiny", "v")
    except NoSpaceError:
        return True
    return False


async def is_served(client: Client) -> bool:
    return not await alarms(client) and not await refused_for_want_of_room(client)


async def test_the_alarm_of_a_full_quota_ends_by_itself_once_there_is_room(cluster: MakeCluster) -> None:
    trio = cluster(3, quota_backend_bytes=str(4 << 20))
    async with Client(trio.endpoints) as client:

        async def fill() -> None:
            for number in range(200):
                await client.put(f"large{number}", bytes([number]) * 200_000)

        with pytest.raises(NoSpaceError):
            await fill()

        async def is_alarmed() -> bool:
            return rpc_pb2.NOSPACE in await alarms(client)

        await eventually(is_alarmed, what="the NOSPACE alarm is raised")
        assert await refused_for_want_of_room(client)
        assert await client.get("large0") is not None
        await client.delete(prefix("large"))
        # What is deleted can be read at older revisions until a compaction: there is no room yet.
        assert await refused_for_want_of_room(client)
        await client.compact((await client.range("x")).header.revision)
        await eventually(lambda: is_served(client), what="the alarm is over, and writes are served")


async def test_a_disk_that_is_nearly_full_keeps_room_for_deletions(cluster: MakeCluster) -> None:
    trio = cluster(3, command=faulty_disk.COMMAND)
    async with Client(trio.endpoints) as client:
        await client.put("k", "v")
        faulty_disk.leave_room(trio[1].data_dir, 100 << 20)
        await eventually(lambda: refused_for_want_of_room(client), what="writes are refused")
        assert (await client.maintenance.alarms()).alarms[0].memberID == (
            await asyncio.to_thread(trio[1].status)
        ).header.member_id
        assert await client.get("k") is not None
        assert await client.delete("k") is not None
        assert await metric(trio[1], "kvnode_disk_free_bytes") == 100 << 20
        # Not enough to be sure that it lasts.
        faulty_disk.leave_room(trio[1].data_dir, 150 << 20)

        async def has_looked() -> bool:
            return await metric(trio[1], "kvnode_disk_free_bytes") == 150 << 20

        await eventually(has_looked, what="the member has seen that there is more room")
        assert await refused_for_want_of_room(client)
        faulty_disk.leave_room(trio[1].data_dir, 1 << 30)
        await eventually(lambda: is_served(client), what="the alarm is over, and writes are served")


async def test_a_disk_without_any_room_ends_a_member_and_loses_nothing(cluster: MakeCluster) -> None:
    trio = cluster(3, command=faulty_disk.COMMAND)
    leader = await leader_of(trio)
    async with Client(trio.endpoints) as client:
        async with writing(trio.endpoints) as writers:
            for writer in writers:
                await writer.more(5)
            faulty_disk.fill(leader.data_dir)
            assert await asyncio.to_thread(leader.wait_exit) == 1
            assert "No space left on device" in leader.log_tail
            for writer in writers:
                await writer.more(10)
            faulty_disk.heal(leader.data_dir)
            await asyncio.to_thread(leader.restart)
        await check_kept(client, writers)
    await equal_hashes(trio)
