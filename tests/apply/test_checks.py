"""What is refused before it is proposed, and with which error first."""

import pytest
from kvnode.apply import errors
from kvnode.apply.checks import (
    check_delete_range,
    check_put,
    check_range,
    check_txn,
    is_read_only,
    quota_cost,
)
from kvnode.pb import rpc_pb2 as rpc
from kvnode.status import StatusCode


def put(key, **fields):
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, **fields))


def delete(key, range_end=b""):
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=range_end))


def get(key, **fields):
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, **fields))


def nested(success=(), failure=(), compare=()):
    return rpc.RequestOp(request_txn=rpc.TxnRequest(success=success, failure=failure, compare=compare))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        pytest.param(
            rpc.PutRequest(value=b"v", ignore_value=True), errors.KeyNotProvidedError, id="key-first"
        ),
        pytest.param(
            rpc.PutRequest(key=b"k", value=b"v", lease=1, ignore_value=True, ignore_lease=True),
            errors.ValueProvidedError,
            id="value-before-lease",
        ),
        pytest.param(
            rpc.PutRequest(key=b"k", lease=1, ignore_lease=True), errors.LeaseProvidedError, id="lease"
        ),
    ],
)
def test_a_put_names_its_first_fault(request_, error):
    with pytest.raises(error):
        check_put(request_)


def test_a_put_may_ignore_what_it_does_not_give():
    check_put(rpc.PutRequest(key=b"k", ignore_value=True, ignore_lease=True))


def test_a_range_needs_a_key_and_a_known_order():
    with pytest.raises(errors.KeyNotProvidedError):
        check_range(rpc.RangeRequest(sort_order=9))
    with pytest.raises(errors.InvalidSortOptionError):
        check_range(rpc.RangeRequest(key=b"k", sort_order=3))
    with pytest.raises(errors.InvalidSortOptionError):
        check_range(rpc.RangeRequest(key=b"k", sort_target=5))
    with pytest.raises(errors.KeyNotProvidedError):
        check_delete_range(rpc.DeleteRangeRequest(range_end=b"z"))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        pytest.param(
            rpc.TxnRequest(compare=[rpc.Compare()], success=[put(b"a")] * 4), errors.TooManyOpsError, id="ops"
        ),
        pytest.param(
            rpc.TxnRequest(compare=[rpc.Compare()] * 4, success=[put(b"a")]),
            errors.TooManyOpsError,
            id="compares",
        ),
        pytest.param(rpc.TxnRequest(failure=[get(b"a")] * 4), errors.TooManyOpsError, id="failure-branch"),
        pytest.param(
            rpc.TxnRequest(compare=[rpc.Compare()], success=[rpc.RequestOp()]),
            errors.KeyNotProvidedError,
            id="compare-without-key",
        ),
        pytest.param(rpc.TxnRequest(success=[rpc.RequestOp()]), errors.KeyNotFoundError, id="empty-op"),
        pytest.param(rpc.TxnRequest(failure=[put(b"")]), errors.KeyNotProvidedError, id="put-in-else"),
        pytest.param(
            rpc.TxnRequest(success=[get(b"a", sort_target=7)]), errors.InvalidSortOptionError, id="range"
        ),
        pytest.param(rpc.TxnRequest(failure=[delete(b"")]), errors.KeyNotProvidedError, id="delete"),
        pytest.param(
            rpc.TxnRequest(success=[nested([nested([nested([get(b"a")])])])]),
            errors.TooManyOpsError,
            id="each-level-leaves-the-next-less",
        ),
        pytest.param(
            rpc.TxnRequest(success=[put(b"a"), put(b"a"), put(b"")]),
            errors.KeyNotProvidedError,
            id="parts-before-duplicates",
        ),
    ],
)
def test_a_txn_names_its_first_fault(request_, error):
    with pytest.raises(error):
        check_txn(request_, 3)


