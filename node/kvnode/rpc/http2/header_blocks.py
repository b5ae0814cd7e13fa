"""Compressed header blocks (HPACK, RFC 7541): reading requests, writing answers.

Requests are read with a table of our own, since most blocks of a connection are the same few octets
again, and what they stood for the last time is what they stand for now: whatever leaves the table as it
was is remembered as a whole.  Huffman codes and the static table are the ``hpack`` library's.

Answers need two table entries in all, so that they are written by hand.
"""

from collections import deque
from typing import Final, Generic, TypeVar

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from kvnode.rpc.http2.errors import Http2ConnectionError
from kvnode.rpc.http2.frames import ErrorCode

__all__ = ["DEFAULT_TABLE_BYTES", "AnswerHeaders", "BlockCache", "BlockReader", "Field", "literal"]

#: Name and value.
Field = tuple[bytes, bytes]

ValueT = TypeVar("ValueT")

#: Size of a table before anything is agreed on (RFC 9113 section 6.5.2).
DEFAULT_TABLE_BYTES: Final = 4096
#: What the table counts for an entry beside its octets (RFC 7541 section 4.1).
ENTRY_OVERHEAD_BYTES: Final = 32

_STATIC: Final[tuple[Field, ...]] = HeaderTable.STATIC_TABLE
_STATIC_COUNT: Final = len(_STATIC)
_LARGEST_STATIC_BYTES: Final = max(len(name) + len(value) for name, value in _STATIC)


class BlockReader:
    """The client's half of header compression on one connection."""

    def __init__(self, limit_bytes: int) -> None:
        """``limit_bytes`` is the most that the fields of one block may add up to."""
        self._limit_bytes = limit_bytes
        #: The newest entry first.
        self._table: deque[Field] = deque()
        self._table_bytes = 0
        self._max_table_bytes = DEFAULT_TABLE_BYTES
        #: Size of the largest entry that ever was in it.
        self._largest_bytes = _LARGEST_STATIC_BYTES
        #: Counts what changed the table: blocks read before mean something else now.
        self.changes = 0

    def read(self, block: bytes) -> list[Field]:
        """Return the fields of a block, in order.

        Raises:
            Http2ConnectionError: It can't be read, so that no later one can be either; or it is too large.
        """
        fields: list[Field] = []
        position, end = 0, len(block)
        table = self._table
        try:
            while position < end:
                octet = block[position]
                if octet >= 0x80:
                    index = octet & 0x7F
                    position += 1
                    if index == 0x7F:
                        index, position = _integer(block, position, 0x7F)
                    if index > _STATIC_COUNT:
                        fields.append(table[index - _STATIC_COUNT - 1])
                    elif index:
                        fields.append(_STATIC[index - 1])
                    else:
                        raise _unreadable("a field with index 0")
                elif octet >= 0x40:
                    field, position = self._literal(block, position, 0x3F)
                    self._insert(field)
                    fields.append(field)
                elif octet >= 0x20:
                    if fields:
                        raise _unreadable("a change of the table's size behind a field")
                    position = self._resize(block, position)
                else:
                    field, position = self._literal(block, position, 0x0F)
                    fields.append(field)
        except IndexError as error:
            raise _unreadable("a field that is cut off, or an index without entry") from error
        except HPACKError as error:
            raise _unreadable("a text that is no Huffman code") from error
        # Most need no counting: their fields are entries, or literals of eight octets in five at most.
        if len(fields) * (self._largest_bytes + ENTRY_OVERHEAD_BYTES) + 2 * end > self._limit_bytes:
            size_bytes = sum(len(name) + len(value) + ENTRY_OVERHEAD_BYTES for name, value in fields)
            if size_bytes > self._limit_bytes:
                raise Http2ConnectionError(
                    ErrorCode.ENHANCE_YOUR_CALM, f"a header list larger than {self._limit_bytes} bytes"
                )
        return fields

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[Field, int]:
        index = block[position] & mask
        position += 1
        if index == mask:
            index, position = _integer(block, position, mask)
        if index > _STATIC_COUNT:
            name = self._table[index - _STATIC_COUNT - 1][0]
        elif index:
            name = _STATIC[index - 1][0]
        else:
            name, position = _text(block, position)
        value, position = _text(block, position)
        return (name, value), position

    def _insert(self, field: Field) -> None:
        self.changes += 1
        size_bytes = len(field[0]) + len(field[1]) + ENTRY_OVERHEAD_BYTES
        if self._table_bytes + size_bytes > self._max_table_bytes:
            self._evict(self._max_table_bytes - size_bytes)
        if size_bytes <= self._max_table_bytes:
            self._table.appendleft(field)
            self._table_bytes += size_bytes
            if size_bytes > self._largest_bytes:
                self._largest_bytes = size_bytes

    def _evict(self, target_bytes: int) -> None:
        table = self._table
        while table and self._table_bytes > target_bytes:
            name, value = table.pop()
            self._table_bytes -= len(name) + len(value) + ENTRY_OVERHEAD_BYTES

    def _resize(self, block: bytes, position: int) -> int:
        size_bytes = block[position] & 0x1F
        position += 1
        if size_bytes == 0x1F:
            size_bytes, position = _integer(block, position, 0x1F)
        if size_bytes > DEFAULT_TABLE_BYTES:
            raise _unreadable(f"a table of {size_bytes} bytes, allowed are {DEFAULT_TABLE_BYTES}")
        self.changes += 1
        self._max_table_bytes = size_bytes
        self._evict(size_bytes)
        return position


