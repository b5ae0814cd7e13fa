"""Holes that etcd's auth once had: each stays closed here."""

from collections.abc import AsyncIterator

import grpc
import pytest
from kvnode.apply.commands import CommandKind
from kvnode.auth.caller import MEMBER
from kvnode.pb import rpc_pb2 as pb
from kvtest.secured_member import LEASE_OF_OTHERS, SecuredMember, secured
from kvtest.served_member import WatchStream

EMPTY = (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty")
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")


@pytest.fixture
async def member() -> AsyncIterator[SecuredMember]:
    async with secured() as secured_member:
        yield secured_member


def facts(member: SecuredMember) -> tuple[object, ...]:
    """What a refused request must leave as it was."""
    applier = member.member.applier
    store = applier.store
    return (
        store.current_revision,
        store.compact_revision,
        applier.lessor.leases(),
        list(applier.alarms),
        applier.membership.sorted(),
        applier.auth.revision,
    )


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Cluster/MemberList", pb.MemberListRequest()),
        ("Cluster/MemberList", pb.MemberListRequest(linearizable=True)),
        ("Maintenance/Alarm", pb.AlarmRequest()),
        ("Maintenance/Alarm", pb.AlarmRequest(action=1, memberID=1, alarm=pb.NOSPACE)),
        ("Maintenance/Alarm", pb.AlarmRequest(action=2, memberID=1, alarm=pb.NOSPACE)),
        ("Maintenance/Status", pb.StatusRequest()),
        ("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60)),
        ("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=99)),
        ("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=LEASE_OF_OTHERS)),
        ("Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=LEASE_OF_OTHERS)),
        ("Lease/LeaseLeases", pb.LeaseLeasesRequest()),
        ("KV/Compact", pb.CompactionRequest(revision=2)),
    ],
)
async def test_cve_2026_33413_members_alarms_leases_and_compaction_need_a_user(
    member: SecuredMember, method: str, request_: pb.MemberListRequest
) -> None:
    before = facts(member)
    assert await member.client.refused(method, request_) == EMPTY
    assert facts(member) == before


async def test_cve_2026_33413_compaction_and_alarms_need_root(member: SecuredMember) -> None:
    before = facts(member)
    for method, request in (
        ("KV/Compact", pb.CompactionRequest(revision=2)),
        ("Maintenance/Alarm", pb.AlarmRequest(action=1, memberID=1, alarm=pb.NOSPACE)),
    ):
        assert await member.client.refused(method, request, await member.as_user("both")) == DENIED
    assert facts(member) == before


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("branch", ["success", "failure"])
async def test_cve_2026_33343_a_nested_transaction_is_checked_like_any(
    member: SecuredMember, depth: int, branch: str
) -> None:
    for inner in (
        pb.RequestOp(request_range=pb.RangeRequest(key=b"other")),
        pb.RequestOp(request_put=pb.PutRequest(key=b"other", value=b"mine")),
        pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"other")),
        pb.RequestOp(request_txn=pb.TxnRequest(compare=[pb.Compare(key=b"other")])),
    ):
        txn = pb.TxnRequest(**{branch: [inner]})
        for _ in range(depth):
            txn = pb.TxnRequest(**{branch: [pb.RequestOp(request_txn=txn)]})
        before = facts(member)
        assert await member.client.refused("KV/Txn", txn, await member.as_user("both")) == DENIED
        assert facts(member) == before
    value = (await member.by("root", "KV/Range", pb.RangeRequest(key=b"other"))).kvs[0].value
    assert value == b"value"


async def test_21681_prev_kv_of_a_put_in_a_transaction_is_a_read(member: SecuredMember) -> None:
    put = pb.RequestOp(request_put=pb.PutRequest(key=b"r/1", value=b"v", prev_kv=True))
    for txn in (
        pb.TxnRequest(success=[put]),
        pb.TxnRequest(success=[pb.RequestOp(request_txn=pb.TxnRequest(success=[put]))]),
    ):
        before = facts(member)
        assert await member.client.refused("KV/Txn", txn, await member.as_user("writer")) == DENIED
        assert facts(member) == before
        answer = await member.by("both", "KV/Txn", txn)
        assert answer.succeeded


async def test_21685_a_put_in_a_transaction_can_not_take_a_lease_over(member: SecuredMember) -> None:
    """It could end the lease of others otherwise, and learn of their keys."""
    put = pb.RequestOp(request_put=pb.PutRequest(key=b"r/1", lease=LEASE_OF_OTHERS))
    for txn in (
        pb.TxnRequest(success=[put]),
        pb.TxnRequest(success=[pb.RequestOp(request_txn=pb.TxnRequest(failure=[put]))]),
    ):
        assert await member.client.refused("KV/Txn", txn, await member.as_user("both")) == DENIED
    lease = member.member.applier.lessor.get(LEASE_OF_OTHERS)
    assert lease is not None
    assert lease.keys == {b"other"}


@pytest.mark.parametrize(
    ("key", "range_end"),
    [(b"r", b"\0"), (b"", b"\0"), (b"\0", b"\0"), (b"", b""), (b"q", b"s"), (b"r", b"t"), (b"s", b"")],
)
async def test_ghsa_xg4h_6gfc_h4m8_an_open_watch_needs_an_open_permission(
    member: SecuredMember, key: bytes, range_end: bytes
) -> None:
    stream = WatchStream(member.client, await member.as_user("both"))
    response = await stream.create(key, range_end)
    assert (response.created, response.canceled, response.watch_id) == (True, True, -1)
    assert response.cancel_reason == (
        "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    )
    assert len(member.member.hub) == 0
    stream.cancel()


async def test_a_lease_does_not_show_keys_that_only_the_leader_knew_of(member: SecuredMember) -> None:
    """A member that lags behind checks the keys that it knows; the leader may answer with others."""
    lagging = member.member
    real = lagging.lease_time_to_live

    async def of_the_leader(lease_id: int, keys: bool) -> pb.LeaseTimeToLiveResponse:
        response = await real(lease_id, keys)
        response.keys.append(b"other")
        return response

    lagging.lease_time_to_live = of_the_leader  # type: ignore[method-assign]
    request = pb.LeaseTimeToLiveRequest(ID=7, keys=True)
    assert await member.client.refused("Lease/LeaseTimeToLive", request, await member.as_user("reader")) == (
        DENIED
    )


async def test_a_write_that_was_let_in_before_auth_was_enabled_is_refused_after(
    member: SecuredMember,
) -> None:
    answers: list[object] = []
    request = pb.PutRequest(key=b"r/1", value=b"late")
    member.member.propose(CommandKind.PUT, request.SerializeToString(), answers.append)
    assert str(answers[0]) == "user name is empty"


async def test_nobody_can_sign_in_as_a_member(member: SecuredMember) -> None:
    """What stands for members in the log is no user that could be made or named."""
    assert member.member.applier.auth.user(MEMBER.user) is None
    request = pb.AuthUserAddRequest(name=MEMBER.user, password="p")
    assert await member.client.refused("Auth/UserAdd", request, await member.as_user("root")) == EMPTY
