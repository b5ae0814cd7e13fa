"""The queue behind locks and elections: keys under one prefix, in order of their creation.

Each waits for the deletion of the key right before its own only, so that one release wakes one waiter.
The keys are those of etcd's own recipes (``<name>/<lease id in hexadecimal>``): clients of other
languages, and the servers' Lock and Election, stand in the same queue.
"""

from dataclasses import dataclass

from kvnode.pb import kv_pb2, rpc_pb2

from kvclient.client import Client
from kvclient.errors import CompactedError
from kvclient.keys import KeyRange, prefix
from kvclient.txn import compare_create, op_delete, op_get, op_put

__all__ = ["Place", "first_in", "join", "leave", "wait_for_older"]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the queue."""

    key: bytes
    create_revision: int
    header: rpc_pb2.ResponseHeader
    is_first: bool
    value: bytes
    """What stands there: another value than the one offered if the place was ours already."""


async def join(client: Client, name: str | bytes, lease_id: int, value: bytes) -> Place:
    """Take a place, or find the one that the lease has already."""
    queue = _queue(name)
    key = queue.key + f"{lease_id:x}".encode()
    oldest = rpc_pb2.RequestOp(
        request_range=rpc_pb2.RangeRequest(
            key=queue.key,
            range_end=queue.range_end,
            limit=1,
            sort_order=rpc_pb2.RangeRequest.ASCEND,
            sort_target=rpc_pb2.RangeRequest.CREATE,
        )
    )
    response = await client.txn(
        [compare_create(key, "=", 0)],
        [op_put(key, value, lease_id=lease_id), oldest],
        [op_get(key), oldest],
    )
    create_revision = response.header.revision
    if not response.succeeded:
        (mine,) = response.responses[0].response_range.kvs
        create_revision, value = mine.create_revision, mine.value
    owners = response.responses[1].response_range.kvs
    is_first = not owners or owners[0].create_revision == create_revision
    return Place(key, create_revision, response.header, is_first, value)


async def wait_for_older(client: Client, name: str | bytes, create_revision: int) -> None:
    """Return once no key of the queue is older."""
    queue = _queue(name)
    while True:
        response = await client.range(
            queue,
            limit=1,
            sort_order=rpc_pb2.RangeRequest.DESCEND,
            sort_target=rpc_pb2.RangeRequest.CREATE,
            max_create_revision=create_revision - 1,
        )
        if not response.kvs:
            return
        await _deleted(client, response.kvs[0].key, response.header.revision + 1)


async def leave(client: Client, place: Place) -> bool:
    """Give the place up, if it is still ours; returns whether it was."""
    response = await client.txn(
        [compare_create(place.key, "=", place.create_revision)], [op_delete(place.key)]
    )
    return response.succeeded


async def first_in(client: Client, name: str | bytes) -> rpc_pb2.RangeResponse:
    """The oldest key of the queue."""
    return await client.range(
        _queue(name),
        limit=1,
        sort_order=rpc_pb2.RangeRequest.ASCEND,
        sort_target=rpc_pb2.RangeRequest.CREATE,
    )


async def _deleted(client: Client, key: bytes, from_revision: int) -> None:
    try:
        async with client.watch(key, start_revision=from_revision, no_puts=True) as watcher:
            async for batch in watcher:
                if any(event.type == kv_pb2.Event.DELETE for event in batch.events):
                    return
    except CompactedError:
        pass  # The caller looks at the queue again.


def _queue(name: str | bytes) -> KeyRange:
    raw = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    return prefix(raw + b"/")
