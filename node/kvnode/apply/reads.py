"""What is answered from local state, without the log: Range and the Txn of nothing but ranges."""

from kvnode.apply.long_range import LongRange, is_long
from kvnode.apply.range_read import RangeSlice, count_range, encode_range, encode_slice, execute_range
from kvnode.apply.txn import check_branch, choose_branch, execute_branch
from kvnode.mvcc.store import Store
from kvnode.pb.rpc_pb2 import TxnRequest, TxnResponse

__all__ = [
    "LongRange",
    "RangeSlice",
    "count_range",
    "encode_range",
    "encode_slice",
    "execute_range",
    "execute_read_txn",
    "is_long",
]


def execute_read_txn(store: Store, request: TxnRequest) -> TxnResponse:
    """Return the answer to a checked transaction that holds only ranges.

    Raises:
        FutureRevisionError, CompactedError: a range's revision can't be read.
    """
    branch = choose_branch(store, request)
    check_branch(store, branch, None)
    response = TxnResponse()
    execute_branch(store, branch, None, response)
    response.header.revision = store.current_revision
    return response
