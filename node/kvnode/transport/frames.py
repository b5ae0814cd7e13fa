"""The frame layer of the peer protocol, without IO.

A frame is ``length u32 | crc32 u32 | type u8 | body``; the length counts type and body, and
the checksum covers the same bytes.  TCP's own checksum misses about one error in 65,536
(Stone and Partridge, SIGCOMM 2000), which is too often for a log that is replicated for years.
"""

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum

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
    "request_frame",
]

_HEAD = struct.Struct(">II")
#: Before the body of a REQUEST: call ID, length of the method's name; the name follows.
CALL_HEAD = struct.Struct(">QH")
#: Before the body of a RESPONSE: call ID, status code.
ANSWER_HEAD = struct.Struct(">QB")

#: What a frame has before its body: the head and the type.
FRAME_HEAD_BYTES = _HEAD.size + 1

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


class FrameError(Exception):
    """The peer sent bytes that are no frame; the connection can't be used further."""


def frame(kind: FrameType, body: bytes) -> bytes:
    """Return one encoded frame."""
    payload = bytes((kind,)) + body
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def request_frame(call_id: int, method: str, payload: bytes) -> bytes:
    """Return the frame that asks a peer for ``method``."""
    name = method.encode()
    return frame(FrameType.REQUEST, CALL_HEAD.pack(call_id, len(name)) + name + payload)


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self, limit_bytes: int = FRAME_LIMIT_BYTES) -> None:
        self._buffer = bytearray()
        self._limit_bytes = limit_bytes

    def feed(self, data: bytes) -> Iterator[tuple[FrameType, bytes]]:
        """Yield the frames that ``data`` completes.

        Raises:
            FrameError: A length beyond the limit, a wrong checksum, or an unknown type.
        """
        buffer = self._buffer
        buffer += data
        position, size = 0, len(buffer)
        try:
            while size - position >= 8:
                length, checksum = _HEAD.unpack_from(buffer, position)
                if length < 1 or length > self._limit_bytes:
                    raise FrameError(f"frame length {length} is outside 1..{self._limit_bytes}")
                end = position + 8 + length
                if end > size:
                    break
                payload = bytes(memoryview(buffer)[position + 8 : end])
                if zlib.crc32(payload) != checksum:
                    raise FrameError("frame checksum does not match")
                kind = _KINDS.get(payload[0])
                if kind is None:
                    raise FrameError(f"unknown frame type {payload[0]}")
                position = end
                yield kind, payload[1:]
        finally:
            if position:
                del buffer[:position]
