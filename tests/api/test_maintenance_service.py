"""Maintenance as clients see it."""

import hashlib
from typing import cast

import grpc
import pytest
from grpc import aio
from kvnode.pb import rpc_pb2 as pb
from kvnode.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from kvnode.server.errors import RequestTimeoutError
from kvtest.local_member import CLUSTER_ID, MEMBER_ID, LocalMember, local_config
from kvtest.served_member import ServedMember, serve

HEADER = pb.ResponseHeader(cluster_id=CLUSTER_ID, member_id=MEMBER_ID, revision=1, raft_term=2)


def alarm_request(action: str, alarm: str = "NONE", member_id: int = MEMBER_ID) -> pb.AlarmRequest:
    return pb.AlarmRequest(
        action=pb.AlarmRequest.AlarmAction.Value(action),
        alarm=pb.AlarmType.Value(alarm),
        memberID=member_id,
    )


async def test_status_tells_all_of_a_member_without_a_quorum(served: ServedMember) -> None:
    served.member.failure = RequestTimeoutError()
    status = await served.client.kv("Maintenance/Status", pb.StatusRequest())
    assert status == pb.StatusResponse(
        header=HEADER,
        version="3.6.14",
        dbSize=4096,
        leader=MEMBER_ID,
        raftIndex=1,
        raftTerm=2,
        raftAppliedIndex=1,
        dbSizeInUse=1024,
        storageVersion="3.6.0",
        dbSizeQuota=2 * 1024**3,
        downgradeInfo=pb.DowngradeInfo(),
    )


async def test_status_names_what_is_wrong_and_is_served_by_learners(served: ServedMember) -> None:
    await served.client.kv("Maintenance/Alarm", alarm_request("ACTIVATE", "NOSPACE"))
    served.member.set_leader(0)
    served.member.is_learner = True
    status = await served.client.kv("Maintenance/Status", pb.StatusRequest())
    assert list(status.errors) == ["etcdserver: no leader", f"memberID:{MEMBER_ID} alarm:NOSPACE "]
    assert (status.leader, status.isLearner) == (0, True)


async def test_no_quota_is_told_as_minus_1() -> None:
    async with serve(LocalMember(local_config(quota_backend_bytes=None))) as served:
        status = await served.client.kv("Maintenance/Status", pb.StatusRequest())
        assert status.dbSizeQuota == -1


async def test_alarms_are_listed_by_type_and_disarmed_exactly(served: ServedMember) -> None:
    async def alarms(request: pb.AlarmRequest) -> list[tuple[int, str]]:
        response = await served.client.kv("Maintenance/Alarm", request)
        assert response.header == HEADER
        return [(each.memberID, pb.AlarmType.Name(each.alarm)) for each in response.alarms]

    assert await alarms(alarm_request("ACTIVATE", "NOSPACE")) == [(MEMBER_ID, "NOSPACE")]
    assert await alarms(alarm_request("ACTIVATE", "NONE")) == []
    assert await alarms(alarm_request("GET")) == [(MEMBER_ID, "NOSPACE")]
    assert await alarms(alarm_request("GET", "CORRUPT")) == []
    assert await served.client.refused("KV/Put", pb.PutRequest(key=b"a")) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "etcdserver: mvcc: database space exceeded",
    )
    assert await alarms(alarm_request("DEACTIVATE", "NOSPACE", MEMBER_ID + 1)) == []
    assert await alarms(alarm_request("DEACTIVATE", "NOSPACE")) == [(MEMBER_ID, "NOSPACE")]
    assert await alarms(alarm_request("GET")) == []


async def test_a_listing_of_alarms_needs_a_quorum(served: ServedMember) -> None:
    served.member.failure = RequestTimeoutError()
    code, _ = await served.client.refused("Maintenance/Alarm", alarm_request("GET"))
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_defragment_and_move_leader_answer_without_a_header(served: ServedMember) -> None:
    answer = await served.client.kv("Maintenance/Defragment", pb.DefragmentRequest())
    assert answer == pb.DefragmentResponse()
    added = await served.client.kv("Cluster/MemberAdd", pb.MemberAddRequest(peerURLs=["http://10.0.0.2:1"]))
    request = pb.MoveLeaderRequest(targetID=added.member.ID)
    assert await served.client.kv("Maintenance/MoveLeader", request) == pb.MoveLeaderResponse()
    assert await served.client.refused("Maintenance/MoveLeader", request) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "etcdserver: not leader",
    )


async def test_leadership_goes_to_voters_only(served: ServedMember) -> None:
    assert await served.client.refused("Maintenance/MoveLeader", pb.MoveLeaderRequest(targetID=9)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "etcdserver: bad leader transferee",
    )


async def test_hash_kv_tells_what_it_has_hashed(served: ServedMember) -> None:
    for _ in range(3):
        await served.put(b"a")
    await served.compact(3)
    current = await served.client.kv("Maintenance/HashKV", pb.HashKVRequest())
    assert (current.compact_revision, current.hash_revision, current.header.revision) == (3, 4, 4)
    older = await served.client.kv("Maintenance/HashKV", pb.HashKVRequest(revision=3))
    assert older.hash_revision == 3
    assert older.hash != current.hash
    assert await served.client.refused("Maintenance/HashKV", pb.HashKVRequest(revision=9)) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    )


