"""Members that join, are promoted, leave, and come back with an empty disk."""

import asyncio
from collections.abc import Callable

import pytest
from kvclient import Client, KvClientError, LearnerNotReadyError, UnhealthyClusterError
from kvclient.errors import MemberNotFoundError
from kvtest.processes import ClusterProcesses, MemberProcess
from kvtest.workload import check_kept, equal_hashes, eventually, writing

MakeCluster = Callable[..., ClusterProcesses]

REMOVED, LOST = 12, 10


@pytest.fixture
def trio(cluster: MakeCluster) -> ClusterProcesses:
    """Three members that allow a change before they have been connected for five seconds.

    That rule is kept in the first test below.
    """
    return cluster(3, strict_reconfig_check="false")


async def id_of(member: MemberProcess) -> int:
    return (await asyncio.to_thread(member.status)).header.member_id


async def until_healthy(change: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Carry out a change of membership once all members are connected for long enough to allow it."""

    async def accepted() -> bool:
        result = change()
        assert asyncio.iscoroutine(result)
        try:
            await result
        except (UnhealthyClusterError, LearnerNotReadyError):
            return False
        return True

    await eventually(accepted, what="the change is allowed", timeout_s=timeout_s)


async def replace(cluster: ClusterProcesses, client: Client, gone: MemberProcess) -> None:
    """Remove a dead member and bring it back, on an empty disk, as a new one."""
    former = next(m for m in (await client.cluster.list_members()).members if m.name == gone.name)
    gone.wipe()
    await until_healthy(lambda: client.cluster.remove_member(former.ID))
    await until_healthy(lambda: client.cluster.add_member([gone.peer_url], is_learner=True))
    gone.flags["initial-cluster-state"] = "existing"
    gone.start()
    added = next(m for m in (await client.cluster.list_members()).members if gone.peer_url in m.peerURLs)
    assert added.ID != former.ID
    await until_healthy(lambda: client.cluster.promote_member(added.ID))
    await asyncio.to_thread(gone.wait_serving)


async def test_a_cluster_grows_by_a_learner_and_shrinks_by_its_leader_under_writes(
    cluster: MakeCluster,
) -> None:
    trio = cluster(3, snapshot_count="10", snapshot_catchup_entries="5")
    async with Client(trio.endpoints, timeout_s=10.0) as client, writing(trio.endpoints) as writers:
        for writer in writers:
            await writer.more(30)
        leader = await asyncio.to_thread(trio.leader)
        joining = trio.new_member()
        await until_healthy(lambda: client.cluster.add_member([joining.peer_url], is_learner=True))
        listed = (await client.cluster.list_members()).members
        added = next(member for member in listed if joining.peer_url in member.peerURLs)
        assert added.isLearner
        assert not added.name
        with pytest.raises(LearnerNotReadyError):
            await client.cluster.promote_member(added.ID)
        joining.start()
        await until_healthy(lambda: client.cluster.promote_member(added.ID))
        await asyncio.to_thread(joining.wait_serving)
        # The others cut their logs long ago: only a snapshot can have brought it here.
        assert "snapshot" in joining.log_text
        for writer in writers:
            await writer.more(10)
        leader_id = await id_of(leader)
        await until_healthy(lambda: client.cluster.remove_member(leader_id))
        assert await asyncio.to_thread(leader.wait_exit) == REMOVED
        for writer in writers:
            await writer.more(10)
        members = (await client.cluster.list_members()).members
        assert {member.name for member in members} == {m.name for m in trio if m is not leader}
        assert not any(member.isLearner for member in members)
    async with Client([m.client_url for m in trio if m.is_running]) as client:
        await check_kept(client, writers)
    await equal_hashes(trio)


async def test_one_member_becomes_three_and_one_again(cluster: MakeCluster) -> None:
    members = cluster(1, strict_reconfig_check="false")
    async with Client(members.endpoints, timeout_s=10.0) as client, writing(members.endpoints) as writers:
        for _ in range(2):
            joining = members.new_member()
            await until_healthy(
                lambda url=joining.peer_url: client.cluster.add_member([url], is_learner=True)
            )
            joining.start()
            listed = (await client.cluster.list_members()).members
            added = next(member for member in listed if joining.peer_url in member.peerURLs)
            await until_healthy(lambda member=added: client.cluster.promote_member(member.ID))
            await asyncio.to_thread(joining.wait_serving)
        await equal_hashes(members)
        for leaving in members.members[1:]:
            leaving_id = await id_of(leaving)
            await until_healthy(lambda member=leaving_id: client.cluster.remove_member(member))
            assert await asyncio.to_thread(leaving.wait_exit) == REMOVED
        for writer in writers:
            await writer.more(10)
        await check_kept(client, writers)


async def test_a_member_added_as_a_voter_at_once_joins_too(trio: ClusterProcesses, client: Client) -> None:
    await client.put("k", "v")
    joining = trio.new_member()
    await until_healthy(lambda: client.cluster.add_member([joining.peer_url]))
    joining.start()
    await asyncio.to_thread(joining.wait_serving)
    await equal_hashes(trio)


async def test_a_removed_member_exits_and_stays_out_over_restarts(
    trio: ClusterProcesses, client: Client
) -> None:
    gone = (await asyncio.to_thread(trio.followers))[0]
    gone_id = await id_of(gone)
    await until_healthy(lambda: client.cluster.remove_member(gone_id))
    assert await asyncio.to_thread(gone.wait_exit) == REMOVED
    for _ in range(2):
        gone.start()
        assert await asyncio.to_thread(gone.wait_exit) == REMOVED
        assert f"{gone_id:x} was removed" in gone.log_tail
    with pytest.raises(MemberNotFoundError):
        await client.cluster.remove_member(gone_id)


async def test_a_member_carries_out_its_own_removal_and_answers(trio: ClusterProcesses) -> None:
    for gone in await asyncio.to_thread(trio.followers):
        async with Client(gone.client_url, timeout_s=10.0) as client:
            gone_id = await id_of(gone)
            await until_healthy(lambda client=client, member=gone_id: client.cluster.remove_member(member))
        assert await asyncio.to_thread(gone.wait_exit) == REMOVED


async def test_a_member_removed_while_it_was_down_exits_when_it_comes_back(
    trio: ClusterProcesses, client: Client
) -> None:
    gone = (await asyncio.to_thread(trio.followers))[0]
    gone_id = await id_of(gone)
    gone.kill()
    await until_healthy(lambda: client.cluster.remove_member(gone_id))
    gone.start()
    assert await asyncio.to_thread(gone.wait_exit) == REMOVED


@pytest.mark.parametrize("state", ["new", "existing"])
async def test_a_member_whose_disk_was_wiped_refuses_to_start(trio: ClusterProcesses, state: str) -> None:
    wiped = (await asyncio.to_thread(trio.followers))[0]
    wiped.kill()
    wiped.wipe()
    wiped.flags["initial-cluster-state"] = state
    wiped.start()
    assert await asyncio.to_thread(wiped.wait_exit) == LOST
    assert "disk was lost" in wiped.log_tail
    # It left nothing behind that could make the next start look like a healthy one.
    wiped.start()
    assert await asyncio.to_thread(wiped.wait_exit) == LOST


async def test_a_wiped_leader_comes_back_as_a_new_member_under_writes(
    trio: ClusterProcesses, client: Client
) -> None:
    async with writing(trio.endpoints) as writers:
        for writer in writers:
            await writer.more(20)
        leader = await asyncio.to_thread(trio.leader)
        leader.kill()
        await replace(trio, client, leader)
        for writer in writers:
            await writer.more(10)
    await check_kept(client, writers)
    await equal_hashes(trio)


async def test_the_only_member_whose_disk_is_gone_starts_no_empty_cluster_as_existing(
    cluster: MakeCluster,
) -> None:
    member = cluster(1, is_started=False)[0]
    member.flags["initial-cluster-state"] = "existing"
    member.start()
    assert await asyncio.to_thread(member.wait_exit) == LOST


async def test_changes_of_membership_are_taken_by_any_member(trio: ClusterProcesses) -> None:
    follower = (await asyncio.to_thread(trio.followers))[0]
    joining = trio.new_member()
    async with Client(follower.client_url, timeout_s=10.0) as client:
        await until_healthy(lambda: client.cluster.add_member([joining.peer_url], is_learner=True))
        listed = (await client.cluster.list_members()).members
        added = next(member for member in listed if joining.peer_url in member.peerURLs)
        with pytest.raises(KvClientError, match="Peer URLs already exists"):
            await client.cluster.add_member([joining.peer_url])
        joining.start()
        await until_healthy(lambda: client.cluster.promote_member(added.ID))
        await until_healthy(lambda: client.cluster.remove_member(added.ID))
        assert await asyncio.to_thread(joining.wait_exit) == REMOVED
        assert len((await client.cluster.list_members()).members) == 3


async def test_a_member_that_moved_is_found_at_its_new_peer_url(
    trio: ClusterProcesses, client: Client
) -> None:
    moved = (await asyncio.to_thread(trio.followers))[0]
    moved_id = await id_of(moved)
    moved.kill()
    spare = trio.new_member()
    trio.members.remove(spare)
    for flag in ("listen-peer-urls", "initial-advertise-peer-urls"):
        moved.flags[flag] = spare.peer_url
    await client.cluster.update_member(moved_id, [spare.peer_url])
    await client.put("k", "while it moved")
    moved.start()
    await asyncio.to_thread(moved.wait_serving)
    assert await id_of(moved) == moved_id
    await equal_hashes(trio)


async def test_a_member_that_was_away_for_long_gets_a_snapshot_under_writes(cluster: MakeCluster) -> None:
    trio = cluster(3, snapshot_count="10", snapshot_catchup_entries="5")
    away = (await asyncio.to_thread(trio.followers))[0]
    present = [member.client_url for member in trio if member is not away]
    async with writing(present) as writers:
        for _ in range(3):
            away.kill()
            leader = await asyncio.to_thread(trio.leader)
            known = (await asyncio.to_thread(leader.status)).raftIndex

            def is_let_go(leader: MemberProcess = leader, known: int = known) -> bool:
                return leader.compacted_index > known

            await eventually(is_let_go, what="the log of the time before it went is gone")
            await asyncio.to_thread(away.restart)
        for writer in writers:
            await writer.more(10)
    assert away.log_text.count("continues from the leader's snapshot") >= 3
    async with Client(away.client_url) as client:
        await check_kept(client, writers)
    await equal_hashes(trio)
