"""Transactions: choose the branch, check it whole, then run it.

All comparisons, those of nested transactions too, are decided against the state before.  Everything that can
fail is checked before the first write, so a transaction happens as a whole or not at all, and every member
decides alike.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from kvnode.apply.range_read import encode_range
from kvnode.apply.ranges import stop_of
from kvnode.apply.writes import KeyWriter
from kvnode.mvcc.records import parse_record
from kvnode.mvcc.revision import MAIN_SHIFT
from kvnode.mvcc.store import Store
from kvnode.pb.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, TxnResponse
from kvnode.status import KvError

__all__ = ["Branch", "check_branch", "choose_branch", "execute_branch", "write_branch"]

# Looked up once: reaching an enum value through its message takes longer than the comparison.
_VERSION: Final = Compare.CompareTarget.VERSION
_CREATE: Final = Compare.CompareTarget.CREATE
_MOD: Final = Compare.CompareTarget.MOD
_VALUE: Final = Compare.CompareTarget.VALUE
_LEASE: Final = Compare.CompareTarget.LEASE
_EQUAL: Final = Compare.CompareResult.EQUAL
_GREATER: Final = Compare.CompareResult.GREATER
_LESS: Final = Compare.CompareResult.LESS
_NOT_EQUAL: Final = Compare.CompareResult.NOT_EQUAL


class Branch(NamedTuple):
    """The operations that a transaction will run."""

    succeeded: bool
    steps: "list[Step]"


#: One operation, taken out of its ``RequestOp`` once: asking a message what it holds is not free.
Step: TypeAlias = RangeRequest | PutRequest | DeleteRangeRequest | Branch


def choose_branch(store: Store, request: TxnRequest) -> Branch:
    """Decide all comparisons against the present state."""
    succeeded = True
    for compare in request.compare:
        if not _holds(store, compare):
            succeeded = False
            break
    steps: list[Step] = []
    for op in request.success if succeeded else request.failure:
        which = op.WhichOneof("request")
        if which == "request_txn":
            steps.append(choose_branch(store, op.request_txn))
        elif which is not None:
            steps.append(getattr(op, which))
    return Branch(succeeded, steps)


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
    for step in branch.steps:
        if type(step) is PutRequest:
            refusal = None if put_refusal is None else put_refusal(step)
            if refusal is not None:
                raise refusal
        elif type(step) is RangeRequest:
            revision = step.revision
            # Unlike in a plain range, a negative revision does not mean the current one.
            if revision:
                store.check_revision(revision)
        elif type(step) is Branch:
            check_branch(store, step, put_refusal)


def execute_branch(store: Store, branch: Branch, writer: KeyWriter | None, response: TxnResponse) -> None:
    """Run a checked branch in the open transaction and fill in ``response``, save its own header.

    Args:
        store: what is read.
        branch: from ``choose_branch``, checked.
        writer: None where there can't be writes.
        response: an empty message.
    """
    response.succeeded = branch.succeeded
    for step in branch.steps:
        answer = response.responses.add()
        if isinstance(step, RangeRequest):
            answer.response_range.ParseFromString(encode_range(store, step))
            answer.response_range.header.revision = store.read_revision
        elif isinstance(step, Branch):
            # There, but empty: only the outer transaction has a full header.
            answer.response_txn.header.SetInParent()
            execute_branch(store, step, writer, answer.response_txn)
        elif writer is None:
            raise RuntimeError("a write in a read-only transaction")
        elif isinstance(step, PutRequest):
            writer.put(step, answer.response_put)
        else:
            writer.delete_range(step, answer.response_delete_range)


def write_branch(branch: Branch, writer: KeyWriter) -> None:
    """Do only the writes of a checked branch: for members where nobody waits for the answer."""
    for step in branch.steps:
        if isinstance(step, PutRequest):
            writer.put(step, None)
        elif isinstance(step, DeleteRangeRequest):
            writer.delete_range(step, None)
        elif isinstance(step, Branch):
            write_branch(step, writer)


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
    actual: int | bytes
    wanted: int | bytes
    if target == _MOD:
        actual, wanted = packed >> MAIN_SHIFT, compare.mod_revision
    elif target == _VALUE:
        if not packed:
            return False
        actual, wanted = parse_record(store.scanned_record(packed)).value, compare.value
    elif target == _LEASE:
        actual, wanted = (store.leases.get(key, 0) if packed else 0), compare.lease
    elif target == _VERSION:
        actual, wanted = (store.index.facts(key)[2] if packed else 0), compare.version
    elif target == _CREATE:
        actual, wanted = (store.index.facts(key)[1] if packed else 0), compare.create_revision
    else:
        actual = wanted = 0
    result = compare.result
    if result == _EQUAL:
        return actual == wanted
    if result == _NOT_EQUAL:
        return actual != wanted
    # Both are numbers or both are bytes.
    order = (actual > wanted) - (actual < wanted)  # type: ignore[operator]
    if result == _GREATER:
        return order > 0
    return order < 0 if result == _LESS else True
