"""Locks as clients see them: one owner at a time, in the order of asking, and no key left behind."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from grpc import aio
from kvnode.api.contenders import Contenders
from kvnode.apply.commands import CommandKind, encode_command
from kvnode.mvcc.watch import WatchHub
from kvnode.pb import rpc_pb2 as pb
from kvnode.pb.lock_pb2 import LockRequest, LockResponse, UnlockRequest, UnlockResponse
from kvnode.raft.types import EntryKind
from kvnode.server.errors import RequestTimeoutError
from kvtest.local_member import LocalMember
from kvtest.secured_member import secured
from kvtest.served_member import Client, ServedMember, serve, until

LOCK = "/v3lockpb.Lock/Lock"
UNLOCK = "/v3lockpb.Lock/Unlock"
EXPIRED = (grpc.StatusCode.UNKNOWN, "mutex: session is expired")


async def grant(served: ServedMember, *lease_ids: int, ttl_s: int = 60) -> None:
    for lease_id in lease_ids:
        await served.client.kv("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl_s, ID=lease_id))


async def revoke(served: ServedMember, lease_id: int) -> None:
    await served.client.kv("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease_id))


async def lock(served: ServedMember, name: bytes, lease_id: int = 0) -> LockResponse:
    return await served.client.call(LOCK, LockRequest(name=name, lease=lease_id), LockResponse)


async def unlock(served: ServedMember, key: bytes) -> UnlockResponse:
    return await served.client.call(UNLOCK, UnlockRequest(key=key), UnlockResponse)


def begin(served: ServedMember, name: bytes, lease_id: int) -> Any:
    """A call that may wait; it can be cancelled."""
    return served.client.method(LOCK)(LockRequest(name=name, lease=lease_id).SerializeToString())


async def queue(served: ServedMember, name: bytes, lease_id: int) -> Any:
    """Begin to wait, and return when the call is in the queue."""
    call = begin(served, name, lease_id)
    await until(lambda: has_key(served, name + b"/%x" % lease_id))
    return call


def has_key(served: ServedMember, key: bytes) -> bool:
    return served.member.applier.store.index.latest(key) != 0


async def key_of(call: Awaitable[bytes]) -> bytes:
    async with asyncio.timeout(10):
        return LockResponse.FromString(await call).key


async def failure(call: Awaitable[bytes]) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(aio.AioRpcError) as raised:
        async with asyncio.timeout(10):
            await call
    return raised.value.code(), raised.value.details()


async def refused(served: ServedMember, path: str, request: Any) -> tuple[grpc.StatusCode, str | None]:
    return await failure(served.client.method(path)(request.SerializeToString()))


async def test_the_key_is_the_name_and_the_lease_in_hexadecimal(served: ServedMember) -> None:
    await grant(served, 0xABC)
    response = await lock(served, b"n", 0xABC)
    assert response.key == b"n/abc"
    assert (response.header.revision, response.header.raft_term) == (2, 2)
    found = await served.client.kv("KV/Range", pb.RangeRequest(key=b"n/abc"))
    assert (found.kvs[0].lease, found.kvs[0].value) == (0xABC, b"")


async def test_without_a_lease_the_server_grants_one_of_a_minute(served: ServedMember) -> None:
    response = await lock(served, b"n")
    lease_id = int(response.key.removeprefix(b"n/"), 16)
    life = await served.client.kv("Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=lease_id))
    assert life.grantedTTL == 60


async def test_locking_again_with_the_same_lease_changes_nothing(served: ServedMember) -> None:
    await grant(served, 1, 2)
    first = await lock(served, b"n", 1)
    again = await lock(served, b"n", 1)
    assert (again.key, again.header.revision) == (first.key, first.header.revision)
    waiting = await queue(served, b"n", 2)
    assert (await lock(served, b"n", 1)).key == first.key
    assert not waiting.done()
    waiting.cancel()


async def test_waiters_get_the_lock_in_the_order_in_which_they_asked(served: ServedMember) -> None:
    await grant(served, 9, 3, 5, 1)
    held = (await lock(served, b"n", 9)).key
    waiting = [await queue(served, b"n", lease_id) for lease_id in (3, 5, 1)]
    for call, expected in zip(waiting, (b"n/3", b"n/5", b"n/1"), strict=True):
        assert not any(each.done() for each in waiting if each is call)
        await unlock(served, held)
        held = await key_of(call)
        assert held == expected


async def test_unlocking_tells_its_revision_even_if_there_is_no_such_key(served: ServedMember) -> None:
    await grant(served, 1)
    await lock(served, b"n", 1)
    assert (await unlock(served, b"nothing")).header.revision == 2
    assert (await unlock(served, b"n/1")).header.revision == 3


async def test_a_waiter_that_leaves_the_middle_wakes_nobody(served: ServedMember) -> None:
    await grant(served, 1, 2, 3)
    await lock(served, b"n", 1)
    middle = await queue(served, b"n", 2)
    last = await queue(served, b"n", 3)
    middle.cancel()
    await until(lambda: not has_key(served, b"n/2"))
    assert not last.done()
    await unlock(served, b"n/1")
    assert await key_of(last) == b"n/3"


@pytest.mark.parametrize("gives_up_by", ["cancelling", "deadline", "hanging-up"])
async def test_a_waiter_that_gives_up_leaves_no_key(served: ServedMember, gives_up_by: str) -> None:
    await grant(served, 1, 2)
    await lock(served, b"n", 1)
    client = Client(f"127.0.0.1:{served.port}")
    try:
        timeout_s = 0.3 if gives_up_by == "deadline" else None
        request = LockRequest(name=b"n", lease=2).SerializeToString()
        waiting = client.method(LOCK)(request, timeout=timeout_s)
        await until(lambda: has_key(served, b"n/2"))
        if gives_up_by == "cancelling":
            waiting.cancel()
        elif gives_up_by == "hanging-up":
            await client.channel.close()
        await until(lambda: not has_key(served, b"n/2"))
        assert has_key(served, b"n/1")
    finally:
        await client.channel.close()


async def test_a_call_that_is_cancelled_while_its_key_is_written_leaves_no_key() -> None:
    member = _SlowMember()
    async with serve(member) as served:
        await grant(served, 1)
        member.holds_writes = True
        call = begin(served, b"n", 1)
        await until(lambda: len(member.held_writes) == 1)
        call.cancel()
        await until(lambda: served.server.stats.methods[LOCK].handled[1] == 1)
        member.release_writes()
        await until(lambda: member.applier.store.current_revision == 3)
        assert not has_key(served, b"n/1")


async def test_an_owner_whose_second_call_is_cancelled_early_stays_owner() -> None:
    member = _SlowMember()
    async with serve(member) as served:
        await grant(served, 1)
        await lock(served, b"n", 1)
        member.holds_writes = True
        call = begin(served, b"n", 1)
        await until(lambda: len(member.held_writes) == 1)
        call.cancel()
        await until(lambda: served.server.stats.methods[LOCK].handled[1] == 1)
        member.release_writes()
        await served.put(b"after")
        assert has_key(served, b"n/1")


@pytest.mark.parametrize("ends_by", ["revocation", "expiry"])
async def test_a_lease_that_ends_gives_the_lock_to_the_next(served: ServedMember, ends_by: str) -> None:
    await grant(served, 1, ttl_s=5)
    await grant(served, 2, ttl_s=600)
    await lock(served, b"n", 1)
    waiting = await queue(served, b"n", 2)
    if ends_by == "revocation":
        await revoke(served, 1)
    else:
        lessor = served.member.applier.lessor
        assert lessor.expired(0.0, 1) == []  # the clocks of both begin
        served.member.expire_leases(10.0)
    assert await key_of(waiting) == b"n/2"


async def test_a_waiter_whose_own_lease_ends_hears_so_at_once(served: ServedMember) -> None:
    await grant(served, 1, 2)
    await lock(served, b"n", 1)
    waiting = await queue(served, b"n", 2)
    await revoke(served, 2)
    assert await failure(waiting) == EXPIRED
    assert has_key(served, b"n/1")


async def test_a_waiter_that_comes_first_by_its_own_end_is_no_owner(served: ServedMember) -> None:
    await grant(served, 1, 2)
    await lock(served, b"n", 1)
    waiting = await queue(served, b"n", 2)
    # Both keys go in one revision, or in one turn of the loop: never is the second one owner.
    await served.delete(b"n/", b"n0")
    assert await failure(waiting) == EXPIRED


@pytest.mark.parametrize("lease_id", [999, -5])
async def test_an_unknown_lease_locks_nothing(served: ServedMember, lease_id: int) -> None:
    assert await refused(served, LOCK, LockRequest(name=b"n", lease=lease_id)) == (
        grpc.StatusCode.UNKNOWN,
        "etcdserver: requested lease not found",
    )
    assert len(served.member.applier.store.index) == 0


async def test_unlocking_no_key_is_refused(served: ServedMember) -> None:
    assert await refused(served, UNLOCK, UnlockRequest()) == (
        grpc.StatusCode.UNKNOWN,
        "etcdserver: key is not provided",
    )


async def test_a_name_that_is_too_long_is_refused(served: ServedMember) -> None:
    await grant(served, 1)
    assert await refused(served, LOCK, LockRequest(name=b"n" * 1_600_000, lease=1)) == (
        grpc.StatusCode.UNKNOWN,
        "etcdserver: request is too large",
    )


async def test_bytes_that_are_no_request_are_refused(served: ServedMember) -> None:
    code, message = await failure(served.client.method(LOCK)(b"\xff\xff"))
    assert code is grpc.StatusCode.INTERNAL
    assert message is not None
    assert message.startswith("grpc: error unmarshalling request: ")


async def test_a_learner_locks_nothing(served: ServedMember) -> None:
    served.member.is_learner = True
    assert await refused(served, LOCK, LockRequest(name=b"n")) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "etcdserver: rpc not supported for learner",
    )


async def test_a_member_that_stops_ends_the_waiting_and_removes_the_key(served: ServedMember) -> None:
    await grant(served, 1, 2)
    await lock(served, b"n", 1)
    waiting = await queue(served, b"n", 2)
    served.services.close()
    stopped = (grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped")
    assert await failure(waiting) == stopped
    await until(lambda: not has_key(served, b"n/2"))
    assert await refused(served, LOCK, LockRequest(name=b"n", lease=2)) == stopped


async def test_a_change_of_leader_does_not_end_the_waiting(served: ServedMember) -> None:
    await grant(served, 1, 2)
    await lock(served, b"n", 1)
    waiting = await queue(served, b"n", 2)
    served.member.set_leader(0)
    served.member.set_leader(0xB2)
    await unlock(served, b"n/1")
    assert await key_of(waiting) == b"n/2"


async def test_a_lock_that_cannot_be_confirmed_is_given_back(served: ServedMember) -> None:
    await grant(served, 1, 2)
    await lock(served, b"n", 1)
    waiting = await queue(served, b"n", 2)
    served.member.holds_reads = True
    await unlock(served, b"n/1")
    await until(lambda: bool(served.member._held))
    # What waits for the read hears of the failure; the key can be removed all the same.
    served.member.failure = RequestTimeoutError()
    released = asyncio.ensure_future(waiting)
    served.member.release()
    served.member.failure = None
    assert await failure(released) == (grpc.StatusCode.UNKNOWN, "etcdserver: request timed out")
    await until(lambda: not has_key(served, b"n/2"))


async def test_with_hasleader_a_member_without_one_refuses(served: ServedMember) -> None:
    served.member.set_leader(0)
    call = served.client.method(LOCK)(
        LockRequest(name=b"n").SerializeToString(), metadata=(("hasleader", "true"),)
    )
    assert await failure(call) == (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")


async def test_a_waiter_that_gives_up_leaves_no_key_whatever_has_become_of_its_user() -> None:
    async with secured() as site:
        served = site.served
        await site.by("both", "Lease/LeaseGrant", pb.LeaseGrantRequest(ID=1, TTL=60))
        await site.by("both", "Lease/LeaseGrant", pb.LeaseGrantRequest(ID=2, TTL=60))
        metadata = await site.as_user("both")
        method = served.client.method(LOCK)
        await method(LockRequest(name=b"rl", lease=1).SerializeToString(), metadata=metadata)
        waiting = method(LockRequest(name=b"rl", lease=2).SerializeToString(), metadata=metadata)
        await until(lambda: has_key(served, b"rl/2"))
        await site.administer("UserDelete", pb.AuthUserDeleteRequest(name="both"))
        waiting.cancel()
        await until(lambda: not has_key(served, b"rl/2"))


async def test_a_user_who_lost_the_right_meanwhile_does_not_get_the_lock() -> None:
    async with secured() as site:
        served = site.served
        for lease_id in (1, 2):
            await site.by("both", "Lease/LeaseGrant", pb.LeaseGrantRequest(ID=lease_id, TTL=60))
        metadata = await site.as_user("both")
        method = served.client.method(LOCK)
        await method(LockRequest(name=b"rl", lease=1).SerializeToString(), metadata=metadata)
        waiting = method(LockRequest(name=b"rl", lease=2).SerializeToString(), metadata=metadata)
        await until(lambda: has_key(served, b"rl/2"))
        await site.administer("UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="both", role="both"))
        await site.by("root", "KV/DeleteRange", pb.DeleteRangeRequest(key=b"rl/1"))
        code, message = await failure(waiting)
        assert code is grpc.StatusCode.UNKNOWN
        assert message in ("etcdserver: permission denied", "etcdserver: invalid auth token")
        await until(lambda: not has_key(served, b"rl/2"))


async def test_five_hundred_waiters_share_one_watch_and_are_served_in_order(served: ServedMember) -> None:
    count = 500
    await grant(served, *range(1, count + 2))
    await lock(served, b"n", 1)
    calls = [await queue(served, b"n", lease_id) for lease_id in range(2, count + 2)]
    assert len(served.member.hub) == 1
    key = b"n/1"
    for call in calls:
        await unlock(served, key)
        key = await key_of(call)
    assert key == b"n/%x" % (count + 1)
    assert len(served.member.hub) == 0


async def test_waiting_survives_a_state_replaced_by_a_snapshot() -> None:
    member = LocalMember()
    contenders = Contenders(member)
    put(member, b"n/1")
    put(member, b"n/2")
    put(member, b"n/3")
    first = asyncio.ensure_future(contenders.turn(b"n/", b"n/2", 3))
    second = asyncio.ensure_future(contenders.turn(b"n/", b"n/3", 4))
    await until(lambda: len(member.hub) == 1)
    # The other state lacks the owner's key and the second waiter's, and has been compacted since.
    other = LocalMember()
    for key in (b"n/1", b"n/2", b"n/3"):
        put(other, key)
    for key in (b"n/1", b"n/3"):
        other.apply(
            EntryKind.NORMAL,
            encode_command(CommandKind.DELETE_RANGE, 1, pb.DeleteRangeRequest(key=key).SerializeToString()),
        )
    put(other, b"x")
    compact = pb.CompactionRequest(revision=7).SerializeToString()
    other.apply(EntryKind.NORMAL, encode_command(CommandKind.COMPACT, 1, compact))
    replace_state(member.hub, member, other)
    async with asyncio.timeout(10):
        assert await first is True
        assert await second is False
    assert len(contenders) == 0
    assert len(member.hub) == 0


def put(member: LocalMember, key: bytes) -> None:
    payload = pb.PutRequest(key=key).SerializeToString()
    member.apply(EntryKind.NORMAL, encode_command(CommandKind.PUT, 1, payload))


def replace_state(hub: WatchHub, member: LocalMember, other: LocalMember) -> None:
    member.applier = other.applier
    hub.reset(other.applier.store)


class _SlowMember(LocalMember):
    """A member whose writes may be held back."""

    def __init__(self) -> None:
        super().__init__()
        self.holds_writes = False
        self.held_writes: list[asyncio.Future[None]] = []

    async def proposed(self, kind: CommandKind, payload: bytes, *args: Any, **kwargs: Any) -> Any:
        if self.holds_writes:
            held = asyncio.get_running_loop().create_future()
            self.held_writes.append(held)
            await held
        return await super().proposed(kind, payload, *args, **kwargs)

    def release_writes(self) -> None:
        self.holds_writes = False
        for held in self.held_writes:
            held.set_result(None)
