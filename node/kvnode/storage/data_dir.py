"""The directory that makes a process the member it is.

Layout::

    lock                 held by flock while a process uses the directory
    identity.json        cluster and member ID; written last, so its presence means "complete"
    removed              tombstone: the cluster removed this member
    log/                 a write-ahead log: the raft log, and which state generation belongs to it
    state-<generation>/  LevelDB: the state

The guards answer one question: may this process be this member?  A member that starts with an empty or
foreign disk under an identity whose votes are counted can lose acknowledged writes (Raft thesis 11.2 on
lost disks), so each doubt is an error of its own and never a fresh start.

A snapshot is received into a new generation while the old one goes on; one synced batch of the log
switches.  Generations that no log names are deleted at the next start.
"""

import fcntl
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from kvnode.raft.types import NO_MEMBER, SnapshotMetadata
from kvnode.storage.directories import sync_directory
from kvnode.storage.engine import Engine, LogEngine
from kvnode.storage.errors import StorageError
from kvnode.storage.log_store import LogStore

__all__ = [
    "DataDirectory",
    "DataDirectoryDamagedError",
    "DataDirectoryError",
    "DataDirectoryForeignError",
    "DataDirectoryLockedError",
    "DataDirectoryLostError",
    "DataDirectoryRemovedError",
    "EngineFactory",
    "Identity",
    "OpenData",
    "read_identity",
]

_FORMAT_VERSION: Final = 3
_LOCK: Final = "lock"
_IDENTITY: Final = "identity.json"
_REMOVED: Final = "removed"
_LOG: Final = "log"
_STATE_PREFIX: Final = "state-"
_STATE_PATTERN: Final = re.compile(r"state-([1-9][0-9]*)")
_TEMPORARY_SUFFIX: Final = ".tmp"
#: May lie in a directory that is new to us: certificates that the member made for itself, and what mkfs
#: makes at the root of a volume.
_HARMLESS: Final = frozenset({_LOCK, "fixtures", "lost+found"})


class DataDirectoryError(StorageError):
    """The directory can't be used."""


class DataDirectoryLockedError(DataDirectoryError):
    """Another process uses the directory."""


class DataDirectoryForeignError(DataDirectoryError):
    """The directory belongs to another cluster or member, or is no data directory of ours."""


class DataDirectoryRemovedError(DataDirectoryError):
    """The member of this directory was removed from its cluster."""


class DataDirectoryLostError(DataDirectoryError):
    """The identity is there, but the log or the state it stands for is not."""


class DataDirectoryDamagedError(DataDirectoryError):
    """The identity can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose data these are.  Both IDs are 64-bit and not 0."""

    cluster_id: int
    member_id: int

    def __str__(self) -> str:
        return f"member {self.member_id:x} of cluster {self.cluster_id:x}"


class EngineFactory(Protocol):
    """Makes and opens the two databases."""

    def log(self, path: Path, *, create: bool) -> LogEngine:
        """Return the log's database."""

    def log_view(self, path: Path) -> LogEngine:
        """Return the log's database as it is now, for reading only, whether or not a member uses it."""

    def state(self, path: Path, *, create: bool) -> Engine:
        """Return a state database."""


class OpenData(NamedTuple):
    """What a member works on.  Whoever receives it closes both engines."""

    log: LogStore
    log_engine: LogEngine
    state_engine: Engine
    #: Name of the state generation that is open.
    generation: str

    def close(self) -> None:
        """Close both databases."""
        self.state_engine.close()
        self.log_engine.close()


