"""A snapshot saved as a file, whole or not at all.

The bytes go to ``<path>.part``, which is synced and renamed only after the checksum was
right, so whatever stands under the final name is complete.  The file holds the stream and,
as its last 32 bytes, the stream's SHA-256, as files of ``etcdctl snapshot save`` do.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvclient.client import Client

__all__ = ["SavedSnapshot", "save_snapshot"]

# Written to disk in pieces of about this size, each in a thread, so that a slow disk does
# not keep the event loop from reading.
_WRITE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SavedSnapshot:
    """A complete snapshot file."""

    path: Path
    size_bytes: int
    sha256: str
    """Of the whole file, in hexadecimal."""
    server_version: str
    endpoint: str


async def save_snapshot(
    client: Client,
    path: Path | str,
    *,
    endpoint: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SavedSnapshot:
    """Stream a snapshot from ``endpoint``, or any of the client's, into ``path``.

    An existing file is replaced at the very end; a failure leaves it as it was and no
    ``.part`` behind.

    Args:
        on_progress: Called with the bytes received and the bytes still expected.
    Raises:
        KvClientError: The member failed or the checksum is wrong.
        OSError: The file can't be written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    whole = hashlib.sha256()
    size_bytes = 0
    served_by = version = ""
    pending = bytearray()
    with part.open("wb") as file:
        try:
            async with aclosing(client.maintenance.snapshot(endpoint)) as chunks:
                async for chunk in chunks:
                    whole.update(chunk.data)
                    size_bytes += len(chunk.data)
                    served_by, version = chunk.endpoint, chunk.version or version
                    pending += chunk.data
                    if len(pending) >= _WRITE_BYTES:
                        await asyncio.to_thread(file.write, bytes(pending))
                        pending.clear()
                    if on_progress is not None:
                        on_progress(size_bytes, chunk.remaining_bytes)
            file.write(pending)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    _sync_directory(path.parent)
    return SavedSnapshot(path, size_bytes, whole.hexdigest(), version, served_by)


def _sync_directory(directory: Path) -> None:
    """Make the rename itself survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
