"""Calls from member to member: what a follower asks its leader on a client's behalf."""

import asyncio
import struct
from typing import TYPE_CHECKING

from kvnode.pb.rpc_pb2 import LeaseTimeToLiveResponse
from kvnode.server.errors import NotLeaderError, RequestTimeoutError
from kvnode.status import KvError, StatusCode

if TYPE_CHECKING:
    from kvnode.server.member import Member

__all__ = ["LeaderCalls", "answer_call"]

_RENEW = struct.Struct(">q")
_RENEWED = struct.Struct(">q")
_TTL = struct.Struct(">q?")

#: Pause before asking again when nobody leads, or the one asked does not any more.
RETRY_S = 0.05


class LeaderCalls:
    """Lease requests, answered by the leader's clock wherever they arrive."""

    def __init__(self, member: "Member") -> None:
        self._member = member

    async def lease_renew(self, lease_id: int) -> int:
        """Return the lease's new TTL in seconds; 0: there is no such lease.

        Raises:
            KvError: No leader could be asked in time.
        """
        body = await self._ask("lease_renew", _RENEW.pack(lease_id))
        ttl_s: int = _RENEWED.unpack(body)[0]
        return ttl_s

    async def lease_time_to_live(self, lease_id: int, keys: bool) -> LeaseTimeToLiveResponse:
        """Return the lease's times and, if asked, its keys; TTL -1: there is no such lease.

        Raises:
            KvError: No leader could be asked in time.
        """
        body = await self._ask("lease_time_to_live", _TTL.pack(lease_id, keys))
        return LeaseTimeToLiveResponse.FromString(body)

    async def _ask(self, method: str, payload: bytes) -> bytes:
        member = self._member
        deadline_s = member.now_s() + member.config.request_timeout_s
        while True:
            left_s = deadline_s - member.now_s()
            if left_s <= 0:
                raise RequestTimeoutError
            try:
                if member.is_leader:
                    return await answer_call(member, method, payload)
                if member.leader_id:
                    return await member.transport.call(member.leader_id, method, payload, left_s)
            except KvError as error:
                # The one asked is not leader, or is gone: whoever leads next may be asked the same.
                if error.code not in (StatusCode.UNAVAILABLE, StatusCode.FAILED_PRECONDITION):
                    raise
            await asyncio.sleep(min(RETRY_S, left_s))


async def answer_call(member: "Member", method: str, payload: bytes) -> bytes:
    """Answer a call of another member, or of this one when it leads.

    Raises:
        KvError: The request's own error, or that this member is not the leader.
    """
    if method.startswith("member_"):
        return await member.reconfiguration.answer(method, payload)
    if not member.is_leader:
        raise NotLeaderError
    if method == "lease_renew":
        (lease_id,) = _RENEW.unpack(payload)
        return _RENEWED.pack(await member.renew_lease_here(lease_id))
    if method == "lease_time_to_live":
        lease_id, keys = _TTL.unpack(payload)
        # What a follower has applied must be seen by its client here too.
        await member.confirm_linearizable()
        return member.lease_time_to_live_here(lease_id, keys).SerializeToString()
    raise KvError(f"no such call: {method}")
