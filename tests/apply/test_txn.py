"""Txn, rule by rule (etcd v3 API, KV)."""

import pytest
from kvnode.apply.errors import KeyNotFoundError
from kvnode.apply.reads import execute_read_txn
from kvnode.lease.errors import LeaseNotFoundError
from kvnode.mvcc.errors import CompactedError, FutureRevisionError
from kvnode.pb import rpc_pb2 as rpc
from kvnode.storage.keyspace import seal_key
from kvtest.state_machine import StateMachine

EQUAL, NOT_EQUAL = rpc.Compare.EQUAL, rpc.Compare.NOT_EQUAL
GREATER, LESS = rpc.Compare.GREATER, rpc.Compare.LESS
VERSION, CREATE, MOD = rpc.Compare.VERSION, rpc.Compare.CREATE, rpc.Compare.MOD
VALUE, LEASE = rpc.Compare.VALUE, rpc.Compare.LEASE


def put(key, value=b"v", **fields):
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, **fields))


def delete(key, range_end=b"", **fields):
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=range_end, **fields))


def get(key, range_end=b"", **fields):
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, range_end=range_end, **fields))


def nested(success=(), failure=(), compare=()):
    return rpc.RequestOp(request_txn=rpc.TxnRequest(success=success, failure=failure, compare=compare))


@pytest.fixture
def machine():
    """a at 2, b at 3 and 4 (version 2)."""
    machine = StateMachine()
    machine.put(b"a", b"1")
    machine.put(b"b", b"1")
    machine.put(b"b", b"2")
    return machine


def txn(machine, success=(), failure=(), compare=()):
    return machine.do(rpc.TxnRequest(success=success, failure=failure, compare=compare))


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        pytest.param({"key": b"a", "target": VERSION, "result": EQUAL, "version": 1}, True, id="version"),
        pytest.param({"key": b"b", "target": VERSION, "result": GREATER, "version": 1}, True, id="greater"),
        pytest.param({"key": b"b", "target": VERSION, "result": LESS, "version": 2}, False, id="less"),
        pytest.param(
            {"key": b"b", "target": CREATE, "result": EQUAL, "create_revision": 3}, True, id="create"
        ),
        pytest.param({"key": b"b", "target": MOD, "result": NOT_EQUAL, "mod_revision": 4}, False, id="mod"),
        pytest.param({"key": b"b", "target": VALUE, "result": EQUAL, "value": b"2"}, True, id="value"),
        pytest.param({"key": b"b", "target": VALUE, "result": GREATER, "value": b"10"}, True, id="bytewise"),
        pytest.param({"key": b"a", "target": LEASE, "result": EQUAL, "lease": 0}, True, id="lease"),
        pytest.param({"key": b"x", "target": MOD, "result": EQUAL, "mod_revision": 0}, True, id="absent-mod"),
        pytest.param({"key": b"x", "target": CREATE, "result": EQUAL}, True, id="absent-create"),
        pytest.param(
            {"key": b"x", "target": VERSION, "result": LESS, "version": 1}, True, id="absent-version"
        ),
        pytest.param({"key": b"x", "target": VALUE, "result": EQUAL, "value": b""}, False, id="absent-value"),
        pytest.param(
            {"key": b"x", "target": VALUE, "result": NOT_EQUAL, "value": b"1"},
            False,
            id="absent-has-no-value",
        ),
        pytest.param(
            {"key": b"a", "range_end": b"c", "target": VERSION, "result": GREATER, "version": 0},
            True,
            id="every-key-of-a-range",
        ),
        pytest.param(
            {"key": b"a", "range_end": b"\0", "target": VERSION, "result": EQUAL, "version": 1},
            False,
            id="one-key-of-the-range-fails",
        ),
        pytest.param(
            {"key": b"x", "range_end": b"z", "target": CREATE, "result": EQUAL},
            True,
            id="empty-range-is-absent",
        ),
        pytest.param(
            {"key": b"b", "range_end": b"a", "target": CREATE, "result": EQUAL},
            True,
            id="reversed-range-is-absent",
        ),
        pytest.param(
            {"key": b"b", "target": VERSION, "result": EQUAL, "value": b"2"},
            False,
            id="other-operand-counts-as-0",
        ),
    ],
)
def test_comparisons(machine, compare, expected):
    assert txn(machine, compare=[rpc.Compare(**compare)]).succeeded is expected


