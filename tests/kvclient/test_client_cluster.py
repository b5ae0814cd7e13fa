"""Membership, leadership and snapshots through the library, on a real cluster."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import pytest
from kvclient import Client, KvClientError, LearnerNotReadyError, MemberNotFoundError, UnhealthyClusterError
from kvclient.snapshot_file import save_snapshot
from kvtest.processes import ClusterProcesses

T = TypeVar("T")

DEADLINE_S = 40.0

# A learner lags, or the members have not been connected for long enough yet.
NOT_YET = (LearnerNotReadyError, UnhealthyClusterError)


async def allowed(change: Callable[[], Awaitable[T]]) -> T:
    """The change's answer, asked for until the members have been connected for long enough."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await change()
            except NOT_YET:
                await asyncio.sleep(0.1)


async def test_a_member_is_added_as_learner_promoted_and_removed(tmp_path: Path) -> None:
    with ClusterProcesses(tmp_path) as cluster:
        async with Client(cluster.endpoints) as client:
            joining = cluster.new_member()
            added = await client.cluster.add_member([joining.peer_url], is_learner=True)
            member_id = added.member.ID
            assert added.member.isLearner
            with pytest.raises(NOT_YET):
                await client.cluster.promote_member(member_id)
            joining.start()
            await asyncio.to_thread(joining.wait_listening)
            promoted = await allowed(lambda: client.cluster.promote_member(member_id))
            assert [member.isLearner for member in promoted.members] == [False, False]
            await asyncio.to_thread(joining.wait_serving)
            removed = await allowed(lambda: client.cluster.remove_member(member_id))
            assert len(removed.members) == 1
            with pytest.raises(MemberNotFoundError):
                await client.cluster.remove_member(member_id)


async def test_a_members_peer_urls_can_be_changed(tmp_path: Path) -> None:
    with ClusterProcesses(tmp_path) as cluster:
        async with Client(cluster.endpoints) as client:
            added = await client.cluster.add_member(["http://127.0.0.1:1"], is_learner=True)
            await client.cluster.update_member(added.member.ID, ["http://127.0.0.1:2"])
            listed = await client.cluster.list_members()
            urls = {member.ID: list(member.peerURLs) for member in listed.members}
            assert urls[added.member.ID] == ["http://127.0.0.1:2"]


async def test_leadership_moves_whichever_endpoint_the_client_knows(trio: ClusterProcesses) -> None:
    leader = trio.leader()
    follower, other = trio.followers()
    target_id = follower.status().header.member_id
    async with Client(other.client_url) as client:
        moved = await client.maintenance.move_leader(target_id, timeout_s=DEADLINE_S)
    assert moved.from_id == leader.status().header.member_id
    assert trio.leader() is follower


async def test_leadership_does_not_move_to_a_stranger(trio: ClusterProcesses) -> None:
    async with Client(trio.endpoints) as client:
        with pytest.raises(KvClientError, match="bad leader transferee"):
            await client.maintenance.move_leader(4711)


async def test_members_agree_on_the_hash_of_their_history(trio: ClusterProcesses, space: str) -> None:
    async with Client(trio.endpoints) as client:
        put = await client.put(space + "k", "v")
        hashes = []
        for endpoint in trio.endpoints:
            # A follower may still be behind; a linearizable read there waits for it.
            async with Client(endpoint) as alone:
                await alone.get(space + "k")
            response = await client.maintenance.hash_kv(endpoint, revision=put.header.revision)
            hashes.append((response.hash, response.compact_revision))
    assert len(set(hashes)) == 1


async def test_a_member_can_be_asked_that_the_client_was_not_given(trio: ClusterProcesses) -> None:
    async with Client(trio.endpoints[:1]) as client:
        status = await client.maintenance.status(trio.endpoints[1])
    assert status.header.member_id == trio[1].status().header.member_id


async def test_a_member_can_be_defragmented_and_has_no_alarm(trio: ClusterProcesses) -> None:
    async with Client(trio.endpoints) as client:
        await client.maintenance.defragment(trio.endpoints[0], timeout_s=DEADLINE_S)
        assert not (await client.maintenance.alarms()).alarms


async def test_a_snapshot_ends_in_its_checksum(client: Client, space: str) -> None:
    await client.put(space + "k", b"x" * 100_000)
    digest = hashlib.sha256()
    chunks = []
    async with aclosing(client.maintenance.snapshot()) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            if not chunk.is_digest:
                digest.update(chunk.data)
    assert [chunk.is_digest for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].data == digest.digest()


async def test_a_saved_snapshot_is_whole_and_leaves_no_part_behind(
    client: Client, space: str, tmp_path: Path
) -> None:
    await client.put(space + "k", b"x" * 100_000)
    reports: list[tuple[int, int]] = []
    target = tmp_path / "snapshot"
    target.write_bytes(b"an older one")
    saved = await save_snapshot(client, target, on_progress=lambda *report: reports.append(report))
    data = target.read_bytes()
    assert list(tmp_path.iterdir()) == [target]
    assert (saved.size_bytes, saved.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    # etcdctl refuses files of any other size.
    assert len(data) % 512 == 32
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    assert reports[-1] == (len(data), 0)


async def test_a_failed_save_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "snapshot"
    target.write_bytes(b"an older one")
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(KvClientError):
            await save_snapshot(client, target)
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]
    assert target.read_bytes() == b"an older one"
