"""RangeStream: what its pieces add up to, and what ends it."""

import asyncio

import grpc
import pytest
from grpc import aio
from kvnode.apply.range_read import execute_range
from kvnode.pb import rpc_pb2 as pb
from kvnode.status import KvError
from kvtest.local_member import LocalMember, local_config
from kvtest.served_member import DEADLINE_S, ServedMember, serve

EVERYTHING = {"key": b"\0", "range_end": b"\0"}


async def pieces(served: ServedMember, request: pb.RangeRequest | bytes) -> list[pb.RangeResponse]:
    """Make one call to the end."""
    payload = request if isinstance(request, bytes) else request.SerializeToString()
    call = served.client.channel.unary_stream("/etcdserverpb.KV/RangeStream")(payload, timeout=DEADLINE_S)
    return [pb.RangeStreamResponse.FromString(piece).range_response async for piece in call]


def merged(parts: list[pb.RangeResponse]) -> pb.RangeResponse:
    whole = pb.RangeResponse()
    for part in parts:
        whole.MergeFrom(part)
    return whole


async def refusal(served: ServedMember, request: pb.RangeRequest | bytes) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as raised:
        await pieces(served, request)
    return raised.value.code(), raised.value.details() or ""


async def fill(served: ServedMember, count: int, size: int = 3) -> None:
    for number in range(count):
        await served.put(b"k%04d" % number, b"v" * size)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="all"),
        pytest.param({"limit": 7}, id="limit-in-the-first-piece"),
        pytest.param({"limit": 10}, id="limit-that-ends-a-piece"),
        pytest.param({"limit": 41}, id="limit-in-a-later-piece"),
        pytest.param({"limit": 100}, id="limit-of-all"),
        pytest.param({"limit": 1000}, id="limit-above-all"),
        pytest.param({"revision": 50}, id="old-revision"),
        pytest.param({"revision": 50, "limit": 20}, id="old-revision-with-limit"),
        pytest.param({"keys_only": True}, id="keys-only"),
        pytest.param({"keys_only": True, "revision": 50}, id="keys-only-of-an-old-revision"),
        pytest.param({"count_only": True}, id="count-only"),
        pytest.param({"count_only": True, "limit": 3}, id="count-only-with-limit"),
        pytest.param({"key": b"k0007", "range_end": b""}, id="one-key"),
        pytest.param({"key": b"none", "range_end": b""}, id="no-key"),
        pytest.param({"key": b"k0050", "range_end": b"k0010"}, id="empty-range"),
        pytest.param({"serializable": True}, id="serializable"),
        pytest.param({"sort_order": pb.RangeRequest.ASCEND}, id="ascending-by-key"),
    ],
)
async def test_the_pieces_add_up_to_what_range_answers(
    served: ServedMember, fields: dict[str, object]
) -> None:
    await fill(served, 100)
    await served.delete(b"k0020", b"k0025")
    request = pb.RangeRequest(**{**EVERYTHING, **fields})  # type: ignore[arg-type]
    whole = await served.client.kv("KV/Range", request)
    assert merged(await pieces(served, request)) == whole


async def test_only_the_last_piece_has_header_more_and_count_and_each_but_it_has_pairs(
    served: ServedMember,
) -> None:
    await fill(served, 100)
    parts = await pieces(served, pb.RangeRequest(**EVERYTHING, limit=60))  # type: ignore[arg-type]
    assert [len(part.kvs) for part in parts] == [10, 20, 30]
    for part in parts[:-1]:
        assert (part.HasField("header"), part.more, part.count) == (False, False, 0)
    assert (parts[-1].header.revision, parts[-1].more, parts[-1].count) == (101, True, 100)


async def test_pieces_grow_to_about_the_largest_request(tmp_path: object) -> None:
    async with serve(LocalMember(local_config(max_request_bytes=4000))) as served:
        await fill(served, 300, size=100)
        parts = await pieces(served, pb.RangeRequest(**EVERYTHING))  # type: ignore[arg-type]
    sizes = [part.ByteSize() for part in parts[:-1]]
    assert sizes[0] < 2000 <= sizes[1] < 8000
    assert max(sizes) < 8000


async def test_count_only_is_one_message(served: ServedMember) -> None:
    await fill(served, 30)
    parts = await pieces(served, pb.RangeRequest(**EVERYTHING, count_only=True))  # type: ignore[arg-type]
    assert [(part.count, len(part.kvs), part.header.revision) for part in parts] == [(30, 0, 31)]


