"""Leases as clients see them."""

import grpc
from grpc import aio
from kvnode.pb import rpc_pb2 as pb
from kvtest.served_member import ServedMember

NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")


async def grant(served: ServedMember, ttl_s: int, lease_id: int = 0) -> pb.LeaseGrantResponse:
    request = pb.LeaseGrantRequest(TTL=ttl_s, ID=lease_id)
    response: pb.LeaseGrantResponse = await served.client.kv("Lease/LeaseGrant", request)
    return response


async def test_a_grant_keeps_the_asked_id_and_ttl_and_the_revision(served: ServedMember) -> None:
    response = await grant(served, 60, 77)
    assert (response.ID, response.TTL, response.error) == (77, 60, "")
    assert (response.header.revision, response.header.raft_term) == (1, 2)


async def test_the_server_picks_a_positive_id(served: ServedMember) -> None:
    ids = {(await grant(served, 60)).ID for _ in range(20)}
    assert len(ids) == 20
    assert min(ids) > 0


async def test_a_ttl_below_an_election_is_raised(served: ServedMember) -> None:
    assert [(await grant(served, ttl_s)).TTL for ttl_s in (-5, 0, 1, 2, 3)] == [2, 2, 2, 2, 3]


async def test_a_ttl_above_the_limit_is_out_of_range(served: ServedMember) -> None:
    request = pb.LeaseGrantRequest(TTL=9_000_000_001)
    assert await served.client.refused("Lease/LeaseGrant", request) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: too large lease TTL",
    )


async def test_a_taken_id_is_refused(served: ServedMember) -> None:
    await grant(served, 60, 5)
    assert await served.client.refused("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60, ID=5)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "etcdserver: lease already exists",
    )


async def test_revoking_deletes_the_keys_in_one_revision(served: ServedMember) -> None:
    await grant(served, 60, 5)
    for key in (b"b", b"a", b"c"):
        await served.put(key, lease=5)
    response = await served.client.kv("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=5))
    assert response.header.revision == 5
    left = await served.client.kv("KV/Range", pb.RangeRequest(key=b"a", range_end=b"z"))
    assert left.count == 0
    assert await served.client.refused("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=5)) == NOT_FOUND


async def test_keep_alives_are_answered_in_order_and_a_lost_lease_has_ttl_0(served: ServedMember) -> None:
    await grant(served, 60, 5)
    stream = served.client.stream("/etcdserverpb.Lease/LeaseKeepAlive")
    for lease_id in (5, 99, 5):
        await stream.write(pb.LeaseKeepAliveRequest(ID=lease_id).SerializeToString())
    await stream.done_writing()
    answers = [pb.LeaseKeepAliveResponse.FromString(await stream.read()) for _ in range(3)]
    assert [(a.ID, a.TTL, a.header.revision) for a in answers] == [(5, 60, 1), (99, 0, 1), (5, 60, 1)]
    assert await stream.read() is aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_time_to_live_tells_the_keys_only_when_asked(served: ServedMember) -> None:
    await grant(served, 60, 5)
    await served.put(b"a", lease=5)
    plain = await served.client.kv("Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=5))
    assert (plain.ID, plain.grantedTTL, list(plain.keys)) == (5, 60, [])
    assert 55 <= plain.TTL <= 60
    asked = await served.client.kv("Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=5, keys=True))
    assert list(asked.keys) == [b"a"]


async def test_an_unknown_lease_has_ttl_minus_1_and_no_error(served: ServedMember) -> None:
    response = await served.client.kv("Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=9))
    assert (response.ID, response.TTL, response.grantedTTL) == (9, -1, 0)
    assert response.header.revision == 1


async def test_leases_are_listed_by_expiry(served: ServedMember) -> None:
    for lease_id, ttl_s in ((1, 300), (2, 100), (3, 200)):
        await grant(served, ttl_s, lease_id)
    served.member.applier.lessor.expired(0.0, 10)
    response = await served.client.kv("Lease/LeaseLeases", pb.LeaseLeasesRequest())
    assert [lease.ID for lease in response.leases] == [2, 3, 1]
