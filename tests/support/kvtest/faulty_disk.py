"""As a program: a member whose disk does what a test asks for, by files beside its data.

For the data directory ``m1.data``: while ``m1.stall`` is there, no synced write comes back; with
``m1.fail-sync`` the next sync of a database whose name begins as the file says fails, and so do all after it,
as the kernel's would not: that one came after a failure would show in the log.  While ``m1.room`` is there,
it tells how many bytes are free; while ``m1.full`` is there, every write fails.
"""

import sys
import time
from pathlib import Path

from kvnode.cli import main
from kvnode.server.disk import Disk, Room
from kvnode.storage.errors import StorageError, StorageFullError
from kvnode.storage.leveldb import LevelDbEngine
from kvnode.storage.wal import WalEngine

__all__ = ["COMMAND", "fail_sync", "fill", "heal", "leave_room", "stall"]

#: Runs it, in place of ``python -m kvnode``.
COMMAND = (sys.executable, "-P", __file__)


def stall(data_dir: Path) -> None:
    """Let no synced write of the member come back."""
    data_dir.with_suffix(".stall").touch()


def fail_sync(data_dir: Path, database: str) -> None:
    """Let the next sync of a database (``log`` or ``state``) fail."""
    data_dir.with_suffix(".fail-sync").write_text(database)


def leave_room(data_dir: Path, free_bytes: int) -> None:
    """Let the disk have so much room."""
    data_dir.with_suffix(".room").write_text(str(free_bytes))


def fill(data_dir: Path) -> None:
    """Let every write fail for want of room."""
    data_dir.with_suffix(".full").touch()


def heal(data_dir: Path) -> None:
    """Let the disk work again, with the room that it really has."""
    for suffix in (".stall", ".fail-sync", ".room", ".full"):
        data_dir.with_suffix(suffix).unlink(missing_ok=True)


def _write(engine: LevelDbEngine | WalEngine, batch: object, *, sync: bool = False) -> None:
    """What replaces ``write`` of both engines."""
    if sync:
        _meet_faults(engine)
    if Path(engine.path).parent.with_suffix(".full").exists():
        engine._failure = "No space left on device"
        raise StorageFullError(engine.path, engine._failure)
    if isinstance(engine, WalEngine):
        _PLAIN_LOG_WRITE(engine, batch, sync=sync)
    else:
        _PLAIN_WRITE(engine, batch, sync=sync)


def _sync(engine: LevelDbEngine) -> None:
    _meet_faults(engine)
    _PLAIN_SYNC(engine)


_PLAIN_LOG_WRITE = WalEngine.write
_PLAIN_WRITE = LevelDbEngine.write
_PLAIN_SYNC = LevelDbEngine.sync


def _meet_faults(engine: LevelDbEngine | WalEngine) -> None:
    path = Path(engine.path)
    stalling = path.parent.with_suffix(".stall")
    while stalling.exists():
        time.sleep(0.02)
    failing = path.parent.with_suffix(".fail-sync")
    if failing.exists() and path.name.startswith(failing.read_text()):
        print(f"sync of {path.name} fails", file=sys.stderr, flush=True)
        engine._failure = "sync failed: injected"
        raise StorageError(engine.path, "sync failed: injected")


def _look_at_room(disk: Disk) -> list[Room]:
    data_dir = disk._member.config.data_dir
    try:
        return [Room(int(data_dir.with_suffix(".room").read_text()), 10 * 2**30)]
    except (FileNotFoundError, ValueError):
        return _PLAIN_LOOK(disk)


_PLAIN_LOOK = Disk._look_at_room


if __name__ == "__main__":
    Disk._look_at_room = _look_at_room  # type: ignore[method-assign]
    LevelDbEngine.write = _write  # type: ignore[method-assign]
    LevelDbEngine.sync = _sync  # type: ignore[method-assign]
    WalEngine.write = _write  # type: ignore[method-assign]
    sys.exit(main())
