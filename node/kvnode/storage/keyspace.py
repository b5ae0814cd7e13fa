"""Key layouts of the two databases of a member.

Numbers in keys are 8-byte big-endian, so that bytewise order is numeric order.

The log (written by ``log_store`` only)::

    v            format version
    h            hard state
    b            base: index and term of the last compacted entry
    s            metadata of the snapshot that was installed last (or genesis)
    g            name of the state generation that belongs to this log
    e <index>    entry

State database (contents owned by mvcc, lease and apply)::

    a <member id> <type> alarm
    g <member id>        id of a member that is gone: removed for good
    l <lease id>         lease
    m <name>             meta values: compaction, conf state, ...
    n <name>             user
    o <name>             role
    p <member id>        member
    r <main> <sub> [t]   a revision: serialized KeyValue; the trailing ``t`` marks a tombstone
    r <main> ff          seal of a batch that ended with revision <main>, see ``seal``
"""

import struct
from typing import Final

__all__ = [
    "ALARM_PREFIX",
    "LEASE_PREFIX",
    "LOG_BASE",
    "LOG_ENTRIES_END",
    "LOG_ENTRY_PREFIX",
    "LOG_FORMAT",
    "LOG_GENERATION",
    "LOG_HARD_STATE",
    "LOG_SNAPSHOT",
    "MEMBER_PREFIX",
    "META_PREFIX",
    "REMOVED_PREFIX",
    "REVISION_PREFIX",
    "ROLE_PREFIX",
    "STATE_PREFIXES",
    "USER_PREFIX",
    "alarm_key",
    "id_of_key",
    "is_seal_key",
    "lease_key",
    "log_entry_key",
    "member_key",
    "meta_key",
    "prefix_end",
    "removed_key",
    "revision_key",
    "role_key",
    "seal_key",
    "split_revision_key",
    "split_seal_key",
    "user_key",
]

LOG_FORMAT: Final = b"v"
LOG_HARD_STATE: Final = b"h"
LOG_BASE: Final = b"b"
LOG_SNAPSHOT: Final = b"s"
LOG_GENERATION: Final = b"g"
LOG_ENTRY_PREFIX: Final = b"e"
LOG_ENTRIES_END: Final = b"f"

#: Behind all others.  New revisions come behind all older ones, and no other record behind them: a table of
#: new revisions alone overlaps no other table, and LevelDB never merges it.
REVISION_PREFIX: Final = b"r"
META_PREFIX: Final = b"m"
LEASE_PREFIX: Final = b"l"
MEMBER_PREFIX: Final = b"p"
REMOVED_PREFIX: Final = b"g"
ALARM_PREFIX: Final = b"a"
USER_PREFIX: Final = b"n"
ROLE_PREFIX: Final = b"o"
#: In key order.
STATE_PREFIXES: Final = (
    ALARM_PREFIX,
    REMOVED_PREFIX,
    LEASE_PREFIX,
    META_PREFIX,
    USER_PREFIX,
    ROLE_PREFIX,
    MEMBER_PREFIX,
    REVISION_PREFIX,
)

_TOMBSTONE: Final = b"t"
_ID: Final = struct.Struct(">cQ")
_ALARM: Final = struct.Struct(">cQB")
_REVISION: Final = struct.Struct(">cQQ")
_SEAL: Final = struct.Struct(">cQB")
#: Behind every sub revision: those begin with a zero byte.
_SEAL_MARK: Final = 0xFF
_SEAL_KEY_BYTES: Final = _SEAL.size

_pack_id = _ID.pack
_pack_revision = _REVISION.pack
_pack_seal = _SEAL.pack
_unpack_revision = _REVISION.unpack_from


def log_entry_key(index: int) -> bytes:
    """Return the key of a raft entry."""
    return _pack_id(b"e", index)


def revision_key(main: int, sub: int, is_tombstone: bool = False) -> bytes:
    """Return the key of one change: 17 bytes, 18 for a deletion."""
    key = _pack_revision(b"r", main, sub)
    return key + _TOMBSTONE if is_tombstone else key


def split_revision_key(key: bytes) -> tuple[int, int, bool]:
    """Return main, sub and whether the change is a deletion.

    Raises:
        ValueError: ``key`` is no revision key.
    """
    is_deletion = len(key) == 18 and key.endswith(_TOMBSTONE)
    if len(key) == 17 or is_deletion:
        prefix, main, sub = _unpack_revision(key)
        if prefix == REVISION_PREFIX:
            return main, sub, is_deletion
    raise ValueError(f"not a revision key: {key.hex()}")


def seal_key(main: int) -> bytes:
    """Return the key of the seal of a batch that ended with revision ``main``."""
    return _pack_seal(b"r", main, _SEAL_MARK)


def is_seal_key(key: bytes) -> bool:
    """Whether a key that begins with ``REVISION_PREFIX`` is that of a seal."""
    return len(key) == _SEAL_KEY_BYTES


def split_seal_key(key: bytes) -> int:
    """Return the revision that a batch ended with.

    Raises:
        ValueError: ``key`` is not that of a seal.
    """
    if len(key) == _SEAL_KEY_BYTES:
        prefix, main, mark = _SEAL.unpack(key)
        if prefix == REVISION_PREFIX and mark == _SEAL_MARK:
            return int(main)
    raise ValueError(f"not the key of a seal: {key.hex()}")


def meta_key(name: str) -> bytes:
    """Return the key of a meta value."""
    return META_PREFIX + name.encode("ascii")


def lease_key(lease_id: int) -> bytes:
    """Return the key of a lease; ids are positive 63-bit numbers."""
    return _pack_id(LEASE_PREFIX, lease_id)


def member_key(member_id: int) -> bytes:
    """Return the key of a member's record."""
    return _pack_id(MEMBER_PREFIX, member_id)


def removed_key(member_id: int) -> bytes:
    """Return the key that marks a member id as removed for good."""
    return _pack_id(REMOVED_PREFIX, member_id)


def alarm_key(member_id: int, alarm_type: int) -> bytes:
    """Return the key of an alarm that a member raised."""
    return _ALARM.pack(ALARM_PREFIX, member_id, alarm_type)


def user_key(name: str) -> bytes:
    """Return the key of a user's record."""
    return USER_PREFIX + name.encode()


def role_key(name: str) -> bytes:
    """Return the key of a role's record."""
    return ROLE_PREFIX + name.encode()


def id_of_key(key: bytes) -> int:
    """Return the number in a key made of one prefix byte and a number.

    Raises:
        ValueError: the key has another length.
    """
    if len(key) != _ID.size:
        raise ValueError(f"not a prefix and a number: {key.hex()}")
    return int.from_bytes(key[1:], "big")


def prefix_end(prefix: bytes) -> bytes | None:
    """Return the first key behind all keys that start with ``prefix``; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))