class BlockCache(Generic[ValueT]):
    """What blocks stood for, until the table changes."""

    #: Blocks that are remembered; a client sends a handful.
    LIMIT_COUNT: Final = 64
    #: A longer block is not remembered.
    LIMIT_BYTES: Final = 512

    def __init__(self) -> None:
        self._changes = 0
        self.values: dict[bytes, ValueT] = {}

    def put(self, block: bytes, value: ValueT, changes_before: int, changes: int) -> None:
        """Remember a block that was just read.

        Args:
            block: as it came.
            value: what it stands for.
            changes_before: ``BlockReader.changes`` before it was read.
            changes: the same afterwards.
        """
        if changes != self._changes:
            self.values.clear()
            self._changes = changes
        if changes == changes_before and len(block) <= self.LIMIT_BYTES:
            if len(self.values) >= self.LIMIT_COUNT:
                self.values.clear()
            self.values[block] = value


def _integer(block: bytes, position: int, value: int) -> tuple[int, int]:
    """Read the rest of an integer whose prefix was full (RFC 7541 section 5.1)."""
    shift = 0
    while True:
        octet = block[position]
        position += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise _unreadable("an integer beyond all bounds")


#: Texts that came lately: paths, tokens, and time limits, which are new entries with each request.
_decoded: dict[bytes, bytes] = {}
_DECODED_LIMIT_COUNT: Final = 4096
_DECODED_LIMIT_BYTES: Final = 128


def _text(block: bytes, position: int) -> tuple[bytes, int]:
    octet = block[position]
    size_bytes = octet & 0x7F
    position += 1
    if size_bytes == 0x7F:
        size_bytes, position = _integer(block, position, 0x7F)
    stop = position + size_bytes
    if stop > len(block):
        raise _unreadable("a text that is cut off")
    text = block[position:stop]
    if octet < 0x80:
        return text, stop
    decoded = _decoded.get(text)
    if decoded is None:
        decoded = decode_huffman(text)
        if size_bytes <= _DECODED_LIMIT_BYTES:
            if len(_decoded) >= _DECODED_LIMIT_COUNT:
                _decoded.clear()
            _decoded[text] = decoded
    return decoded, stop


def _unreadable(reason: str) -> Http2ConnectionError:
    return Http2ConnectionError(ErrorCode.COMPRESSION_ERROR, f"unreadable header block: {reason}")


