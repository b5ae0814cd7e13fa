"""The engine on disk.  The one module that imports plyvel.

What plyvel or LevelDB would do differently from the engine protocol, and what is done about it here:

- plyvel's ``Iterator`` looks at LevelDB's status only after it has looked whether the position is valid,
  so a damaged last block would end an iteration early without an error; and backwards it leaves out an
  only key that equals ``start``.  Its ``RawIterator`` checks the status after every step, and takes
  almost twice the time.  So it goes one step from where an iteration forward has ended, and all the way
  backwards.
- ``compact_range`` without bounds compacts the range from "" to "", which is nothing.
- A failed append leaves the end of the write-ahead log unknown, yet LevelDB would append the next batch
  behind it: after the first failed write the engine refuses all others.
- A synced write syncs the current log file only.  Unsynced writes in the log file before it (LevelDB
  changes files when its write buffer is full) may be lost to a power failure that spares the later
  ones.  ``sync`` therefore syncs all log files, oldest first.
- An end of a log file that is damaged rather than cut short is dropped: ``leveldb_files`` looks first.
- Closing a database while another thread is inside it (plyvel lets go of the interpreter there) frees
  memory in use.  ``close`` therefore waits for such calls, and long ones are made in pieces.
- With ``create_if_missing`` LevelDB puts a new database over the files of one whose CURRENT is gone.
  So creating and opening are separate here.
"""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NoReturn

import plyvel

from kvnode.storage.directories import sync_directory
from kvnode.storage.errors import (
    StorageClosedError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
    StorageLockedError,
)
from kvnode.storage.leveldb_files import check_files

__all__ = [
    "STATE_OPTIONS",
    "LevelDbBatch",
    "LevelDbEngine",
    "LevelDbOptions",
    "LevelDbSnapshot",
]

_MIB: Final = 1 << 20
# Above every key: keys start with an ASCII letter.
_BEHIND_ALL_KEYS: Final = b"\xff" * 8
#: An iterator steps through this many records at a time, or about this many bytes; fewer at first,
#: because many readers want a few only.
_STEP_RECORDS: Final = 256
_FIRST_STEP_RECORDS: Final = 4
_STEP_BYTES: Final = 256 << 10
#: A compaction by hand goes over about this many bytes at a time.
_COMPACT_BYTES: Final = 64 * _MIB
_MAX_COMPACT_PARTS: Final = 64
_FULL_TEXTS: Final = ("No space left on device", "Disk quota exceeded", "File too large")
_LOCK_TEXTS: Final = ("Resource temporarily unavailable", "already held by process")


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelDbOptions:
    """Sizes of one database, in bytes unless the name says otherwise."""

    #: The memtable: at most two are in memory, and one is replayed at start (some 100 MB/s).
    write_buffer_bytes: int
    #: Uncompressed blocks kept for reads.
    block_cache_bytes: int
    #: Size of a table file.  The default of 2 MiB would mean thousands of files at a few GiB.
    max_file_bytes: int
    #: Open table files; each keeps its index block in memory (some 60 KiB at 8 MiB a file).
    max_open_files: int
    #: 10 bits a key give 1 % false positives.  0: no filter.
    bloom_bits_per_key: int
    is_compressed: bool


#: The state: inserts in key order, point reads by exact revision, scans for watches.
STATE_OPTIONS: Final = LevelDbOptions(
    write_buffer_bytes=8 * _MIB,
    block_cache_bytes=32 * _MIB,
    max_file_bytes=8 * _MIB,
    max_open_files=500,
    bloom_bits_per_key=10,
    is_compressed=True,
)


#: LevelDB puts writes off once so many files wait for compaction (kL0_SlowdownWritesTrigger).
_SLOW_LEVEL0_FILES: Final = 8


class LevelDbBatch:
    """A plyvel batch that knows its number of operations."""

    __slots__ = ("_count", "_delete", "_put", "raw")

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self._put = raw.put
        self._delete = raw.delete
        self._count = 0

    def put(self, key: bytes, value: bytes, /) -> None:
        self._put(key, value)
        self._count += 1

    def delete(self, key: bytes, /) -> None:
        self._delete(key)
        self._count += 1

    def __len__(self) -> int:
        return self._count


