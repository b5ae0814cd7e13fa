"""As a program: puts into a new engine until there is no room, and prints how many came through.

Arguments: ``leveldb`` or ``wal``, the directory, the limit in bytes.  The limit on file size stands for a
full disk: a write fails the same way.
"""

import resource
import signal
import sys

from kvnode.storage.errors import StorageClosedError, StorageFullError
from kvnode.storage.leveldb import STATE_OPTIONS, LevelDbEngine
from kvnode.storage.wal import WalEngine

__all__ = ["main"]


def main(kind: str, path: str, limit_bytes: int) -> None:
    """Fill the disk, and check that it is told apart and that no write is taken after it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    engine: LevelDbEngine | WalEngine
    if kind == "wal":
        # A segment has its room from the start: it is made before the limit.
        engine = WalEngine(path, create=True, segment_bytes=2 * limit_bytes)
    else:
        engine = LevelDbEngine(path, STATE_OPTIONS, create=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    def put(number: int) -> None:
        batch = engine.batch()
        batch.put(b"%04d" % number, bytes(9000))
        engine.write(batch, sync=True)

    written = 0
    try:
        for number in range(100):
            put(number)
            written += 1
    except StorageFullError as error:
        text = str(error)
        if not text.endswith("File too large") or "b'" in text:
            raise
    try:
        put(100)
    except StorageClosedError:
        print(written)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
