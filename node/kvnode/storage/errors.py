"""What can go wrong with stored bytes, told apart by what the caller should do.

``StorageError``              the operation failed; the data on disk are as they were
  ``StorageCorruptError``     bytes came back wrong: stop serving, this copy can't be trusted
  ``StorageFullError``        no space: nothing was acknowledged; the engine refuses further writes
  ``StorageClosedError``      the engine was closed, or refuses to write after a failed write
  ``StorageLockedError``      another process has the database open
``SnapshotError``             a snapshot stream or file can't be used (see ``snapshots``)
"""

__all__ = [
    "SnapshotError",
    "StorageClosedError",
    "StorageCorruptError",
    "StorageError",
    "StorageFullError",
    "StorageLockedError",
]


class StorageError(Exception):
    """A storage operation failed."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class StorageCorruptError(StorageError):
    """What was read is not what was written, or something that was written is missing."""


class StorageFullError(StorageError):
    """The device or the quota of the directory has no room for the write."""


class StorageClosedError(StorageError):
    """The engine is closed, or an earlier write failed and it no longer accepts any.

    After a failed append the end of LevelDB's write-ahead log is unknown, and a record appended behind
    a torn one would be lost at the next start although it was acknowledged.  So the first failure is
    the last write.
    """


class StorageLockedError(StorageError):
    """Another process holds the database."""


class SnapshotError(StorageError):
    """A snapshot is damaged, cut short, followed by foreign bytes, or of an unknown version."""
