"""What a member asks its leader for on a client's behalf."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kvnode.pb.rpc_pb2 import LeaseTimeToLiveResponse
from kvnode.server.calls import LeaderCalls
from kvnode.server.errors import NoLeaderError
from kvnode.status import KvError

OLD, NEW = 1, 2


class FollowerOfASilentLeader:
    """A member whose leader takes calls and never answers, until another leads."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(request_timeout_s=60.0)
        self.is_leader = False
        self.leader_id = OLD
        self.transport = self
        self.was_asked = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def on_leader_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def call(self, member_id: int, method: str, payload: bytes, timeout_s: float) -> bytes:
        if member_id == OLD:
            self.was_asked.set()
            await asyncio.sleep(timeout_s)
        answer = LeaseTimeToLiveResponse(TTL=7).SerializeToString()
        return (7).to_bytes(8, "big") if method == "lease_renew" else answer

    async def elect(self) -> None:
        """Have another lead once the old one was asked."""
        await self.was_asked.wait()
        for leader_id in (0, NEW):
            self.leader_id = leader_id
            for callback in list(self._callbacks):
                callback()

    def has_subscribers(self) -> bool:
        return bool(self._callbacks)


async def test_a_renewal_that_the_old_leader_does_not_answer_goes_to_the_next() -> None:
    member = FollowerOfASilentLeader()
    renewed: asyncio.Future[int | KvError] = asyncio.get_running_loop().create_future()
    calls = LeaderCalls(cast(Any, member))
    calls.lease_renew(1, renewed.set_result)
    await member.elect()
    async with asyncio.timeout(10.0):
        assert await renewed == 7
    assert not member.has_subscribers()


async def test_a_question_about_a_lease_that_the_old_leader_does_not_answer_goes_to_the_next() -> None:
    member = FollowerOfASilentLeader()
    calls = LeaderCalls(cast(Any, member))
    asked = asyncio.create_task(calls.lease_time_to_live(1, keys=False))
    await member.elect()
    async with asyncio.timeout(10.0):
        assert (await asked).TTL == 7
    assert not member.has_subscribers()


async def test_without_a_leader_until_the_timeout_the_error_says_so() -> None:
    member = FollowerOfASilentLeader()
    member.config.request_timeout_s = 0.01
    member.leader_id = 0
    with pytest.raises(NoLeaderError):
        await LeaderCalls(cast(Any, member)).lease_time_to_live(1, keys=False)
