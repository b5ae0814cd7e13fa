"""KV as clients see it: headers, exact codes and texts, and what stays out of the log."""

import grpc
import pytest
from kvnode.pb import rpc_pb2 as pb
from kvnode.server.errors import RequestTimeoutError
from kvtest.local_member import CLUSTER_ID, MEMBER_ID, LocalMember, local_config
from kvtest.served_member import ServedMember, serve, until

INVALID = grpc.StatusCode.INVALID_ARGUMENT
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE


def header(revision: int) -> pb.ResponseHeader:
    return pb.ResponseHeader(cluster_id=CLUSTER_ID, member_id=MEMBER_ID, revision=revision, raft_term=2)


def put_op(key: bytes, value: bytes = b"") -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))


def range_op(key: bytes, **fields: object) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, **fields))  # type: ignore[arg-type]


async def test_a_new_store_stands_at_revision_1_and_the_first_put_makes_2(served: ServedMember) -> None:
    empty = await served.client.kv("KV/Range", pb.RangeRequest(key=b"a"))
    assert empty == pb.RangeResponse(header=header(1))
    answer = await served.client.kv("KV/Put", pb.PutRequest(key=b"a", value=b"1"))
    assert answer == pb.PutResponse(header=header(2))


async def test_a_put_returns_the_previous_pair_only_when_asked(served: ServedMember) -> None:
    await served.put(b"a", b"1")
    plain = await served.client.kv("KV/Put", pb.PutRequest(key=b"a", value=b"2"))
    assert not plain.HasField("prev_kv")
    asked = await served.client.kv("KV/Put", pb.PutRequest(key=b"a", value=b"3", prev_kv=True))
    assert (asked.prev_kv.value, asked.prev_kv.mod_revision, asked.header) == (b"2", 3, header(4))


async def test_a_read_of_an_old_revision_has_the_current_one_in_its_header(served: ServedMember) -> None:
    for value in (b"1", b"2", b"3"):
        await served.put(b"a", value)
    answer = await served.client.kv("KV/Range", pb.RangeRequest(key=b"a", revision=2))
    assert answer.header == header(4)
    assert answer.kvs[0].value == b"1"


async def test_a_page_counts_all_keys_and_says_that_there_are_more(served: ServedMember) -> None:
    for name in (b"k1", b"k2", b"k3"):
        await served.put(name)
    answer = await served.client.kv("KV/Range", pb.RangeRequest(key=b"k", range_end=b"l", limit=2))
    assert ([kv.key for kv in answer.kvs], answer.count, answer.more) == ([b"k1", b"k2"], 3, True)


async def test_a_deletion_of_nothing_leaves_the_revision(served: ServedMember) -> None:
    await served.put(b"a")
    answer = await served.client.kv("KV/DeleteRange", pb.DeleteRangeRequest(key=b"b"))
    assert answer == pb.DeleteRangeResponse(header=header(2))


async def test_a_deletion_returns_the_previous_pairs_by_key(served: ServedMember) -> None:
    await served.put(b"b", b"2")
    await served.put(b"a", b"1")
    request = pb.DeleteRangeRequest(key=b"a", range_end=b"c", prev_kv=True)
    answer = await served.client.kv("KV/DeleteRange", request)
    assert answer.deleted == 2
    assert [kv.key for kv in answer.prev_kvs] == [b"a", b"b"]
    assert answer.header == header(4)


async def test_only_the_outer_header_of_a_transaction_is_complete(served: ServedMember) -> None:
    request = pb.TxnRequest(success=[put_op(b"a"), range_op(b"a")])
    answer = await served.client.kv("KV/Txn", request)
    assert answer.succeeded
    assert answer.header == header(2)
    assert answer.responses[0].response_put.header == pb.ResponseHeader(revision=2)
    assert answer.responses[1].response_range.header == pb.ResponseHeader(revision=2)


async def test_a_transaction_of_reads_stays_out_of_the_log(served: ServedMember) -> None:
    await served.put(b"a", b"1")
    proposals = served.member.proposals
    answer = await served.client.kv("KV/Txn", pb.TxnRequest(success=[range_op(b"a")]))
    assert answer.responses[0].response_range.kvs[0].value == b"1"
    assert answer.header == header(2)
    assert served.member.proposals == proposals


async def test_a_nested_transaction_goes_through_the_log_even_if_it_only_reads(served: ServedMember) -> None:
    nested = pb.RequestOp(request_txn=pb.TxnRequest(success=[range_op(b"a")]))
    await served.client.kv("KV/Txn", pb.TxnRequest(success=[nested]))
    assert served.member.proposals == 1


async def test_a_linearizable_read_waits_and_a_serializable_one_does_not(served: ServedMember) -> None:
    served.member.holds_reads = True
    path = "/etcdserverpb.KV/Range"
    waiting = served.client.method(path)(pb.RangeRequest(key=b"a").SerializeToString())
    await until(lambda: len(served.member._held) == 1)
    local = await served.client.kv("KV/Range", pb.RangeRequest(key=b"a", serializable=True))
    assert local.header == header(1)
    await served.put(b"a", b"written meanwhile")
    served.member.release()
    answer = pb.RangeResponse.FromString(await waiting)
    assert answer.kvs[0].value == b"written meanwhile"


