"""Leases on real members: what is left of them when leadership moves, and many at once."""

import asyncio
from collections.abc import Iterator

import grpc
from kvclient import Client, everything
from kvnode.pb import rpc_pb2 as pb
from kvtest.processes import ClusterProcesses, MemberProcess
from kvtest.workload import equal_hashes, eventually


async def lead(trio: ClusterProcesses, client: Client) -> MemberProcess:
    """Let another member lead; returns it."""
    old = await asyncio.to_thread(trio.leader)
    new = next(member for member in trio if member is not old)
    status = await asyncio.to_thread(new.status)
    await client.maintenance.move_leader(status.header.member_id)
    return new


async def left_s(client: Client, lease_id: int) -> int:
    return (await client.lease.time_to_live(lease_id)).TTL


async def test_a_lease_keeps_its_remaining_time_when_leadership_is_handed_over(
    trio: ClusterProcesses, client: Client
) -> None:
    lease_id = (await client.lease.grant(30)).ID

    async def has_aged() -> bool:
        return await left_s(client, lease_id) <= 26

    await eventually(has_aged, what="some of the lease's time has passed")
    await lead(trio, client)
    # An election timeout is added, as clients could not renew during an election.
    assert await left_s(client, lease_id) <= 27

    assert (await client.lease.keep_alive_once(lease_id)).TTL == 30
    await lead(trio, client)
    assert 29 <= await left_s(client, lease_id) <= 31, "the renewal took back what was logged before"


async def test_a_stopped_leader_leaves_the_remaining_time_to_the_next(
    trio: ClusterProcesses, client: Client
) -> None:
    lease_id = (await client.lease.grant(600)).ID

    async def has_aged() -> bool:
        return await left_s(client, lease_id) <= 596

    await eventually(has_aged, what="some of the lease's time has passed")
    old = await asyncio.to_thread(trio.leader)
    await asyncio.to_thread(old.terminate)
    assert await left_s(client, lease_id) <= 597


def keep_alive_all(url: str, lease_ids: list[int]) -> list[int]:
    """Renew each lease once on one stream, all requests sent before the first answer is read."""

    def requests() -> Iterator[bytes]:
        for lease_id in lease_ids:
            yield pb.LeaseKeepAliveRequest(ID=lease_id).SerializeToString()

    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        call = channel.stream_stream("/etcdserverpb.Lease/LeaseKeepAlive")
        answers = [pb.LeaseKeepAliveResponse.FromString(a) for a in call(requests(), timeout=10.0)]
    assert [answer.ID for answer in answers] == lease_ids
    return [answer.TTL for answer in answers]


async def test_a_stream_renews_a_thousand_leases_in_order_on_every_member(
    trio: ClusterProcesses, client: Client
) -> None:
    lease_ids = [1000 + number for number in range(1000)]
    for start in range(0, 1000, 100):
        await asyncio.gather(
            *(client.lease.grant(60, lease_id=lease_id) for lease_id in lease_ids[start : start + 100])
        )
    await client.lease.revoke(1500)
    expected = [0 if lease_id == 1500 else 60 for lease_id in lease_ids]
    for member in trio:
        assert await asyncio.to_thread(keep_alive_all, member.client_url, lease_ids) == expected


async def test_many_leases_that_expire_together_leave_the_members_equal_and_soon_gone(
    trio: ClusterProcesses, client: Client
) -> None:
    await asyncio.gather(*(client.lease.grant(5, lease_id=lease_id) for lease_id in range(1, 301)))
    for start in range(0, 3000, 100):
        await asyncio.gather(
            *(client.put(f"k{n:04}", "v", lease_id=n % 300 + 1) for n in range(start, start + 100))
        )

    async def is_empty() -> bool:
        return not (await client.lease.list()).leases

    await eventually(is_empty, what="all leases have expired")
    assert (await client.range(everything(), count_only=True)).count == 0
    await equal_hashes(trio)
