"""HTTP/2 frames (RFC 9113 sections 4, 6 and 7): their names, and the bytes of those that are sent."""

import struct
from typing import Final

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "FRAME_HEAD",
    "FRAME_HEAD_BYTES",
    "GOAWAY",
    "HEADERS",
    "MAX_STREAM_ID",
    "MAX_WINDOW_BYTES",
    "MIN_MAX_FRAME_BYTES",
    "PADDED",
    "PING",
    "PING_OF_GOAWAY",
    "PING_OF_KEEPALIVE",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_FIELDS",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "ErrorCode",
    "Setting",
    "frame",
    "goaway",
    "reset",
    "settings",
    "window_update",
]

#: What a client sends first (RFC 9113 section 3.4).
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

#: Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FIELDS: Final = 0x20

#: What this side's pings carry, by what they are for.
PING_OF_GOAWAY: Final = b"goodbye!"
PING_OF_KEEPALIVE: Final = b"kvalive?"

#: Length in two parts, type, flags, stream.
FRAME_HEAD: Final = struct.Struct(">BHBBL")
FRAME_HEAD_BYTES: Final = 9

MAX_STREAM_ID: Final = 2**31 - 1
MAX_WINDOW_BYTES: Final = 2**31 - 1
#: The frame size that everybody has to take, and all that this side takes.
MIN_MAX_FRAME_BYTES: Final = 16384


class ErrorCode:
    """RFC 9113 section 7."""

    NO_ERROR: Final = 0x0
    PROTOCOL_ERROR: Final = 0x1
    INTERNAL_ERROR: Final = 0x2
    FLOW_CONTROL_ERROR: Final = 0x3
    SETTINGS_TIMEOUT: Final = 0x4
    STREAM_CLOSED: Final = 0x5
    FRAME_SIZE_ERROR: Final = 0x6
    REFUSED_STREAM: Final = 0x7
    CANCEL: Final = 0x8
    COMPRESSION_ERROR: Final = 0x9
    ENHANCE_YOUR_CALM: Final = 0xB


class Setting:
    """RFC 9113 section 6.5.2."""

    HEADER_TABLE_SIZE: Final = 0x1
    ENABLE_PUSH: Final = 0x2
    MAX_CONCURRENT_STREAMS: Final = 0x3
    INITIAL_WINDOW_SIZE: Final = 0x4
    MAX_FRAME_SIZE: Final = 0x5
    MAX_HEADER_LIST_SIZE: Final = 0x6


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return a whole frame."""
    size = len(payload)
    return FRAME_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", name, value) for name, value in values.items()))


def window_update(stream_id: int, size_bytes: int) -> bytes:
    """Return a frame that lets the other side send more."""
    return frame(WINDOW_UPDATE, 0, stream_id, size_bytes.to_bytes(4, "big"))


def reset(stream_id: int, error_code: int) -> bytes:
    """Return a frame that ends a stream at once."""
    return frame(RST_STREAM, 0, stream_id, error_code.to_bytes(4, "big"))


def goaway(last_stream_id: int, error_code: int, reason: bytes = b"") -> bytes:
    """Return a frame that says which streams are still served."""
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last_stream_id, error_code) + reason)
