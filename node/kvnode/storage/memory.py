"""An engine that keeps everything in memory, and can lose what a disk may lose.

Made for tests and for the deterministic simulation: ``crash`` goes back to the last synced moment, or
to any prefix of the writes made since, as a handed-in function chooses.  ``faults`` makes the next
writes fail.  The class has no clock, chance or thread of its own.
"""

from collections.abc import Callable, Iterator
from typing import Final

from sortedcontainers import SortedDict

from kvnode.storage.errors import StorageClosedError, StorageError, StorageFullError

__all__ = ["Faults", "MemoryBatch", "MemoryEngine", "MemorySnapshot"]

_DELETED: Final = None


class _Stop(bytes):
    """In place of a value: where the range ends that is deleted."""

    __slots__ = ()


_Operation = tuple[bytes, bytes | None]


class MemoryBatch:
    """A list of operations in the order they were made."""

    __slots__ = ("operations",)

    def __init__(self) -> None:
        self.operations: list[_Operation] = []

    def put(self, key: bytes, value: bytes, more: bytes = b"", /) -> None:
        # A bytearray or memoryview may be changed by its owner later; what is written may not.
        self.operations.append((bytes(key), bytes(value) + more))

    def delete(self, key: bytes, /) -> None:
        self.operations.append((bytes(key), _DELETED))

    def delete_range(self, start: bytes, stop: bytes, /) -> None:
        self.operations.append((bytes(start), _Stop(stop)))

    def seal(self) -> None:
        """There is nothing to encode."""

    def __len__(self) -> int:
        return len(self.operations)


class Faults:
    """What shall go wrong.  Set by a test, consulted by the engine."""

    __slots__ = ("fail_syncs", "fail_writes", "is_full")

    def __init__(self) -> None:
        #: The number of coming synced writes (or ``sync`` calls) that fail; whether the batch of such a
        #: write survives a crash is open.
        self.fail_syncs = 0
        #: The number of coming writes of any kind that fail before anything is written.
        self.fail_writes = 0
        #: While True, every write raises StorageFullError.
        self.is_full = False


class _Version:
    """The sorted data and how many readers rely on it staying as it is."""

    __slots__ = ("data", "readers")

    def __init__(self, data: "SortedDict[bytes, bytes]") -> None:
        self.data = data
        self.readers = 0


class _View:
    """Reads shared by the engine and its snapshots."""

    __slots__ = ("_is_closed", "_version", "path")

    def __init__(self, path: str, version: _Version) -> None:
        self.path = path
        self._version = version
        self._is_closed = False

    def get(self, key: bytes, /) -> bytes | None:
        self._check_open()
        return self._version.data.get(key)

    def iterate(
        self,
        start: bytes | None = None,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        include_value: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        version = self._version
        data = version.data
        version.readers += 1
        try:
            for key in data.irange(start, stop, inclusive=(True, False), reverse=reverse):
                yield key, data[key] if include_value else b""
        finally:
            version.readers -= 1

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageClosedError(self.path, "closed")


class MemorySnapshot(_View):
    """The data of one moment."""

    __slots__ = ()

    def __init__(self, path: str, version: _Version) -> None:
        super().__init__(path, version)
        version.readers += 1

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._version.readers -= 1


class MemoryEngine(_View):
    """A sorted dictionary behind the engine protocol.

    Args:
        path: a name for error messages.
    """

    __slots__ = ("_durable", "_failure", "_unsynced", "faults")

    def __init__(self, path: str = "memory") -> None:
        super().__init__(path, _Version(SortedDict()))
        self.faults = Faults()
        self._durable: dict[bytes, bytes] = {}
        #: Batches written since the last sync, oldest first.
        self._unsynced: list[list[_Operation]] = []
        self._failure: str | None = None

    def batch(self) -> MemoryBatch:
        return MemoryBatch()

    def write(self, batch: object, *, sync: bool = False) -> None:
        self._check_writable()
        if not isinstance(batch, MemoryBatch):
            raise TypeError(f"a batch of another engine: {type(batch).__name__}")
        if self.faults.is_full:
            self._failure = "no space"
            raise StorageFullError(self.path, "no space left")
        if self.faults.fail_writes > 0:
            self.faults.fail_writes -= 1
            self._failure = "a write failed"
            raise StorageError(self.path, "write failed (injected)")
        if self._version.readers:
            self._version = _Version(self._version.data.copy())
        data = self._version.data
        operations: list[_Operation] = []
        for key, value in batch.operations:
            if isinstance(value, _Stop):
                gone = list(data.irange(key, value, inclusive=(True, False)))
                operations += [(each, _DELETED) for each in gone]
                for each in gone:
                    del data[each]
                continue
            operations.append((key, value))
            if value is None:
                data.pop(key, None)
            else:
                data[key] = value
        self._unsynced.append(operations)
        self._written(operations)
        if sync:
            self.sync()

    def sync(self) -> None:
        self._check_writable()
        if self.faults.fail_syncs > 0:
            self.faults.fail_syncs -= 1
            self._failure = "a sync failed"
            raise StorageError(self.path, "sync failed (injected)")
        self._keep(len(self._unsynced))

    def snapshot(self) -> MemorySnapshot:
        self._check_open()
        return MemorySnapshot(self.path, self._version)

    def compact_range(self, start: bytes | None = None, stop: bytes | None = None) -> None:
        self._check_open()

    def approximate_size_bytes(self) -> int:
        self._check_open()
        return sum(len(key) + len(value) for key, value in self._version.data.items())

    def is_behind(self) -> bool:
        return False

    def close(self) -> None:
        self._is_closed = True

    @property
    def unsynced_batches(self) -> int:
        """How many batches a crash may lose."""
        return len(self._unsynced)

    def crash(self, surviving: Callable[[int], int] | None = None) -> None:
        """Lose unsynced writes and be open again, as after power loss and a restart.

        Args:
            surviving: gets the number of unsynced batches and returns how many of them, counted from
                the oldest, the disk kept all the same.  None keeps none.
        """
        count = len(self._unsynced)
        kept = 0 if surviving is None else surviving(count)
        if not 0 <= kept <= count:
            raise ValueError(f"surviving must return 0..{count}, got {kept}")
        self._keep(kept)
        self._unsynced.clear()
        self._version = _Version(SortedDict(self._durable))
        self._is_closed = False
        self._failure = None
        self.faults = Faults()

    def restart(self) -> None:
        """Be open again with every write kept, as after the process alone was killed."""
        self.crash(lambda count: count)

    def _written(self, operations: list[_Operation]) -> None:
        """Hear what was changed, key by key."""

    def _keep(self, count: int) -> None:
        """Make the oldest ``count`` unsynced batches durable."""
        durable = self._durable
        for operations in self._unsynced[:count]:
            for key, value in operations:
                if value is None:
                    durable.pop(key, None)
                else:
                    durable[key] = value
        del self._unsynced[:count]

    def _check_writable(self) -> None:
        self._check_open()
        if self._failure is not None:
            raise StorageClosedError(self.path, f"refuses to write: {self._failure} before")
