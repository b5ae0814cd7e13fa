"""One stream format for a lagging member, ``Maintenance.Snapshot`` and backup files.

Layout, numbers big-endian::

    magic      8 bytes  b"kvsnap\\r\\n"  (a transfer that rewrites line ends breaks it at once)
    header     frame    tag "H": JSON, see SnapshotHeader
    data       frames   tag "D": records, each key length u32, value length u32, key, value
    footer     frame    tag "F": record count u64, SHA-256 of everything before this frame
    padding    zeros up to a multiple of 512 bytes

A frame is tag u8, payload length u32, CRC-32 of tag, length and payload u32, payload.  Records are the
whole state database in key order.

The padding is for etcdctl, which takes a snapshot file only if 32 bytes (the SHA-256 of all before, which
it appends to what it received) follow a multiple of 512.  A file may end in these 32 bytes or not.

Every frame is checked before its records are handed on, so damage is found when it is met; that nothing
is missing is known only at the end, so a receiver keeps what it wrote apart until ``finish``.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvnode.raft.types import ConfState, MemberId, SnapshotMetadata
from kvnode.storage.engine import Engine, ReadView
from kvnode.storage.errors import SnapshotError

__all__ = [
    "FORMAT_VERSION",
    "SnapshotHeader",
    "SnapshotInstaller",
    "SnapshotReader",
    "SnapshotSummary",
    "SnapshotWriter",
    "load_file",
    "read_header",
    "verify",
]

MAGIC: Final = b"kvsnap\r\n"
FORMAT_VERSION: Final = 3
PADDING_BYTES: Final = 512
_TAG_HEADER: Final = ord("H")
_TAG_DATA: Final = ord("D")
_TAG_FOOTER: Final = ord("F")
_FRAME: Final = struct.Struct(">BII")
_FRAME_BODY: Final = struct.Struct(">BI")
_RECORD: Final = struct.Struct(">II")
_FOOTER: Final = struct.Struct(">Q32s")
_DIGEST_BYTES: Final = 32
#: Far above any record: bounds what a damaged length can make a reader buffer.
_MAX_FRAME_BYTES: Final = 1 << 28
_FILE_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotHeader:
    """Which state the stream holds and where it comes from."""

    cluster_id: int
    #: The member that wrote the stream.
    member_id: int
    #: Applied index, its term, and the membership there.
    metadata: SnapshotMetadata
    revision: int
    #: -1 if the state was never compacted.
    compact_revision: int

    def encode(self) -> bytes:
        """Return the payload of the header frame."""
        conf_state = self.metadata.conf_state
        fields = {
            "format_version": FORMAT_VERSION,
            "cluster_id": f"{self.cluster_id:016x}",
            "member_id": f"{self.member_id:016x}",
            "index": self.metadata.index,
            "term": self.metadata.term,
            "voters": [f"{member:016x}" for member in conf_state.voters],
            "learners": [f"{member:016x}" for member in conf_state.learners],
            "revision": self.revision,
            "compact_revision": self.compact_revision,
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, payload: bytes) -> "SnapshotHeader":
        """Return what ``encode`` wrote.

        Raises:
            ValueError: the payload has another form or version.
        """
        try:
            fields = json.loads(payload)
            if fields["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {fields['format_version']} is not {FORMAT_VERSION}")
            conf_state = ConfState(
                tuple(MemberId(int(member, 16)) for member in fields["voters"]),
                tuple(MemberId(int(member, 16)) for member in fields["learners"]),
            )
            return cls(
                cluster_id=int(fields["cluster_id"], 16),
                member_id=int(fields["member_id"], 16),
                metadata=SnapshotMetadata(int(fields["index"]), int(fields["term"]), conf_state),
                revision=int(fields["revision"]),
                compact_revision=int(fields["compact_revision"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the header lacks {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSummary:
    """What a complete and undamaged stream was found to hold."""

    header: SnapshotHeader
    record_count: int
    #: Bytes of keys and values.
    data_bytes: int
    #: Bytes of the stream, padding included, an appended SHA-256 not.
    size_bytes: int
    #: Of the stream without an appended digest.
    sha256: str


class SnapshotWriter:
    """Iterates over the stream of a view's records, in pieces of at most ``chunk_bytes``.

    The view must not change meanwhile: an engine's snapshot.  The caller closes it.

    Args:
        view: the state database at ``header.metadata.index``.
        header: what to write at the head.
        chunk_bytes: bound of a piece; also about the size of a data frame.
        data_bytes: bytes of all keys and values as far as known, for ``size_bytes`` only.
    """

    def __init__(
        self, view: ReadView, header: SnapshotHeader, *, chunk_bytes: int = 32 << 10, data_bytes: int = 0
    ) -> None:
        if chunk_bytes < PADDING_BYTES:
            raise ValueError(f"chunk_bytes must be at least {PADDING_BYTES}, got {chunk_bytes}")
        self.header = header
        self._view = view
        self._chunk_bytes = chunk_bytes
        #: Estimate of the whole stream: for progress, not for buffers.
        self.size_bytes = -(-(data_bytes + data_bytes // 32 + 1024) // PADDING_BYTES) * PADDING_BYTES

    def __iter__(self) -> Iterator[bytes]:
        limit = self._chunk_bytes
        for frame in self._frames():
            if len(frame) <= limit:
                yield frame
            else:
                for start in range(0, len(frame), limit):
                    yield frame[start : start + limit]

    def _frames(self) -> Iterator[bytes]:
        digest = hashlib.sha256()
        frame = MAGIC + _frame(_TAG_HEADER, self.header.encode())
        digest.update(frame)
        size_bytes = len(frame)
        yield frame
        count = 0
        room = limit = self._chunk_bytes - _FRAME.size
        parts: list[bytes] = []
        pack = _RECORD.pack
        for key, value in self._view.iterate():
            needed = 8 + len(key) + len(value)
            if needed > room and parts:
                frame = _frame(_TAG_DATA, b"".join(parts))
                digest.update(frame)
                size_bytes += len(frame)
                yield frame
                parts = []
                room = limit
            parts += (pack(len(key), len(value)), key, value)
            room -= needed
            count += 1
        if parts:
            frame = _frame(_TAG_DATA, b"".join(parts))
            digest.update(frame)
            size_bytes += len(frame)
            yield frame
        frame = _frame(_TAG_FOOTER, _FOOTER.pack(count, digest.digest()))
        yield frame + bytes(-(size_bytes + len(frame)) % PADDING_BYTES)


class SnapshotReader:
    """Takes a stream in pieces of any size and returns its records, verified.

    Args:
        name: what the stream is called in errors.
        allows_digest: the stream may end in a SHA-256 of everything before (a file of etcdctl).
    """

    def __init__(self, name: str = "snapshot", *, allows_digest: bool = False) -> None:
        self._name = name
        self._allows_digest = allows_digest
        self._header: SnapshotHeader | None = None
        self._buffer = bytearray()
        self._size_bytes = 0
        self._has_magic = False
        self._has_footer = False
        self._last_key = b""
        self._record_count = 0
        self._data_bytes = 0
        #: Of all complete frames.
        self._digest = hashlib.sha256()

    @property
    def header(self) -> SnapshotHeader | None:
        """The header, once it has been read."""
        return self._header

    def feed(self, data: bytes | memoryview) -> list[tuple[bytes, bytes]]:
        """Take the next piece; return the records of the frames that it completed.

        Raises:
            SnapshotError: the stream is damaged.
        """
        buffer = self._buffer
        buffer += data
        records: list[tuple[bytes, bytes]] = []
        if not self._has_magic:
            if bytes(buffer[: len(MAGIC)]) != MAGIC[: len(buffer)]:
                raise self._error("this is no snapshot")
            if len(buffer) < len(MAGIC):
                return records
            self._has_magic = True
            self._consume(len(MAGIC))
        while not self._has_footer:
            frame = self._next_frame()
            if frame is None:
                return records
            self._take(*frame, records)
        if len(buffer) > PADDING_BYTES + _DIGEST_BYTES:
            raise self._error("bytes follow the end of the snapshot")
        return records

    def finish(self) -> SnapshotSummary:
        """Return what the stream held, which is now known to be all.

        Raises:
            SnapshotError: the stream ends too early, or something follows it.
        """
        if not self._has_footer or self._header is None:
            raise self._error(f"it ends too early, after {self._size_bytes + len(self._buffer)} bytes")
        padding = -self._size_bytes % PADDING_BYTES
        tail = bytes(self._buffer)
        if len(tail) < padding:
            raise self._error("it ends too early, in the padding")
        if tail[:padding].strip(b"\0"):
            raise self._error("the padding is damaged")
        self._digest.update(tail[:padding])
        digest = self._digest.digest()
        if len(tail) > padding:
            if not self._allows_digest or len(tail) != padding + _DIGEST_BYTES:
                raise self._error(f"{len(tail) - padding} bytes follow the end of the snapshot")
            if tail[padding:] != digest:
                raise self._error("the SHA-256 at the end does not match")
        return SnapshotSummary(
            header=self._header,
            record_count=self._record_count,
            data_bytes=self._data_bytes,
            size_bytes=self._size_bytes + padding,
            sha256=digest.hex(),
        )

    def _next_frame(self) -> tuple[int, bytes] | None:
        """Return tag and payload of the frame at the buffer's head, or None until it is complete."""
        buffer = self._buffer
        if len(buffer) < _FRAME.size:
            return None
        tag, length, checksum = _FRAME.unpack_from(buffer)
        if tag not in (_TAG_HEADER, _TAG_DATA, _TAG_FOOTER) or length > _MAX_FRAME_BYTES:
            raise self._error(f"no frame begins at byte {self._size_bytes}")
        end = _FRAME.size + length
        if len(buffer) < end:
            return None
        payload = bytes(memoryview(buffer)[_FRAME.size : end])
        if zlib.crc32(payload, zlib.crc32(_FRAME_BODY.pack(tag, length))) != checksum:
            raise self._error(f"the frame at byte {self._size_bytes} fails its checksum")
        return tag, payload

    def _take(self, tag: int, payload: bytes, records: list[tuple[bytes, bytes]]) -> None:
        if (tag == _TAG_HEADER) != (self._header is None):
            raise self._error(f"the frame at byte {self._size_bytes} is out of place")
        if tag == _TAG_HEADER:
            try:
                self._header = SnapshotHeader.decode(payload)
            except ValueError as error:
                raise self._error(str(error)) from error
        elif tag == _TAG_DATA:
            self._split(payload, records)
        else:
            self._check_footer(payload)
        self._consume(_FRAME.size + len(payload))

    def _split(self, payload: bytes, records: list[tuple[bytes, bytes]]) -> None:
        at, end, last_key = 0, len(payload), self._last_key
        before = len(records)
        while at < end:
            if at + 8 > end:
                raise self._error("a record is cut short")
            key_bytes, value_bytes = _RECORD.unpack_from(payload, at)
            value_at = at + 8 + key_bytes
            at = value_at + value_bytes
            key = payload[value_at - key_bytes : value_at]
            if at > end or key <= last_key:
                raise self._error("a record is cut short or out of order")
            records.append((key, payload[value_at:at]))
            last_key = key
        added = len(records) - before
        self._last_key = last_key
        self._record_count += added
        self._data_bytes += end - 8 * added

    def _check_footer(self, payload: bytes) -> None:
        if len(payload) != _FOOTER.size:
            raise self._error("the footer is damaged")
        count, digest = _FOOTER.unpack(payload)
        if count != self._record_count or digest != self._digest.digest():
            raise self._error("frames are missing or doubled: count or SHA-256 don't match")
        self._has_footer = True

    def _consume(self, count: int) -> None:
        self._digest.update(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        self._size_bytes += count

    def _error(self, problem: str) -> SnapshotError:
        return SnapshotError(self._name, problem)


class SnapshotInstaller:
    """Writes a stream's records into an empty engine that nobody uses yet.

    After ``finish`` the caller syncs the engine and makes it the state; after an error it deletes it.
    """

    def __init__(self, engine: Engine, name: str = "snapshot", *, allows_digest: bool = False) -> None:
        self._engine = engine
        self._reader = SnapshotReader(name, allows_digest=allows_digest)

    @property
    def header(self) -> SnapshotHeader | None:
        """The header, once it has been read."""
        return self._reader.header

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next piece.

        Raises:
            SnapshotError: the stream is damaged.
            StorageError: the engine refused a write.
        """
        records = self._reader.feed(data)
        if records:
            batch = self._engine.batch()
            put = batch.put
            for key, value in records:
                put(key, value)
            self._engine.write(batch)

    def finish(self) -> SnapshotSummary:
        """Return what was installed.

        Raises:
            SnapshotError: the stream ends too early, or something follows it.
        """
        return self._reader.finish()


def read_header(path: str | Path) -> SnapshotHeader:
    """Return the header of a snapshot file; only the header is verified.

    Raises:
        SnapshotError: the file is no snapshot, or the header is damaged.
    """
    reader = SnapshotReader(str(path))
    for piece in _pieces(path, 4096):
        reader.feed(piece)
        if reader.header is not None:
            return reader.header
    raise SnapshotError(str(path), "it ends too early")


def verify(path: str | Path) -> SnapshotSummary:
    """Read a whole snapshot file and return what it holds.

    Raises:
        SnapshotError: the file is no snapshot, or it is damaged.
    """
    reader = SnapshotReader(str(path), allows_digest=True)
    for piece in _pieces(path, _FILE_READ_BYTES):
        reader.feed(piece)
    return reader.finish()


def load_file(path: str | Path, engine: Engine) -> SnapshotSummary:
    """Write the records of a snapshot file into an empty engine; nothing is synced.

    Raises:
        SnapshotError: the file is no snapshot, or it is damaged; the engine holds part of it.
    """
    installer = SnapshotInstaller(engine, str(path), allows_digest=True)
    for piece in _pieces(path, _FILE_READ_BYTES):
        installer.feed(piece)
    return installer.finish()


def _pieces(path: str | Path, size_bytes: int) -> Iterator[bytes]:
    try:
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while piece := file.read(size_bytes):
                yield piece
    except OSError as error:
        raise SnapshotError(str(path), f"can't be read: {error.strerror}") from error


def _frame(tag: int, payload: bytes) -> bytes:
    length = len(payload)
    return _FRAME.pack(tag, length, zlib.crc32(payload, zlib.crc32(_FRAME_BODY.pack(tag, length)))) + payload
