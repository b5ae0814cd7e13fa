"""Durable bytes: the engine, the raft log, the data directory, snapshots.

``engine`` names what the layers above are handed; ``leveldb`` is the one module that imports plyvel and
is therefore not imported here.
"""

from kvnode.storage.engine import Engine, ReadView, Snapshot, WriteBatch
from kvnode.storage.errors import (
    SnapshotError,
    StorageClosedError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageLockedError,
)

__all__ = [
    "Engine",
    "ReadView",
    "Snapshot",
    "SnapshotError",
    "StorageClosedError",
    "StorageCorruptError",
    "StorageError",
    "StorageFullError",
    "StorageLockedError",
    "WriteBatch",
]
