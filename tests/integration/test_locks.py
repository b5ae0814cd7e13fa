"""A lock that contenders on different members share, through the loss of its holder and of a leader."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from kvnode.pb import rpc_pb2 as pb
from kvnode.pb.lock_pb2 import LockRequest, LockResponse
from kvtest.processes import ClusterProcesses, MemberProcess, wait_until

ResponseT = TypeVar("ResponseT", bound=Message)

HOLDER, WAITER = 0xA, 0xB
HOLDER_TTL_S = 4


class Peer:
    """A client of one member."""

    def __init__(self, member: MemberProcess, channel: grpc.Channel) -> None:
        self.member = member
        self._channel = channel

    def begin(self, path: str, request: Message) -> Any:
        return self._channel.unary_unary(path).future(  # type: ignore[attr-defined]
            request.SerializeToString(), timeout=60, wait_for_ready=True
        )

    def call(self, path: str, request: Message, response_type: type[ResponseT]) -> ResponseT:
        return response_type.FromString(self.begin(path, request).result())

    def grant(self, lease_id: int, ttl_s: int) -> None:
        self.call(
            "/etcdserverpb.Lease/LeaseGrant",
            pb.LeaseGrantRequest(ID=lease_id, TTL=ttl_s),
            pb.LeaseGrantResponse,
        )

    def lock(self, lease_id: int) -> Any:
        return self.begin("/v3lockpb.Lock/Lock", LockRequest(name=b"shared", lease=lease_id))

    def queue(self) -> list[bytes]:
        request = pb.RangeRequest(key=b"shared/", range_end=b"shared0")
        response = self.call("/etcdserverpb.KV/Range", request, pb.RangeResponse)
        return [pair.key for pair in response.kvs]


@pytest.fixture
def peers(trio: ClusterProcesses) -> Iterator[list[Peer]]:
    """A client of each member, the leader's last."""
    leader = trio.leader()
    members = [member for member in trio if member is not leader] + [leader]
    with ExitStack() as channels:
        yield [
            Peer(member, channels.enter_context(grpc.insecure_channel(member.client_url[7:])))
            for member in members
        ]


def contend(peers: list[Peer]) -> Any:
    """One contender holds the lock, another waits at another member."""
    holder, waiter, _ = peers
    holder.grant(HOLDER, HOLDER_TTL_S)
    waiter.grant(WAITER, 60)
    assert LockResponse.FromString(holder.lock(HOLDER).result()).key == b"shared/a"
    waiting = waiter.lock(WAITER)
    wait_until(lambda: waiter.queue() == [b"shared/a", b"shared/b"], what="both are in the queue")
    assert not waiting.done()
    return waiting


def test_the_lock_of_a_holder_that_died_goes_to_the_next_when_its_lease_ends(peers: list[Peer]) -> None:
    waiting = contend(peers)
    # Nobody renews the holder's lease; its member dies too.
    peers[0].member.kill()
    assert LockResponse.FromString(waiting.result()).key == b"shared/b"
    assert peers[1].queue() == [b"shared/b"]


def test_waiting_goes_on_when_the_leader_dies(peers: list[Peer]) -> None:
    waiting = contend(peers)
    peers[2].member.kill()
    assert LockResponse.FromString(waiting.result()).key == b"shared/b"
    assert peers[0].queue() == [b"shared/b"]


def test_a_member_that_stops_lets_its_waiters_go_and_removes_their_keys(peers: list[Peer]) -> None:
    waiting = contend(peers)
    assert peers[1].member.terminate() == 0
    assert waiting.code() is grpc.StatusCode.UNAVAILABLE
    assert waiting.details() == "etcdserver: server stopped"
    wait_until(lambda: b"shared/b" not in peers[2].queue(), what="the waiter's key is gone")