def literal(name: bytes, value: bytes) -> bytes:
    """Return a field that leaves the table as it is."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(size_bytes: int) -> bytes:
    return _prefixed(0, 0x7F, size_bytes)


def _size_update(table_bytes: int) -> bytes:
    """Return what says how large the table is from now on (RFC 7541 section 6.3)."""
    return _prefixed(0x20, 0x1F, table_bytes)


def _prefixed(pattern: int, mask: int, value: int) -> bytes:
    """Return an integer in the octets that begin with a pattern (RFC 7541 section 5.1)."""
    if value < mask:
        return bytes((pattern | value,))
    octets = bytearray((pattern | mask,))
    rest = value - mask
    while rest >= 0x80:
        octets.append(rest & 0x7F | 0x80)
        rest >>= 7
    octets.append(rest)
    return bytes(octets)


_GRPC: Final = b"application/grpc"
_GRPC_STATUS: Final = b"grpc-status"
#: Status 200, by its index in the static table.
_STATUS_200: Final = b"\x88"
#: Content type, its name by index: once with a new entry in the table, once without.
_NEW_CONTENT_TYPE: Final = b"\x5f" + bytes((len(_GRPC),)) + _GRPC
_PLAIN_CONTENT_TYPE: Final = b"\x0f\x10" + bytes((len(_GRPC),)) + _GRPC
_NEW_OK: Final = b"\x40" + bytes((len(_GRPC_STATUS),)) + _GRPC_STATUS + b"\x010"
_PLAIN_OK: Final = literal(_GRPC_STATUS, b"0")
#: The newest entry of the table, and the one before.
_FIRST: Final = b"\xbe"
_SECOND: Final = b"\xbf"
_TABLE_BYTES: Final = (
    len(b"content-type") + len(_GRPC) + len(_GRPC_STATUS) + len(b"0") + 2 * ENTRY_OVERHEAD_BYTES
)


class AnswerHeaders:
    """This side's half of header compression: ``content-type`` and ``grpc-status`` get an entry each.

    Blocks have to be sent in the order in which they are asked for.
    """

    __slots__ = ("_entries", "_prefix", "_table_bytes", "head", "is_settled", "ok")

    def __init__(self) -> None:
        #: The smallest table that the client has asked for.
        self._table_bytes = DEFAULT_TABLE_BYTES
        self._entries = 0
        #: What has to stand in front of the next block, whatever that is.
        self._prefix = b""
        #: True: ``head`` and ``ok`` are the blocks of every good answer, for as long as this is so.
        self.is_settled = False
        self.head = b""
        self.ok = b""

    def resize(self, table_bytes: int) -> None:
        """The client has said how large a table it keeps."""
        if table_bytes < self._table_bytes:
            # It wants to hear that this side knows (RFC 9113 section 4.3.1).  What is larger is not used.
            self._table_bytes = table_bytes
            self._prefix = _size_update(table_bytes)
            self.is_settled = False
            if table_bytes < _TABLE_BYTES:
                self._entries = 0

    def next_head(self) -> bytes:
        """Return the block of status 200 with gRPC's content type."""
        if self._table_bytes < _TABLE_BYTES:
            block = _STATUS_200 + _PLAIN_CONTENT_TYPE
        elif self._entries == 0:
            self._entries = 1
            block = _STATUS_200 + _NEW_CONTENT_TYPE
        else:
            block = _STATUS_200 + (_FIRST if self._entries == 1 else _SECOND)
        block = self.plain(block)
        self._settle()
        return block

    def next_ok(self) -> bytes:
        """Return the trailers of a call that went well."""
        if self._table_bytes < _TABLE_BYTES or self._entries == 0:
            block = _PLAIN_OK
        elif self._entries == 1:
            self._entries = 2
            block = _NEW_OK
        else:
            block = _FIRST
        block = self.plain(block)
        self._settle()
        return block

    def _settle(self) -> None:
        if self._table_bytes < _TABLE_BYTES:
            self.head, self.ok, self.is_settled = _STATUS_200 + _PLAIN_CONTENT_TYPE, _PLAIN_OK, True
        elif self._entries == 2:
            self.head, self.ok, self.is_settled = _STATUS_200 + _SECOND, _FIRST, True

    def plain(self, block: bytes) -> bytes:
        """Return a block made of literals, with what has to stand in front of it."""
        if not self._prefix:
            return block
        block, self._prefix = self._prefix + block, b""
        return block
