"""Members that die, freeze or are told to stop while clients write."""

import asyncio
import os
import random
import signal
import time

import pytest
from kvclient import Client, prefix
from kvtest.processes import ClusterProcesses
from kvtest.workload import check_kept, equal_hashes, eventually, writing

KILLS = 20


async def test_the_leader_is_killed_and_writers_go_on_without_losing_anything(
    trio: ClusterProcesses, client: Client
) -> None:
    async with writing(trio.endpoints) as writers:
        for writer in writers:
            await writer.more(20)
        leader = await asyncio.to_thread(trio.leader)
        killed_s = time.monotonic()
        leader.kill()
        for writer in writers:
            await writer.more(20)
        gap_s = max(writer.longest_gap_s(killed_s) for writer in writers)
        await asyncio.to_thread(leader.restart)
        for writer in writers:
            await writer.more(5)
    print(f"no write succeeded for {gap_s:.3f} s")
    # An election timeout is one to two seconds by default; then the client must find its way.
    assert gap_s < 6.0
    await check_kept(client, writers)
    await equal_hashes(trio)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_twenty_kills_of_any_member_or_of_all_lose_no_acknowledged_write(
    trio: ClusterProcesses, client: Client
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with writing(trio.endpoints) as writers:
        for number in range(KILLS):
            for writer in writers:
                # A kill may also come before anything works again after the last one.
                await writer.more(chance.choice([0, 1, 5, 30]))
            victims = list(trio) if chance.random() < 0.3 else [chance.choice(list(trio))]
            print(f"kill {number}: {', '.join(victim.name for victim in victims)}")
            for victim in victims:
                victim.kill()
            for victim in victims:
                victim.start()
        for writer in writers:
            await writer.more(5)
        await asyncio.to_thread(trio.start)
    print(f"{sum(writer.count for writer in writers)} writes acknowledged")
    await check_kept(client, writers)
    await equal_hashes(trio)


async def test_all_members_killed_at_once_come_back_with_everything(
    trio: ClusterProcesses, client: Client
) -> None:
    async with writing(trio.endpoints) as writers:
        for writer in writers:
            await writer.more(20)
        for member in trio:
            member.kill()
        await asyncio.to_thread(trio.start)
        for writer in writers:
            await writer.more(5)
    await check_kept(client, writers)
    await equal_hashes(trio)


async def test_a_frozen_leader_is_replaced_and_does_not_disturb_when_it_thaws(
    trio: ClusterProcesses, client: Client
) -> None:
    frozen = await asyncio.to_thread(trio.leader)
    others = [member for member in trio if member is not frozen]
    async with writing([member.client_url for member in others]) as writers:
        frozen.pause()
        for writer in writers:
            await writer.more(20)
        status = await asyncio.to_thread(others[0].status)
        term, leader = status.raftTerm, status.leader
        frozen.resume()
        await asyncio.to_thread(frozen.wait_serving)
        for writer in writers:
            await writer.more(20)
        status = await asyncio.to_thread(others[0].status)
    assert (status.raftTerm, status.leader) == (term, leader)
    await check_kept(client, writers)
    await equal_hashes(trio)


async def test_whichever_follower_is_frozen_a_single_client_goes_on_at_once(trio: ClusterProcesses) -> None:
    count, heartbeat_s = 300, 0.1
    leader = await asyncio.to_thread(trio.leader)
    async with Client(leader.client_url) as client:
        for number, follower in enumerate(await asyncio.to_thread(trio.followers)):
            await client.put("k", "before")
            begun_s = time.monotonic()
            follower.pause()
            try:
                for written in range(count):
                    await client.put(f"{number}/{written:03}", "v")
                for _ in range(count):
                    found = await client.get(f"{number}/{count - 1:03}")
                    assert found is not None
            finally:
                follower.resume()
            took_s = time.monotonic() - begun_s
            print(f"{2 * count} calls in {took_s:.3f} s without {follower.name}")
            # The leader asks only as many members as it needs: if the frozen one had been among them each
            # time, each call would have waited for the heartbeat that goes to all.
            assert took_s < 2 * count * heartbeat_s / 4
    await equal_hashes(trio)


async def test_a_thawed_leader_answers_no_read_from_its_past(trio: ClusterProcesses) -> None:
    frozen = await asyncio.to_thread(trio.leader)
    others = [member.client_url for member in trio if member is not frozen]
    async with Client(others, timeout_s=15.0) as client, Client(frozen.client_url, timeout_s=15.0) as old:
        await client.put("k", "before")
        assert await old.get("k") is not None
        frozen.pause()
        read = asyncio.create_task(old.get("k"))
        await client.put("k", "after", timeout_s=15.0)
        frozen.resume()
        # Sent before the write, so that either value is right; one asked now must see the write.
        await read
        found = await old.get("k")
        assert found is not None
        assert found.value == b"after"


async def test_a_leader_told_to_stop_hands_over_and_exits_within_a_moment(
    trio: ClusterProcesses, client: Client
) -> None:
    leader = await asyncio.to_thread(trio.leader)
    others = [member for member in trio if member is not leader]
    async with writing([member.client_url for member in others]) as writers:
        for writer in writers:
            await writer.more(20)
        term = (await asyncio.to_thread(others[0].status)).raftTerm
        told_s = time.monotonic()
        os.kill(leader.pid, signal.SIGTERM)
        assert await asyncio.to_thread(leader.wait_exit) == 0
        took_s = time.monotonic() - told_s
        for writer in writers:
            await writer.more(20)
        gap_s = max(writer.longest_gap_s(told_s) for writer in writers)
        after = await asyncio.to_thread(others[0].status)
    print(f"exited after {took_s:.3f} s; no write succeeded for {gap_s:.3f} s")
    assert after.raftTerm == term + 1
    assert not [str(error) for writer in writers for error in writer.errors]
    assert took_s < 1.5
    assert gap_s < 1.0
    await asyncio.to_thread(leader.restart)
    await check_kept(client, writers)
    await equal_hashes(trio)


async def test_clients_of_a_member_that_is_told_to_stop_change_over_without_losing_a_write(
    trio: ClusterProcesses, client: Client
) -> None:
    async with writing(trio.endpoints, count=3) as writers:
        for member in trio:
            for writer in writers:
                await writer.more(5)
            assert await asyncio.to_thread(member.terminate) == 0
            await asyncio.to_thread(member.restart)
        for writer in writers:
            await writer.more(5)
    await check_kept(client, writers)
    await equal_hashes(trio)


async def test_a_follower_told_to_stop_changes_no_leader(trio: ClusterProcesses, client: Client) -> None:
    follower = (await asyncio.to_thread(trio.followers))[0]
    before = (await asyncio.to_thread(trio.leader)).status()
    assert await asyncio.to_thread(follower.terminate) == 0
    await client.put("k", "v")
    await asyncio.to_thread(follower.restart)
    after = (await asyncio.to_thread(trio.leader)).status()
    assert (after.raftTerm, after.leader) == (before.raftTerm, before.leader)


async def test_open_watches_and_leases_do_not_hold_up_a_member_that_is_told_to_stop(
    trio: ClusterProcesses,
) -> None:
    leader = await asyncio.to_thread(trio.leader)
    async with Client(leader.client_url) as client:
        lease = await client.lease.grant(60)
        async with client.lease.keep(lease.ID), client.watch("k") as watcher:
            await client.put("k", "v")
            assert (await anext(watcher)).events[0].kv.value == b"v"
            told_s = time.monotonic()
            os.kill(leader.pid, signal.SIGTERM)
            assert await asyncio.to_thread(leader.wait_exit) == 0
    assert time.monotonic() - told_s < 1.5


async def test_a_cluster_stopped_in_good_order_starts_with_everything(
    trio: ClusterProcesses, client: Client
) -> None:
    async with writing(trio.endpoints) as writers:
        for writer in writers:
            await writer.more(10)
    for member in trio:
        assert await asyncio.to_thread(member.terminate) == 0
    await asyncio.to_thread(trio.start)
    await check_kept(client, writers)
    await equal_hashes(trio)


async def test_a_watch_sees_every_change_once_over_the_death_of_leaders(
    trio: ClusterProcesses, client: Client
) -> None:
    seen: list[tuple[str, int]] = []

    async def follow() -> None:
        async with client.watch(prefix("writer-0/"), start_revision=1) as watcher:
            async for batch in watcher:
                seen.extend((event.kv.key.decode(), event.kv.mod_revision) for event in batch.events)

    watching = asyncio.create_task(follow())
    async with writing(trio.endpoints, count=1) as (writer,):
        for _ in range(2):
            await writer.more(10)
            leader = await asyncio.to_thread(trio.leader)
            leader.kill()
            await writer.more(10)
            await asyncio.to_thread(leader.restart)
    last = max(writer.revisions.values())
    await eventually(lambda: seen and seen[-1][1] >= last, what="the last write to be seen")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert {key for key, _ in seen} >= set(writer.revisions)
    revisions = [revision for _, revision in seen]
    assert revisions == sorted(set(revisions)), "a change was seen twice or out of order"
