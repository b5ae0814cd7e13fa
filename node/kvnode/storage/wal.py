"""An engine that is nothing but a write-ahead log: made for the raft log.

What is written once, read rarely and deleted soon gains nothing from LevelDB's tables, which would write it
two or three times more.  Here a batch is one record at the end of the newest segment, one system call
writes and syncs it, and where each key's value lies is kept in memory (some 200 bytes a key).

Segments are files ``<number>.wal`` of a size that is fixed, and reserved, when they are made: a write into
one needs no room and no change of the file's size, so a sync of it is short.  A record::

    header   mark, flags, number of operations, bytes of keys, bytes of values, CRC of what follows the
             header, CRC of the header, mark
    sizes    of each operation's value, or "deleted"
    lengths  of each operation's key
    keys     one behind the other
    values   likewise
    mark     one byte

The header's CRC covers the segment's number and the place as well.  CRCs are CRC-32C.  A value is read with
its whole record, so that its CRC can be checked.

What a power failure may leave is told from damage by what disks promise: a sector of 512 bytes is written as
a whole or not at all, and before its first write it holds zeros.  So the last record may be broken, if
some sector of it holds nothing but zeros, and if nothing was written after its sync; then it was never
acknowledged, and is dropped.  Everything else that can't be read is damage.  (What this can't tell: damage
to the last record of all, if a value in it has a sector of zeros itself.)

Segments are deleted oldest first, once hardly anything in them is still valid; that little is written
again before.  A full segment ends with a record that says so, written once its successor is on disk: a
missing successor, or one in the middle, is found.

The first failed write is the last: what of it lies on disk is unknown.

Threads: ``write`` by one thread while others read, as ``Engine`` says.
"""

import errno
import os
import re
import struct
import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

import google_crc32c

from kvnode.storage.directories import sync_directory
from kvnode.storage.errors import (
    StorageClosedError,
    StorageCorruptError,
    StorageError,
    StorageFullError,
)

__all__ = ["WalBatch", "WalEngine", "segment_size_bytes"]

_MIB: Final = 1 << 20
_MAX_SEGMENT_BYTES: Final = 16 * _MIB
_MIN_SEGMENT_BYTES: Final = _MIB
#: Of a small disk, segments must not take more than this part each.
_SEGMENT_PART: Final = 128
_SECTOR_BYTES: Final = 512
#: A segment is given up when no more than this part of it is valid; all that are given up at once, together.
_CARRIED_PART: Final = 32
_NAME: Final = re.compile(r"([0-9]{16})\.wal")
_TEMPORARY_SUFFIX: Final = ".tmp"
_FORMAT: Final = b"kvwal"
_MAGIC: Final = _FORMAT + b"002"
#: Magic, number, where the segment before ends, size; then their CRC.
_SEGMENT_HEAD: Final = struct.Struct(">8sQQQ")
_CRC: Final = struct.Struct(">I")
_SEGMENT_HEAD_BYTES: Final = _SEGMENT_HEAD.size + _CRC.size

_MARK: Final = 0xA7
_END: Final = 0x5A
_END_MARK: Final = bytes([_END])
_SYNCED: Final = 1
_CONTINUED: Final = 2
#: Mark, flags, operations, bytes of keys and of values, CRC of the rest; CRC of this and of the place; mark.
_HEADER: Final = struct.Struct(">BBIIIIIB")
_HEADER_BYTES: Final = _HEADER.size
_CHECKED: Final = struct.Struct(">QQBIIII")
#: Bytes of the sizes of an operation's key and value.
_SIZES_BYTES: Final = 6
_RANGE_DELETED: Final = 0xFFFFFFFF
_LENGTH: Final = struct.Struct(">H")
#: A record without operations: header and mark.
_EMPTY_RECORD_BYTES: Final = _HEADER_BYTES + 1
#: Values of this size in all are not joined for a record, unless one call can not write so many parts.
_LONG_BYTES: Final = 16 << 10
_MAX_PARTS: Final = 512
#: Tries to list and open segments of which another process may delete some meanwhile.
_MAX_TRIES: Final = 20

_FULL_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_pack_header = _HEADER.pack
_pack_checked = _CHECKED.pack
#: Write and sync in one call, where the system has it.
_WRITE_SYNCED: Final = int(getattr(os, "RWF_DSYNC", 0))


