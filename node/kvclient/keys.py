"""Keys and ranges of keys, and how a range is written on the wire.

The wire has one pair of fields for everything: an empty ``range_end`` means the single
key, a NUL byte means no upper bound, anything else is the exclusive end.
"""

from dataclasses import dataclass

__all__ = ["KeyRange", "Keys", "as_bytes", "everything", "from_key", "key_range", "prefix", "prefix_end"]

_NUL = b"\x00"


@dataclass(frozen=True, slots=True)
class KeyRange:
    """A set of neighbouring keys, in wire form."""

    key: bytes
    range_end: bytes = b""


Keys = str | bytes | KeyRange
"""One key, or a range made by `prefix`, `from_key`, `everything` or `KeyRange`."""


def as_bytes(text: str | bytes) -> bytes:
    """Keys and values are bytes; text is sent as UTF-8, and argv's undecodable bytes survive."""
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def prefix_end(key: bytes) -> bytes:
    """The first key after all that begin with ``key``; NUL (no bound) when there is none."""
    stripped = key.rstrip(b"\xff")
    if not stripped:
        return _NUL
    return stripped[:-1] + bytes([stripped[-1] + 1])


def prefix(key: str | bytes) -> KeyRange:
    """Every key that begins with ``key``; every key at all when it is empty."""
    raw = as_bytes(key)
    return KeyRange(raw, prefix_end(raw)) if raw else everything()


def from_key(key: str | bytes) -> KeyRange:
    """Every key that is not smaller than ``key``, in byte order."""
    return KeyRange(as_bytes(key) or _NUL, _NUL)


def everything() -> KeyRange:
    """Every key."""
    return KeyRange(_NUL, _NUL)


def key_range(keys: Keys) -> KeyRange:
    """``keys`` in wire form."""
    return keys if isinstance(keys, KeyRange) else KeyRange(as_bytes(keys))
