"""The Lease service."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from kvnode.api.gate import Access, Gate
from kvnode.api.port import Method, StreamCall, StreamMethod, UnaryMethod
from kvnode.api.streams import Streams, parse
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

__all__ = ["LeaseService"]

#: Requests of one stream that are read before the first of them is answered.
RENEWALS_IN_FLIGHT = 1000

#: An answer that lacks its TTL, and the TTL to come.
_Renewal = tuple[LeaseKeepAliveResponse, Awaitable[int]]


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
        return (
            UnaryMethod(
                "/etcdserverpb.Lease/LeaseGrant",
                self._gate.coroutine(LeaseGrantRequest, self.grant, access=Access.ANY_USER),
            ),
            UnaryMethod("/etcdserverpb.Lease/LeaseRevoke", unary(LeaseRevokeRequest, self.revoke)),
            StreamMethod(
                "/etcdserverpb.Lease/LeaseKeepAlive", self._streams.guarded(self.keep_alive), "bidi_stream"
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

    async def keep_alive(self, call: StreamCall) -> None:
        """Answer each request in turn; TTL 0 says that the lease is gone."""
        renewals: asyncio.Queue[_Renewal | Exception | None] = asyncio.Queue(RENEWALS_IN_FLIGHT)
        reader = asyncio.get_running_loop().create_task(self._read_renewals(call, renewals))
        try:
            while (renewal := await renewals.get()) is not None:
                if isinstance(renewal, Exception):
                    raise renewal
                response, ttl_s = renewal
                response.TTL = await ttl_s
                await call.write(response.SerializeToString())
        finally:
            reader.cancel()

    async def _read_renewals(
        self, call: StreamCall, renewals: asyncio.Queue[_Renewal | Exception | None]
    ) -> None:
        """Begin a renewal for each request: a client with a thousand leases has them done together."""
        try:
            async for payload in call:
                request = parse(LeaseKeepAliveRequest, payload)
                response = LeaseKeepAliveResponse(ID=request.ID)
                # Before renewing: a client may take the revision as one at which the lease was alive.
                self._gate.fill(response.header)
                caller = self._gate.caller(call)
                if caller is not None:
                    self._member.applier.permissions.check_lease_write(caller, request.ID)
                await renewals.put((response, self._member.lease_renew(request.ID)))
        except Exception as error:
            # Told behind the answers to what came before it.
            await renewals.put(error)
        else:
            await renewals.put(None)

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
