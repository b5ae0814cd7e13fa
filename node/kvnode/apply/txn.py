"""Transactions: choose the branch, check it whole, then run it.

All comparisons, those of nested transactions too, are decided against the state before.  Everything that can
fail is checked before the first write, so a transaction happens as a whole or not at all, and every member
decides alike.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from kvnode.apply.range_read import encode_range
from kvnode.apply.ranges import stop_of
from kvnode.apply.writes import KeyWriter
from kvnode.mvcc.records import parse_record
from kvnode.mvcc.revision import MAIN_SHIFT
from kvnode.mvcc.store import Store
from kvnode.pb.rpc_pb2 import Compare, PutRequest, RequestOp, TxnRequest, TxnResponse
from kvnode.status import KvError

__all__ = ["Branch", "check_branch", "choose_branch", "execute_branch"]

_Operand: TypeAlias = int | bytes


class Branch(NamedTuple):
    """The operations that a transaction will run."""

    succeeded: bool
    ops: Sequence[RequestOp]
    #: The branches of the nested transactions among ``ops``, in their order.
    nested: Sequence["Branch"]


def choose_branch(store: Store, request: TxnRequest) -> Branch:
    """Decide all comparisons against the present state."""
    succeeded = all(_holds(store, compare) for compare in request.compare)
    ops = request.success if succeeded else request.failure
    nested = [choose_branch(store, op.request_txn) for op in ops if op.HasField("request_txn")]
    return Branch(succeeded, ops, nested)


def check_branch(
    store: Store, branch: Branch, put_refusal: Callable[[PutRequest], KvError | None] | None
) -> None:
    """Raise the first error, in order of execution, that running ``branch`` would meet.

    Args:
        store: in the state before the transaction.
        branch: from ``choose_branch``.
        put_refusal: None where there can't be puts.

    Raises:
        KvError: nothing was changed.
    """
    for op in _ops(branch):
        if op.HasField("request_range"):
            revision = op.request_range.revision
            # Unlike in a plain range, a negative revision does not mean the current one.
            if revision:
                store.check_revision(revision)
        elif put_refusal is not None and op.HasField("request_put"):
            refusal = put_refusal(op.request_put)
            if refusal is not None:
                raise refusal


def execute_branch(
    store: Store, branch: Branch, writer: KeyWriter | None, response: TxnResponse | None
) -> None:
    """Run a checked branch in the open transaction and fill in ``response``, save its own header.

    Args:
        store: what is read.
        branch: from ``choose_branch``, checked.
        writer: None where there can't be writes.
        response: an empty message, or None if nobody waits for it: then only the writes are done.
    """
    if response is None:
        if writer is not None:
            _write_branch(branch, writer)
        return
    response.succeeded = branch.succeeded
    nested = iter(branch.nested)
    for op in branch.ops:
        answer = response.responses.add()
        which = op.WhichOneof("request")
        if which == "request_range":
            answer.response_range.ParseFromString(encode_range(store, op.request_range))
            answer.response_range.header.revision = store.read_revision
        elif which == "request_txn":
            # There, but empty: only the outer transaction has a full header.
            answer.response_txn.header.SetInParent()
            execute_branch(store, next(nested), writer, answer.response_txn)
        elif writer is None:
            raise RuntimeError("a write in a read-only transaction")
        elif which == "request_put":
            writer.put(op.request_put, answer.response_put)
        elif which == "request_delete_range":
            writer.delete_range(op.request_delete_range, answer.response_delete_range)


def _write_branch(branch: Branch, writer: KeyWriter) -> None:
    for op in _ops(branch):
        which = op.WhichOneof("request")
        if which == "request_put":
            writer.put(op.request_put, None)
        elif which == "request_delete_range":
            writer.delete_range(op.request_delete_range, None)


def _ops(branch: Branch) -> Iterator[RequestOp]:
    """Yield the operations of a branch and of the nested ones, in the order they will run."""
    nested = iter(branch.nested)
    for op in branch.ops:
        if op.HasField("request_txn"):
            yield from _ops(next(nested))
        else:
            yield op


def _holds(store: Store, compare: Compare) -> bool:
    index = store.index
    start, range_end = compare.key, compare.range_end
    if not range_end:
        return _holds_for(store, compare, start, index.latest(start))
    stop = stop_of(range_end)
    has_key = False
    if stop is None or stop > start:
        for key in index.keys(start, stop):
            has_key = True
            if not _holds_for(store, compare, key, index.latest(key)):
                return False
    return has_key or _holds_for(store, compare, start, 0)


def _holds_for(store: Store, compare: Compare, key: bytes, packed: int) -> bool:
    """Compare one key; ``packed`` 0 is a missing one, which counts as all zero but has no value."""
    target = compare.target
    actual: _Operand
    wanted: _Operand
    if target == Compare.CompareTarget.VALUE:
        if not packed:
            return False
        actual, wanted = parse_record(store.scanned_record(packed)).value, compare.value
        return _satisfies(compare.result, (actual > wanted) - (actual < wanted))
    _, create_revision, version = store.index.facts(key) if packed else (0, 0, 0)
    if target == Compare.CompareTarget.VERSION:
        actual, wanted = version, compare.version
    elif target == Compare.CompareTarget.CREATE:
        actual, wanted = create_revision, compare.create_revision
    elif target == Compare.CompareTarget.MOD:
        actual, wanted = packed >> MAIN_SHIFT, compare.mod_revision
    elif target == Compare.CompareTarget.LEASE:
        actual, wanted = (store.leases.get(key, 0) if packed else 0), compare.lease
    else:
        actual = wanted = 0
    return _satisfies(compare.result, (actual > wanted) - (actual < wanted))


def _satisfies(result: Compare.CompareResult.ValueType, order: int) -> bool:
    if result == Compare.CompareResult.EQUAL:
        return order == 0
    if result == Compare.CompareResult.NOT_EQUAL:
        return order != 0
    if result == Compare.CompareResult.GREATER:
        return order > 0
    return order < 0 if result == Compare.CompareResult.LESS else True