async def test_writes_after_the_beginning_are_not_in_the_stream() -> None:
    async with serve(LocalMember(local_config(max_request_bytes=100_000))) as served:
        await fill(served, 40, size=60_000)
        call = served.client.channel.unary_stream("/etcdserverpb.KV/RangeStream")(
            pb.RangeRequest(**EVERYTHING).SerializeToString(),  # type: ignore[arg-type]
            timeout=DEADLINE_S,
        )
        arriving = aiter(call)
        first = pb.RangeStreamResponse.FromString(await anext(arriving)).range_response
        before = execute_range(served.member.applier.store, pb.RangeRequest(key=b"\0", range_end=b"\0"))
        await served.put(b"k0039", b"new")
        await served.delete(b"k0038")
        rest = [pb.RangeStreamResponse.FromString(piece).range_response async for piece in arriving]
        whole = merged([first, *rest])
    assert (list(whole.kvs), whole.count, whole.header.revision) == (list(before.kvs), 40, 41)


async def test_a_compaction_of_the_pinned_revision_ends_the_stream() -> None:
    async with serve(LocalMember(local_config(max_request_bytes=100_000))) as served:
        # More than what buffers on the way can hold, so that the server has to wait for the reader.
        await fill(served, 400, size=60_000)
        call = served.client.channel.unary_stream("/etcdserverpb.KV/RangeStream")(
            pb.RangeRequest(**EVERYTHING).SerializeToString(),  # type: ignore[arg-type]
            timeout=DEADLINE_S,
        )
        arriving = aiter(call)
        await anext(arriving)
        await served.compact(await served.put(b"other"))
        with pytest.raises(aio.AioRpcError) as raised:
            async for _ in arriving:
                pass
    assert (raised.value.code(), raised.value.details()) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
    )


async def test_what_a_stream_does_not_do_is_unimplemented_in_etcds_words(served: ServedMember) -> None:
    unimplemented = grpc.StatusCode.UNIMPLEMENTED
    sorts = (unimplemented, "RangeStream does not support custom sort orders")
    filters = (unimplemented, "RangeStream does not support revision filters")
    by_value = pb.RangeRequest(key=b"k", sort_target=pb.RangeRequest.VALUE, sort_order=1)
    assert await refusal(served, by_value) == sorts
    assert await refusal(served, pb.RangeRequest(key=b"k", sort_order=2)) == sorts
    assert await refusal(served, pb.RangeRequest(key=b"k", min_mod_revision=1)) == filters
    assert await refusal(served, pb.RangeRequest(key=b"k", max_create_revision=1)) == filters


async def test_what_a_range_refuses_a_stream_refuses(served: ServedMember) -> None:
    invalid, out_of_range = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE
    assert await refusal(served, pb.RangeRequest()) == (invalid, "etcdserver: key is not provided")
    assert await refusal(served, pb.RangeRequest(key=b"k", revision=9)) == (
        out_of_range,
        "etcdserver: mvcc: required revision is a future revision",
    )
    assert (await refusal(served, b"\xff\xff"))[0] is grpc.StatusCode.INTERNAL


async def test_a_stream_waits_for_the_quorum_unless_it_is_serializable(served: ServedMember) -> None:
    await served.put(b"k")
    served.member.failure = KvError("no quorum")
    assert await refusal(served, pb.RangeRequest(key=b"k")) == (
        grpc.StatusCode.UNKNOWN,
        "etcdserver: no quorum",
    )
    assert merged(await pieces(served, pb.RangeRequest(key=b"k", serializable=True))).count == 1


async def test_a_learner_streams_what_is_serializable(served: ServedMember) -> None:
    served.member.is_learner = True
    code, message = await refusal(served, pb.RangeRequest(key=b"k"))
    assert (code, message) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "etcdserver: rpc not supported for learner",
    )
    assert await pieces(served, pb.RangeRequest(key=b"k", serializable=True))


async def test_a_long_stream_leaves_turns_to_others(served: ServedMember) -> None:
    await fill(served, 3000)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counter = asyncio.ensure_future(count_turns())
    await pieces(served, pb.RangeRequest(**EVERYTHING))  # type: ignore[arg-type]
    counter.cancel()
    assert turns > 6
