"""A mirror: everything that is there, then everything that happens."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from kvclient import Client, CompactedError, everything, prefix
from kvclient.mirror import Mirror
from kvclient.txn import op_delete, op_put
from kvtest.processes import ClusterProcesses

DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    with ClusterProcesses(tmp_path_factory.mktemp("destination")) as cluster:
        yield cluster
        cluster.print_logs()


async def contents(client: Client, keys: str) -> dict[str, str]:
    response = await client.range(prefix(keys) if keys else everything())
    return {kv.key.decode(): kv.value.decode() for kv in response.kvs}


async def until_contents_are(client: Client, keys: str, expected: dict[str, str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await contents(client, keys) != expected:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(mirror: Mirror) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(mirror.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_there_and_what_comes_is_copied(
    client: Client, destination: ClusterProcesses, space: str
) -> None:
    for number in range(5):
        await client.put(f"{space}{number}", str(number))
    async with Client(destination.endpoints) as target:
        mirror = Mirror(client, target, key_prefix=space)
        async with running(mirror):
            await until_contents_are(target, space, {f"{space}{n}": str(n) for n in range(5)})
            await client.txn(success=[op_put(space + "0", "new"), op_delete(space + "1")])
            await client.delete(space + "2")
            await client.put(space + "5", "5")
            await until_contents_are(
                target,
                space,
                {space + "0": "new", space + "3": "3", space + "4": "4", space + "5": "5"},
            )
        assert mirror.copied == 9


async def test_keys_may_have_another_prefix_there(
    client: Client, destination: ClusterProcesses, space: str
) -> None:
    await client.put(space + "a", "1")
    async with Client(destination.endpoints) as target:
        async with running(Mirror(client, target, key_prefix=space, destination_prefix=f"copy of {space}")):
            await until_contents_are(target, f"copy of {space}", {f"copy of {space}a": "1"})
        async with running(Mirror(client, target, key_prefix=space, destination_prefix="")):
            await until_contents_are(target, "a", {"a": "1"})


async def test_a_mirror_may_begin_at_a_revision(
    client: Client, destination: ClusterProcesses, space: str
) -> None:
    await client.put(space + "old", "1")
    revision = (await client.put(space + "new", "2")).header.revision
    async with (
        Client(destination.endpoints) as target,
        running(Mirror(client, target, key_prefix=space, start_revision=revision)),
    ):
        await until_contents_are(target, space, {space + "new": "2"})


async def test_large_transactions_are_cut(client: Client, destination: ClusterProcesses, space: str) -> None:
    async with Client(destination.endpoints) as target:
        mirror = Mirror(client, target, key_prefix=space, max_operations=3)
        async with running(mirror):
            await client.txn(success=[op_put(f"{space}{number}", "v") for number in range(10)])
            await until_contents_are(target, space, {f"{space}{number}": "v" for number in range(10)})


async def test_a_mirror_that_missed_something_says_so(
    client: Client, destination: ClusterProcesses, space: str
) -> None:
    revision = (await client.put(space + "k", "1")).header.revision
    later = (await client.put(space + "k", "2")).header.revision
    await client.compact(later)
    async with Client(destination.endpoints) as target:
        with pytest.raises(CompactedError):
            await asyncio.wait_for(Mirror(client, target, start_revision=revision).run(), DEADLINE_S)
