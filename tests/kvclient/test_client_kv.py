"""Keys and transactions through the library, on a real server."""

import pytest
from kvclient import (
    Client,
    CompactedError,
    FutureRevisionError,
    KeyRange,
    KvClientError,
    LeaseNotFoundError,
    prefix,
)
from kvclient.txn import compare_mod, compare_value, compare_version, op_delete, op_get, op_put, op_txn
from kvnode.pb import rpc_pb2
from kvnode.status import StatusCode


async def test_a_put_can_be_read_back(client: Client, space: str) -> None:
    put = await client.put(space + "k", b"\x00\xff")
    found = await client.get(space + "k")
    assert found is not None
    assert (found.value, found.mod_revision, found.version) == (b"\x00\xff", put.header.revision, 1)


async def test_a_missing_key_is_none(client: Client, space: str) -> None:
    assert await client.get(space + "nothing") is None


async def test_an_old_revision_can_be_read(client: Client, space: str) -> None:
    first = await client.put(space + "k", "1")
    await client.put(space + "k", "2")
    old = await client.get(space + "k", revision=first.header.revision)
    assert old is not None
    assert old.value == b"1"


async def test_put_answers_with_the_pair_before(client: Client, space: str) -> None:
    assert not (await client.put(space + "k", "1", prev_kv=True)).HasField("prev_kv")
    assert (await client.put(space + "k", "2", prev_kv=True)).prev_kv.value == b"1"


async def test_pages_cover_a_prefix_at_one_revision(client: Client, space: str) -> None:
    for number in range(7):
        await client.put(f"{space}{number}", str(number))
    seen: list[bytes] = []
    revisions = set()
    async for page in client.pages(prefix(space), page_size=3):
        seen += [kv.value for kv in page.kvs]
        revisions.add(page.header.revision)
        # Written behind the reader's back: a later page must not show it.
        await client.put(f"{space}9", "late")
    assert seen == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]
    assert len(revisions) == 3


async def test_ranges_sort_limit_and_count(client: Client, space: str) -> None:
    for name in "cab":
        await client.put(space + name, name)
    response = await client.range(
        prefix(space),
        limit=2,
        sort_order=rpc_pb2.RangeRequest.DESCEND,
        sort_target=rpc_pb2.RangeRequest.MOD,
    )
    assert [kv.value for kv in response.kvs] == [b"b", b"a"]
    assert (response.count, response.more) == (3, True)


async def test_a_range_is_deleted_and_told(client: Client, space: str) -> None:
    for name in "abc":
        await client.put(space + name, name)
    wanted = KeyRange((space + "a").encode(), (space + "c").encode())
    response = await client.delete(wanted, prev_kv=True)
    assert (response.deleted, [kv.value for kv in response.prev_kvs]) == (2, [b"a", b"b"])
    assert (await client.delete(space + "a")).deleted == 0


async def test_a_transaction_takes_the_branch_that_its_comparisons_choose(client: Client, space: str) -> None:
    key = space + "k"
    created = await client.txn([compare_version(key, "=", 0)], [op_put(key, "1"), op_get(key)], [op_get(key)])
    assert created.succeeded
    assert created.responses[1].response_range.kvs[0].value == b"1"
    again = await client.txn([compare_version(key, "=", 0)], [op_put(key, "2")], [op_delete(key)])
    assert (again.succeeded, again.responses[0].response_delete_range.deleted) == (False, 1)


async def test_a_transaction_nests(client: Client, space: str) -> None:
    key = space + "k"
    inner = rpc_pb2.TxnRequest(compare=[compare_mod(key, "=", 0)], success=[op_put(key, "inner")])
    outer = await client.txn([compare_value(key, "!=", "x")], [op_get(key)], [op_txn(inner)])
    assert not outer.succeeded
    assert outer.responses[0].response_txn.succeeded
    found = await client.get(key)
    assert found is not None
    assert found.value == b"inner"


async def test_compaction_forgets_older_revisions(client: Client, space: str) -> None:
    first = await client.put(space + "k", "1")
    second = await client.put(space + "k", "2")
    await client.compact(second.header.revision, is_physical=True)
    with pytest.raises(CompactedError) as caught:
        await client.get(space + "k", revision=first.header.revision)
    assert caught.value.code is StatusCode.OUT_OF_RANGE
    assert caught.value.text == "etcdserver: mvcc: required revision has been compacted"
    assert caught.value.endpoint == client.endpoints[0]
    assert not caught.value.is_maybe_applied


async def test_a_revision_of_the_future_is_its_own_error(client: Client, space: str) -> None:
    with pytest.raises(FutureRevisionError):
        await client.get(space + "k", revision=1 << 60)


async def test_an_unknown_lease_is_its_own_error(client: Client, space: str) -> None:
    with pytest.raises(LeaseNotFoundError):
        await client.put(space + "k", "v", lease_id=12345)


async def test_other_refusals_carry_code_and_text(client: Client) -> None:
    with pytest.raises(KvClientError) as caught:
        await client.put("", "v")
    assert (caught.value.code, caught.value.text) == (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: key is not provided",
    )
