"""Parts of a transaction: comparisons, and the operations they decide about."""

from typing import Final, Literal

from kvnode.pb import rpc_pb2

from kvclient.keys import Keys, as_bytes, key_range

__all__ = [
    "Sign",
    "compare_create",
    "compare_lease",
    "compare_mod",
    "compare_value",
    "compare_version",
    "op_delete",
    "op_get",
    "op_put",
    "op_txn",
]

Sign = Literal["=", "!=", "<", ">"]

_RESULTS: Final[dict[str, rpc_pb2.Compare.CompareResult.ValueType]] = {
    "=": rpc_pb2.Compare.EQUAL,
    "!=": rpc_pb2.Compare.NOT_EQUAL,
    "<": rpc_pb2.Compare.LESS,
    ">": rpc_pb2.Compare.GREATER,
}


def compare_version(keys: Keys, sign: Sign, version: int) -> rpc_pb2.Compare:
    """Compare how often the key was put since it was created; 0 = it does not exist."""
    compare = _compare(keys, sign, rpc_pb2.Compare.VERSION)
    compare.version = version
    return compare


def compare_create(keys: Keys, sign: Sign, revision: int) -> rpc_pb2.Compare:
    """Compare the revision that created the key; 0 = it does not exist."""
    compare = _compare(keys, sign, rpc_pb2.Compare.CREATE)
    compare.create_revision = revision
    return compare


def compare_mod(keys: Keys, sign: Sign, revision: int) -> rpc_pb2.Compare:
    """Compare the revision that last changed the key; 0 = it does not exist."""
    compare = _compare(keys, sign, rpc_pb2.Compare.MOD)
    compare.mod_revision = revision
    return compare


def compare_value(keys: Keys, sign: Sign, value: str | bytes) -> rpc_pb2.Compare:
    """Compare the value, in byte order; never true of a key that does not exist."""
    compare = _compare(keys, sign, rpc_pb2.Compare.VALUE)
    compare.value = as_bytes(value)
    return compare


def compare_lease(keys: Keys, sign: Sign, lease_id: int) -> rpc_pb2.Compare:
    """Compare the lease that the key is attached to; 0 = none."""
    compare = _compare(keys, sign, rpc_pb2.Compare.LEASE)
    compare.lease = lease_id
    return compare


def op_get(keys: Keys, *, limit: int = 0, keys_only: bool = False) -> rpc_pb2.RequestOp:
    """Read inside the transaction; `Client.range` has the more special options."""
    wanted = key_range(keys)
    return rpc_pb2.RequestOp(
        request_range=rpc_pb2.RangeRequest(
            key=wanted.key, range_end=wanted.range_end, limit=limit, keys_only=keys_only
        )
    )


def op_put(
    key: str | bytes, value: str | bytes = b"", *, lease_id: int = 0, prev_kv: bool = False
) -> rpc_pb2.RequestOp:
    """Write a key."""
    request = rpc_pb2.PutRequest(key=as_bytes(key), value=as_bytes(value), lease=lease_id, prev_kv=prev_kv)
    return rpc_pb2.RequestOp(request_put=request)


def op_delete(keys: Keys, *, prev_kv: bool = False) -> rpc_pb2.RequestOp:
    """Delete keys."""
    wanted = key_range(keys)
    return rpc_pb2.RequestOp(
        request_delete_range=rpc_pb2.DeleteRangeRequest(
            key=wanted.key, range_end=wanted.range_end, prev_kv=prev_kv
        )
    )


def op_txn(request: rpc_pb2.TxnRequest) -> rpc_pb2.RequestOp:
    """A transaction within the transaction."""
    return rpc_pb2.RequestOp(request_txn=request)


def _compare(keys: Keys, sign: Sign, target: rpc_pb2.Compare.CompareTarget.ValueType) -> rpc_pb2.Compare:
    wanted = key_range(keys)
    return rpc_pb2.Compare(result=_RESULTS[sign], target=target, key=wanted.key, range_end=wanted.range_end)
