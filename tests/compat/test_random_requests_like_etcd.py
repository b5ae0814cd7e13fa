"""Thousands of random requests to etcd and to kvnode: the same answers, events and hashes.

Requests of every kind of KV and of Lease, right and wrong ones, over few keys, so that they meet;
transactions nest, revisions lie in the past, in the future and below the compaction.  At the end
watches of every form read the whole history.  A failure names its seed; KVTEST_SEED repeats it.
"""

import os
import random
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import Message
from kvnode.pb import rpc_pb2 as pb
from kvtest.processes import ClusterProcesses
from kvtest.programs import program

Channels = tuple[grpc.Channel, grpc.Channel]

#: Few enough that Go's sort, which is not stable for long lists, keeps equal ones in order.
KEYS = [b"a", b"a\0", b"ab", b"b", b"b\xff", b"c", b"\xff", b"\xff\xff", b"d/1", b"d/2"]
ENDS = [b"", b"", b"b", b"c", b"d0", b"\0", b"\xff", b"\xff\xff\xff", b"a"]
LEASES = [101, 102, 103]
STEPS = 700

SEEDS = [int(os.environ["KVTEST_SEED"])] if "KVTEST_SEED" in os.environ else [1, 2, 3, 4]


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Channels]:
    etcd = program("etcd37") or program("etcd")
    if etcd is None:
        pytest.skip("no etcd: `tests/kube/kube build` makes one, or KVTEST_ETCD names one")
    with (
        ClusterProcesses(tmp_path_factory.mktemp("etcd"), 1, command=[etcd]) as theirs,
        ClusterProcesses(tmp_path_factory.mktemp("kvnode"), 1) as ours,
    ):
        made = [
            grpc.insecure_channel(members[0].client_url.removeprefix("http://")) for members in (theirs, ours)
        ]
        yield made[0], made[1]
        for channel in made:
            channel.close()