def segment_size_bytes(directory: str | Path) -> int:
    """Return how large segments in ``directory`` should be: less on a disk of less than 2 GiB."""
    room = os.statvfs(directory)
    part = room.f_blocks * room.f_frsize // _SEGMENT_PART
    return max(_MIN_SEGMENT_BYTES, min(part, _MAX_SEGMENT_BYTES))


class WalBatch:
    """Puts and deletes in the order they were made."""

    __slots__ = ("body_bytes", "crc", "key_bytes", "keys", "parts", "sizes", "value_bytes", "values")

    def __init__(self) -> None:
        #: Of each operation; of a deleted range: length of its start, start, stop.
        self.keys: list[bytes] = []
        self.sizes: list[int] = []
        #: Of the puts, one or two for each.
        self.values: list[bytes] = []
        self.key_bytes = 0
        self.value_bytes = 0
        #: What a record's CRC covers, in parts; its size, and the CRC.  Nothing until the batch is sealed.
        self.parts: list[bytes] = []
        self.body_bytes = 0
        self.crc = 0

    def put(self, key: bytes, value: bytes, more: bytes = b"", /) -> None:
        size = len(value)
        self.values.append(value)
        if more:
            size += len(more)
            self.values.append(more)
        self.keys.append(key)
        self.sizes.append(size)
        self.value_bytes += size

    def delete_range(self, start: bytes, stop: bytes, /) -> None:
        self.keys.append(_LENGTH.pack(len(start)) + start + stop)
        self.sizes.append(_RANGE_DELETED)

    def seal(self) -> None:
        keys, sizes = self.keys, self.sizes
        lengths = [len(key) for key in keys]
        self.key_bytes = sum(lengths)
        parts = [struct.pack(f">{len(keys)}I{len(keys)}H", *sizes, *lengths), *keys, *self.values, _END_MARK]
        if self.value_bytes < _LONG_BYTES or len(parts) > _MAX_PARTS:
            body = b"".join(parts)
            self.parts = [body]
            self.body_bytes = len(body)
            self.crc = google_crc32c.value(body)
        else:
            crc = size = 0
            for part in parts:
                crc = google_crc32c.extend(crc, part)
                size += len(part)
            self.parts = parts
            self.body_bytes = size
            self.crc = crc


class _Segment:
    """One open file."""

    __slots__ = ("descriptor", "end", "number", "path", "previous_end", "size", "valid_bytes")

    def __init__(self, path: str, number: int, previous_end: int, size: int, descriptor: int) -> None:
        self.path = path
        self.number = number
        #: Where the records of the segment before end.
        self.previous_end = previous_end
        self.size = size
        self.descriptor = descriptor
        #: Where its own records end so far.
        self.end = _SEGMENT_HEAD_BYTES
        #: Of the keys whose newest value lies here, and of these values.
        self.valid_bytes = 0


class _Record:
    """Where a record lies."""

    __slots__ = ("crc", "offset", "segment", "size")

    def __init__(self, segment: _Segment, offset: int, size: int, crc: int) -> None:
        self.segment = segment
        #: Of what the CRC covers, and how much that is.
        self.offset = offset
        self.size = size
        self.crc = crc


class _Place:
    """Where a value lies in a record."""

    __slots__ = ("at", "record", "size")

    def __init__(self, record: _Record, at: int, size: int) -> None:
        self.record = record
        self.at = at
        self.size = size


