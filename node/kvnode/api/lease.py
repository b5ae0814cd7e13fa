"""The Lease service."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from google.protobuf.message import DecodeError

from kvnode.api.errors import malformed_message
from kvnode.api.gate import Access, Gate
from kvnode.api.port import Method, RpcError, StreamMethod, UnaryMethod
from kvnode.api.pushed import PushedCall, Receiver, as_handler
from kvnode.api.streams import Streams
from kvnode.apply.commands import CommandKind
from kvnode.auth.caller import ANONYMOUS, Caller
from kvnode.auth.errors import AuthRevisionOldError
from kvnode.lease.errors import LeaseTtlTooLargeError
from kvnode.lease.lessor import MAX_TTL_S
from kvnode.pb.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    LeaseStatus,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from kvnode.status import KvError

__all__ = ["LeaseService"]


def _random_lease_id() -> int:
    """A positive int64: from 63 random bits, two members collide less often than disks fail."""
    return random.getrandbits(63) or 1


class LeaseService:
    """etcdserverpb.Lease."""

    def __init__(
        self, gate: Gate, streams: Streams, *, new_lease_id: Callable[[], int] = _random_lease_id
    ) -> None:
        self._gate = gate
        self._member = gate.member
        self._streams = streams
        self._new_lease_id = new_lease_id

    def methods(self) -> Sequence[Method]:
        """The methods of the service."""
        unary = self._gate.coroutine_as
        keep_alive = self._streams.guarded_push(self.keep_alive)
        return (
            UnaryMethod(
                "/etcdserverpb.Lease/LeaseGrant",
                self._gate.coroutine(LeaseGrantRequest, self.grant, access=Access.ANY_USER),
            ),
            UnaryMethod("/etcdserverpb.Lease/LeaseRevoke", unary(LeaseRevokeRequest, self.revoke)),
            StreamMethod(
                "/etcdserverpb.Lease/LeaseKeepAlive", as_handler(keep_alive), "bidi_stream", keep_alive
            ),
            UnaryMethod(
                "/etcdserverpb.Lease/LeaseTimeToLive", unary(LeaseTimeToLiveRequest, self.time_to_live)
            ),
            UnaryMethod("/etcdserverpb.Lease/LeaseLeases", unary(LeaseLeasesRequest, self.leases)),
        )

    async def grant(self, request: LeaseGrantRequest) -> LeaseGrantResponse:
        """Make a lease; what members could choose differently is settled before it enters the log."""
        if request.TTL > MAX_TTL_S:
            raise LeaseTtlTooLargeError
        request.TTL = max(request.TTL, self._member.config.min_lease_ttl_s)
        if request.ID == 0:
            request.ID = self._new_lease_id()
        result = await self._member.proposed(CommandKind.LEASE_GRANT, request.SerializeToString())
        response = cast(LeaseGrantResponse, result)
        self._gate.fill(response.header)
        return response

    async def revoke(self, request: LeaseRevokeRequest, caller: Caller | None) -> LeaseRevokeResponse:
        """End a lease and delete its keys, in one revision."""
        result = await self._member.proposed(CommandKind.LEASE_REVOKE, request.SerializeToString(), caller)
        response = cast(LeaseRevokeResponse, result)
        self._gate.fill(response.header)
        return response

    def keep_alive(self, call: PushedCall) -> Receiver:
        """Answer each request in turn; TTL 0 says that the lease is gone."""
        return _KeepAlive(self._gate, call)

    async def time_to_live(
        self, request: LeaseTimeToLiveRequest, caller: Caller | None
    ) -> LeaseTimeToLiveResponse:
        """Tell what remains of a lease; TTL -1 says that there is none.

        Its keys are told to who may read them all.
        """
        member = self._member
        asker = caller or ANONYMOUS
        auth_revision = member.applier.auth.revision
        if request.keys:
            member.applier.permissions.check_lease_read(asker, [request.ID])
        response = await member.lease_time_to_live(request.ID, request.keys)
        auth = member.applier.auth
        if request.keys and auth.is_enabled:
            if auth.revision != auth_revision:
                raise AuthRevisionOldError
            if not auth.is_root(asker):
                # The leader may know of keys that were not here yet when the lease was looked at.
                auth.check_read_keys(asker, response.keys)
        self._gate.fill(response.header)
        return response

    async def leases(self, request: LeaseLeasesRequest, caller: Caller | None) -> LeaseLeasesResponse:
        """List the leases this member knows of, the next to expire first.

        To who may read all keys of all of them, as in etcd.
        """
        applier = self._member.applier
        lease_ids = applier.lessor.leases()
        if caller is not None:
            applier.permissions.check_lease_read(caller, lease_ids)
        response = LeaseLeasesResponse(leases=[LeaseStatus(ID=lease_id) for lease_id in lease_ids])
        self._gate.fill(response.header)
        return response


class _Renewal:
    """An answer on its way."""

    __slots__ = ("outcome", "request_bytes", "response", "stream")

    def __init__(self, stream: _KeepAlive, response: LeaseKeepAliveResponse, request_bytes: int) -> None:
        self.stream = stream
        self.response = response
        self.request_bytes = request_bytes
        #: The TTL, or why there is none; None: not known yet.
        self.outcome: int | KvError | RpcError | None = None

    def done(self, outcome: int | KvError | RpcError) -> None:
        self.outcome = outcome
        self.stream.answer()


class _KeepAlive:
    """One stream of renewals: begun as they come, so that those of a turn are done together."""

    __slots__ = ("_call", "_gate", "_has_ended", "_is_closed", "_waiting")

    def __init__(self, gate: Gate, call: PushedCall) -> None:
        self._gate = gate
        self._call = call
        self._waiting: deque[_Renewal] = deque()
        self._has_ended = False
        self._is_closed = False

    def message(self, payload: bytes) -> None:
        gate = self._gate
        try:
            request = LeaseKeepAliveRequest.FromString(payload)
        except DecodeError as error:
            self._refuse(len(payload), RpcError(*malformed_message(error)))
            return
        response = LeaseKeepAliveResponse(ID=request.ID)
        # Before renewing: a client may take the revision as one at which the lease was alive.
        gate.fill(response.header)
        try:
            caller = gate.caller(self._call)
            if caller is not None:
                gate.member.applier.permissions.check_lease_write(caller, request.ID)
        except KvError as error:
            self._refuse(len(payload), error)
            return
        renewal = _Renewal(self, response, len(payload))
        self._waiting.append(renewal)
        gate.member.lease_renew(request.ID, renewal.done)

    def _refuse(self, request_bytes: int, error: KvError | RpcError) -> None:
        """End the stream, behind the answers to what came before."""
        renewal = _Renewal(self, LeaseKeepAliveResponse(), request_bytes)
        self._waiting.append(renewal)
        renewal.done(error)

    def answer(self) -> None:
        """Send the answers that are known, in the order of the requests."""
        waiting, call = self._waiting, self._call
        while waiting and not self._is_closed:
            renewal = waiting[0]
            outcome = renewal.outcome
            if outcome is None:
                return
            if isinstance(outcome, KvError | RpcError):
                call.fail(outcome.code, outcome.message)
                return
            waiting.popleft()
            renewal.response.TTL = outcome
            call.write(renewal.response.SerializeToString())
            call.took(renewal.request_bytes)
        if self._has_ended and not self._is_closed:
            call.finish()

    def ended(self) -> None:
        self._has_ended = True
        self.answer()

    def unreadable(self, error: KvError | RpcError) -> None:
        self._refuse(0, error)

    def closed(self) -> None:
        self._is_closed = True
        self._waiting.clear()
