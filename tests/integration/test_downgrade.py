"""A downgrade on real members, as etcd's procedure goes up to the exchange of the program."""

import asyncio

import grpc
from kvnode.pb import rpc_pb2 as pb
from kvtest.processes import ClusterProcesses, MemberProcess
from kvtest.workload import eventually


def downgrade(member: MemberProcess, action: int, version: str = "") -> str:
    request = pb.DowngradeRequest(
        action=pb.DowngradeRequest.DowngradeAction.ValueType(action), version=version
    )
    with grpc.insecure_channel(member.client_url.removeprefix("http://")) as channel:
        call = channel.unary_unary("/etcdserverpb.Maintenance/Downgrade")
        return pb.DowngradeResponse.FromString(call(request.SerializeToString(), timeout=10.0)).version


async def test_a_downgrade_shows_on_every_member_and_is_taken_back(trio: ClusterProcesses) -> None:
    status = await asyncio.to_thread(trio[0].status)
    version = status.storageVersion
    major, minor, _ = map(int, version.split("."))
    target = f"{major}.{minor - 1}.0"

    def shows(storage_version: str, info: pb.DowngradeInfo) -> bool:
        statuses = [member.status() for member in trio]
        return all((s.storageVersion, s.downgradeInfo) == (storage_version, info) for s in statuses)

    follower = (await asyncio.to_thread(trio.followers))[0]
    await asyncio.to_thread(downgrade, follower, pb.DowngradeRequest.ENABLE, target)
    begun = pb.DowngradeInfo(enabled=True, targetVersion=target)
    await eventually(lambda: shows(target, begun), what="the cluster speaks the older version")
    assert f'"etcdcluster":"{target}"' in follower.http_get("/version")[1]

    leader = await asyncio.to_thread(trio.leader)
    await asyncio.to_thread(leader.restart)
    await asyncio.to_thread(downgrade, leader, pb.DowngradeRequest.CANCEL)
    await eventually(lambda: shows(version, pb.DowngradeInfo()), what="the cluster's version is back")
