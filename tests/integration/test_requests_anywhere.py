"""Requests that arrive at a follower, leases that outlive leaders, and leadership that moves."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from kvclient import Client, KvClientError, LeaseNotFoundError, prefix
from kvclient.methods import MOVE_LEADER
from kvnode.pb import rpc_pb2
from kvnode.status import StatusCode
from kvtest.processes import ClusterProcesses
from kvtest.workload import check_kept, eventually, writing


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    """Three members for all tests here; whoever kills one starts it again."""
    with ClusterProcesses(tmp_path_factory.mktemp("shared"), 3) as members:
        yield members
        members.print_logs()


@pytest.fixture
def trio(shared: ClusterProcesses) -> Iterator[ClusterProcesses]:
    yield shared
    shared.start()


@pytest_asyncio.fixture
async def follower(trio: ClusterProcesses) -> AsyncIterator[Client]:
    """A client that knows one follower only."""
    member = (await asyncio.to_thread(trio.followers))[0]
    async with Client(member.client_url, timeout_s=10.0) as connected:
        yield connected


@pytest_asyncio.fixture
async def leader(trio: ClusterProcesses) -> AsyncIterator[Client]:
    """A client that knows the leader only."""
    member = await asyncio.to_thread(trio.leader)
    async with Client(member.client_url, timeout_s=10.0) as connected:
        yield connected


async def test_a_follower_reads_what_the_leader_has_just_acknowledged_and_the_other_way_round(
    leader: Client, follower: Client
) -> None:
    for number in range(50):
        for writer, reader in ((leader, follower), (follower, leader)):
            written = await writer.put("both", str(number))
            answer = await reader.range("both")
            assert answer.kvs[0].value == str(number).encode()
            assert answer.header.revision >= written.header.revision


async def test_every_kind_of_write_is_taken_by_a_follower(follower: Client, leader: Client) -> None:
    for name in "abc":
        await follower.put(f"kinds/{name}", name)
    done = await follower.txn(
        [],
        [rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"kinds/a"))],
    )
    assert done.succeeded
    assert (await follower.delete("kinds/b")).deleted == 1
    await follower.compact(done.header.revision)
    found = await leader.range(prefix("kinds/"))
    assert [record.key for record in found.kvs] == [b"kinds/c"]


async def test_many_writes_at_once_through_a_follower_are_all_done_once(
    follower: Client, leader: Client
) -> None:
    before = (await leader.range("x")).header.revision
    answers = await asyncio.gather(*(follower.put(f"burst/{n:04}", b"v" * 100) for n in range(500)))
    revisions = {answer.header.revision for answer in answers}
    assert len(revisions) == 500
    assert (await leader.range(prefix("burst/"), count_only=True)).count == 500
    assert max(revisions) == before + 500


async def test_a_lease_lives_by_keep_alives_through_a_follower_and_then_expires(
    follower: Client, leader: Client
) -> None:
    lease = await follower.lease.grant(2)
    await follower.put("leased", "v", lease_id=lease.ID)
    outlived_s = time.monotonic() + 4.0
    async with follower.lease.keep(lease.ID):
        await eventually(lambda: time.monotonic() > outlived_s, what="twice the TTL has passed")
        assert (await follower.lease.time_to_live(lease.ID, keys=True)).keys == [b"leased"]
        assert await leader.get("leased") is not None

    async def is_gone() -> bool:
        return await follower.get("leased") is None

    await eventually(is_gone, what="the key is gone with its lease", timeout_s=8.0)
    assert (await leader.lease.time_to_live(lease.ID)).TTL == -1
    with pytest.raises(LeaseNotFoundError):
        await leader.lease.revoke(lease.ID)


async def test_leases_expire_on_the_next_leader_too(trio: ClusterProcesses) -> None:
    async with Client(trio.endpoints, timeout_s=10.0) as client:
        short = await client.lease.grant(3)
        long = await client.lease.grant(600)
        await client.put("short", "v", lease_id=short.ID)
        await client.put("long", "v", lease_id=long.ID)
        killed = await asyncio.to_thread(trio.leader)
        killed.kill()

        async def is_gone() -> bool:
            return await client.get("short") is None

        await eventually(is_gone, what="the key of the short lease is gone", timeout_s=15.0)
        assert await client.get("long") is not None
        left = await client.lease.time_to_live(long.ID)
        assert (left.grantedTTL, left.TTL > 500) == (600, True)
        await asyncio.to_thread(killed.restart)
        # It was away while the lease expired: its own state says so as well.
        async with Client(killed.client_url) as back:
            assert await back.get("short") is None
        await client.lease.revoke(long.ID)


async def test_leadership_moves_under_writes_without_an_error(trio: ClusterProcesses) -> None:
    ids = [(await asyncio.to_thread(member.status)).header.member_id for member in trio]
    async with Client(trio.endpoints, timeout_s=10.0) as client, writing(trio.endpoints) as writers:
        for target in [*ids, *ids]:
            before = (await client.maintenance.status()).raftTerm
            if (await client.maintenance.status()).leader == target:
                continue
            await client.maintenance.move_leader(target)
            after = await client.maintenance.status()
            assert (after.leader, after.raftTerm) == (target, before + 1)
            for writer in writers:
                await writer.more(5)
    assert not [str(error) for writer in writers for error in writer.errors]
    gap_s = max(writer.longest_gap_s() for writer in writers)
    print(f"longest time without a write: {gap_s:.3f} s")
    async with Client(trio.endpoints) as client:
        await check_kept(client, writers)


async def test_only_the_leader_moves_leadership_and_only_to_a_voter(follower: Client, leader: Client) -> None:
    own = (await follower.maintenance.status()).header.member_id
    with pytest.raises(KvClientError, match="not leader") as caught:
        await follower.call(MOVE_LEADER, rpc_pb2.MoveLeaderRequest(targetID=own))
    assert caught.value.code is StatusCode.FAILED_PRECONDITION
    with pytest.raises(KvClientError, match="bad leader transferee"):
        await leader.call(MOVE_LEADER, rpc_pb2.MoveLeaderRequest(targetID=12345))


async def test_leadership_is_not_moved_to_a_dead_member_and_writes_do_not_wait_for_it(
    trio: ClusterProcesses,
) -> None:
    leader, dead = await asyncio.to_thread(trio.leader), (await asyncio.to_thread(trio.followers))[0]
    target = (await asyncio.to_thread(dead.status)).header.member_id
    async with Client(leader.client_url, timeout_s=10.0) as client, writing(trio.endpoints) as writers:
        dead.kill()

        async def is_refused() -> bool:
            with pytest.raises(KvClientError, match="unhealthy cluster") as caught:
                await client.call(MOVE_LEADER, rpc_pb2.MoveLeaderRequest(targetID=target))
            return caught.value.code is StatusCode.UNAVAILABLE

        begun_s = time.monotonic()
        for _ in range(20):
            assert await is_refused()
            for writer in writers:
                await writer.more(1)
        # Each refusal would cost an election timeout, which is a second, without writes.
        assert time.monotonic() - begun_s < 15.0
        await check_kept(client, writers)


async def test_without_a_quorum_writes_time_out_with_etcds_words(trio: ClusterProcesses) -> None:
    survivor = (await asyncio.to_thread(trio.followers))[0]
    for member in trio:
        if member is not survivor:
            member.kill()
    async with Client(survivor.client_url, timeout_s=20.0) as client:
        begun_s = time.monotonic()
        with pytest.raises(KvClientError, match="request timed out") as caught:
            await client.put("k", "v", timeout_s=20.0)
        assert caught.value.code is StatusCode.UNAVAILABLE
        # etcd's: 5 s plus twice the election timeout.
        assert 5.0 < time.monotonic() - begun_s < 10.0


async def test_a_watch_on_a_follower_sees_the_leaders_writes_in_order(
    leader: Client, follower: Client
) -> None:
    async with follower.watch(prefix("ordered/")) as watcher:
        for number in range(100):
            await leader.put(f"ordered/{number % 7}", str(number))
        seen: list[int] = []
        async with asyncio.timeout(20):
            while len(seen) < 100:
                seen += [int(event.kv.value) for event in (await anext(watcher)).events]
    assert seen == list(range(100))
