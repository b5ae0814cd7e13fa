"""A range that takes long, read in slices at one revision, so that writes go on in between.

Nothing is held between slices that a write could change: the versions of a revision stay as they are until
they are compacted.
"""

from collections.abc import Iterator
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Final

from kvnode.apply.range_read import (
    KeyVersion,
    encode_pair,
    has_filter,
    is_by_key,
    sorted_rows,
)
from kvnode.apply.ranges import stop_of
from kvnode.mvcc.records import varint
from kvnode.mvcc.store import Store
from kvnode.pb.rpc_pb2 import RangeRequest

__all__ = ["LongRange", "is_long"]

#: A range of more pairs, or of about more bytes, is read in slices.
LONG_PAIRS: Final = 1000
LONG_BYTES: Final = 4 * 2**20

#: A slice looks at so many keys, or reads so many records or bytes: a few milliseconds.
SLICE_KEYS: Final = 2000
SLICE_PAIRS: Final = 1000
SLICE_BYTES: Final = 512 * 1024


def is_long(store: Store, request: RangeRequest) -> bool:
    """Whether the answer should be read in slices; the request was checked."""
    range_end = request.range_end
    if not range_end:
        return False
    index = store.index
    limit, revision = request.limit, request.revision
    is_latest = revision <= 0 or revision == store.current_revision
    if is_latest and request.count_only:
        return False
    start, stop = request.key, stop_of(range_end)
    if (
        0 < limit <= LONG_PAIRS
        and is_by_key(request)
        and (is_latest or index.known_count_at(start, stop, revision) is not None)
    ):
        pairs = limit
    elif is_latest:
        pairs = index.count(start, stop)
    else:
        pairs = index.key_count(start, stop)
    if pairs > LONG_PAIRS:
        return True
    return not request.keys_only and pairs * store.mean_record_bytes > LONG_BYTES


class LongRange:
    """One answer in the making.

    Args:
        store: as it is now; the answer is of this moment, or of the request's revision.
        request: a checked one.

    Raises:
        FutureRevisionError, CompactedError: the asked revision can't be read.
    """

    def __init__(self, store: Store, request: RangeRequest) -> None:
        current = store.current_revision
        self.revision = request.revision if request.revision > 0 else current
        store.check_revision(self.revision)
        #: What the answer's header says.
        self.header_revision = current
        self._request = request
        self._start, self._stop = request.key, stop_of(request.range_end)
        self._limit = request.limit
        self._is_plain = is_by_key(request)
        self._is_reversed = request.sort_order == RangeRequest.DESCEND
        if self.revision == current:
            self._count: int | None = store.index.count(self._start, self._stop)
        else:
            self._count = store.index.known_count_at(self._start, self._stop, self.revision)
        #: Without an order the limit comes first, and what it left is sorted: as in a short range.
        self._sorts_limited = (
            not self._is_plain
            and self._limit > 0
            and request.sort_order == RangeRequest.NONE
            and not has_filter(request)
        )
        self._is_walking = self._stop is None or self._start < self._stop
        #: Keys found live.
        self._found = 0
        #: What waits to be read, and how much was taken from it.
        self._pending: Iterator[KeyVersion] = iter(())
        self._chosen = 0
        self._has_more = False
        #: Sorted runs, for an order other than that of the keys.
        self._runs: list[list[tuple[bytes | int, bytes, int]]] = []
        self._parts: list[bytes] = []
        #: Of the answer so far.
        self.size_bytes = 0

    def step(self, store: Store) -> bool:
        """Read a slice; returns whether that was the last one.

        Args:
            store: as it is now.

        Raises:
            CompactedError: the revision was compacted meanwhile.
        """
        store.check_revision(self.revision)
        if self._read_slice(store):
            return False
        if self._is_walking:
            self._walk_slice(store)
            return False
        return True

    def encoded(self, header: bytes) -> bytes:
        """Return the serialized answer, once all is read.

        Args:
            header: a serialized message with nothing but the header.
        """
        parts = [header, *self._parts]
        if self._has_more:
            parts.append(b"\x18\x01")
        count = self._found if self._count is None else self._count
        if count:
            parts += (b"\x20", varint(count))
        return b"".join(parts)

    def _walk_slice(self, store: Store) -> None:
        versions, last = store.index.slice_at(
            self._start, self._stop, self.revision, SLICE_KEYS, reverse=self._is_plain and self._is_reversed
        )
        if last is None:
            self._is_walking = False
        elif self._is_plain and self._is_reversed:
            self._stop = last
        else:
            self._start = last + b"\0"
        self._found += len(versions)
        if self._request.count_only:
            return
        if self._is_plain:
            self._take_plain(versions)
            return
        if self._sorts_limited:
            # One more than the limit, to tell that there are more.
            surplus = self._found - self._limit - 1
            if surplus >= 0:
                del versions[len(versions) - min(surplus, len(versions)) :]
                self._is_walking = self._count is None and self._is_walking
        self._runs.append(sorted_rows(store, self._request, versions))
        if not self._is_walking:
            self._take_sorted()

    def _take_plain(self, versions: list[KeyVersion]) -> None:
        if self._limit > 0:
            room = self._limit - self._chosen
            if len(versions) > room:
                self._has_more = True
                del versions[room:]
                # Nothing is left to do but to count, if need be.
                self._is_walking = self._count is None and self._is_walking
        self._chosen += len(versions)
        self._pending = iter(versions)

    def _take_sorted(self) -> None:
        size = sum(len(run) for run in self._runs)
        rows: Iterator[tuple[bytes | int, bytes, int]] = merge(
            *self._runs, key=itemgetter(0), reverse=self._is_reversed
        )
        if 0 < self._limit < size:
            self._has_more = True
            rows = islice(rows, self._limit)
        self._pending = ((key, packed) for _, key, packed in rows)

    def _read_slice(self, store: Store) -> bool:
        """Read some of what waits; returns whether there was any."""
        keys_only = self._request.keys_only
        pairs: list[bytes] = []
        size_bytes = 0
        for key, packed in islice(self._pending, SLICE_PAIRS):
            pair = encode_pair(store, key, packed, keys_only)
            pairs.append(pair)
            size_bytes += len(pair)
            if size_bytes >= SLICE_BYTES:
                break
        if not pairs:
            return False
        # So that the end has few parts left to put together, and to free.
        self._parts.append(b"".join(pairs))
        self.size_bytes += size_bytes
        return True
