"""RangeStream of kvnode and of an etcd 3.7: the same pieces, pair for pair.

3.7 is the first etcd that has it: ``etcd37`` in the lab's programs, or KVTEST_ETCD37.
"""

from collections.abc import Iterator

import grpc
import pytest
from kvnode.pb import rpc_pb2 as pb
from kvtest.processes import ClusterProcesses
from kvtest.programs import program

Channels = tuple[grpc.Channel, grpc.Channel]


def fill(channel: grpc.Channel) -> None:
    """Write a few thousand pairs of several sizes, delete and overwrite some, and compact."""

    def call(method: str, request: pb.PutRequest | pb.DeleteRangeRequest | pb.CompactionRequest) -> None:
        channel.unary_unary(f"/etcdserverpb.KV/{method}")(request.SerializeToString(), timeout=10.0)

    for number in range(1500):
        call("Put", pb.PutRequest(key=b"small/%04d" % number, value=b"%d" % number))
    for number in range(60):
        call("Put", pb.PutRequest(key=b"large/%04d" % number, value=b"%04d" % number * 20_000))
    for number in range(0, 1500, 3):
        call("Put", pb.PutRequest(key=b"small/%04d" % number, value=b"new"))
    call("DeleteRange", pb.DeleteRangeRequest(key=b"small/0100", range_end=b"small/0200"))
    call("Compact", pb.CompactionRequest(revision=1000))


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Channels]:
    etcd = program("etcd37")
    if etcd is None:
        pytest.skip("no etcd 3.7: KVTEST_ETCD37 names one")
    with (
        ClusterProcesses(tmp_path_factory.mktemp("etcd"), 1, command=[etcd]) as theirs,
        ClusterProcesses(tmp_path_factory.mktemp("kvnode"), 1) as ours,
    ):
        options = [("grpc.max_receive_message_length", -1)]
        made = [
            grpc.insecure_channel(members[0].client_url.removeprefix("http://"), options=options)
            for members in (theirs, ours)
        ]
        for channel in made:
            fill(channel)
        yield made[0], made[1]
        for channel in made:
            channel.close()


def pieces(channel: grpc.Channel, request: pb.RangeRequest) -> list[pb.RangeResponse]:
    """Return the pieces without what names the server."""
    call = channel.unary_stream("/etcdserverpb.KV/RangeStream")
    parts = []
    for answer in call(request.SerializeToString(), timeout=20.0):
        part = pb.RangeStreamResponse.FromString(answer).range_response
        for field in ("cluster_id", "member_id", "raft_term"):
            if part.HasField("header"):
                part.header.ClearField(field)
        parts.append(part)
    return parts


CASES: dict[str, dict[str, object]] = {
    "everything": {"key": b"\0", "range_end": b"\0"},
    "small": {"key": b"small/", "range_end": b"small0"},
    "large": {"key": b"large/", "range_end": b"large0"},
    "from-key": {"key": b"small/1400", "range_end": b"\0"},
    "old-revision": {"key": b"\0", "range_end": b"\0", "revision": 1600},
    "compact-revision": {"key": b"\0", "range_end": b"\0", "revision": 1000},
    "limit": {"key": b"small/", "range_end": b"small0", "limit": 333},
    "limit-of-one-piece": {"key": b"small/", "range_end": b"small0", "limit": 10},
    "limit-at-the-end": {"key": b"small/", "range_end": b"small0", "limit": 1400},
    "limit-beyond": {"key": b"small/", "range_end": b"small0", "limit": 5000},
    "old-revision-with-limit": {"key": b"small/", "range_end": b"small0", "revision": 1600, "limit": 50},
    "count-only": {"key": b"\0", "range_end": b"\0", "count_only": True},
    "count-only-at-an-old-revision": {"key": b"s", "range_end": b"t", "count_only": True, "revision": 1600},
    "keys-only": {"key": b"small/", "range_end": b"small0", "keys_only": True},
    "one-key": {"key": b"small/0001"},
    "no-key": {"key": b"none"},
    "empty-range": {"key": b"small0", "range_end": b"small/"},
    "serializable": {"key": b"large/", "range_end": b"large0", "serializable": True},
}


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES.keys())
def test_the_pieces_are_those_of_etcd(channels: Channels, fields: dict[str, object]) -> None:
    request = pb.RangeRequest(**fields)  # type: ignore[arg-type]
    theirs, ours = (pieces(channel, request) for channel in channels)
    assert [len(part.kvs) for part in ours] == [len(part.kvs) for part in theirs]
    assert ours == theirs
