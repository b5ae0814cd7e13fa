"""What the client does when members die, freeze or come back."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from kvclient import Client, ConnectionFailedError, KvClientError, prefix
from kvnode.status import StatusCode
from kvtest.ports import free_port
from kvtest.processes import ClusterProcesses, MemberProcess

DEADLINE_S = 40.0


@pytest.fixture(autouse=True)
def everyone_is_back(trio: ClusterProcesses) -> Iterator[None]:
    """Each test gets three running members, whatever the one before did to them."""
    yield
    for member in trio:
        if member.is_running:
            member.resume()
    trio.start()


@pytest_asyncio.fixture
async def clients(trio: ClusterProcesses) -> AsyncIterator[Client]:
    async with Client(trio.endpoints, timeout_s=10.0) as client:
        yield client


def member_at(trio: ClusterProcesses, endpoint: str) -> MemberProcess:
    return next(member for member in trio if member.client_url == endpoint)


async def put_until_done(client: Client, key: str, value: str) -> None:
    """Put, again after every failure: for keys that one test alone writes, once each."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await client.put(key, value)
                return
            except KvClientError:
                continue


async def test_an_endpoint_that_refuses_connections_is_passed_over(
    trio: ClusterProcesses, space: str
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with Client([dead, *trio.endpoints]) as client:
        await client.put(space + "k", "v")
        assert await client.get(space + "k") is not None


async def test_nothing_reachable_fails_at_once_and_names_each_endpoint() -> None:
    dead = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    async with Client(dead, timeout_s=60.0) as client, asyncio.timeout(DEADLINE_S):
        with pytest.raises(ConnectionFailedError) as caught:
            await client.put("k", "v")
    assert [endpoint for endpoint, _ in caught.value.failures] == dead
    assert {reason for _, reason in caught.value.failures} == {"Connection refused"}
    assert not caught.value.is_maybe_applied


async def test_calls_go_on_after_the_member_in_use_was_killed(
    trio: ClusterProcesses, clients: Client, space: str
) -> None:
    await clients.put(space + "k", "1")
    serving = (await clients.maintenance.status()).header.member_id
    for member in trio:
        if member.status().header.member_id == serving:
            member.kill()
    await put_until_done(clients, space + "k", "2")
    found = await clients.get(space + "k")
    assert found is not None
    assert found.value == b"2"


async def test_a_frozen_member_does_not_hold_up_reads(
    trio: ClusterProcesses, clients: Client, space: str
) -> None:
    await clients.put(space + "k", "v")
    serving = (await clients.maintenance.status()).header.member_id
    frozen = next(member for member in trio if member.status().header.member_id == serving)
    frozen.pause()
    found = await clients.get(space + "k", timeout_s=DEADLINE_S)
    assert found is not None


async def test_a_write_into_a_frozen_member_is_not_repeated_and_says_so(
    trio: ClusterProcesses, space: str
) -> None:
    async with Client(trio.endpoints[:1], timeout_s=1.0) as client:
        await client.put(space + "k", "1")
        trio[0].pause()
        with pytest.raises(KvClientError) as caught:
            await client.put(space + "k", "2")
    assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
    assert caught.value.is_maybe_applied
    assert caught.value.endpoint == trio.endpoints[0]


async def test_a_restarted_member_is_used_again_at_once(trio: ClusterProcesses, space: str) -> None:
    async with Client(trio.endpoints[:1]) as client:
        await client.put(space + "k", "1")
        trio[0].kill()
        with pytest.raises(ConnectionFailedError):
            await client.get(space + "k")
        await asyncio.to_thread(trio[0].restart)
        assert await client.get(space + "k") is not None


async def test_a_watch_goes_on_elsewhere_without_gap_or_repetition(
    trio: ClusterProcesses, clients: Client, space: str
) -> None:
    values: list[bytes] = []
    async with clients.watch(prefix(space)) as watcher:
        for number in range(60):
            if number % 20 == 10:
                victim = member_at(trio, watcher.endpoint)
                victim.kill()
            await put_until_done(clients, f"{space}{number:03}", str(number))
            if number % 20 == 15:
                await asyncio.to_thread(trio.start)
        # The last one written is the sign that all have come.
        async with asyncio.timeout(DEADLINE_S):
            while b"59" not in values:
                values += [event.kv.value for event in (await anext(watcher)).events if event.kv.version == 1]
    assert values == [str(number).encode() for number in range(60)]


async def test_a_watch_outlives_the_loss_of_every_member(
    trio: ClusterProcesses, clients: Client, space: str
) -> None:
    async with clients.watch(space + "k") as watcher:
        await clients.put(space + "k", "before")
        async with asyncio.timeout(DEADLINE_S):
            assert (await anext(watcher)).events[0].kv.value == b"before"
        trio.stop()
        waiting = asyncio.create_task(anext(watcher))
        await asyncio.to_thread(trio.start)
        await put_until_done(clients, space + "k", "after")
        async with asyncio.timeout(DEADLINE_S):
            assert (await waiting).events[0].kv.value == b"after"


async def test_a_lease_is_kept_alive_over_the_death_of_the_member_in_use(
    trio: ClusterProcesses, clients: Client, space: str
) -> None:
    lease = await clients.lease.grant(15)
    await clients.put(space + "k", "v", lease_id=lease.ID)
    serving = (await clients.maintenance.status()).header.member_id
    victim = next(member for member in trio if member.status().header.member_id == serving)
    victim.kill()
    async with asyncio.timeout(DEADLINE_S):
        renewed = await clients.lease.keep_alive_once(lease.ID)
    assert renewed.TTL == 15


async def test_without_a_quorum_linearizable_reads_fail_and_serializable_ones_do_not(
    trio: ClusterProcesses, space: str
) -> None:
    survivor = trio[0]
    async with Client(survivor.client_url, timeout_s=10.0) as client:
        await client.put(space + "k", "v")
        for member in list(trio)[1:]:
            member.kill()
        with pytest.raises(KvClientError) as caught:
            await client.get(space + "k", timeout_s=2.0)
        assert caught.value.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
        assert await client.get(space + "k", is_serializable=True) is not None
