"""The frame layer of the peer protocol, without IO.

A frame is ``length u32 | crc32c u32 | type u8 | body``; the length counts type and body, and
the checksum covers the same bytes.  TCP's own checksum misses about one error in 65,536
(Stone and Partridge, SIGCOMM 2000), which is too often for a log that is replicated for years.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

import google_crc32c

from kvnode.pieces import add_piece

__all__ = [
    "ANSWER_HEAD",
    "CALL_HEAD",
    "FRAME_HEAD_BYTES",
    "FRAME_LIMIT_BYTES",
    "PING",
    "FrameError",
    "FrameReader",
    "FrameType",
    "frame",
    "frame_parts",
    "request_frame",
]

_HEAD = struct.Struct(">IIB")
_LENGTH = struct.Struct(">I")
#: Before the body of a REQUEST: call ID, length of the method's name; the name follows.
CALL_HEAD = struct.Struct(">QH")
#: Before the body of a RESPONSE: call ID, status code.
ANSWER_HEAD = struct.Struct(">QB")

#: What a frame has before its body: the head and the type.
FRAME_HEAD_BYTES = _HEAD.size

#: The method that every member answers at once, with nothing.
PING = "ping"

#: A frame above this is a broken or hostile peer: the largest honest one is an AppendEntries
#: with one entry of the largest request batch.
FRAME_LIMIT_BYTES = 256 * 2**20


class FrameType(IntEnum):
    """What a frame's body holds."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    MESSAGE = 4
    REQUEST = 5
    RESPONSE = 6
    SNAPSHOT_BEGIN = 7
    SNAPSHOT_CHUNK = 8
    SNAPSHOT_END = 9
    SNAPSHOT_DONE = 10


_KINDS = {int(kind): kind for kind in FrameType}
#: Of each type's byte, for a checksum to go on from.
_TYPE_CRCS = [google_crc32c.value(bytes((number,))) for number in range(256)]
#: From this size on, a body in parts is not joined for its checksum.
_LONG_BYTES = 4096


class FrameError(Exception):
    """The peer sent bytes that are no frame; the connection can't be used further."""


def frame(kind: FrameType, body: bytes) -> bytes:
    """Return one encoded frame."""
    return _HEAD.pack(len(body) + 1, google_crc32c.extend(_TYPE_CRCS[kind], body), kind) + body


def frame_parts(kind: FrameType, parts: list[bytes]) -> list[bytes]:
    """Return what one encoded frame consists of: nothing of a large body is copied."""
    size = sum([len(part) for part in parts])
    if size < _LONG_BYTES:
        return [frame(kind, b"".join(parts))]
    crc = _TYPE_CRCS[kind]
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return [_HEAD.pack(size + 1, crc, kind), *parts]


def request_frame(call_id: int, method: str, payload: bytes) -> bytes:
    """Return the frame that asks a peer for ``method``."""
    name = method.encode()
    return frame(FrameType.REQUEST, CALL_HEAD.pack(call_id, len(name)) + name + payload)


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self, limit_bytes: int = FRAME_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        #: The beginning of a frame's head.
        self._rest = b""
        # A frame whose head has come: its type, its checksum, what there is of its body, and how much is not.
        self._kind = 0
        self._checksum = 0
        self._pieces: list[bytes] = []
        self._missing_bytes = 0

    def feed(self, data: bytes) -> Iterator[tuple[FrameType, bytes]]:
        """Yield the frames that ``data`` completes.

        Raises:
            FrameError: A length beyond the limit, a wrong checksum, or an unknown type.
        """
        position = 0
        if self._missing_bytes:
            position = self._missing_bytes
            if position > len(data):
                self._missing_bytes -= len(data)
                add_piece(self._pieces, data)
                return
            self._pieces.append(data[:position])
            body = b"".join(self._pieces)
            self._pieces = []
            self._missing_bytes = 0
            yield _checked(self._kind, self._checksum, body)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        size = len(data)
        while size - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, position)
            if length < 1 or length > self._limit_bytes:
                raise FrameError(f"frame length {length} is outside 1..{self._limit_bytes}")
            if size - position < FRAME_HEAD_BYTES:
                break
            _, checksum, kind = _HEAD.unpack_from(data, position)
            start = position + FRAME_HEAD_BYTES
            position = start + length - 1
            if position > size:
                self._kind = kind
                self._checksum = checksum
                self._pieces = [data[start:]]
                self._missing_bytes = position - size
                return
            yield _checked(kind, checksum, data[start:position])
        if position < size:
            self._rest = data[position:]


def _checked(number: int, checksum: int, body: bytes) -> tuple[FrameType, bytes]:
    if google_crc32c.extend(_TYPE_CRCS[number], body) != checksum:
        raise FrameError("frame checksum does not match")
    kind = _KINDS.get(number)
    if kind is None:
        raise FrameError(f"unknown frame type {number}")
    return kind, body
