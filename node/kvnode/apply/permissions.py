"""Which permissions a request needs.

The same checks decide in front of a read and when a write is applied.  A transaction is checked in both
branches and in everything nested in it, although only one branch will run: which one does must not depend
on what the caller may not see.
"""

from collections.abc import Iterable

from kvnode.auth.caller import Caller
from kvnode.auth.store import AuthStore
from kvnode.lease.lessor import Lessor
from kvnode.pb.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest

__all__ = ["Permissions"]


class Permissions:
    """Checks of whole requests; all raise ``AuthError``, and let everything pass while auth is off."""

    __slots__ = ("_auth", "_lessor")

    def __init__(self, auth: AuthStore, lessor: Lessor) -> None:
        self._auth = auth
        self._lessor = lessor

    def check_range(self, caller: Caller, request: RangeRequest) -> None:
        """Reading needs read permission on the whole range."""
        self._auth.check_read(caller, request.key, request.range_end)

    def check_put(self, caller: Caller, request: PutRequest) -> None:
        """Putting needs write permission; seeing the former value needs read permission too.

        A lease may be used only by who could revoke it, and revoking deletes its keys.
        """
        auth = self._auth
        auth.check_write(caller, request.key)
        if request.lease:
            self.check_lease_write(caller, request.lease)
        if request.prev_kv:
            auth.check_read(caller, request.key)

    def check_delete_range(self, caller: Caller, request: DeleteRangeRequest) -> None:
        """Deleting needs write permission; seeing the former values needs read permission too."""
        auth = self._auth
        auth.check_write(caller, request.key, request.range_end)
        if request.prev_kv:
            auth.check_read(caller, request.key, request.range_end)

    def check_txn(self, caller: Caller, request: TxnRequest) -> None:
        """Comparing needs read permission, every operation of either branch what it needs by itself."""
        for compare in request.compare:
            self._auth.check_read(caller, compare.key, compare.range_end)
        self._check_ops(caller, request.success)
        self._check_ops(caller, request.failure)

    def _check_ops(self, caller: Caller, ops: Iterable[RequestOp]) -> None:
        for op in ops:
            which = op.WhichOneof("request")
            if which == "request_range":
                self.check_range(caller, op.request_range)
            elif which == "request_put":
                self.check_put(caller, op.request_put)
            elif which == "request_delete_range":
                self.check_delete_range(caller, op.request_delete_range)
            elif which == "request_txn":
                self.check_txn(caller, op.request_txn)

    def check_lease_write(self, caller: Caller, lease_id: int) -> None:
        """Renewing and revoking need write permission on every key that hangs on the lease."""
        if self._auth.is_root(caller):
            return
        lease = self._lessor.get(lease_id)
        if lease is not None:
            self._auth.check_write_keys(caller, lease.keys)

    def check_lease_read(self, caller: Caller, lease_ids: Iterable[int]) -> None:
        """Seeing which keys hang on leases, or which leases there are, needs read permission on the keys."""
        if self._auth.is_root(caller):
            return
        for lease_id in lease_ids:
            lease = self._lessor.get(lease_id)
            if lease is not None:
                self._auth.check_read_keys(caller, lease.keys)
