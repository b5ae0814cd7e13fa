"""Leases through the library, on a real server."""

import asyncio
from contextlib import aclosing

import pytest
from kvclient import Client, LeaseNotFoundError

DEADLINE_S = 30.0


async def test_revoking_a_lease_deletes_its_keys(client: Client, space: str) -> None:
    lease = await client.lease.grant(60)
    await client.put(space + "k", "v", lease_id=lease.ID)
    alive = await client.lease.time_to_live(lease.ID, keys=True)
    assert (alive.grantedTTL, list(alive.keys)) == (60, [(space + "k").encode()])
    assert lease.ID in [known.ID for known in (await client.lease.list()).leases]
    await client.lease.revoke(lease.ID)
    assert await client.get(space + "k") is None
    assert (await client.lease.time_to_live(lease.ID)).TTL == -1


async def test_a_chosen_lease_id_is_kept(client: Client) -> None:
    assert (await client.lease.grant(60, lease_id=0x7777)).ID == 0x7777
    await client.lease.revoke(0x7777)


async def test_an_unknown_lease_can_be_neither_revoked_nor_renewed(client: Client) -> None:
    with pytest.raises(LeaseNotFoundError):
        await client.lease.revoke(424242)
    with pytest.raises(LeaseNotFoundError):
        await client.lease.keep_alive_once(424242)


@pytest.mark.slow
async def test_a_lease_kept_alive_outlives_its_ttl_and_an_abandoned_one_does_not(
    client: Client, space: str
) -> None:
    kept = await client.lease.grant(2)
    abandoned = await client.lease.grant(2)
    await client.put(space + "kept", "v", lease_id=kept.ID)
    await client.put(space + "abandoned", "v", lease_id=abandoned.ID)
    async with client.lease.keep(kept.ID) as keeper, client.watch(space + "abandoned") as watcher:
        async with asyncio.timeout(DEADLINE_S):
            batch = await anext(watcher)
        assert batch.events[0].kv.key == (space + "abandoned").encode()
        assert await client.get(space + "kept") is not None
        assert not keeper.is_lost


async def test_renewing_yields_at_once_and_leaving_early_is_clean(client: Client) -> None:
    lease = await client.lease.grant(60)
    async with asyncio.timeout(DEADLINE_S), aclosing(client.lease.keep_alive(lease.ID)) as renewals:
        async for response in renewals:
            assert response.TTL == 60
            break


async def test_a_keeper_notices_that_its_lease_was_revoked(client: Client) -> None:
    lease = await client.lease.grant(2)
    async with client.lease.keep(lease.ID) as keeper:
        await client.lease.revoke(lease.ID)
        async with asyncio.timeout(DEADLINE_S):
            assert isinstance(await keeper.lost(), LeaseNotFoundError)
