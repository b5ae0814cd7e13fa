"""A copy of one cluster's keys in another one, kept up to date."""

from collections.abc import Callable, Sequence

from kvnode.pb import kv_pb2, rpc_pb2

from kvclient.client import Client
from kvclient.keys import as_bytes, everything, prefix
from kvclient.txn import op_delete, op_put

__all__ = ["Mirror"]


class Mirror:
    """Copies keys and values; leases and revisions stay behind.

    Args:
        source: read from.
        destination: written to; what is there already under other keys is left alone.
        key_prefix: of the keys to copy; empty for all.
        destination_prefix: stands in for ``key_prefix`` there.
        start_revision: copy only what changes from here on; 0: everything, then what changes.
        max_operations: of one transaction at the destination.
    """

    def __init__(
        self,
        source: Client,
        destination: Client,
        *,
        key_prefix: str | bytes = b"",
        destination_prefix: str | bytes | None = None,
        start_revision: int = 0,
        max_operations: int = 128,
    ) -> None:
        if max_operations < 1:
            raise ValueError(f"max_operations must be 1 or more, got {max_operations}")
        self._source = source
        self._destination = destination
        self._prefix = as_bytes(key_prefix)
        self._replacement = self._prefix if destination_prefix is None else as_bytes(destination_prefix)
        self._next_revision = start_revision
        self._max_operations = max_operations
        self._keys = prefix(self._prefix) if self._prefix else everything()
        self.copied = 0
        """Keys written or deleted so far."""

    async def run(self, *, on_base: Callable[[int], None] | None = None) -> None:
        """Copy until it is cancelled.

        Args:
            on_base: told, once, how many keys there were at the beginning.

        Raises:
            CompactedError: what comes next was compacted away before it could be copied.
            KvClientError: a write failed.
        """
        if self._next_revision <= 0:
            await self._copy_base()
            if on_base is not None:
                on_base(self.copied)
        async with self._source.watch(self._keys, start_revision=self._next_revision) as watcher:
            async for batch in watcher:
                await self._copy_events(batch.events)

    async def _copy_base(self) -> None:
        async for page in self._source.pages(self._keys):
            if self._next_revision <= 0:
                self._next_revision = page.header.revision + 1
            puts = [op_put(self._moved(kv.key), kv.value) for kv in page.kvs]
            for start in range(0, len(puts), self._max_operations):
                await self._write(puts[start : start + self._max_operations])

    async def _copy_events(self, events: Sequence[kv_pb2.Event]) -> None:
        """One revision is one transaction, unless it is too large for one."""
        operations: list[rpc_pb2.RequestOp] = []
        last_revision = 0
        for event in events:
            revision = event.kv.mod_revision
            if operations and (revision != last_revision or len(operations) == self._max_operations):
                await self._write(operations)
                operations = []
            last_revision = revision
            key = self._moved(event.kv.key)
            is_deletion = event.type == kv_pb2.Event.DELETE
            operations.append(op_delete(key) if is_deletion else op_put(key, event.kv.value))
        if operations:
            await self._write(operations)

    async def _write(self, operations: Sequence[rpc_pb2.RequestOp]) -> None:
        await self._destination.txn(success=operations)
        self.copied += len(operations)

    def _moved(self, key: bytes) -> bytes:
        return self._replacement + key[len(self._prefix) :]
