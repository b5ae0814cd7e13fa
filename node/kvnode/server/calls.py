"""Calls from member to member: what a follower asks its leader on a client's behalf."""

import asyncio
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from kvnode.pb.rpc_pb2 import LeaseTimeToLiveResponse
from kvnode.server.errors import NoLeaderError, NotLeaderError, RequestTimeoutError
from kvnode.status import KvError, StatusCode

if TYPE_CHECKING:
    from kvnode.server.member import Member

__all__ = ["LeaderCalls", "answer_call", "ask_leader"]

#: Hears a lease's new TTL, or why there is none.
Renewed = Callable[[int | KvError], object]

_TTL = struct.Struct(">q?")

#: Leases renewed by one call: an answer of a few kilobytes.
RENEW_BATCH = 1000

#: Pause before asking again when nobody leads, or the one asked does not any more.
RETRY_S = 0.05


class LeaderCalls:
    """Lease requests, answered by the leader's clock wherever they arrive."""

    def __init__(self, member: "Member") -> None:
        self._member = member
        #: Renewals of this turn of the loop: they go to the leader together.
        self._renewals: list[tuple[int, Renewed]] = []
        #: The loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()

    def lease_renew(self, lease_id: int, done: Renewed) -> None:
        """Begin to renew a lease.

        Args:
            lease_id: which.
            done: hears its new TTL in seconds, 0: there is no such lease; or that no leader could be asked
                in time.
        """
        if not self._renewals:
            asyncio.get_running_loop().call_soon(self._send_renewals)
        self._renewals.append((lease_id, done))

    def _send_renewals(self) -> None:
        renewals, self._renewals = self._renewals, []
        for start in range(0, len(renewals), RENEW_BATCH):
            batch = renewals[start : start + RENEW_BATCH]
            task = asyncio.get_running_loop().create_task(self._renew(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _renew(self, batch: "Sequence[tuple[int, Renewed]]") -> None:
        try:
            renewed = [lease_id for lease_id, _ in batch]
            body = await ask_leader(
                self._member,
                "lease_renew",
                _encode_numbers(renewed),
                may_ask_again=_has_no_effect,
                follows_leader=True,
            )
        except BaseException as error:
            for _, done in batch:
                done(error if isinstance(error, KvError) else RequestTimeoutError())
            if not isinstance(error, KvError):
                raise
            return
        for (_, done), ttl_s in zip(batch, _decode_numbers(body), strict=True):
            done(ttl_s)

    async def lease_time_to_live(self, lease_id: int, keys: bool) -> LeaseTimeToLiveResponse:
        """Return the lease's times and, if asked, its keys; TTL -1: there is no such lease.

        Raises:
            KvError: No leader could be asked in time.
        """
        body = await ask_leader(
            self._member,
            "lease_time_to_live",
            _TTL.pack(lease_id, keys),
            may_ask_again=_has_no_effect,
            follows_leader=True,
        )
        return LeaseTimeToLiveResponse.FromString(body)


async def ask_leader(
    member: "Member",
    method: str,
    payload: bytes,
    *,
    may_ask_again: Callable[[KvError], bool],
    follows_leader: bool = False,
) -> bytes:
    """Return the leader's answer, this member's own if it leads; asks whoever leads until the timeout.

    Args:
        member: Who asks.
        method: As in ``answer_call``.
        payload: Likewise.
        may_ask_again: Whether the call may be repeated after an error.
        follows_leader: Ask the next leader as soon as there is one, although the one before may answer yet.
    Raises:
        KvError: The request's own error, or that no leader has answered in time.
    """
    deadline_s = member.now_s() + member.config.request_timeout_s
    while True:
        left_s = deadline_s - member.now_s()
        if left_s <= 0:
            raise RequestTimeoutError if member.leader_id else NoLeaderError
        try:
            if member.is_leader:
                return await answer_call(member, method, payload)
            if member.leader_id:
                call = member.transport.call(member.leader_id, method, payload, left_s)
                return await (_while_it_leads(member, call) if follows_leader else call)
        except KvError as error:
            if not may_ask_again(error):
                raise
        await asyncio.sleep(min(RETRY_S, left_s))


async def _while_it_leads(member: "Member", call: Coroutine[Any, Any, bytes]) -> bytes:
    """The answer of the member that leads now.

    One that stands still, or is cut off without a word, keeps its connection and answers nothing.

    Raises:
        KvError: The request's own error, or that the leader has changed.
    """
    loop = asyncio.get_running_loop()
    asking = loop.create_task(call)
    changed: asyncio.Future[None] = loop.create_future()

    def leader_changed() -> None:
        if not changed.done():
            changed.set_result(None)

    unsubscribe = member.on_leader_change(leader_changed)
    try:
        await asyncio.wait((asking, changed), return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise NotLeaderError
        return asking.result()
    finally:
        unsubscribe()
        asking.cancel()


def _has_no_effect(error: KvError) -> bool:
    """The one asked is not leader, or is gone; asking its successor the same does no harm."""
    return error.code in (StatusCode.UNAVAILABLE, StatusCode.FAILED_PRECONDITION)


async def answer_call(member: "Member", method: str, payload: bytes) -> bytes:
    """Answer a call of another member, or of this one when it leads.

    Raises:
        KvError: The request's own error, or that this member is not the leader.
    """
    if method.startswith("member_"):
        return await member.reconfiguration.answer(method, payload)
    if method == "hash_kv":
        return await member.corruption.answer(payload)
    if method == "rolling_hash":
        return member.corruption.answer_rolling(payload)
    if not member.is_leader:
        raise NotLeaderError
    if method == "lease_renew":
        return _encode_numbers(await member.renew_leases_here(_decode_numbers(payload)))
    if method == "lease_time_to_live":
        lease_id, keys = _TTL.unpack(payload)
        # What a follower has applied must be seen by its client here too.
        await member.confirm_linearizable()
        return member.lease_time_to_live_here(lease_id, keys).SerializeToString()
    raise KvError(f"no such call: {method}")


def _encode_numbers(numbers: Sequence[int]) -> bytes:
    return struct.pack(f">{len(numbers)}q", *numbers)


def _decode_numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(data) // 8}q", data)