class DataDirectory:
    """A data directory that this process alone may use until ``close``.

    Args:
        path: made, with mode 0700, if it does not exist.
        engines: makes and opens the databases.
        wal_dir: where the log lies, if not in ``path``: a disk of its own, say.

    Raises:
        DataDirectoryLockedError: another process uses it.
        DataDirectoryError: it can't be made or written.
    """

    def __init__(self, path: str | Path, engines: EngineFactory, *, wal_dir: Path | None = None) -> None:
        self.path = Path(path)
        self._engines = engines
        self._lock = _lock(self.path)
        self._log_path = (self.path if wal_dir is None else wal_dir) / _LOG
        if wal_dir is not None:
            try:
                wal_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_directory(wal_dir.parent)
            except OSError as error:
                self.close()
                raise DataDirectoryError(str(wal_dir), f"can't be used: {error.strerror}") from error

    def __enter__(self) -> "DataDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes use the directory.  Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Guards.

    def identity(self) -> Identity | None:
        """Return whose data these are; None for a directory that no member has completed.

        Raises:
            DataDirectoryDamagedError: the file is there but can't be read.
            DataDirectoryForeignError: there is no identity, but there are files of something else.
        """
        identity = read_identity(self.path)
        if identity is None:
            self._refuse_foreign_files()
        return identity

    def check(self, *, cluster_id: int | None = None, member_id: int | None = None) -> Identity | None:
        """Return ``identity()`` after all guards have let it pass.

        Args:
            cluster_id: the cluster that the member is configured for; None if that is not known yet.
            member_id: likewise the member.

        Raises:
            DataDirectoryRemovedError: the member was removed.
            DataDirectoryForeignError: another cluster's or member's data.
            DataDirectoryLostError: the identity stands for data that are gone.
            DataDirectoryDamagedError: the identity can't be read.
        """
        identity = self.identity()
        if (self.path / _REMOVED).exists():
            whose = f"{identity}" if identity else "the member"
            raise DataDirectoryRemovedError(str(self.path), f"{whose} was removed from its cluster")
        if identity is None:
            return None
        if cluster_id is not None and identity.cluster_id != cluster_id:
            raise DataDirectoryForeignError(
                str(self.path), f"holds {identity}, but the configuration is for cluster {cluster_id:x}"
            )
        if member_id is not None and identity.member_id != member_id:
            raise DataDirectoryForeignError(
                str(self.path), f"holds {identity}, but the configuration is for member {member_id:x}"
            )
        if not self._log_path.is_dir() or not self._generations():
            raise DataDirectoryLostError(str(self.path), f"the log or the state of {identity} is missing")
        return identity

    def mark_removed(self) -> None:
        """Leave the tombstone: no process will be this member again."""
        _write_file(self.path / _REMOVED, b"removed from the cluster\n")

    # Databases.

    def create(
        self,
        identity: Identity,
        start: SnapshotMetadata | None,
        fill_state: Callable[[Engine], None],
    ) -> OpenData:
        """Make the databases of a new member, sync them, and only then write the identity.

        A crash before the end leaves a directory without identity, which the next start makes anew.

        Args:
            identity: who the member is.
            start: see ``LogStore.create``.
            fill_state: writes the first state; need not sync.

        Raises:
            DataDirectoryForeignError: there is an identity already, or files of something else.
            DataDirectoryDamagedError: there is no identity, but a log that was in use.
        """
        if (existing := self.identity()) is not None:
            raise DataDirectoryForeignError(str(self.path), f"already holds {existing}")
        self._refuse_used_log()
        self._delete_databases()
        generation = "1"
        state_path, log_path = self.state_path(generation), self._log_path
        state = self._engines.state(state_path, create=True)
        try:
            fill_state(state)
            self.seal(generation, state)
            log_engine = self._engines.log(log_path, create=True)
            try:
                log = LogStore.create(log_engine, start, state_generation=generation, path=str(log_path))
                sync_directory(log_path)
                sync_directory(log_path.parent)
                _write_file(self.path / _IDENTITY, _encode_identity(identity))
            except BaseException:
                log_engine.close()
                raise
        except BaseException:
            state.close()
            raise
        return OpenData(log, log_engine, state, generation)

    def open(self) -> OpenData:
        """Open the databases of a member that ran before, and delete what a crash left over.

        Raises:
            DataDirectoryLostError: a database is missing.
            StorageCorruptError: a database is damaged.
        """
        log_path = self._log_path
        if not log_path.is_dir():
            raise DataDirectoryLostError(str(log_path), "the log is missing")
        log_engine = self._engines.log(log_path, create=False)
        try:
            log = LogStore.open(log_engine, path=str(log_path))
            generation = log.state_generation
            if generation not in self._generations():
                raise DataDirectoryLostError(str(self.state_path(generation)), "the state is missing")
            self.delete_other_generations(generation)
            state = self._engines.state(self.state_path(generation), create=False)
        except BaseException:
            log_engine.close()
            raise
        return OpenData(log, log_engine, state, generation)

    def state_path(self, generation: str) -> Path:
        """Return the directory of a state generation."""
        return self.path / f"{_STATE_PREFIX}{generation}"

    def stage_state(self) -> tuple[str, Engine]:
        """Return a new, empty generation to receive a snapshot into.

        It becomes the state when a save of the log names it; before that: ``seal``.
        """
        generation = str(max((int(name) for name in self._generations()), default=0) + 1)
        return generation, self._engines.state(self.state_path(generation), create=True)

    def seal(self, generation: str, engine: Engine) -> None:
        """Bring a new generation to stable storage, its directory entries included."""
        engine.sync()
        path = self.state_path(generation)
        if path.is_dir():  # an engine in memory has none
            sync_directory(path)
        sync_directory(self.path)

    def delete_generation(self, generation: str) -> None:
        """Delete a generation whose engine is closed, such as one whose snapshot was refused."""
        shutil.rmtree(self.state_path(generation), ignore_errors=True)

    def delete_other_generations(self, generation: str) -> None:
        """Delete all generations but one."""
        for other in self._generations():
            if other != generation:
                self.delete_generation(other)

    def _generations(self) -> list[str]:
        found = (_STATE_PATTERN.fullmatch(name) for name in os.listdir(self.path))
        return [match.group(1) for match in found if match is not None]

    def _refuse_foreign_files(self) -> None:
        for name in sorted(os.listdir(self.path)):
            if not _is_ours(name):
                raise DataDirectoryForeignError(
                    str(self.path), f"has no {_IDENTITY}, but {name!r}, which is not a member's"
                )

    def _refuse_used_log(self) -> None:
        """A start that was cut short leaves a log in which nothing has happened yet."""
        log_path = self._log_path
        if not log_path.is_dir():
            return
        try:
            engine = self._engines.log(log_path, create=False)
        except StorageError:
            return
        try:
            log = LogStore.open(engine, path=str(log_path))
            is_used = log.last_index() >= log.first_index() or log.hard_state.vote != NO_MEMBER
        except StorageError:
            is_used = False
        finally:
            engine.close()
        if is_used:
            raise DataDirectoryDamagedError(str(self.path / _IDENTITY), "is missing beside a log in use")

    def _delete_databases(self) -> None:
        """Delete what a start that was cut short has made."""
        if self._log_path.exists():
            shutil.rmtree(self._log_path)
            sync_directory(self._log_path.parent)
        for generation in self._generations():
            shutil.rmtree(self.state_path(generation))
        sync_directory(self.path)


