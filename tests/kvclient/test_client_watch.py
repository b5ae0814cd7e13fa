"""Watches through the library, on a real server."""

import asyncio
from collections.abc import Callable

import pytest
from kvclient import Client, CompactedError, KeyRange, WatchBatch, WatchCanceledError, Watcher, prefix
from kvnode.pb import kv_pb2

pytestmark = pytest.mark.usefixtures("single")

DEADLINE_S = 20.0


async def collect(watcher: Watcher, count: int) -> list[kv_pb2.Event]:
    """The next ``count`` events."""
    events: list[kv_pb2.Event] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(events) < count:
            events += (await anext(watcher)).events
    return events


async def next_batch(watcher: Watcher, accept: Callable[[WatchBatch], bool]) -> WatchBatch:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            batch = await anext(watcher)
            if accept(batch):
                return batch


async def test_every_write_after_entering_is_seen_in_order(client: Client, space: str) -> None:
    async with client.watch(prefix(space)) as watcher:
        for number in range(20):
            await client.put(f"{space}{number % 3}", str(number))
        await client.delete(space + "0")
        events = await collect(watcher, 21)
    assert [event.kv.value for event in events[:20]] == [str(number).encode() for number in range(20)]
    assert events[20].type == kv_pb2.Event.DELETE
    revisions = [event.kv.mod_revision for event in events]
    assert revisions == sorted(set(revisions))


async def test_history_is_replayed_from_a_revision(client: Client, space: str) -> None:
    first = await client.put(space + "k", "1")
    await client.put(space + "k", "2")
    async with client.watch(space + "k", start_revision=first.header.revision) as watcher:
        events = await collect(watcher, 2)
    assert [event.kv.value for event in events] == [b"1", b"2"]


async def test_the_pair_before_comes_along_when_asked_for(client: Client, space: str) -> None:
    await client.put(space + "k", "1")
    async with client.watch(space + "k", prev_kv=True) as watcher:
        await client.put(space + "k", "2")
        (event,) = await collect(watcher, 1)
    assert (event.kv.value, event.prev_kv.value) == (b"2", b"1")


async def test_filters_leave_kinds_of_events_out(client: Client, space: str) -> None:
    async with client.watch(space + "k", no_puts=True) as watcher:
        await client.put(space + "k", "1")
        await client.delete(space + "k")
        (event,) = await collect(watcher, 1)
    assert event.type == kv_pb2.Event.DELETE


async def test_progress_tells_how_far_everything_is_delivered(client: Client, space: str) -> None:
    async with client.watch(prefix(space)) as watcher:
        put = await client.put(space + "k", "1")
        await collect(watcher, 1)
        other = await client.put("elsewhere", "1")
        await watcher.request_progress()
        batch = await next_batch(watcher, lambda batch: batch.is_progress)
        assert batch.revision >= other.header.revision > put.header.revision
        assert watcher.next_revision == batch.revision + 1


async def test_giving_up_waiting_loses_no_event(client: Client, space: str) -> None:
    async with client.watch(space + "k") as watcher:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(watcher)
        await client.put(space + "k", "1")
        (event,) = await collect(watcher, 1)
    assert event.kv.value == b"1"


async def test_a_compacted_start_is_told_with_the_oldest_revision_left(client: Client, space: str) -> None:
    first = await client.put(space + "k", "1")
    second = await client.put(space + "k", "2")
    await client.compact(second.header.revision)
    watcher = client.watch(space + "k", start_revision=first.header.revision)
    with pytest.raises(CompactedError) as caught:
        async with watcher:
            await collect(watcher, 1)
    assert caught.value.compact_revision == second.header.revision


async def test_an_empty_range_is_refused_with_the_servers_reason(client: Client) -> None:
    with pytest.raises(WatchCanceledError, match="watcher range is empty"):
        async with client.watch(KeyRange(b"b", b"a")):
            pass


async def test_closing_ends_the_iteration(client: Client, space: str) -> None:
    async with client.watch(space + "k") as watcher:
        waiting = asyncio.create_task(anext(watcher, None))
        await asyncio.wait([waiting], timeout=0.05)
        await watcher.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting is None


async def test_two_watchers_see_the_same(client: Client, space: str) -> None:
    async with client.watch(prefix(space)) as one, client.watch(prefix(space)) as other:
        await client.put(space + "k", "1")
        assert await collect(one, 1) == await collect(other, 1)
