"""The steps that Lock and Election are made of, taken in the name of the call's user.

Every step is one that the caller could take alone, and is checked as if it did.  What fails in one goes
out with the step's own text but code Unknown, as from etcd, whose services are clients of their own member.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, TypeVar, cast

from kvnode.api.contenders import Contenders
from kvnode.api.errors import RequestTooLargeError
from kvnode.api.gate import Gate
from kvnode.api.lease import LeaseService
from kvnode.api.port import Call, RpcError
from kvnode.apply.checks import check_range, check_txn
from kvnode.apply.commands import CommandKind
from kvnode.apply.reads import execute_range
from kvnode.auth.caller import MEMBER
from kvnode.pb.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from kvnode.status import KvError, StatusCode
from kvnode.storage.keyspace import prefix_end

if TYPE_CHECKING:
    from kvnode.api.member_port import MemberPort

__all__ = ["Place", "Recipe", "is_created_at"]

ResultT = TypeVar("ResultT")

#: Time to live of a lease that is granted because the request names none (etcd's number).
LEASE_TTL_S = 60


class Place:
    """One caller's place in the queue under a prefix."""

    __slots__ = ("create_revision", "is_first", "is_new", "key", "prefix", "response")

    def __init__(self, prefix: bytes, key: bytes, response: TxnResponse) -> None:
        self.prefix = prefix
        self.key = key
        #: Of the transaction that took the place.
        self.response = response
        #: False: the caller had the place before.
        self.is_new = response.succeeded
        self.create_revision: int = response.header.revision
        if not self.is_new:
            self.create_revision = response.responses[0].response_range.kvs[0].create_revision
        #: Nobody else is in the queue.
        self.is_first: bool = response.responses[1].response_range.count == 1


class Recipe:
    """Steps on one member."""

    def __init__(self, gate: Gate, leases: LeaseService) -> None:
        self._gate = gate
        self._member: MemberPort = gate.member
        self._leases = leases
        self.contenders = Contenders(gate.member)
        #: What goes on after its call was cancelled; the loop keeps only weak references to tasks.
        self._remaining: set[asyncio.Task[object]] = set()

    async def lease(self, lease_id: int, call: Call) -> int:
        """Return the lease that the request names, or a new one."""
        if lease_id:
            return lease_id
        return await _step(self._grant(call))

    async def enqueue(self, prefix: bytes, lease_id: int, value: bytes, call: Call) -> Place:
        """Take a place in the queue, or find the one that the lease has already.

        A caller that is cancelled meanwhile leaves nothing behind.
        """
        key = prefix + b"%x" % lease_id if lease_id >= 0 else prefix + b"-%x" % -lease_id
        put = RequestOp(request_put=PutRequest(key=key, value=value, lease=lease_id))
        get = RequestOp(request_range=RangeRequest(key=key))
        # Counting is free, and asks for the permission to read that waiting needs.
        everyone = RangeRequest(key=prefix, range_end=prefix_end(prefix) or b"\0", count_only=True)
        count = RequestOp(request_range=everyone)
        request = TxnRequest(compare=[is_created_at(key, 0)], success=[put, count], failure=[get, count])
        taking = self._begin(self.txn(request, call))
        try:
            return Place(prefix, key, await asyncio.shield(taking))
        except asyncio.CancelledError:
            self._begin(self._leave_when_taken(prefix, key, taking))
            raise

    async def wait(self, place: Place, call: Call) -> bool:
        """Wait for the first place; False: the place was lost, for example with its lease.

        A caller that is cancelled meanwhile loses its place, and so does one who may not read it any more.
        """
        if place.is_first:
            return True
        try:
            if not await self.contenders.turn(place.prefix, place.key, place.create_revision):
                return False
            found = await self.read(RangeRequest(key=place.key, keys_only=True), call)
        except (asyncio.CancelledError, RpcError):
            self.give_up(place)
            raise
        return any(pair.create_revision == place.create_revision for pair in found.kvs)

    def give_up(self, place: Place) -> None:
        """Leave the queue, without waiting for it; in the member's own name, as the user's may be stale."""
        self._begin(self.leave(place.key, place.create_revision, None))

    async def leave(self, key: bytes, create_revision: int, call: Call | None) -> TxnResponse:
        """Delete a key if it is still the one that was created then; ``call`` None: for the member itself."""
        delete = RequestOp(request_delete_range=DeleteRangeRequest(key=key))
        return await self.txn(
            TxnRequest(compare=[is_created_at(key, create_revision)], success=[delete]), call
        )

    async def txn(self, request: TxnRequest, call: Call | None) -> TxnResponse:
        """Put a transaction through the log, for the member itself if ``call`` is None.

        The header has its revision only.
        """
        return cast(TxnResponse, await _step(self._propose(request, call)))

    async def read(self, request: RangeRequest, call: Call) -> RangeResponse:
        """Read, linearizably; the header has the current revision only."""
        return await _step(self._read(request, call))

    async def _propose(self, request: TxnRequest, call: Call | None) -> object:
        check_txn(request, self._member.config.max_txn_ops)
        payload = request.SerializeToString()
        if len(payload) > self._member.config.max_request_bytes:
            raise RequestTooLargeError
        caller = MEMBER if call is None else self._gate.caller(call)
        return await self._member.proposed(CommandKind.TXN, payload, caller)

    async def _grant(self, call: Call) -> int:
        # Every user may have a lease, but nobody else.
        self._gate.caller(call)
        response = await self._leases.grant(LeaseGrantRequest(TTL=LEASE_TTL_S))
        return response.ID

    async def _read(self, request: RangeRequest, call: Call) -> RangeResponse:
        check_range(request)
        await self._member.confirm_linearizable()
        applier = self._member.applier
        caller = self._gate.reader(call)
        if caller is not None:
            applier.permissions.check_range(caller, request)
        return execute_range(applier.store, request)

    async def _leave_when_taken(self, prefix: bytes, key: bytes, taking: asyncio.Task[TxnResponse]) -> None:
        try:
            place = Place(prefix, key, await taking)
            # A place that was there before is not this call's to give up: it may be the owner's.
            if place.is_new:
                await self.leave(place.key, place.create_revision, None)
        except RpcError:
            # Nobody waits for this error; the key ends with its lease.
            return

    def _begin(self, step: Coroutine[object, object, ResultT]) -> asyncio.Task[ResultT]:
        task = asyncio.get_running_loop().create_task(step)
        self._remaining.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._remaining.discard(task)
        if not task.cancelled() and isinstance(task.exception(), RpcError):
            # Asked for, so that the loop does not complain: whoever waited has it, or nobody did.
            return


def is_created_at(key: bytes, create_revision: int) -> Compare:
    """Compare that holds for a key of that creation; 0: for no key."""
    return Compare(key=key, target=Compare.CREATE, result=Compare.EQUAL, create_revision=create_revision)


async def _step(step: Coroutine[object, object, ResultT]) -> ResultT:
    try:
        return await step
    except KvError as error:
        raise RpcError(StatusCode.UNKNOWN, error.message) from error