class Requests:
    """Makes requests that know about where the store stands."""

    def __init__(self, seed: int, revision: int) -> None:
        self.chance = random.Random(seed)
        self.revision = revision
        self.compacted = revision

    def some_revision(self) -> int:
        """Mostly none; else readable, compacted, to come, or nonsense."""
        pick = self.chance.random()
        if pick < 0.6:
            return 0
        if pick < 0.9:
            return self.chance.randint(self.compacted, self.revision)
        return self.chance.choice(
            [self.compacted - 1, self.revision + 1, self.compacted, self.revision, -1, 1, 10**12]
        )

    def range(self) -> pb.RangeRequest:
        chance = self.chance
        request = pb.RangeRequest(key=chance.choice(KEYS), range_end=chance.choice(ENDS))
        request.revision = self.some_revision()
        if chance.random() < 0.3:
            request.limit = chance.randint(-1, 5)
        if chance.random() < 0.3:
            request.sort_order = chance.randint(0, 2)  # type: ignore[assignment]
            request.sort_target = chance.randint(0, 4)  # type: ignore[assignment]
        if chance.random() < 0.15:
            request.keys_only = True
        if chance.random() < 0.1:
            request.count_only = True
        for field in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
            if chance.random() < 0.07:
                setattr(request, field, chance.randint(self.revision - 30, self.revision + 1))
        request.serializable = chance.random() < 0.3
        return request

    def put(self) -> pb.PutRequest:
        chance = self.chance
        request = pb.PutRequest(key=chance.choice(KEYS), value=chance.choice([b"", b"1", b"2", b"x" * 300]))
        if chance.random() < 0.2:
            request.lease = chance.choice([*LEASES, 99])
        request.prev_kv = chance.random() < 0.3
        request.ignore_value = chance.random() < 0.08
        request.ignore_lease = chance.random() < 0.08
        if request.ignore_value and chance.random() < 0.8:
            request.value = b""
        if request.ignore_lease and chance.random() < 0.8:
            request.lease = 0
        return request

    def delete(self) -> pb.DeleteRangeRequest:
        chance = self.chance
        # Rarely much at once, or there would be nothing to ask about.
        end = chance.choice(ENDS) if chance.random() < 0.3 else b""
        return pb.DeleteRangeRequest(key=chance.choice(KEYS), range_end=end, prev_kv=chance.random() < 0.5)

    def compare(self) -> pb.Compare:
        chance = self.chance
        compare = pb.Compare(key=chance.choice(KEYS))
        compare.target = chance.randint(0, 4)  # type: ignore[assignment]
        compare.result = chance.randint(0, 3)  # type: ignore[assignment]
        if chance.random() < 0.3:
            compare.range_end = chance.choice(ENDS)
        if compare.target == pb.Compare.VALUE:
            compare.value = chance.choice([b"", b"1", b"2"])
        elif compare.target == pb.Compare.VERSION:
            compare.version = chance.randint(0, 4)
        elif compare.target == pb.Compare.LEASE:
            compare.lease = chance.choice([0, *LEASES])
        else:
            field = "create_revision" if compare.target == pb.Compare.CREATE else "mod_revision"
            setattr(compare, field, chance.choice([0, chance.randint(self.revision - 20, self.revision)]))
        return compare

    def operation(self, depth: int) -> pb.RequestOp:
        pick = self.chance.random()
        if pick < 0.35:
            put = self.put()
            # A transaction that has deleted the key and then keeps its value or lease kills etcd.
            put.ignore_value = put.ignore_lease = False
            return pb.RequestOp(request_put=put)
        if pick < 0.65:
            return pb.RequestOp(request_range=self.range())
        if pick < 0.85 or depth == 0:
            return pb.RequestOp(request_delete_range=self.delete())
        return pb.RequestOp(request_txn=self.txn(depth - 1))

    def txn(self, depth: int = 2) -> pb.TxnRequest:
        chance = self.chance
        return pb.TxnRequest(
            compare=[self.compare() for _ in range(chance.choice([0, 1, 1, 2]))],
            success=[self.operation(depth) for _ in range(chance.randint(0, 3))],
            failure=[self.operation(depth) for _ in range(chance.randint(0, 3))],
        )

    def any(self) -> tuple[str, Message]:
        """Return a method and its request."""
        chance = self.chance
        pick = chance.random()
        if pick < 0.25:
            return "KV/Put", self.put()
        if pick < 0.5:
            return "KV/Range", self.range()
        if pick < 0.6:
            return "KV/DeleteRange", self.delete()
        if pick < 0.9:
            return "KV/Txn", self.txn()
        if pick < 0.93:
            target = chance.choice([self.revision, self.revision - 15, self.compacted, self.revision + 1])
            return "KV/Compact", pb.CompactionRequest(revision=target, physical=chance.random() < 0.5)
        if pick < 0.96:
            return "Lease/LeaseGrant", pb.LeaseGrantRequest(ID=chance.choice(LEASES), TTL=600)
        if pick < 0.98:
            return "Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=chance.choice(LEASES))
        request = pb.LeaseTimeToLiveRequest(ID=chance.choice(LEASES), keys=True)
        return "Lease/LeaseTimeToLive", request


_RESPONSES = {"KV/Compact": pb.CompactionResponse}


def answer(channel: grpc.Channel, method: str, request: Message) -> Message | str:
    """Return the response without what names the server, or the error."""
    try:
        payload = channel.unary_unary(f"/etcdserverpb.{method}")(request.SerializeToString(), timeout=10.0)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    response_type = _RESPONSES.get(method) or getattr(pb, method.partition("/")[2] + "Response")
    response: Message = response_type.FromString(payload)
    header = response.header  # type: ignore[attr-defined]
    for field in ("cluster_id", "member_id", "raft_term"):
        header.ClearField(field)
    if isinstance(response, pb.LeaseTimeToLiveResponse):
        response.TTL = min(response.TTL, 1)
        keys = sorted(response.keys)
        del response.keys[:]
        response.keys.extend(keys)
    if isinstance(request, pb.RangeRequest) and isinstance(response, pb.RangeResponse):
        _without_lease(request, response)
    if isinstance(request, pb.TxnRequest) and isinstance(response, pb.TxnResponse):
        _without_leases(request, response)
    return response