class WalEngine:
    """A log in a directory of its own.

    Args:
        path: the directory.
        create: True makes a new log, and the directory if need be, and refuses one that is there; False
            opens one that is there.
        segment_bytes: size of the segments to be made; 0: what suits the disk.
        is_read_only: look at a log that another process may be writing to.

    Raises:
        StorageCorruptError: files are missing or damaged.
        StorageFullError: no room for a segment.
    """

    __slots__ = (
        "_failure",
        "_has_unsynced",
        "_is_closed",
        "_is_read_only",
        "_is_writing",
        "_keys",
        "_lock",
        "_places",
        "_readers",
        "_retired",
        "_segment_bytes",
        "_segments",
        "_writes_synced",
        "_written",
        "on_damage",
        "path",
    )

    def __init__(
        self, path: str | Path, *, create: bool, segment_bytes: int = 0, is_read_only: bool = False
    ) -> None:
        self.path = str(path)
        #: Hears, in the thread that reads, of what could not be read back.
        self.on_damage: Callable[[StorageCorruptError], None] | None = None
        self._places: dict[bytes, _Place] = {}
        #: The same keys in order.
        self._keys: list[bytes] = []
        self._segments: list[_Segment] = []
        #: Deleted segments that somebody may be reading still.
        self._retired: list[_Segment] = []
        self._readers = 0
        #: Guards the keys, their places, and the life of segments.
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._is_writing = False
        self._has_unsynced = False
        self._writes_synced = _WRITE_SYNCED != 0
        self._failure: str | None = None
        self._is_closed = False
        self._is_read_only = is_read_only
        try:
            if create:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
                if _numbers_in(self.path):
                    raise StorageError(self.path, "there is a log already")
            elif not os.path.isdir(self.path):
                raise StorageCorruptError(self.path, "the log is missing")
            self._segment_bytes = segment_bytes or segment_size_bytes(self.path)
            if create:
                self._segments.append(_create_segment(self.path, 1, 0, self._segment_bytes))
            else:
                self._open()
        except OSError as error:
            self.close()
            raise _mapped(self.path, error) from error
        except BaseException:
            self.close()
            raise

    # Reading.

    def get(self, key: bytes, /) -> bytes | None:
        """See ``ReadView``."""
        with self._lock:
            self._check_open()
            place = self._places.get(key)
            if place is None:
                return None
            self._readers += 1
        try:
            return self._value(place)
        finally:
            self._leave()

    def iterate(
        self,
        start: bytes | None = None,
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        include_value: bool = True,
    ) -> Iterator[tuple[bytes, bytes]]:
        """See ``ReadView``."""
        with self._lock:
            self._check_open()
            keys = self._keys
            first = 0 if start is None else bisect_left(keys, start)
            last = len(keys) if stop is None else bisect_left(keys, stop)
            places = self._places
            found = [(key, places[key]) for key in keys[first:last]]
            self._readers += 1
        try:
            if reverse:
                found.reverse()
            record: _Record | None = None
            data = b""
            for key, place in found:
                if not include_value:
                    yield key, b""
                    continue
                if place.record is not record:
                    record = place.record
                    data = self._read(record)
                yield key, data[place.at : place.at + place.size]
        finally:
            self._leave()

    # Writing.

    def batch(self) -> WalBatch:
        """Return an empty batch."""
        return WalBatch()

    def write(self, batch: object, *, sync: bool = False) -> None:
        """See ``Engine``."""
        if type(batch) is not WalBatch:
            raise TypeError(f"a batch of another engine: {type(batch).__name__}")
        with self._lock:
            self._check_writable()
            self._is_writing = True
        try:
            self._append(batch, _SYNCED if sync else 0)
            self._retire_segments()
        except OSError as error:
            self._failure = f"{error.strerror}"
            raise _mapped(self.path, error) from error
        finally:
            with self._lock:
                self._is_writing = False
                self._written.notify_all()

    def close(self) -> None:
        """Let go of all files, after a write that is under way.  Idempotent."""
        with self._lock:
            self._is_closed = True
            while self._is_writing:
                self._written.wait()
            if not self._readers:
                self._close_files()

    # Private.

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageClosedError(self.path, "closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self._failure is not None:
            raise StorageClosedError(self.path, f"refuses to write after: {self._failure}")
        if self._is_read_only:
            raise StorageClosedError(self.path, "is open for reading only")

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers:
                if self._is_closed:
                    self._close_files()
                elif self._retired:
                    self._close_retired()

    def _close_files(self) -> None:
        for segment in self._segments:
            os.close(segment.descriptor)
        self._segments = []
        self._close_retired()

    def _close_retired(self) -> None:
        for segment in self._retired:
            os.close(segment.descriptor)
        self._retired = []

    def _value(self, place: _Place) -> bytes:
        return self._read(place.record)[place.at : place.at + place.size]

    def _read(self, record: _Record) -> bytes:
        """Return what the record's CRC covers."""
        data = _read(record.segment, record.offset, record.size)
        if google_crc32c.value(data) == record.crc:
            return data
        error = StorageCorruptError(
            record.segment.path, f"the record at byte {record.offset} fails its checksum"
        )
        if self.on_damage is not None:
            self.on_damage(error)
        raise error

    def _append(self, batch: WalBatch, flags: int) -> None:
        if not batch.parts:
            batch.seal()
        body_bytes, count, key_bytes = batch.body_bytes, len(batch.keys), batch.key_bytes
        size = _HEADER_BYTES + body_bytes
        segment = self._segments[-1]
        if segment.end + size + _EMPTY_RECORD_BYTES > segment.size:
            segment = self._next_segment(size)
        at = segment.end
        header = _header(segment.number, at, flags, count, key_bytes, batch.value_bytes, batch.crc)
        self._write_at(segment, [header, *batch.parts], size, at, flags)
        record = _Record(segment, at + _HEADER_BYTES, body_bytes, batch.crc)
        with self._lock:
            segment.end = at + size
            self._show(record, batch.keys, batch.sizes, _SIZES_BYTES * count + key_bytes)

    def _write_at(self, segment: _Segment, parts: list[bytes], size: int, at: int, flags: int) -> None:
        syncs = flags & _SYNCED != 0
        written = 0
        if syncs and self._writes_synced and not self._has_unsynced:
            try:
                written = os.pwritev(segment.descriptor, parts, at, _WRITE_SYNCED)
                if written == size:
                    return
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._writes_synced = False
        left = b"".join(parts)[written:]
        while left:
            count = os.pwrite(segment.descriptor, left, at + written)
            left, written = left[count:], written + count
        self._has_unsynced = True
        if syncs:
            self._sync()

    def _sync(self) -> None:
        os.fdatasync(self._segments[-1].descriptor)
        self._has_unsynced = False

    def _next_segment(self, record_bytes: int) -> _Segment:
        """Make a segment with room for a record, and make it the one that is written to."""
        segment = self._segments[-1]
        if self._has_unsynced:
            self._sync()
        room = _SEGMENT_HEAD_BYTES + record_bytes + _EMPTY_RECORD_BYTES
        size = max(self._segment_bytes, room)
        following = _create_segment(self.path, segment.number + 1, segment.end, size)
        crc = google_crc32c.value(_END_MARK)
        header = _header(segment.number, segment.end, _SYNCED | _CONTINUED, 0, 0, 0, crc)
        self._write_at(segment, [header, _END_MARK], _EMPTY_RECORD_BYTES, segment.end, _SYNCED)
        with self._lock:
            self._segments.append(following)
        return following

    def _retire_segments(self) -> None:
        """Delete the oldest segments in which hardly anything is still valid."""
        segments = self._segments
        leaving: list[_Segment] = []
        valid_bytes = 0
        for segment in segments[:-1]:
            valid_bytes += segment.valid_bytes
            if valid_bytes > self._segment_bytes // _CARRIED_PART:
                break
            leaving.append(segment)
        if not leaving:
            return
        if sum([segment.valid_bytes for segment in leaving]):
            carried = self.batch()
            for key, place in list(self._places.items()):
                if place.record.segment in leaving:
                    carried.put(key, self._value(place))
            self._append(carried, _SYNCED)
        elif self._has_unsynced:
            # What says that those keys are gone, or newer, must outlive them.
            self._sync()
        for segment in leaving:
            os.unlink(segment.path)
        with self._lock:
            self._segments = segments[len(leaving) :]
            self._retired += leaving
            if not self._readers:
                self._close_retired()

    def _show(self, record: _Record, keys: list[bytes], sizes: list[int], at: int) -> None:
        """Let readers see what was written; the first value begins at ``at`` in the record."""
        places, order, segment = self._places, self._keys, record.segment
        added_bytes = 0
        for number in range(len(keys)):
            key, size = keys[number], sizes[number]
            if size == _RANGE_DELETED:
                self._delete_range(key)
                continue
            old = places.get(key)
            places[key] = _Place(record, at, size)
            at += size
            added_bytes += size + len(key)
            if old is not None:
                old.record.segment.valid_bytes -= old.size + len(key)
            elif not order or key > order[-1]:
                order.append(key)
            else:
                insort(order, key)
        segment.valid_bytes += added_bytes

    def _delete_range(self, bounds: bytes) -> None:
        """Forget the keys of a range that was deleted."""
        middle = _LENGTH.size + _LENGTH.unpack_from(bounds)[0]
        first = bisect_left(self._keys, bounds[_LENGTH.size : middle])
        last = bisect_left(self._keys, bounds[middle:], lo=first)
        for key in self._keys[first:last]:
            place = self._places.pop(key)
            place.record.segment.valid_bytes -= place.size + len(key)
        del self._keys[first:last]

    # Opening.

    def _open(self) -> None:
        path = self.path
        self._open_files()
        segments = self._segments
        if not segments:
            raise StorageCorruptError(path, "the log's files are missing")
        is_clean = True
        for segment, following in zip(segments, [*segments[1:], None], strict=True):
            if following is not None and following.number != segment.number + 1:
                raise StorageCorruptError(path, f"segment {segment.number + 1} is missing")
            is_clean = self._load(segment, following)
        if self._is_read_only:
            return
        # A process that was killed has left what it wrote in the kernel's hands only.
        self._sync()
        if not is_clean:
            # Behind the last record lies what a power failure left of one.
            self._next_segment(0)

    def _open_files(self) -> None:
        mode = os.O_RDONLY if self._is_read_only else os.O_RDWR
        for tries_left in range(_MAX_TRIES - 1, -1, -1):
            try:
                for number in _numbers_in(self.path):
                    file = _path_of(self.path, number)
                    self._segments.append(_open_segment(file, number, os.open(file, mode | os.O_CLOEXEC)))
                break
            except FileNotFoundError:
                if not self._is_read_only or not tries_left:
                    raise
                self._close_files()
        if not self._is_read_only:
            for name in os.listdir(self.path):
                if name.endswith(_TEMPORARY_SUFFIX):
                    os.unlink(os.path.join(self.path, name))

    def _load(self, segment: _Segment, following: _Segment | None) -> bool:
        """Take up a segment's records; returns whether nothing lies behind the last one."""
        data = _read(segment, 0, segment.size)
        stop = segment.size if following is None else following.previous_end
        if not _SEGMENT_HEAD_BYTES <= stop <= segment.size:
            _damaged(segment, stop, "the next segment gives an impossible end")
        while segment.end < stop:
            at = segment.end
            header = _header_at(segment, data, at)
            if header is None:
                if following is not None:
                    _damaged(segment, at, "the record can't be read")
                if not _has_unwritten_sector(data, at, at + _HEADER_BYTES, segment.size):
                    _damaged(segment, at, "the record's header fails its checksum")
                return data.count(0, at) == segment.size - at
            flags, count, key_bytes, value_bytes, crc = header
            values_at = _SIZES_BYTES * count + key_bytes
            end = at + _EMPTY_RECORD_BYTES + values_at + value_bytes
            if end > segment.size:
                _damaged(segment, at, "the record is larger than the segment")
            if flags & _CONTINUED:
                if following is None and not self._is_read_only:
                    raise StorageCorruptError(self.path, f"segment {segment.number + 1} is missing")
                return True
            offset = at + _HEADER_BYTES
            if google_crc32c.value(data[offset:end]) != crc:
                is_followed = following is not None or (
                    flags & _SYNCED != 0 and _header_at(segment, data, end) is not None
                )
                if is_followed or not _has_unwritten_sector(data, at, end, end):
                    _damaged(segment, at, "the record fails its checksum")
                return False
            keys, sizes = _operations(data, offset, count)
            self._show(_Record(segment, offset, end - offset, crc), keys, sizes, values_at)
            segment.end = end
        return True


def _path_of(directory: str, number: int) -> str:
    return os.path.join(directory, f"{number:016}.wal")


def _numbers_in(directory: str) -> list[int]:
    """Return the numbers of a directory's segments in order."""
    numbers = []
    for name in os.listdir(directory):
        match = _NAME.fullmatch(name)
        if match is not None:
            numbers.append(int(match.group(1)))
    return sorted(numbers)


def _create_segment(directory: str, number: int, previous_end: int, size: int) -> _Segment:
    """Make a segment that is there, empty and with all its room, also after a power failure."""
    path = _path_of(directory, number)
    temporary = path + _TEMPORARY_SUFFIX
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        head = _SEGMENT_HEAD.pack(_MAGIC, number, previous_end, size)
        os.pwrite(descriptor, head + _CRC.pack(google_crc32c.value(head)), 0)
        os.fsync(descriptor)
        os.rename(temporary, path)
        sync_directory(directory)
    except BaseException:
        os.close(descriptor)
        raise
    return _Segment(path, number, previous_end, size, descriptor)


def _open_segment(path: str, number: int, descriptor: int) -> _Segment:
    """Return the segment whose file is open; closes it if it can't be used."""
    try:
        head = os.pread(descriptor, _SEGMENT_HEAD_BYTES, 0)
        magic = head[: len(_MAGIC)]
        if magic != _MAGIC and magic.startswith(_FORMAT):
            raise StorageCorruptError(path, f"is of another format: {magic!r}")
        if len(head) == _SEGMENT_HEAD_BYTES and google_crc32c.value(head[:-4]) == _CRC.unpack(head[-4:])[0]:
            _, stored_number, previous_end, size = _SEGMENT_HEAD.unpack(head[:-4])
            found = os.fstat(descriptor).st_size
            if stored_number == number and size == found:
                return _Segment(path, number, previous_end, size, descriptor)
            detail = f"is segment {stored_number} of {size} bytes, but has {found}"
        else:
            detail = "the segment's head fails its checksum"
        raise StorageCorruptError(path, detail)
    except BaseException:
        os.close(descriptor)
        raise


def _read(segment: _Segment, offset: int, size: int) -> bytes:
    """Return ``size`` bytes, or fewer if the file ends before."""
    try:
        data = os.pread(segment.descriptor, size, offset)
        while len(data) < size:
            more = os.pread(segment.descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data
    except OSError as error:
        raise _mapped(segment.path, error) from error


def _header(
    number: int, at: int, flags: int, count: int, key_bytes: int, value_bytes: int, crc: int
) -> bytes:
    header_crc = google_crc32c.value(_pack_checked(number, at, flags, count, key_bytes, value_bytes, crc))
    return _pack_header(_MARK, flags, count, key_bytes, value_bytes, crc, header_crc, _END)


def _header_at(segment: _Segment, data: bytes, at: int) -> tuple[int, int, int, int, int] | None:
    """Return flags, operations, bytes of keys and values, and CRC; None if no header can be read there."""
    if at + _HEADER_BYTES > len(data):
        return None
    mark, flags, count, key_bytes, value_bytes, crc, header_crc, end = _HEADER.unpack_from(data, at)
    wanted = google_crc32c.value(_pack_checked(segment.number, at, flags, count, key_bytes, value_bytes, crc))
    if mark != _MARK or end != _END or header_crc != wanted:
        return None
    return flags, count, key_bytes, value_bytes, crc


def _operations(data: bytes, offset: int, count: int) -> tuple[list[bytes], list[int]]:
    """Return the keys and sizes of a record whose CRC is right."""
    sizes = list(struct.unpack_from(f">{count}I", data, offset))
    lengths = struct.unpack_from(f">{count}H", data, offset + 4 * count)
    at = offset + _SIZES_BYTES * count
    keys = []
    for length in lengths:
        keys.append(data[at : at + length])
        at += length
    return keys, sizes


def _has_unwritten_sector(data: bytes, start: int, stop: int, limit: int) -> bool:
    """Return whether all is zero, from ``start`` to ``limit``, in some sector that lies before ``stop``."""
    sector = start - start % _SECTOR_BYTES
    while sector < stop:
        low, high = max(sector, start), min(sector + _SECTOR_BYTES, limit)
        if data.count(0, low, high) == high - low:
            return True
        sector += _SECTOR_BYTES
    return False


def _damaged(segment: _Segment, at: int, detail: str) -> NoReturn:
    raise StorageCorruptError(segment.path, f"at byte {at}: {detail}")


def _mapped(path: str, error: OSError) -> StorageError:
    """Return what a failed call of the system means."""
    text = error.strerror or str(error)
    if error.errno in _FULL_ERRORS:
        return StorageFullError(path, text)
    if error.errno == errno.EIO:
        return StorageCorruptError(path, text)
    return StorageError(path, text)