@pytest.mark.parametrize(
    "branch",
    [
        pytest.param([put(b"a"), put(b"a")], id="put-twice"),
        pytest.param([put(b"a"), delete(b"a")], id="put-then-delete"),
        pytest.param([delete(b"a"), put(b"a")], id="delete-then-put"),
        pytest.param([delete(b"a", b"c"), put(b"b")], id="delete-range-over-a-put"),
        pytest.param([put(b"a"), nested([put(b"a")])], id="parent-and-then"),
        pytest.param([put(b"a"), nested([], [put(b"a")])], id="parent-and-else"),
        pytest.param([put(b"a"), nested([delete(b"a")])], id="parent-puts-what-the-child-deletes"),
        pytest.param([delete(b"a"), nested([put(b"a")])], id="parent-deletes-what-the-child-puts"),
        pytest.param([nested([put(b"a")]), nested([put(b"a")])], id="siblings"),
        pytest.param([nested([delete(b"a")]), nested([put(b"a")])], id="sibling-deletes-then-sibling-puts"),
        pytest.param([put(b"a"), nested([nested([], [put(b"a")])])], id="grandchild"),
        pytest.param([nested([put(b"a"), put(b"a")])], id="inside-the-child"),
    ],
)
@pytest.mark.parametrize("side", ["success", "failure"])
def test_one_path_must_not_write_a_key_twice(branch, side):
    with pytest.raises(errors.DuplicateKeyError):
        check_txn(rpc.TxnRequest(**{side: branch}), 128)


@pytest.mark.parametrize(
    "branch",
    [
        pytest.param([delete(b"a"), delete(b"a", b"c")], id="deletions-overlap"),
        pytest.param([nested([put(b"a")], [put(b"a")])], id="then-and-else-of-one-child"),
        pytest.param([nested([put(b"a")], [delete(b"a")])], id="then-puts-else-deletes"),
        pytest.param([delete(b"a", b"b"), put(b"b")], id="the-bound-is-not-deleted"),
        pytest.param([delete(b"a", b"\0"), put(b"b")], id="clear-from-a-key-on-then-put"),
        pytest.param([put(b"a"), get(b"a"), put(b"b")], id="reads-do-not-count"),
    ],
)
def test_what_one_path_does_not_write_twice_passes(branch):
    check_txn(rpc.TxnRequest(success=branch, failure=branch), 128)


def test_both_branches_may_write_the_same_key():
    check_txn(rpc.TxnRequest(success=[put(b"a")], failure=[put(b"a")]), 128)


def test_only_ranges_without_nesting_stay_out_of_the_log():
    assert is_read_only(rpc.TxnRequest(success=[get(b"a")], failure=[get(b"b")]))
    assert is_read_only(rpc.TxnRequest())
    assert not is_read_only(rpc.TxnRequest(success=[get(b"a")], failure=[put(b"b")]))
    assert not is_read_only(rpc.TxnRequest(success=[nested([get(b"a")])]))


@pytest.mark.parametrize(
    ("request_", "cost"),
    [
        pytest.param(rpc.PutRequest(key=b"kk", value=b"vvv"), 261, id="put"),
        pytest.param(rpc.LeaseGrantRequest(TTL=5), 64, id="lease"),
        pytest.param(rpc.DeleteRangeRequest(key=b"k"), 0, id="delete"),
        pytest.param(
            rpc.TxnRequest(success=[put(b"a"), delete(b"b")], failure=[put(b"c"), put(b"d", value=b"v")]),
            515,
            id="txn-counts-its-larger-branch",
        ),
        pytest.param(rpc.TxnRequest(success=[nested([put(b"a")])]), 257, id="nested-puts-count"),
        pytest.param(rpc.TxnRequest(success=[get(b"a")]), 0, id="reads-are-free"),
    ],
)
def test_quota_costs(request_, cost):
    assert quota_cost(request_) == cost


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.KeyNotProvidedError, StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"),
        (
            errors.TooManyOpsError,
            StatusCode.INVALID_ARGUMENT,
            "etcdserver: too many operations in txn request",
        ),
        (errors.NoSpaceError, StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
        (errors.CorruptClusterError, StatusCode.DATA_LOSS, "etcdserver: corrupt cluster"),
        (errors.MemberNotFoundError, StatusCode.NOT_FOUND, "etcdserver: member not found"),
        (errors.PeerUrlExistsError, StatusCode.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_errors_carry_their_wire_form(error, code, message):
    assert (error().code, error().message) == (code, message)