def test_no_comparison_means_success(machine):
    assert txn(machine, success=[put(b"x")], failure=[put(b"y")]).succeeded


def test_all_comparisons_must_hold(machine):
    holds = rpc.Compare(key=b"a", target=VERSION, result=EQUAL, version=1)
    fails = rpc.Compare(key=b"a", target=VERSION, result=EQUAL, version=2)
    response = txn(machine, [put(b"x")], [put(b"y")], [holds, fails])
    assert not response.succeeded
    assert machine.applier.store.index.latest(b"y")
    assert not machine.applier.store.index.latest(b"x")


def test_all_writes_share_one_revision_in_order_of_execution(machine):
    txn(machine, [put(b"x"), delete(b"a"), put(b"w")])
    ((revision, changes),) = machine.batches[-1].changes
    assert revision == machine.revision == 5
    assert [(change.key, change.packed >> 1 & 3, change.is_deletion) for change in changes] == [
        (b"x", 0, False),
        (b"a", 1, True),
        (b"w", 2, False),
    ]


def test_a_txn_that_writes_nothing_does_not_move_the_revision(machine):
    response = txn(machine, [delete(b"x"), nested([get(b"a")])])
    assert (response.header.revision, machine.revision) == (4, 4)
    assert machine.batches[-1].changes == []


def test_the_inner_headers_hold_the_revision_at_that_point(machine):
    response = txn(
        machine, [get(b"a"), delete(b"x"), put(b"x"), get(b"x"), delete(b"y"), nested([get(b"x")])]
    )
    inner = response.responses
    assert [
        inner[0].response_range.header.revision,
        inner[1].response_delete_range.header.revision,
        inner[2].response_put.header.revision,
        inner[3].response_range.header.revision,
        inner[4].response_delete_range.header.revision,
        inner[5].response_txn.responses[0].response_range.header.revision,
    ] == [4, 4, 5, 5, 5, 5]
    assert inner[5].response_txn.HasField("header")
    assert inner[5].response_txn.header == rpc.ResponseHeader()
    assert response.header == rpc.ResponseHeader(revision=5)


def test_a_range_sees_what_the_txn_wrote_before_it(machine):
    response = txn(machine, [put(b"x", b"new"), delete(b"a"), get(b"a", b"z"), put(b"y")])
    found = response.responses[2].response_range
    assert [(pair.key, pair.mod_revision) for pair in found.kvs] == [(b"b", 4), (b"x", 5)]
    assert found.count == 2


def test_a_range_at_an_explicit_revision_sees_the_past(machine):
    response = txn(machine, [put(b"b", b"3"), get(b"b", revision=4), get(b"b", revision=3)])
    assert [each.response_range.kvs[0].value for each in response.responses[1:]] == [b"2", b"1"]


def test_nested_comparisons_are_decided_before_anything_is_written(machine):
    absent = rpc.Compare(key=b"x", target=CREATE, result=EQUAL)
    response = txn(machine, [put(b"x"), nested([put(b"y")], [put(b"z")], [absent])])
    assert response.responses[1].response_txn.succeeded
    assert machine.applier.store.index.latest(b"y")


def test_nested_txns_run_in_their_place(machine):
    response = txn(
        machine,
        [
            nested([get(b"x"), nested([put(b"x", b"1")])]),
            get(b"x"),
            nested([], [get(b"a")], [rpc.Compare(key=b"a", target=VERSION, result=EQUAL, version=9)]),
        ],
    )
    first, second, third = response.responses
    assert first.response_txn.responses[0].response_range.count == 0
    assert second.response_range.kvs[0].value == b"1"
    assert not third.response_txn.succeeded
    assert third.response_txn.responses[0].response_range.count == 1


