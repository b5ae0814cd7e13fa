"""Membership as clients see it."""

import grpc
import pytest
from kvnode.pb import rpc_pb2 as pb
from kvnode.server.errors import RequestTimeoutError
from kvtest.local_member import CLIENT_URL, CLUSTER_ID, MEMBER_ID, PEER_URL
from kvtest.served_member import ServedMember

#: Of every response: the Cluster service says nothing about keys, so that there is no revision.
HEADER = pb.ResponseHeader(cluster_id=CLUSTER_ID, member_id=MEMBER_ID, raft_term=2)
SELF = pb.Member(ID=MEMBER_ID, name="m1", peerURLs=[PEER_URL], clientURLs=[CLIENT_URL])
OTHER_URL = "http://10.0.0.2:2380"


async def test_a_member_goes_from_learner_to_voter_to_gone(served: ServedMember) -> None:
    call = served.client.kv
    request = pb.MemberAddRequest(peerURLs=[OTHER_URL], isLearner=True)
    added = await call("Cluster/MemberAdd", request)
    learner = pb.Member(ID=MEMBER_ID + 1, peerURLs=[OTHER_URL], isLearner=True)
    assert added == pb.MemberAddResponse(header=HEADER, member=learner, members=[SELF, learner])
    promoted = await call("Cluster/MemberPromote", pb.MemberPromoteRequest(ID=learner.ID))
    voter = pb.Member(ID=learner.ID, peerURLs=[OTHER_URL])
    assert promoted == pb.MemberPromoteResponse(header=HEADER, members=[SELF, voter])
    moved_url = "http://10.0.0.3:2380"
    updated = await call("Cluster/MemberUpdate", pb.MemberUpdateRequest(ID=voter.ID, peerURLs=[moved_url]))
    moved = pb.Member(ID=voter.ID, peerURLs=[moved_url])
    assert updated == pb.MemberUpdateResponse(header=HEADER, members=[SELF, moved])
    removed = await call("Cluster/MemberRemove", pb.MemberRemoveRequest(ID=voter.ID))
    assert removed == pb.MemberRemoveResponse(header=HEADER, members=[SELF])


async def test_only_a_linearizable_list_needs_a_quorum(served: ServedMember) -> None:
    served.member.failure = RequestTimeoutError()
    listed = await served.client.kv("Cluster/MemberList", pb.MemberListRequest())
    assert listed == pb.MemberListResponse(header=HEADER, members=[SELF])
    assert await served.client.refused("Cluster/MemberList", pb.MemberListRequest(linearizable=True)) == (
        grpc.StatusCode.UNAVAILABLE,
        "etcdserver: request timed out",
    )


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        pytest.param(
            "MemberAdd",
            pb.MemberAddRequest(peerURLs=urls),
            grpc.StatusCode.INVALID_ARGUMENT,
            "given member URLs are invalid",
            id=name,
        )
        for name, urls in {
            "no-url": [],
            "url-without-scheme": ["foo"],
            "url-without-port": ["http://1.2.3.4"],
            "url-with-path": ["http://1.2.3.4:1/x"],
            "url-with-blank": ["http://host name:1"],
            "one-bad-url-of-two": ["http://1.2.3.4:1", "ftp://1.2.3.4:1"],
        }.items()
    ]
    + [
        pytest.param(
            "MemberAdd",
            pb.MemberAddRequest(peerURLs=[PEER_URL]),
            grpc.StatusCode.FAILED_PRECONDITION,
            "Peer URLs already exists",
            id="url-in-use",
        ),
        pytest.param(
            "MemberRemove",
            pb.MemberRemoveRequest(ID=1),
            grpc.StatusCode.NOT_FOUND,
            "member not found",
            id="remove-unknown",
        ),
        pytest.param(
            "MemberUpdate",
            pb.MemberUpdateRequest(ID=1),
            grpc.StatusCode.NOT_FOUND,
            "member not found",
            id="update-unknown",
        ),
        pytest.param(
            "MemberPromote",
            pb.MemberPromoteRequest(ID=1),
            grpc.StatusCode.NOT_FOUND,
            "member not found",
            id="promote-unknown",
        ),
        pytest.param(
            "MemberPromote",
            pb.MemberPromoteRequest(ID=MEMBER_ID),
            grpc.StatusCode.FAILED_PRECONDITION,
            "can only promote a learner member",
            id="promote-voter",
        ),
    ],
)
async def test_a_wrong_change_is_refused_with_etcds_words(
    served: ServedMember, method: str, request_: pb.MemberAddRequest, code: grpc.StatusCode, text: str
) -> None:
    assert await served.client.refused(f"Cluster/{method}", request_) == (code, f"etcdserver: {text}")
