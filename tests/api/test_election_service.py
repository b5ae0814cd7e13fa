"""Elections as clients see them: one leader at a time, and everybody hears what it proclaims."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from grpc import aio
from kvnode.pb import rpc_pb2 as pb
from kvnode.pb.election_pb2 import (
    CampaignRequest,
    CampaignResponse,
    LeaderKey,
    LeaderRequest,
    LeaderResponse,
    ProclaimRequest,
    ProclaimResponse,
    ResignRequest,
    ResignResponse,
)
from kvtest.served_member import ServedMember, until

SERVICE = "/v3electionpb.Election/"
NOT_LEADER = (grpc.StatusCode.UNKNOWN, "election: not leader")
NO_LEADER = (grpc.StatusCode.UNKNOWN, "election: no leader")
MISSING_LEADER = (grpc.StatusCode.UNKNOWN, '"leader" field must be provided')
NO_LEASE = (grpc.StatusCode.UNKNOWN, "etcdserver: requested lease not found")
NO_KEY = (grpc.StatusCode.UNKNOWN, "etcdserver: key is not provided")


async def grant(served: ServedMember, *lease_ids: int) -> None:
    for lease_id in lease_ids:
        await served.client.kv("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60, ID=lease_id))


async def revoke(served: ServedMember, lease_id: int) -> None:
    await served.client.kv("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease_id))


async def campaign(served: ServedMember, value: bytes, lease_id: int = 0) -> CampaignResponse:
    request = CampaignRequest(name=b"e", lease=lease_id, value=value)
    return await served.client.call(SERVICE + "Campaign", request, CampaignResponse)


async def queue(served: ServedMember, value: bytes, lease_id: int) -> Any:
    """Begin to campaign, and return when the call is in the queue."""
    request = CampaignRequest(name=b"e", lease=lease_id, value=value)
    call = served.client.method(SERVICE + "Campaign")(request.SerializeToString())
    await until(lambda: has_key(served, b"e/%x" % lease_id))
    return call


def has_key(served: ServedMember, key: bytes) -> bool:
    return served.member.applier.store.index.latest(key) != 0


async def elected(call: Awaitable[bytes]) -> LeaderKey:
    async with asyncio.timeout(10):
        return CampaignResponse.FromString(await call).leader


async def proclaim(served: ServedMember, leader: LeaderKey, value: bytes) -> int:
    request = ProclaimRequest(leader=leader, value=value)
    response = await served.client.call(SERVICE + "Proclaim", request, ProclaimResponse)
    return response.header.revision


async def resign(served: ServedMember, leader: LeaderKey) -> int:
    request = ResignRequest(leader=leader)
    response = await served.client.call(SERVICE + "Resign", request, ResignResponse)
    return response.header.revision


async def leader(served: ServedMember) -> tuple[bytes, bytes]:
    response = await served.client.call(SERVICE + "Leader", LeaderRequest(name=b"e"), LeaderResponse)
    return response.kv.key, response.kv.value


async def failure(call: Awaitable[bytes]) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(aio.AioRpcError) as raised:
        async with asyncio.timeout(10):
            await call
    return raised.value.code(), raised.value.details()


async def refused(served: ServedMember, method: str, request: Any) -> tuple[grpc.StatusCode, str | None]:
    return await failure(served.client.method(SERVICE + method)(request.SerializeToString()))


class Observer:
    """An open Observe stream."""

    def __init__(self, served: ServedMember) -> None:
        method: Any = served.client.channel.unary_stream(SERVICE + "Observe")
        self.call = method(LeaderRequest(name=b"e").SerializeToString())

    async def next(self) -> tuple[bytes, bytes, int]:
        """Key, value, and the revision of the header."""
        async with asyncio.timeout(10):
            answer = await self.call.read()
        assert answer is not aio.EOF, (await self.call.code(), await self.call.details())
        response = LeaderResponse.FromString(answer)
        return response.kv.key, response.kv.value, response.header.revision


async def test_the_first_to_campaign_leads_at_once(served: ServedMember) -> None:
    await grant(served, 0x2A)
    response = await campaign(served, b"v", 0x2A)
    expected = LeaderKey(name=b"e", key=b"e/2a", rev=2, lease=0x2A)
    assert (response.leader, response.header.revision, response.header.raft_term) == (expected, 2, 2)
    assert await leader(served) == (b"e/2a", b"v")


async def test_without_a_lease_the_server_grants_one_of_a_minute(served: ServedMember) -> None:
    response = await campaign(served, b"v")
    assert response.leader.key == b"e/%x" % response.leader.lease
    request = pb.LeaseTimeToLiveRequest(ID=response.leader.lease)
    assert (await served.client.kv("Lease/LeaseTimeToLive", request)).grantedTTL == 60


async def test_campaigning_again_proclaims_another_value_and_keeps_the_place(served: ServedMember) -> None:
    await grant(served, 1)
    first = await campaign(served, b"v", 1)
    assert (await campaign(served, b"v", 1)).leader == first.leader
    assert served.member.applier.store.current_revision == 2
    assert (await campaign(served, b"w", 1)).leader == first.leader
    assert await leader(served) == (b"e/1", b"w")


async def test_the_next_leads_when_the_leader_resigns(served: ServedMember) -> None:
    await grant(served, 1, 2, 3)
    first = (await campaign(served, b"one", 1)).leader
    second = await queue(served, b"two", 2)
    third = await queue(served, b"three", 3)
    assert await resign(served, first) == 5
    key = await elected(second)
    assert (key.key, key.rev) == (b"e/2", 3)
    assert not third.done()
    await revoke(served, 2)
    assert (await elected(third)).key == b"e/3"
    assert await leader(served) == (b"e/3", b"three")


async def test_a_candidate_whose_lease_ends_is_not_elected(served: ServedMember) -> None:
    await grant(served, 1, 2)
    await campaign(served, b"one", 1)
    waiting = await queue(served, b"two", 2)
    await revoke(served, 2)
    assert await failure(waiting) == NOT_LEADER


async def test_a_candidate_that_gives_up_leaves_no_key(served: ServedMember) -> None:
    await grant(served, 1, 2)
    await campaign(served, b"one", 1)
    waiting = await queue(served, b"two", 2)
    waiting.cancel()
    await until(lambda: not has_key(served, b"e/2"))
    assert has_key(served, b"e/1")


async def test_a_member_that_stops_ends_campaigns_and_observers(served: ServedMember) -> None:
    await grant(served, 1, 2)
    await campaign(served, b"one", 1)
    waiting = await queue(served, b"two", 2)
    observer = Observer(served)
    await observer.next()
    served.services.close()
    stopped = (grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped")
    assert await failure(waiting) == stopped
    assert (await observer.call.code(), await observer.call.details()) == stopped
    await until(lambda: not has_key(served, b"e/2"))


async def test_only_the_leader_of_that_creation_proclaims(served: ServedMember) -> None:
    await grant(served, 1)
    key = (await campaign(served, b"v", 1)).leader
    assert await proclaim(served, key, b"w") == 3
    assert await leader(served) == (b"e/1", b"w")
    key.rev = 1
    request = ProclaimRequest(leader=key, value=b"x")
    assert await refused(served, "Proclaim", request) == NOT_LEADER
    assert await leader(served) == (b"e/1", b"w")


async def test_resigning_what_is_not_held_changes_nothing(served: ServedMember) -> None:
    await grant(served, 1)
    key = (await campaign(served, b"v", 1)).leader
    key.rev = 1
    assert await resign(served, key) == 2
    key.rev = 2
    assert await resign(served, key) == 3
    assert await resign(served, key) == 3


async def test_without_a_leader_there_is_none_to_tell(served: ServedMember) -> None:
    assert await refused(served, "Leader", LeaderRequest(name=b"e")) == NO_LEADER
    # Another election's leader is not this one's.
    await served.put(b"e2/1")
    await served.put(b"e")
    assert await refused(served, "Leader", LeaderRequest(name=b"e")) == NO_LEADER


async def test_the_leader_is_the_oldest_key_whatever_its_name(served: ServedMember) -> None:
    for key in (b"e/z", b"e/a", b"e/m"):
        await served.put(key)
    assert (await leader(served))[0] == b"e/z"


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        pytest.param("Proclaim", ProclaimRequest(value=b"v"), MISSING_LEADER, id="proclaim-no-leader"),
        pytest.param("Resign", ResignRequest(), MISSING_LEADER, id="resign-no-leader"),
        pytest.param("Proclaim", ProclaimRequest(leader=LeaderKey()), NO_KEY, id="proclaim-no-key"),
        pytest.param("Resign", ResignRequest(leader=LeaderKey()), NO_KEY, id="resign-no-key"),
        pytest.param("Campaign", CampaignRequest(name=b"e", lease=999), NO_LEASE, id="campaign-no-lease"),
        pytest.param(
            "Proclaim",
            ProclaimRequest(leader=LeaderKey(key=b"k", lease=999)),
            NO_LEASE,
            id="proclaim-no-lease",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused_in_the_words_of_etcd(
    served: ServedMember, method: str, request_: Any, expected: tuple[grpc.StatusCode, str]
) -> None:
    assert await refused(served, method, request_) == expected
    assert len(served.member.applier.store.index) == 0


async def test_an_observer_hears_every_value_and_every_leader(served: ServedMember) -> None:
    await grant(served, 1, 2)
    observer = Observer(served)
    first = (await campaign(served, b"one", 1)).leader
    assert await observer.next() == (b"e/1", b"one", 2)
    await proclaim(served, first, b"uno")
    await proclaim(served, first, b"eins")
    assert await observer.next() == (b"e/1", b"uno", 3)
    assert await observer.next() == (b"e/1", b"eins", 4)
    waiting = await queue(served, b"two", 2)
    assert await resign(served, first) == 6
    assert (await elected(waiting)).key == b"e/2"
    assert await observer.next() == (b"e/2", b"two", 6)
    await revoke(served, 2)
    await grant(served, 3)
    await campaign(served, b"three", 3)
    assert await observer.next() == (b"e/3", b"three", 8)
    observer.call.cancel()
    await until(lambda: len(served.member.hub) == 0)


async def test_an_observer_begins_with_the_present_leader(served: ServedMember) -> None:
    await grant(served, 1)
    await campaign(served, b"one", 1)
    await served.put(b"other")
    assert await Observer(served).next() == (b"e/1", b"one", 3)


async def test_an_observer_that_does_not_read_delays_nobody_and_misses_nothing(served: ServedMember) -> None:
    await grant(served, 1)
    key = (await campaign(served, b"", 1)).leader
    observer = Observer(served)
    await observer.next()
    values = [b"%d" % number + bytes(50_000) for number in range(150)]
    for value in values:
        await proclaim(served, key, value)
    assert [(await observer.next())[1] for _ in values] == values


async def test_an_observer_of_a_garbled_request_hears_so(served: ServedMember) -> None:
    method: Any = served.client.channel.unary_stream(SERVICE + "Observe")
    call = method(b"\xff\xff")
    assert await call.code() is grpc.StatusCode.INTERNAL