@pytest.mark.parametrize(
    ("ops", "error"),
    [
        pytest.param([put(b"x"), put(b"y", lease=99)], LeaseNotFoundError, id="lease"),
        pytest.param([put(b"x"), put(b"y", b"", ignore_value=True)], KeyNotFoundError, id="ignore-value"),
        pytest.param([put(b"x"), put(b"y", ignore_lease=True)], KeyNotFoundError, id="ignore-lease"),
        pytest.param([put(b"x"), get(b"a", revision=5)], FutureRevisionError, id="future"),
        pytest.param([put(b"x"), get(b"a", revision=2)], CompactedError, id="compacted"),
        pytest.param([put(b"x"), get(b"a", revision=-5)], CompactedError, id="negative-is-not-the-latest"),
        pytest.param([put(b"x"), nested([put(b"y", lease=99)])], LeaseNotFoundError, id="nested"),
        pytest.param(
            [get(b"a", revision=9), put(b"y", lease=99)],
            FutureRevisionError,
            id="first-in-order-of-execution",
        ),
        pytest.param([put(b"y", lease=99), get(b"a", revision=9)], LeaseNotFoundError, id="other-order"),
    ],
)
def test_a_txn_that_fails_anywhere_changes_nothing(machine, ops, error):
    machine.compact(3)
    before = machine.dump()
    with pytest.raises(error):
        txn(machine, ops)
    after = machine.dump()
    assert {key for key in after if after[key] != before.get(key)} == {seal_key(4)}
    assert (machine.revision, machine.applier.store.has_changes) == (4, False)


def test_only_the_branch_that_runs_is_checked(machine):
    assert txn(machine, [put(b"x")], [put(b"y", lease=99), get(b"a", revision=77)]).succeeded


def test_previous_pairs_come_back_where_asked(machine):
    response = txn(
        machine, [put(b"b", b"3", prev_kv=True), delete(b"a", prev_kv=True), put(b"n", prev_kv=True)]
    )
    first, second, third = response.responses
    assert first.response_put.prev_kv.value == b"2"
    assert [pair.value for pair in second.response_delete_range.prev_kvs] == [b"1"]
    assert not third.response_put.HasField("prev_kv")


def test_clearing_everything_and_putting_is_one_revision(machine):
    txn(machine, [delete(b"a", b"\0"), put(b"b", b"", ignore_value=True)])
    (pair,) = txn(machine, [get(b"\0", b"\0")]).responses[0].response_range.kvs
    assert (pair.key, pair.create_revision, pair.version, pair.value) == (b"b", 5, 1, b"")
    machine.compact(5)
    machine.reopen()
    assert txn(machine, [get(b"\0", b"\0")]).responses[0].response_range.count == 1


def test_members_that_do_not_answer_reach_the_same_state(machine):
    follower = StateMachine()
    follower.applier._is_local = lambda request_id: False
    txn(machine, [put(b"x"), nested([delete(b"a"), get(b"b")])], [])
    results = follower.feed(*machine.log).results
    assert (results, follower.dump()) == ([], machine.dump())


def test_a_read_txn_answers_without_the_log(machine):
    store = machine.applier.store
    request = rpc.TxnRequest(
        compare=[rpc.Compare(key=b"a", target=VERSION, result=EQUAL, version=1)],
        success=[get(b"a"), get(b"b", revision=3)],
    )
    response = execute_read_txn(store, request)
    assert response.header.revision == 4
    assert [each.response_range.kvs[0].value for each in response.responses] == [b"1", b"1"]
    assert response.responses[1].response_range.header.revision == 4
    machine.compact(4)
    with pytest.raises(CompactedError):
        execute_read_txn(store, request)