def read_identity(path: Path) -> Identity | None:
    """Return whose data a directory holds; None if no member has completed it.  Needs no lock.

    Raises:
        DataDirectoryDamagedError: the file is there but can't be read.
    """
    file = path / _IDENTITY
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataDirectoryDamagedError(str(file), str(error)) from error
    return _decode_identity(file, text)


def _lock(path: Path) -> int:
    """Make the directory if need be, and return the descriptor that holds its lock."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DataDirectoryError(str(path), f"can't be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DataDirectoryLockedError(str(path), "another process uses this directory") from error
    return descriptor


def _is_ours(name: str) -> bool:
    return (
        name in _HARMLESS
        or name in (_LOG, _REMOVED)
        or name.endswith(_TEMPORARY_SUFFIX)
        or _STATE_PATTERN.fullmatch(name) is not None
    )


def _write_file(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all."""
    temporary = path.with_name(path.name + _TEMPORARY_SUFFIX)
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def _encode_identity(identity: Identity) -> bytes:
    fields = {
        "format_version": _FORMAT_VERSION,
        "cluster_id": f"{identity.cluster_id:016x}",
        "member_id": f"{identity.member_id:016x}",
    }
    return json.dumps(fields | {"checksum": _checksum(fields)}, indent=2).encode() + b"\n"


def _decode_identity(file: Path, text: bytes) -> Identity:
    try:
        fields = json.loads(text)
        checksum = fields.pop("checksum")
        if checksum != _checksum(fields):
            raise DataDirectoryDamagedError(str(file), "the checksum does not match")
        if fields["format_version"] != _FORMAT_VERSION:
            raise DataDirectoryError(
                str(file), f"format version {fields['format_version']} is not {_FORMAT_VERSION}"
            )
        return Identity(cluster_id=int(fields["cluster_id"], 16), member_id=int(fields["member_id"], 16))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataDirectoryDamagedError(str(file), f"can't be read: {error!r}") from error


def _checksum(fields: dict[str, object]) -> str:
    return f"{zlib.crc32(json.dumps(fields, sort_keys=True).encode()):08x}"
