"""The ordered key-value engine that everything durable is written through.

Protocols only, so that the pure layers can name what they are handed without knowing LevelDB, and the
simulation can hand them memory instead.  Keys and values are bytes; keys order bytewise.

Durability: a write is visible to readers of this process when ``write`` returns.  It survives the
process being killed from then on.  It survives power loss once a write with ``sync=True`` or a call of
``sync`` that came after it has returned.  A batch is applied as a whole or not at all.

Threads: ``write`` and ``sync`` may be called by one thread while others read.
"""

from collections.abc import Iterator
from typing import Protocol

__all__ = ["Engine", "LogBatch", "LogEngine", "ReadView", "Snapshot", "WriteBatch"]


class WriteBatch(Protocol):
    """Puts and deletes that take effect together; a later operation on a key wins."""

    def put(self, key: bytes, value: bytes, /) -> None:
        """Set ``key``."""

    def delete(self, key: bytes, /) -> None:
        """Remove ``key``; a missing key is no error."""

    def __len__(self) -> int:
        """The number of operations in the batch."""


class ReadView(Protocol):
    """Something that can be read: an engine as it is now, or a snapshot of one."""

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value of ``key``, or None.

        Raises:
            StorageCorruptError: the stored bytes fail their checksum.
        """

    def iterate(
        self,
        start: bytes | None = None,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        include_value: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield pairs with ``start <= key < stop`` in key order, or backwards.

        The iterator sees one moment of the data: that of its first ``next``.  Writes made meanwhile are
        not seen and do no harm.  With ``include_value=False`` the values are ``b""`` and not read.

        Raises:
            StorageCorruptError: the stored bytes fail their checksum; never a silent gap.
        """


class Snapshot(ReadView, Protocol):
    """The data of one moment; costs disk space for what is overwritten while it is held."""

    def close(self) -> None:
        """Let go of the moment; reading afterwards raises StorageClosedError.  Idempotent."""


class Engine(ReadView, Protocol):
    """An open database."""

    def batch(self) -> WriteBatch:
        """Return an empty batch, to be written once and by this engine only."""

    def write(self, batch: WriteBatch, *, sync: bool = False) -> None:
        """Apply ``batch``; with ``sync`` it is on stable storage when this returns.

        Raises:
            StorageFullError: no space; nothing of the batch is to be taken as written.
            StorageClosedError: an earlier write failed, or the engine is closed.
        """

    def sync(self) -> None:
        """Bring every earlier write to stable storage."""

    def snapshot(self) -> Snapshot:
        """Return a view of this moment."""

    def compact_range(self, start: bytes | None = None, stop: bytes | None = None) -> None:
        """Rewrite a key range without its deleted and overwritten records.  Takes long; blocks nobody."""

    def approximate_size_bytes(self) -> int:
        """Bytes on disk, deleted records that are not yet dropped included."""

    def is_behind(self) -> bool:
        """Whether background work is so far behind that the next writes might have to wait for it.

        Looks at files, so not for every write.
        """

    def close(self) -> None:
        """Release the database.  Idempotent."""


class LogBatch(Protocol):
    """Like ``WriteBatch``, for the raft log, which grows at one end and is deleted in ranges."""

    def put(self, key: bytes, value: bytes, more: bytes = b"", /) -> None:
        """Set ``key`` to ``value`` and ``more`` behind it."""

    def delete_range(self, start: bytes, stop: bytes, /) -> None:
        """Remove all keys with ``start <= key < stop``."""

    def seal(self) -> None:
        """Do what writing needs but for the disk; no operation follows."""


class LogEngine(ReadView, Protocol):
    """What the raft log is kept in.

    Of writes that a power failure may lose, it never loses one and keeps a later one.
    """

    def batch(self) -> LogBatch:
        """Return an empty batch, to be written once and by this engine only."""

    def write(self, batch: LogBatch, *, sync: bool = False) -> None:
        """See ``Engine``."""

    def close(self) -> None:
        """Release the database.  Idempotent."""
