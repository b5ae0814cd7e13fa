"""The Lock service: a queue under a name, whose head owns the lock."""

from __future__ import annotations

from collections.abc import Sequence

from kvnode.api.gate import Gate
from kvnode.api.long_calls import LongCalls
from kvnode.api.port import Call, Method, RpcError, UnaryMethod
from kvnode.api.recipe import Recipe
from kvnode.pb.lock_pb2 import LockRequest, LockResponse, UnlockRequest, UnlockResponse
from kvnode.pb.rpc_pb2 import DeleteRangeRequest, RequestOp, TxnRequest
from kvnode.status import StatusCode

__all__ = ["LockService"]


class LockService:
    """v3lockpb.Lock."""

    def __init__(self, gate: Gate, long_calls: LongCalls, recipe: Recipe) -> None:
        self._gate = gate
        self._long_calls = long_calls
        self._recipe = recipe

    def methods(self) -> Sequence[Method]:
        """The methods of the service."""
        long = self._long_calls.method
        return (
            UnaryMethod("/v3lockpb.Lock/Lock", long(LockRequest, self.lock)),
            UnaryMethod("/v3lockpb.Lock/Unlock", long(UnlockRequest, self.unlock)),
        )

    async def lock(self, request: LockRequest, call: Call) -> LockResponse:
        """Wait for the lock; its key lives as long as the lease, and its deletion unlocks."""
        lease_id = await self._recipe.lease(request.lease, call)
        place = await self._recipe.enqueue(request.name + b"/", lease_id, b"", call)
        if not await self._recipe.wait(place, call):
            raise RpcError(StatusCode.UNKNOWN, "mutex: session is expired")
        response = LockResponse(key=place.key)
        if place.is_first:
            response.header.revision = place.response.header.revision
        self._gate.fill(response.header)
        return response

    async def unlock(self, request: UnlockRequest, call: Call) -> UnlockResponse:
        """Delete a key that ``lock`` returned."""
        delete = RequestOp(request_delete_range=DeleteRangeRequest(key=request.key))
        done = await self._recipe.txn(TxnRequest(success=[delete]), call)
        response = UnlockResponse()
        response.header.revision = done.header.revision
        self._gate.fill(response.header)
        return response
