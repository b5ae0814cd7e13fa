"""A look at LevelDB's write-ahead logs and manifest before LevelDB opens them.

LevelDB takes an incomplete record at the end of a file for a write that a crash cut short, and drops it
in silence.  That is right after a crash, but three kinds of damage look the same to it:

- A flipped bit in a record's length makes the record reach beyond the end of the file: it and all that
  follow in its block are dropped.
- A log file that the manifest names is gone: it is not missed.
- After power loss the end of one log may be lost and a later log be there: the batches before the gap
  and those behind it are applied as if nothing had been between them.

Each would be data that were acknowledged and are silently no longer there.  Checked here are only these;
the contents of complete records are left to LevelDB's own checksums.

Format: https://github.com/google/leveldb/blob/main/doc/log_format.md and impl.md (manifest).
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kvnode.storage.errors import StorageCorruptError

__all__ = ["check_files", "tables_of"]

_BLOCK_BYTES: Final = 32768
_HEADER: Final = struct.Struct("<IHB")  # masked CRC-32C, payload length, type
_BATCH: Final = struct.Struct("<QI")  # sequence of the first operation, number of operations
_ZERO, _FULL, _FIRST, _MIDDLE, _LAST = range(5)
_LOG_NAME: Final = re.compile(r"([0-9]+)\.log")
_CRC_POLYNOMIAL: Final = 0x82F63B78
_CRC_MASK_DELTA: Final = 0xA282EAD8


def check_files(path: Path) -> None:
    """Look at the files of a closed database.

    Args:
        path: its directory.

    Raises:
        StorageCorruptError: records or files that were there are not.
    """
    manifest = _manifest_of(path)
    if manifest is None:
        return  # LevelDB has better words for what is wrong
    log_number = previous_log_number = 0
    for record in _records(manifest):
        for tag, fields in _fields_of_edit(record, manifest):
            if tag == _TAG_LOG_NUMBER:
                log_number = fields[0]
            elif tag == _TAG_PREVIOUS_LOG_NUMBER:
                previous_log_number = fields[0]
    numbers = sorted(
        int(match.group(1)) for file in path.iterdir() if (match := _LOG_NAME.fullmatch(file.name))
    )
    if log_number and log_number not in numbers:
        raise StorageCorruptError(str(path), f"the log file {log_number:06d}.log is missing")
    expected: int | None = None
    for number in numbers:
        if number < log_number and number != previous_log_number:
            continue  # its contents are in a table; it was about to be deleted
        file = path / f"{number:06d}.log"
        for record in _records(file):
            if len(record) < _BATCH.size:
                raise StorageCorruptError(str(file), "a batch is shorter than its header")
            sequence, count = _BATCH.unpack_from(record)
            if expected is not None and sequence != expected:
                raise StorageCorruptError(
                    str(file),
                    f"the writes {expected}..{sequence - 1} are lost, though later ones are there",
                )
            expected = sequence + count


def tables_of(path: Path) -> set[int]:
    """Return the numbers of the tables that a closed database consists of.

    Raises:
        StorageCorruptError: the manifest can't be read.
    """
    manifest = _manifest_of(path)
    if manifest is None:
        raise StorageCorruptError(str(path), "there is no manifest")
    tables: set[int] = set()
    for record in _records(manifest):
        for tag, numbers in _fields_of_edit(record, manifest):
            # Behind both tags comes the level, then the table's number.
            if tag == _TAG_NEW_FILE:
                tables.add(numbers[1])
            elif tag == _TAG_DELETED_FILE:
                tables.discard(numbers[1])
    return tables


def _manifest_of(path: Path) -> Path | None:
    try:
        name = (path / "CURRENT").read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    manifest = path / name
    return manifest if name.startswith("MANIFEST-") and manifest.is_file() else None


def _records(file: Path) -> Iterator[bytes]:
    """Yield the records of a log-format file up to a write that was cut short.

    Raises:
        StorageCorruptError: the end is no cut-short write.
    """
    data = file.read_bytes()
    size = len(data)
    at = 0
    parts: list[bytes] = []
    while True:
        block_left = _BLOCK_BYTES - at % _BLOCK_BYTES
        if block_left < _HEADER.size:
            at += block_left  # too short for a header: filled with zeros
            continue
        if at + _HEADER.size > size:
            return
        checksum, length, kind = _HEADER.unpack_from(data, at)
        end = at + _HEADER.size + length
        if kind == _ZERO and length == 0:
            # Space that the file system gave the file before it wrote the data.
            if data[at:].strip(b"\0"):
                raise StorageCorruptError(str(file), f"zeros at byte {at}, but data behind them")
            return
        if _HEADER.size + length > block_left:
            raise StorageCorruptError(str(file), f"the record at byte {at} has an impossible length")
        if end > size:
            _check_cut_short(file, data, at, checksum)
            return
        payload = data[at + _HEADER.size : end]
        at = end
        if kind == _FULL:
            yield payload
        elif kind == _FIRST:
            parts = [payload]
        elif kind in (_MIDDLE, _LAST):
            parts.append(payload)
            if kind == _LAST:
                yield b"".join(parts)
                parts = []


def _check_cut_short(file: Path, data: bytes, at: int, checksum: int) -> None:
    """Raise if the record at ``at``, which seems to reach beyond the end, is complete but for its length.

    The checksum covers type and payload.  If it fits the payload up to some byte, the record ended there
    and the length is wrong.
    """
    wanted = (checksum - _CRC_MASK_DELTA) & 0xFFFFFFFF
    wanted = ((wanted << 15) | (wanted >> 17)) & 0xFFFFFFFF
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data[at + _HEADER.size - 1 :]:  # from the type on
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        if crc ^ 0xFFFFFFFF == wanted:
            raise StorageCorruptError(str(file), f"the record at byte {at} has a wrong length")


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


_TAG_COMPARATOR: Final = 1
_TAG_LOG_NUMBER: Final = 2
_TAG_NEXT_FILE: Final = 3
_TAG_LAST_SEQUENCE: Final = 4
_TAG_COMPACT_POINTER: Final = 5
_TAG_DELETED_FILE: Final = 6
_TAG_NEW_FILE: Final = 7
_TAG_PREVIOUS_LOG_NUMBER: Final = 9
#: What follows a tag: n a number, s a length and that many bytes.
_FIELDS: Final = {
    _TAG_COMPARATOR: "s",
    _TAG_LOG_NUMBER: "n",
    _TAG_NEXT_FILE: "n",
    _TAG_LAST_SEQUENCE: "n",
    _TAG_COMPACT_POINTER: "ns",
    _TAG_DELETED_FILE: "nn",
    _TAG_NEW_FILE: "nnnss",
    _TAG_PREVIOUS_LOG_NUMBER: "n",
}


def _fields_of_edit(record: bytes, file: Path) -> Iterator[tuple[int, list[int]]]:
    """Yield each tag of a manifest record with the numbers behind it."""
    at = 0
    try:
        while at < len(record):
            tag, at = _varint(record, at)
            numbers: list[int] = []
            for field in _FIELDS[tag]:
                number, at = _varint(record, at)
                if field == "s":
                    at += number
                else:
                    numbers.append(number)
            yield tag, numbers
    except (IndexError, KeyError) as error:
        raise StorageCorruptError(str(file), "a record can't be read") from error


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