def _without_lease(request: pb.RangeRequest, response: pb.RangeResponse) -> None:
    """Since 3.7 etcd leaves the lease out of ``keys_only``; kvnode tells it."""
    if request.keys_only:
        for pair in response.kvs:
            pair.lease = 0


def _without_leases(request: pb.TxnRequest, response: pb.TxnResponse) -> None:
    for op, result in zip(
        request.success if response.succeeded else request.failure, response.responses, strict=True
    ):
        if op.HasField("request_range"):
            _without_lease(op.request_range, result.response_range)
        elif op.HasField("request_txn"):
            _without_leases(op.request_txn, result.response_txn)


def events(channel: grpc.Channel, create: pb.WatchCreateRequest, until: int) -> list[Message]:
    """Return what a watch tells of the past, up to the last event that concerns it."""
    seen: list[Message] = []
    asking = iter([pb.WatchRequest(create_request=create).SerializeToString()])
    call = channel.stream_stream("/etcdserverpb.Watch/Watch")(asking, timeout=10.0)
    for payload in call:
        response = pb.WatchResponse.FromString(payload)
        seen += response.events
        if response.canceled or (seen and seen[-1].kv.mod_revision >= until):  # type: ignore[attr-defined]
            break
    call.cancel()
    return seen


@pytest.mark.parametrize("seed", SEEDS)
def test_random_requests_are_answered_as_by_etcd(channels: Channels, seed: int) -> None:
    theirs, ours = channels
    # An earlier seed may have left leases, and the state depends on nothing but this one.
    for channel in channels:
        for lease_id in LEASES:
            answer(channel, "Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease_id))
        everything = pb.DeleteRangeRequest(key=b"\0", range_end=b"\0")
        start = answer(channel, "KV/DeleteRange", everything)
    requests = Requests(seed, start.header.revision)  # type: ignore[union-attr]
    begun = requests.revision
    for step in range(STEPS):
        method, request = requests.any()
        expected, actual = answer(theirs, method, request), answer(ours, method, request)
        assert actual == expected, f"seed {seed}, step {step}: {method} {request}"
        if isinstance(actual, Message):
            requests.revision = max(requests.revision, actual.header.revision)  # type: ignore[attr-defined]
            if isinstance(request, pb.CompactionRequest):
                requests.compacted = request.revision
    for channel in channels:
        last = answer(channel, "KV/Put", pb.PutRequest(key=b"c", value=b"last"))
    until = last.header.revision  # type: ignore[union-attr]
    for fields in (
        {"key": b"\0", "range_end": b"\0"},
        {"key": b"\0", "range_end": b"\0", "prev_kv": True},
        {"key": b"\0", "range_end": b"\0", "filters": [pb.WatchCreateRequest.NODELETE], "prev_kv": True},
        {"key": b"a", "range_end": b"d"},
        {"key": b"c", "prev_kv": True, "fragment": True},
    ):
        start_revision = max(requests.compacted, begun)
        create = pb.WatchCreateRequest(**fields, start_revision=start_revision)  # type: ignore[arg-type]
        assert events(ours, create, until) == events(theirs, create, until), f"seed {seed}: {fields}"
    # At the compact revision itself etcd tells what it computed while it compacted, from one before.
    for revision in (0, requests.compacted + 1, (requests.compacted + until) // 2 + 1):
        hashing = pb.HashKVRequest(revision=revision)
        expected = answer(theirs, "Maintenance/HashKV", hashing)
        assert answer(ours, "Maintenance/HashKV", hashing) == expected, f"seed {seed}: hash at {revision}"
