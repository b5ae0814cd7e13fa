"""What members do besides serving: compaction, defragmentation, quota, backups."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kvclient import Client, CompactedError, KvClientError, NoSpaceError, everything
from kvnode.pb import rpc_pb2
from kvtest.commands import run_kvctl
from kvtest.processes import ClusterProcesses
from kvtest.workload import check_kept, equal_hashes, eventually, writing

#: A member that looks at its revision every half second instead of every five minutes.
_PROGRAM = """
import sys
from kvnode.cli import main
from kvnode.server import auto_compaction

auto_compaction.REVISION_LOOK_S = 0.5
sys.exit(main())
"""
IMPATIENT = [sys.executable, "-c", _PROGRAM]

MakeCluster = Callable[..., ClusterProcesses]


async def test_compaction_and_restarts_leave_all_members_with_the_same_hash(
    trio: ClusterProcesses, client: Client
) -> None:
    for round_ in range(3):
        for number in range(60):
            await client.put(f"k{number % 20}", f"{round_} {number}")
            if number % 10 == 9:
                await client.delete(f"k{number % 7}")
        revision = (await client.range("x")).header.revision
        await client.compact(revision - 5)
        if round_ < 2:
            victim = list(trio)[round_]
            victim.kill()
            await asyncio.to_thread(victim.restart)
        before = await equal_hashes(trio)
    for member in trio:
        member.kill()
    await asyncio.to_thread(trio.start)
    assert await equal_hashes(trio) == before
    with pytest.raises(CompactedError):
        await client.get("k1", revision=revision - 6)
    await client.get("k1", revision=revision - 5)


async def test_a_physical_compaction_killed_half_way_is_finished_after_restart(cluster: MakeCluster) -> None:
    member = cluster(1)[0]
    async with Client(member.client_url, timeout_s=30.0) as client:
        for start in range(0, 6000, 500):
            await asyncio.gather(*(client.put(f"k{n % 50}", str(n)) for n in range(start, start + 500)))
        revision = (await client.range("x")).header.revision
        await client.compact(revision)
        member.kill()
        await asyncio.to_thread(member.restart)
        await client.put("k0", "after")
        assert (await client.range(everything(), count_only=True)).count == 50

        async def is_small() -> bool:
            return (await client.maintenance.status()).dbSizeInUse < 60 * 400

        await eventually(is_small, what="old revisions are gone from the state")


async def test_defragmentation_under_writes_loses_nothing_and_gives_space_back(
    trio: ClusterProcesses, client: Client
) -> None:
    for number in range(64):
        await client.put("large", bytes([number]) * 200_000)
    revision = (await client.range("x")).header.revision
    await client.compact(revision, is_physical=True)
    async with writing(trio.endpoints) as writers:
        for member in trio:
            await client.maintenance.defragment(member.client_url, timeout_s=30.0)
        for writer in writers:
            await writer.more(5)
    assert max(writer.longest_gap_s() for writer in writers) < 2.0
    assert not [str(error) for writer in writers for error in writer.errors]
    await check_kept(client, writers)
    await equal_hashes(trio)
    status = await client.maintenance.status()
    assert status.dbSize < 64 * 200_000 / 4
    assert status.dbSizeInUse <= status.dbSize


async def test_a_full_member_raises_the_alarm_and_is_freed_as_etcds_runbook_says(
    cluster: MakeCluster,
) -> None:
    trio = cluster(3, quota_backend_bytes=str(4 << 20), nospace_auto_disarm="false")
    async with Client(trio.endpoints, timeout_s=10.0) as client:

        async def fill() -> None:
            for number in range(200):
                await client.put("large", bytes([number]) * 200_000)

        with pytest.raises(NoSpaceError):
            await fill()

        async def is_alarmed() -> bool:
            return [a.alarm for a in (await client.maintenance.alarms()).alarms] == [rpc_pb2.NOSPACE]

        await eventually(is_alarmed, what="the NOSPACE alarm is raised")
        for member in trio:
            async with Client(member.client_url) as there:
                with pytest.raises(NoSpaceError):
                    await there.put("tiny", "v")
                assert await there.get("large") is not None
            assert (await asyncio.to_thread(member.http_get, "/health"))[0] == 503
        # Deleting and compacting make room, and are still allowed.
        await client.delete("large")
        revision = (await client.range("x")).header.revision
        await client.compact(revision, is_physical=True)
        for member in trio:
            await client.maintenance.defragment(member.client_url)
        for alarm in (await client.maintenance.alarms()).alarms:
            await client.maintenance.disarm(alarm)
        assert not (await client.maintenance.alarms()).alarms
        await client.put("tiny", "v")
        for member in trio:
            await asyncio.to_thread(member.wait_serving)


@pytest.mark.parametrize(
    ("mode", "retention"),
    [pytest.param("periodic", "1s", id="periodic"), pytest.param("revision", "20", id="revision")],
)
async def test_old_revisions_are_compacted_by_policy(cluster: MakeCluster, mode: str, retention: str) -> None:
    member = cluster(1, command=IMPATIENT, auto_compaction_mode=mode, auto_compaction_retention=retention)[0]
    async with Client(member.client_url) as client:
        for number in range(60):
            await client.put("k", str(number))

        async def is_compacted() -> bool:
            try:
                await client.get("k", revision=10)
            except CompactedError:
                return True
            return False

        await eventually(is_compacted, what="revision 10 is compacted", timeout_s=10.0)
        found = await client.get("k")
        assert found is not None
        assert found.value == b"59"


async def test_a_snapshot_under_writes_restores_into_a_cluster_of_three(
    cluster: MakeCluster, tmp_path: Path
) -> None:
    old = cluster(3, "old")
    saved = tmp_path / "snapshot"
    async with Client(old.endpoints) as client:
        async with writing(old.endpoints) as writers:
            for writer in writers:
                await writer.more(50)
            promised = [dict(writer.revisions) for writer in writers]
            done = await asyncio.to_thread(run_kvctl, [old[0].client_url], "snapshot", "save", str(saved))
            assert done.code == 0, done.error_text
        await client.close()
    new = cluster(3, "new", is_started=False)
    for member in new:
        done = await asyncio.to_thread(
            run_kvctl,
            [],
            "snapshot",
            "restore",
            str(saved),
            f"--data-dir={member.data_dir}",
            f"--name={member.name}",
            f"--initial-cluster={member.flags['initial-cluster']}",
            f"--initial-advertise-peer-urls={member.peer_url}",
            "--initial-cluster-token=new",
        )
        assert done.code == 0, done.error_text
    await asyncio.to_thread(new.start)
    for writer, revisions in zip(writers, promised, strict=True):
        # What was acknowledged before the save began is in it; later writes may be.
        writer.revisions = revisions
    async with Client(new.endpoints) as client:
        await check_kept(client, writers)
        await client.put("after", "restore")
    await equal_hashes(new)


async def test_the_log_is_cut_and_a_restart_needs_only_its_end(cluster: MakeCluster) -> None:
    member = cluster(1, snapshot_count="50", snapshot_catchup_entries="20")[0]
    async with Client(member.client_url) as client:
        for number in range(400):
            await client.put(f"k{number % 10}", str(number))
        assert "compacted the log" in member.log_text
        member.kill()
        await asyncio.to_thread(member.restart)
        found = await client.get("k9")
        assert found is not None
        assert found.value == b"399"


async def test_a_compaction_of_the_future_is_refused_alike_by_every_member(
    trio: ClusterProcesses,
) -> None:
    for member in trio:
        async with Client(member.client_url) as client:
            with pytest.raises(KvClientError, match="required revision is a future revision"):
                await client.compact(1 << 40)
