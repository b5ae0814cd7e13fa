"""Sessions, locks and elections: who is next, and what happens to those who leave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio
from kvclient import Client, prefix
from kvclient.election import Election, NoLeaderError, NotElectedError
from kvclient.errors import LeaseNotFoundError
from kvclient.lock import LockHeldError, LockLostError, Mutex
from kvclient.session import Session
from kvtest.processes import ClusterProcesses

DEADLINE_S = 20.0


@pytest_asyncio.fixture
async def session(client: Client) -> AsyncIterator[Session]:
    async with Session(client, ttl_s=30) as held:
        yield held


@pytest_asyncio.fixture
async def other(single: ClusterProcesses) -> AsyncIterator[Session]:
    async with Client(single.endpoints) as client, Session(client, ttl_s=30) as held:
        yield held


async def queue_length(client: Client, space: str) -> int:
    return (await client.range(prefix(space), count_only=True)).count


async def until_queue_is(client: Client, space: str, length: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await queue_length(client, space) != length:
            await asyncio.sleep(0.01)


async def test_a_session_ends_with_its_lease(client: Client) -> None:
    async with Session(client) as held:
        assert (await client.lease.time_to_live(held.lease_id)).grantedTTL == 60
    assert (await client.lease.time_to_live(held.lease_id)).TTL == -1


async def test_an_orphaned_session_leaves_its_lease_alive(client: Client) -> None:
    async with Session(client) as held:
        await held.orphan()
    assert (await client.lease.time_to_live(held.lease_id)).TTL > 0
    await client.lease.revoke(held.lease_id)


async def test_a_session_notices_that_its_lease_is_gone(client: Client) -> None:
    async with Session(client, ttl_s=2) as held:
        await client.lease.revoke(held.lease_id)
        assert isinstance(await asyncio.wait_for(held.lost(), DEADLINE_S), LeaseNotFoundError)
        assert held.is_lost


async def test_a_lock_has_one_holder_and_passes_on(
    client: Client, session: Session, other: Session, space: str
) -> None:
    mine, theirs = Mutex(session, space), Mutex(other, space)
    async with mine:
        assert mine.key == f"{space}/{session.lease_id:x}".encode()
        with pytest.raises(LockHeldError):
            await theirs.try_lock()
        waiting = asyncio.create_task(theirs.lock())
        await until_queue_is(client, space, 2)
        assert not waiting.done()
        assert (await client.txn([mine.is_held])).succeeded
    await asyncio.wait_for(waiting, DEADLINE_S)
    assert theirs.revision > mine.revision
    await theirs.unlock()
    assert await queue_length(client, space) == 0


async def test_locking_again_in_the_same_session_is_no_deadlock(session: Session, space: str) -> None:
    first, second = Mutex(session, space), Mutex(session, space)
    await first.lock()
    await asyncio.wait_for(second.lock(), DEADLINE_S)
    await second.unlock()
    with pytest.raises(LockLostError):
        await first.unlock()


async def test_a_wait_that_is_cancelled_leaves_the_queue(
    client: Client, session: Session, other: Session, space: str
) -> None:
    async with Mutex(session, space):
        waiting = asyncio.create_task(Mutex(other, space).lock())
        await until_queue_is(client, space, 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until_queue_is(client, space, 1)


async def test_a_lock_passes_on_when_its_holder_dies(client: Client, other: Session, space: str) -> None:
    async with Session(client, ttl_s=30) as dying:
        await Mutex(dying, space).lock()
        waiting = asyncio.create_task(Mutex(other, space).lock())
        await until_queue_is(client, space, 2)
        await client.lease.revoke(dying.lease_id)
        await asyncio.wait_for(waiting, DEADLINE_S)


async def test_a_waiter_whose_session_ends_does_not_get_the_lock(
    client: Client, session: Session, space: str
) -> None:
    async with Session(client, ttl_s=30) as dying:
        await Mutex(session, space).lock()
        waiting = asyncio.create_task(Mutex(dying, space).lock())
        await until_queue_is(client, space, 2)
        await client.lease.revoke(dying.lease_id)
        await client.lease.revoke(session.lease_id)
        with pytest.raises(LockLostError):
            await asyncio.wait_for(waiting, DEADLINE_S)


async def test_many_contenders_never_hold_the_lock_together(client: Client, space: str) -> None:
    holders = 0
    most = 0

    async def contend() -> None:
        nonlocal holders, most
        async with Session(client, ttl_s=30) as held, Mutex(held, space):
            holders += 1
            most = max(most, holders)
            await client.get("anything")
            holders -= 1

    await asyncio.wait_for(asyncio.gather(*(contend() for _ in range(8))), DEADLINE_S)
    assert most == 1


async def test_an_elected_leader_proclaims_and_resigns(
    client: Client, session: Session, other: Session, space: str
) -> None:
    first, second = Election(session, space), Election(other, space)
    with pytest.raises(NoLeaderError):
        await first.leader()
    await first.campaign("one")
    waiting = asyncio.create_task(second.campaign("two"))
    await until_queue_is(client, space, 2)
    await first.proclaim("uno")
    assert (await second.leader()).kvs[0].value == b"uno"
    await first.resign()
    await asyncio.wait_for(waiting, DEADLINE_S)
    assert (await first.leader()).kvs[0].value == b"two"
    with pytest.raises(NotElectedError):
        await first.proclaim("one")
    await second.resign()


async def test_campaigning_again_announces_the_new_value(session: Session, space: str) -> None:
    await Election(session, space).campaign("one")
    again = Election(session, space)
    await again.campaign("two")
    assert (await again.leader()).kvs[0].value == b"two"
    await again.resign()


async def test_a_leader_whose_lease_is_gone_can_not_proclaim(client: Client, space: str) -> None:
    async with Session(client, ttl_s=30) as dying:
        election = Election(dying, space)
        await election.campaign("one")
        await client.lease.revoke(dying.lease_id)
        with pytest.raises(NotElectedError):
            await election.proclaim("two")


async def test_a_campaign_that_is_cancelled_leaves_the_queue(
    client: Client, session: Session, other: Session, space: str
) -> None:
    await Election(session, space).campaign("one")
    waiting = asyncio.create_task(Election(other, space).campaign("two"))
    await until_queue_is(client, space, 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until_queue_is(client, space, 1)


async def test_an_observer_sees_every_leader_and_every_proclamation(
    session: Session, other: Session, space: str
) -> None:
    first, second = Election(session, space), Election(other, space)
    async with aclosing(first.observe()) as leaders:
        # Nobody leads yet: the first one is waited for.
        seen = asyncio.ensure_future(anext(leaders))
        await first.campaign("one")
        assert (await asyncio.wait_for(seen, DEADLINE_S)).kvs[0].value == b"one"
        await first.proclaim("uno")
        assert (await asyncio.wait_for(anext(leaders), DEADLINE_S)).kvs[0].value == b"uno"
        seen = asyncio.ensure_future(anext(leaders))
        await first.resign()
        await second.campaign("two")
        assert (await asyncio.wait_for(seen, DEADLINE_S)).kvs[0].value == b"two"
