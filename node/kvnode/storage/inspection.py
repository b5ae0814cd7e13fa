"""A member's databases for looking at, whether or not the member runs.

Nothing in the data directory is changed, and its lock is not needed: of the state, a copy is opened (see
``leveldb_copy``) in a scratch directory, which goes away at the end.  Log and state are each of one
moment, the state's being the later one.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvnode.storage.data_dir import DataDirectoryLostError, EngineFactory, Identity, read_identity
from kvnode.storage.engine import Engine
from kvnode.storage.leveldb_copy import copy_database
from kvnode.storage.log_store import StoredLog

__all__ = ["Inspection", "inspect"]

_MAX_TRIES = 5


class Inspection:
    """What is in a data directory.  Made by ``inspect``."""

    def __init__(
        self, path: Path, log_path: Path, scratch: Path, engines: EngineFactory, identity: Identity
    ) -> None:
        self.identity = identity
        self._path = path
        self._log_path = log_path
        self._scratch = scratch
        self._engines = engines

    @contextmanager
    def log(self) -> Iterator[StoredLog]:
        """The raft log.

        Raises:
            DataDirectoryLostError: it is missing.
            StorageCorruptError: it is damaged.
        """
        _check_there(self._log_path)
        engine = self._engines.log_view(self._log_path)
        try:
            yield StoredLog(engine, path=str(self._log_path))
        finally:
            engine.close()

    @contextmanager
    def state(self) -> Iterator[Engine]:
        """The state that belongs to the log.

        Raises:
            DataDirectoryLostError: it is missing.
            StorageCorruptError: it is damaged.
        """
        for tries_left in range(_MAX_TRIES - 1, -1, -1):
            with self.log() as log:
                path = self._path / f"state-{log.state_generation}"
            # A snapshot that is installed meanwhile puts another generation in its place.
            if path.is_dir() or not tries_left:
                break
        _check_there(path)
        target = self._scratch / path.name
        copy_database(path, target)
        engine = self._engines.state(target, create=False)
        try:
            yield engine
        finally:
            engine.close()
            shutil.rmtree(target, ignore_errors=True)


@contextmanager
def inspect(
    path: Path, engines: EngineFactory, *, wal_dir: Path | None = None, scratch: Path | None = None
) -> Iterator[Inspection]:
    """Look at the data directory ``path``.

    Args:
        path: a member's data directory.
        engines: opens what is looked at.
        wal_dir: where the log lies, if not in ``path``.
        scratch: where to put the copy; on the file system of ``path`` it costs hardly any space,
            elsewhere as much as the original.  None: wherever temporary files go.

    Raises:
        DataDirectoryLostError: no member has completed the directory.
        DataDirectoryDamagedError: its identity can't be read.
    """
    identity = read_identity(path)
    if identity is None:
        raise DataDirectoryLostError(str(path), "is no member's data directory")
    with tempfile.TemporaryDirectory(prefix="kvcluster-", dir=scratch) as directory:
        yield Inspection(path, (wal_dir or path) / "log", Path(directory), engines, identity)


def _check_there(path: Path) -> None:
    if not path.is_dir():
        raise DataDirectoryLostError(str(path), "is missing")