async def test_a_snapshot_ends_with_the_checksum_of_all_before(served: ServedMember) -> None:
    served.member.is_learner = True
    stream = served.client.server_stream("/etcdserverpb.Maintenance/Snapshot", pb.SnapshotRequest())
    parts = []
    while (payload := await stream.read()) is not aio.EOF:
        parts.append(pb.SnapshotResponse.FromString(payload))
    assert not any(part.HasField("header") for part in parts)
    assert {part.version for part in parts} == {"3.6.0"}
    assert [part.remaining_bytes for part in parts] == [1024, 512, 0, 0]
    blob = b"".join(part.blob for part in parts[:-1])
    assert parts[-1].blob == hashlib.sha256(blob).digest()
    assert (len(blob) + len(parts[-1].blob)) % 512 == 32  # what etcdctl checks before it keeps a file


async def test_health_is_serving_for_the_whole_server_and_unknown_for_parts(served: ServedMember) -> None:
    async def check(service: str) -> HealthCheckResponse:
        request = HealthCheckRequest(service=service)
        return await served.client.call("/grpc.health.v1.Health/Check", request, HealthCheckResponse)

    assert (await check("")).status == HealthCheckResponse.SERVING
    code, message = await served.client.refused("x/y", b"")
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert message == "unknown service etcdserverpb.x"
    with pytest.raises(aio.AioRpcError) as raised:
        await check("etcdserverpb.KV")
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "unknown service")
    served.services.close()
    assert (await check("")).status == HealthCheckResponse.NOT_SERVING


async def test_a_health_watch_tells_the_status_and_stays_open(served: ServedMember) -> None:
    stream = served.client.server_stream("/grpc.health.v1.Health/Watch", HealthCheckRequest())
    first = HealthCheckResponse.FromString(await stream.read())
    assert first.status == HealthCheckResponse.SERVING
    assert not stream.done()


async def test_what_is_not_built_is_unimplemented(served: ServedMember) -> None:
    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    assert await served.client.refused("Nothing/Ever", b"") == (
        unimplemented,
        "unknown service etcdserverpb.Nothing",
    )


async def downgrade(served: ServedMember, action: int, version: str = "") -> pb.DowngradeResponse:
    request = pb.DowngradeRequest(
        action=pb.DowngradeRequest.DowngradeAction.ValueType(action), version=version
    )
    return cast(pb.DowngradeResponse, await served.client.kv("Maintenance/Downgrade", request))


async def test_a_downgrade_is_validated_begun_shown_and_cancelled(served: ServedMember) -> None:
    request = pb.DowngradeRequest
    assert (await downgrade(served, request.VALIDATE, "3.5")).version == "3.6"
    assert (await downgrade(served, request.VALIDATE, "3.5.14")).version == "3.6"
    assert (await downgrade(served, request.ENABLE, "3.5.0")).version == "3.6"
    status = await served.client.kv("Maintenance/Status", pb.StatusRequest())
    assert status.downgradeInfo == pb.DowngradeInfo(enabled=True, targetVersion="3.5.0")
    for action in (request.VALIDATE, request.ENABLE):
        again = pb.DowngradeRequest(action=action, version="3.5")
        assert await served.client.refused("Maintenance/Downgrade", again) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "etcdserver: cluster has a downgrade job in progress",
        )
    await downgrade(served, request.CANCEL)
    await downgrade(served, request.CANCEL)
    status = await served.client.kv("Maintenance/Status", pb.StatusRequest())
    assert status.downgradeInfo == pb.DowngradeInfo()
    assert status.storageVersion == "3.6.0"


@pytest.mark.parametrize("version", ["", "3", "v3.5", "3.5.0.0", "3.x", "-3.5.0", "3.5.0 "])
async def test_a_downgrade_to_what_is_no_version_is_refused(served: ServedMember, version: str) -> None:
    request = pb.DowngradeRequest(action=pb.DowngradeRequest.VALIDATE, version=version)
    assert await served.client.refused("Maintenance/Downgrade", request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "etcdserver: wrong downgrade target version format",
    )


@pytest.mark.parametrize("version", ["3.4", "3.6", "3.7.0", "2.5", "4.5.0"])
async def test_a_downgrade_goes_down_by_one_minor_version(served: ServedMember, version: str) -> None:
    request = pb.DowngradeRequest(action=pb.DowngradeRequest.ENABLE, version=version)
    assert await served.client.refused("Maintenance/Downgrade", request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "etcdserver: invalid downgrade target version",
    )


async def test_the_hash_changes_with_what_is_stored(served: ServedMember) -> None:
    before = await served.client.kv("Maintenance/Hash", pb.HashRequest())
    assert before == await served.client.kv("Maintenance/Hash", pb.HashRequest())
    await served.put(b"a", b"1")
    after = await served.client.kv("Maintenance/Hash", pb.HashRequest())
    assert (after.hash != before.hash, after.header.revision) == (True, 2)
