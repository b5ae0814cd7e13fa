"""What is wrong with a request by itself, told before it is proposed.

The applier does not repeat these checks, so every proposer must have made them.
"""

from collections.abc import Sequence

from kvnode.apply.errors import (
    DuplicateKeyError,
    InvalidSortOptionError,
    KeyNotFoundError,
    KeyNotProvidedError,
    LeaseProvidedError,
    TooManyOpsError,
    ValueProvidedError,
)
from kvnode.apply.ranges import FROM_KEY, overlaps
from kvnode.pb.rpc_pb2 import (
    DeleteRangeRequest,
    LeaseGrantRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

__all__ = [
    "LEASE_COST_BYTES",
    "PUT_OVERHEAD_BYTES",
    "check_delete_range",
    "check_put",
    "check_range",
    "check_txn",
    "is_read_only",
    "put_cost",
    "quota_cost",
    "txn_cost",
]

#: What a put adds to the data beside key and value, and what a lease adds, for the quota.
PUT_OVERHEAD_BYTES = 256
LEASE_COST_BYTES = 64


def check_put(request: PutRequest) -> None:
    """Raise KeyNotProvidedError, ValueProvidedError or LeaseProvidedError."""
    if not request.key:
        raise KeyNotProvidedError
    if request.ignore_value and request.value:
        raise ValueProvidedError
    if request.ignore_lease and request.lease:
        raise LeaseProvidedError


def check_range(request: RangeRequest) -> None:
    """Raise KeyNotProvidedError or InvalidSortOptionError."""
    if not request.key:
        raise KeyNotProvidedError
    if not (0 <= request.sort_order <= 2 and 0 <= request.sort_target <= 4):
        raise InvalidSortOptionError


def check_delete_range(request: DeleteRangeRequest) -> None:
    """Raise KeyNotProvidedError."""
    if not request.key:
        raise KeyNotProvidedError


def check_txn(request: TxnRequest, max_ops: int) -> None:
    """Raise what is wrong with a transaction or anything nested in it, in whichever branch.

    Raises:
        TooManyOpsError: the largest of compares, success and failure exceeds ``max_ops``, or a nested
            transaction what its parent left of it.
        KeyNotProvidedError, KeyNotFoundError (an empty operation), ...: an operation is wrong.
        DuplicateKeyError: one path of execution would put a key twice, or put and delete it.
    """
    _check_parts(request, max_ops)
    for branch in (request.success, request.failure):
        # One operation that does not nest can't collide with anything.
        if len(branch) > 1 or (branch and branch[0].HasField("request_txn")):
            _written(branch)


def is_read_only(request: TxnRequest) -> bool:
    """Whether neither branch holds anything but ranges, so that the log is not needed."""
    return all(op.HasField("request_range") for branch in (request.success, request.failure) for op in branch)


def put_cost(request: PutRequest) -> int:
    """Return how many bytes a put may add to the data."""
    return len(request.key) + len(request.value) + PUT_OVERHEAD_BYTES


def txn_cost(request: TxnRequest) -> int:
    """Return how many bytes a transaction may add to the data: those of its larger branch."""
    return max(_branch_cost(request.success), _branch_cost(request.failure))


def quota_cost(request: object) -> int:
    """Return how many bytes any request may add to the data; 0 for what NOSPACE allows."""
    match request:
        case PutRequest():
            return put_cost(request)
        case TxnRequest():
            return txn_cost(request)
        case LeaseGrantRequest():
            return LEASE_COST_BYTES
        case _:
            return 0


def _branch_cost(ops: Sequence[RequestOp]) -> int:
    cost = 0
    for op in ops:
        which = op.WhichOneof("request")
        if which == "request_put":
            cost += put_cost(op.request_put)
        elif which == "request_txn":
            cost += txn_cost(op.request_txn)
    return cost


def _check_parts(request: TxnRequest, max_ops: int) -> None:
    ops = max(len(request.compare), len(request.success), len(request.failure))
    if ops > max_ops:
        raise TooManyOpsError
    for compare in request.compare:
        if not compare.key:
            raise KeyNotProvidedError
    for branch in (request.success, request.failure):
        for op in branch:
            _check_op(op, max_ops - ops)


def _check_op(op: RequestOp, max_ops: int) -> None:
    which = op.WhichOneof("request")
    if which == "request_put":
        check_put(op.request_put)
    elif which == "request_range":
        check_range(op.request_range)
    elif which == "request_delete_range":
        check_delete_range(op.request_delete_range)
    elif which == "request_txn":
        _check_parts(op.request_txn, max_ops)
    else:
        raise KeyNotFoundError


class _Written:
    """What one path of execution may write: keys that are put, ranges that are deleted."""

    __slots__ = ("deletes", "puts")

    def __init__(self) -> None:
        self.puts: set[bytes] = set()
        self.deletes: list[tuple[bytes, bytes]] = []

    def deletes_key(self, key: bytes) -> bool:
        # As in etcd, a deletion without upper bound does not count: "clear all from here on, then put"
        # is one transaction there, so it has to be one here.
        return any(
            range_end != FROM_KEY and overlaps(key, start, range_end) for start, range_end in self.deletes
        )


def _written(ops: Sequence[RequestOp]) -> _Written:
    """Collect what a branch writes; raises DuplicateKeyError.

    The two branches of one nested transaction exclude each other, so they may write the same keys; what
    either puts is compared with everything before it and with this level.  Deletions may overlap deletions,
    and, as in etcd, a nested transaction may delete what an earlier nested one put.
    """
    written = _Written()
    for op in ops:
        if op.HasField("request_delete_range"):
            request = op.request_delete_range
            written.deletes.append((request.key, request.range_end))
    for op in ops:
        if op.HasField("request_txn"):
            branches = (_written(op.request_txn.success), _written(op.request_txn.failure))
            for branch in branches:
                if any(key in written.puts or written.deletes_key(key) for key in branch.puts):
                    raise DuplicateKeyError
            for branch in branches:
                written.puts |= branch.puts
                written.deletes += branch.deletes
    for op in ops:
        if op.HasField("request_put"):
            key = op.request_put.key
            if key in written.puts or written.deletes_key(key):
                raise DuplicateKeyError
            written.puts.add(key)
    return written