async def test_a_transaction_of_serializable_reads_needs_no_quorum(served: ServedMember) -> None:
    served.member.failure = RequestTimeoutError()
    local = pb.TxnRequest(success=[range_op(b"a", serializable=True)])
    assert (await served.client.kv("KV/Txn", local)).succeeded
    mixed = pb.TxnRequest(success=[range_op(b"a", serializable=True), range_op(b"b")])
    assert await served.client.refused("KV/Txn", mixed) == (
        grpc.StatusCode.UNAVAILABLE,
        "etcdserver: request timed out",
    )


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        pytest.param("Range", pb.RangeRequest(), "key is not provided", id="range-without-key"),
        pytest.param("Put", pb.PutRequest(value=b"1"), "key is not provided", id="put-without-key"),
        pytest.param("DeleteRange", pb.DeleteRangeRequest(), "key is not provided", id="delete-without-key"),
        pytest.param(
            "Put",
            pb.PutRequest(key=b"a", value=b"1", ignore_value=True),
            "value is provided",
            id="ignore-value",
        ),
        pytest.param(
            "Put",
            pb.PutRequest(key=b"a", lease=1, ignore_lease=True),
            "lease is provided",
            id="ignore-lease",
        ),
        pytest.param(
            "Put",
            pb.PutRequest(key=b"a", ignore_value=True),
            "key not found",
            id="nothing-to-keep",
        ),
        pytest.param(
            "Txn",
            pb.TxnRequest(success=[pb.RequestOp()]),
            "key not found",
            id="txn-with-empty-operation",
        ),
        pytest.param(
            "Txn",
            pb.TxnRequest(success=[put_op(b"a"), put_op(b"a")]),
            "duplicate key given in txn request",
            id="txn-that-puts-twice",
        ),
        pytest.param(
            "Txn",
            pb.TxnRequest(success=[put_op(b"%d" % i) for i in range(129)]),
            "too many operations in txn request",
            id="txn-with-129-operations",
        ),
        pytest.param(
            "Range",
            pb.RangeRequest(key=b"a", sort_order=7),  # type: ignore[arg-type]
            "invalid sort option",
            id="unknown-sort-order",
        ),
    ],
)
async def test_a_wrong_request_is_refused_with_etcds_words(
    served: ServedMember, method: str, request_: pb.PutRequest, expected: str
) -> None:
    assert await served.client.refused(f"KV/{method}", request_) == (INVALID, f"etcdserver: {expected}")


async def test_future_and_compacted_revisions_are_out_of_range(served: ServedMember) -> None:
    for _ in range(3):
        await served.put(b"a")
    await served.compact(3)
    read = served.client.refused
    assert await read("KV/Range", pb.RangeRequest(key=b"a", revision=9)) == (
        OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    )
    assert await read("KV/Range", pb.RangeRequest(key=b"a", revision=2)) == (
        OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
    )
    exactly_there = await served.client.kv("KV/Range", pb.RangeRequest(key=b"a", revision=3))
    assert exactly_there.kvs[0].mod_revision == 3
    assert await read("KV/Compact", pb.CompactionRequest(revision=3)) == (
        OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
    )
    assert await read("KV/Compact", pb.CompactionRequest(revision=9)) == (
        OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
    )


async def test_a_put_on_an_unknown_lease_is_not_found(served: ServedMember) -> None:
    assert await served.client.refused("KV/Put", pb.PutRequest(key=b"a", lease=7)) == (
        grpc.StatusCode.NOT_FOUND,
        "etcdserver: requested lease not found",
    )


async def test_a_physical_compaction_is_answered_when_the_records_are_gone(served: ServedMember) -> None:
    for _ in range(3):
        await served.put(b"a")
    answer = await served.client.kv("KV/Compact", pb.CompactionRequest(revision=4, physical=True))
    assert answer == pb.CompactionResponse(header=header(4))
    assert served.member.applier.store.compacted_revision == 4


async def test_a_request_above_the_limit_is_refused_by_the_member_and_far_above_by_the_transport() -> None:
    async with serve(LocalMember(local_config(max_request_bytes=1000))) as served:
        assert await served.client.refused("KV/Put", pb.PutRequest(key=b"a", value=b"x" * 1001)) == (
            INVALID,
            "etcdserver: request is too large",
        )
        far_above = pb.PutRequest(key=b"a", value=b"x" * (600 * 1024))
        code, _ = await served.client.refused("KV/Put", far_above)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_learner_reads_its_own_state_and_nothing_else(served: ServedMember) -> None:
    served.member.is_learner = True
    local = await served.client.kv("KV/Range", pb.RangeRequest(key=b"a", serializable=True))
    assert local.header == header(1)
    refusal = (grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner")
    assert await served.client.refused("KV/Range", pb.RangeRequest(key=b"a")) == refusal
    for method in (
        "KV/Put",
        "KV/DeleteRange",
        "KV/Txn",
        "KV/Compact",
        "Lease/LeaseGrant",
        "Cluster/MemberList",
    ):
        assert await served.client.refused(method, b"") == refusal


async def test_a_client_that_asks_for_a_leader_is_refused_when_none_is_known(served: ServedMember) -> None:
    served.member.set_leader(0)
    needs_leader = (("hasleader", "true"),)
    request = pb.RangeRequest(key=b"a", serializable=True)
    assert await served.client.refused("KV/Range", request, needs_leader) == (
        grpc.StatusCode.UNAVAILABLE,
        "etcdserver: no leader",
    )
    await served.client.kv("KV/Range", request)


async def test_bytes_that_are_no_message_are_refused(served: ServedMember) -> None:
    for method in ("KV/Range", "KV/Put", "KV/Txn", "Lease/LeaseGrant"):
        code, message = await served.client.refused(method, b"\xff\xff\xff")
        assert code is grpc.StatusCode.INTERNAL
        assert message.startswith("grpc: error unmarshalling request")
