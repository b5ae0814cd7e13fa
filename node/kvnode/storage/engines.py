"""What a member's data are kept in: a write-ahead log for the raft log, LevelDB for the state."""

from collections.abc import Callable
from pathlib import Path

from kvnode.storage.errors import StorageCorruptError
from kvnode.storage.leveldb import STATE_OPTIONS, LevelDbEngine
from kvnode.storage.wal import WalEngine

__all__ = ["DiskEngines"]


class DiskEngines:
    """Makes and opens both; a ``data_dir.EngineFactory``.

    Args:
        on_state_write: hears how long each write of the state took, in seconds.
    """

    def __init__(self, on_state_write: Callable[[float], None] | None = None) -> None:
        self._on_state_write = on_state_write
        #: Hears, in the thread that reads, of what could not be read back.
        self.on_damage: Callable[[StorageCorruptError], None] | None = None

    def log(self, path: Path, *, create: bool) -> WalEngine:
        """Return the log's engine."""
        engine = WalEngine(path, create=create)
        engine.on_damage = self._damaged
        return engine

    def log_view(self, path: Path) -> WalEngine:
        """Return the log as it is now, to be read only; a member may be writing to it."""
        return WalEngine(path, create=False, is_read_only=True)

    def state(self, path: Path, *, create: bool) -> LevelDbEngine:
        """Return a state database."""
        engine = LevelDbEngine(path, STATE_OPTIONS, create=create)
        engine.on_write = self._on_state_write
        engine.tell_damage(self._damaged)
        return engine

    def _damaged(self, error: StorageCorruptError) -> None:
        if self.on_damage is not None:
            self.on_damage(error)