class _InUse:
    """Counts the calls that are inside LevelDB, so that closing can wait for them.

    ``get`` and unsynced work of the thread that closes need not be counted: that thread is not in two
    places at once.
    """

    __slots__ = ("_calls", "_idle", "_is_closed", "_lock", "_path", "on_damage")

    def __init__(self, path: str) -> None:
        self._path = path
        #: Hears, in the thread that reads, of what could not be read back.
        self.on_damage: Callable[[StorageCorruptError], None] | None = None
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._calls = 0
        self._is_closed = False

    def __enter__(self) -> None:
        with self._lock:
            if self._is_closed:
                raise StorageClosedError(self._path, "closed")
            self._calls += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._calls -= 1
            if self._is_closed and not self._calls:
                self._idle.notify_all()

    def end(self) -> None:
        """Let no further call in, and return when the last one has left."""
        with self._lock:
            self._is_closed = True
            while self._calls:
                self._idle.wait()


class _View:
    """Reads shared by the engine and its snapshots.

    Args:
        path: the database's directory, for error messages.
        source: a plyvel DB or Snapshot; both have ``get`` and ``raw_iterator``.
        in_use: the engine's.
    """

    __slots__ = ("_get", "_in_use", "_iterator", "_raw_iterator", "path")

    def __init__(self, path: str, source: Any, in_use: _InUse) -> None:
        self.path = path
        self._in_use = in_use
        self._get = source.get
        self._iterator = source.iterator
        self._raw_iterator = source.raw_iterator

    def get(self, key: bytes, /) -> bytes | None:
        """See ``ReadView``; only for the thread that closes the engine."""
        try:
            value: bytes | None = self._get(key, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            _raise_for_read(self.path, error, self._in_use.on_damage)
        return value

    def iterate(
        self,
        start: bytes | None = None,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        include_value: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]:
        if reverse:
            yield from self._iterate_back(start, stop, include_value)
            return
        in_use = self._in_use
        scan = last = None
        limit = _FIRST_STEP_RECORDS
        try:
            while True:
                with in_use:
                    if scan is None:
                        # A scan must not push the working set out of the block cache.
                        scan = self._iterator(
                            start=start,
                            stop=stop,
                            include_value=include_value,
                            verify_checksums=True,
                            fill_cache=False,
                        )
                    records, is_done = _steps(scan, include_value, limit)
                    if records:
                        last = records[-1][0]
                    if is_done:
                        self._check_end(start if last is None else last)
                yield from records
                if is_done:
                    return
                limit = min(limit * 4, _STEP_RECORDS)
        except (plyvel.Error, RuntimeError) as error:
            _raise_for_read(self.path, error, in_use.on_damage)
        finally:
            if scan is not None:
                scan.close()

    def _check_end(self, last: bytes | None) -> None:
        """Raise if a scan that came to ``last`` ended there because what follows can't be read."""
        raw = self._raw_iterator(verify_checksums=True, fill_cache=False)
        try:
            if last is None:
                raw.seek_to_first()
            else:
                raw.seek(last)
            if raw.valid():
                raw.next()
        finally:
            raw.close()

    def _iterate_back(
        self, start: bytes | None, stop: bytes | None, include_value: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        in_use = self._in_use
        raw = None
        limit = _FIRST_STEP_RECORDS
        try:
            while True:
                with in_use:
                    if raw is None:
                        raw = self._raw_iterator(verify_checksums=True, fill_cache=False)
                        _position_back(raw, stop)
                    records, is_done = _steps_back(raw, start, include_value, limit)
                yield from records
                if is_done:
                    return
                limit = min(limit * 4, _STEP_RECORDS)
        except (plyvel.Error, RuntimeError) as error:
            _raise_for_read(self.path, error, in_use.on_damage)
        finally:
            if raw is not None:
                raw.close()


class LevelDbSnapshot(_View):
    """The data of one moment."""

    __slots__ = ("_snapshot",)

    def __init__(self, path: str, snapshot: Any, in_use: _InUse) -> None:
        super().__init__(path, snapshot, in_use)
        self._snapshot = snapshot

    def close(self) -> None:
        try:
            with self._in_use:
                self._snapshot.close()
        except StorageClosedError:
            pass  # the engine took it along
        self._get = self._iterator = self._raw_iterator = self._refuse

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise StorageClosedError(self.path, "the snapshot is closed")


class LevelDbEngine(_View):
    """A LevelDB database in a directory of its own.

    Args:
        path: the directory.
        options: sizes.
        create: True makes a new database and refuses an existing one; False opens an existing one.

    Raises:
        StorageCorruptError: the database fails LevelDB's checks or is missing although expected.
        StorageLockedError: another process has it open.
        StorageFullError: no space to open it (recovery writes a table).
    """

    __slots__ = ("_db", "_failure", "_known_logs", "_write_batch", "_write_buffer_bytes", "on_write")

    def __init__(self, path: str | Path, options: LevelDbOptions = STATE_OPTIONS, *, create: bool) -> None:
        self._db = _open(str(path), options, create=create)
        super().__init__(str(path), self._db, _InUse(str(path)))
        self._write_batch = self._db.write_batch
        self._write_buffer_bytes = options.write_buffer_bytes
        self._failure: str | None = None
        #: Hears how long each write took, in seconds.
        self.on_write: Callable[[float], None] | None = None
        self._known_logs: list[str] = []

    def tell_damage(self, on_damage: Callable[[StorageCorruptError], None]) -> None:
        """Let ``on_damage`` hear of what this engine and its snapshots can't read back, whoever reads."""
        self._in_use.on_damage = on_damage

    def batch(self) -> LevelDbBatch:
        try:
            return LevelDbBatch(self._write_batch())
        except RuntimeError as error:
            raise StorageClosedError(self.path, "closed") from error

    def write(self, batch: object, *, sync: bool = False) -> None:
        if self._failure is not None:
            raise StorageClosedError(self.path, f"refuses to write after: {self._failure}")
        if type(batch) is not LevelDbBatch:
            raise TypeError(f"a batch of another engine: {type(batch).__name__}")
        raw = batch.raw
        begun_s = perf_counter()
        with self._in_use:
            try:
                if sync:
                    # plyvel fixes ``sync`` when a batch is made; appending copies the bytes once.
                    synced = self._write_batch(sync=True)
                    synced.append(raw)
                    synced.write()
                else:
                    raw.write()
            except plyvel.Error as error:
                self._failure = _text_of(error)
                raise _mapped(self.path, error) from error
        if self.on_write is not None:
            self.on_write(perf_counter() - begun_s)

    def sync(self) -> None:
        if self._failure is not None:
            raise StorageClosedError(self.path, f"refuses to write after: {self._failure}")
        with self._in_use:
            try:
                self._sync_logs()
            except OSError as error:
                # The kernel may drop the dirty pages of a failed sync, so trying again proves nothing.
                self._failure = f"sync failed: {error}"
                raise _mapped(self.path, error) from error

    def snapshot(self) -> LevelDbSnapshot:
        try:
            return LevelDbSnapshot(self.path, self._db.snapshot(), self._in_use)
        except RuntimeError as error:
            raise StorageClosedError(self.path, "closed") from error

    def compact_range(self, start: bytes | None = None, stop: bytes | None = None) -> None:
        """See ``Engine``; made in parts, so that closing the engine ends it soon."""
        bounds = [
            b"" if start is None else start,
            *self._inner_bounds(start, stop),
            _BEHIND_ALL_KEYS if stop is None else stop,
        ]
        for part_start, part_stop in pairwise(bounds):
            with self._in_use:
                try:
                    self._db.compact_range(start=part_start, stop=part_stop)
                except plyvel.Error as error:
                    _raise_for_read(self.path, error, self._in_use.on_damage)

    def approximate_size_bytes(self) -> int:
        """Sum of the file sizes: one directory listing, so not for every request."""
        total = 0
        with os.scandir(self.path) as files:
            for file in files:
                try:
                    total += file.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # LevelDB deletes obsolete files at any time
                    continue
        return total

    def is_behind(self) -> bool:
        with self._in_use:
            if int(self._db.get_property(b"leveldb.num-files-at-level0") or 0) >= _SLOW_LEVEL0_FILES:
                return True
        logs = self._logs()
        if len(logs) < 2:
            return False
        # A full memtable is on its way to a table file, and its log stays until it is there: when the one
        # in use is full as well, the next write waits.
        try:
            filled_bytes = os.path.getsize(os.path.join(self.path, logs[-1]))
        except FileNotFoundError:
            return False
        return filled_bytes >= self._write_buffer_bytes // 2

    def close(self) -> None:
        self._in_use.end()
        self._db.close()

    def _inner_bounds(self, start: bytes | None, stop: bytes | None) -> list[bytes]:
        """Return keys that cut the range in parts: evenly spaced among those that begin like the last one.

        Of a state those are the revisions, which is nearly all of it.
        """
        parts = min(self.approximate_size_bytes() // _COMPACT_BYTES, _MAX_COMPACT_PARTS)
        if parts < 2:
            return []
        last = next(self.iterate(start, stop, reverse=True, include_value=False), None)
        if last is None:
            return []
        from_key = last[0][:1] if start is None else max(start, last[0][:1])
        first = next(self.iterate(from_key, stop, include_value=False), last)
        low, high = (int.from_bytes(key[:16].ljust(16, b"\0"), "big") for key, _ in (first, last))
        step = (high - low) // parts
        return [(low + part * step).to_bytes(16, "big") for part in range(1, parts)] if step else []

    def _logs(self) -> list[str]:
        """The names of the logs, oldest first; each holds what a memtable does."""
        return sorted((name for name in os.listdir(self.path) if name.endswith(".log")), key=_number_of)

    def _sync_logs(self) -> None:
        logs = self._logs()
        for name in logs:
            try:
                descriptor = os.open(os.path.join(self.path, name), os.O_RDONLY)
            except FileNotFoundError:  # became a table file meanwhile, which LevelDB has synced
                continue
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        if logs != self._known_logs:
            sync_directory(self.path)
            self._known_logs = logs


def _open(path: str, options: LevelDbOptions, *, create: bool) -> Any:
    if not create:
        check_files(Path(path))
    try:
        return plyvel.DB(
            path,
            create_if_missing=create,
            error_if_exists=create,
            paranoid_checks=True,
            write_buffer_size=options.write_buffer_bytes,
            lru_cache_size=options.block_cache_bytes,
            max_file_size=options.max_file_bytes,
            max_open_files=options.max_open_files,
            bloom_filter_bits=options.bloom_bits_per_key,
            compression="snappy" if options.is_compressed else None,
        )
    except plyvel.Error as error:
        if "does not exist" in str(error):
            raise StorageCorruptError(path, f"the database is missing: {error}") from error
        raise _mapped(path, error) from error


def _number_of(log_name: str) -> int:
    return int(log_name.removesuffix(".log"))


def _position_back(raw: Any, stop: bytes | None) -> None:
    """Go to the record that an iteration backwards begins with."""
    if stop is None:
        raw.seek_to_last()
    else:
        raw.seek(stop)  # the first key >= stop, or behind the last key
        if raw.valid():
            raw.prev()
        else:
            raw.seek_to_last()


def _steps(scan: Any, include_value: bool, limit: int) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Take up to ``limit`` records forward; return them and whether that was all."""
    if not include_value:
        keys = [(key, b"") for key in islice(scan, limit)]
        return keys, len(keys) < limit
    records: list[tuple[bytes, bytes]] = []
    room = _STEP_BYTES
    for record in islice(scan, limit):
        records.append(record)
        room -= len(record[1])
        if room <= 0:
            return records, False
    return records, len(records) < limit


def _steps_back(
    raw: Any, start: bytes | None, include_value: bool, limit: int
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Take up to ``limit`` records backward; return them and whether that was all."""
    records: list[tuple[bytes, bytes]] = []
    room = _STEP_BYTES
    while raw.valid():
        here = raw.key()
        if start is not None and here < start:
            return records, True
        if len(records) == limit or room <= 0:
            return records, False
        data = raw.value() if include_value else b""
        room -= len(data)
        records.append((here, data))
        raw.prev()
    return records, True


def _raise_for_read(
    path: str, error: Exception, on_damage: Callable[[StorageCorruptError], None] | None
) -> NoReturn:
    """Raise what a failed read means.  Whatever LevelDB can't read back is damage to this copy."""
    if isinstance(error, plyvel.Error):
        damage = StorageCorruptError(path, _text_of(error))
        if on_damage is not None:
            on_damage(damage)
        raise damage from error
    if "closed" in str(error):
        raise StorageClosedError(path, "closed") from error
    raise error


def _text_of(error: Exception) -> str:
    """Return what LevelDB says; plyvel hands its bytes on as they are."""
    return (
        error.args[0].decode("utf-8", "replace")
        if error.args and isinstance(error.args[0], bytes)
        else str(error)
    )


def _mapped(path: str, error: Exception) -> StorageError:
    """Return what a failed open or write means."""
    text = _text_of(error)
    if any(full in text for full in _FULL_TEXTS):
        return StorageFullError(path, text)
    if any(lock in text for lock in _LOCK_TEXTS):
        return StorageLockedError(path, text)
    if isinstance(error, plyvel.CorruptionError) or "Input/output error" in text:
        return StorageCorruptError(path, text)
    return StorageError(path, text)
