"""Range against the store, at the current or an older revision.

An answer is put together from the stored records' own bytes; only what must look inside a record (sorting
by value, filtering by creation at an old revision) parses it.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from kvnode.apply.ranges import stop_of
from kvnode.mvcc.key_index import KeyIndex
from kvnode.mvcc.records import encode_record, parse_record, varint
from kvnode.mvcc.revision import MAIN_SHIFT
from kvnode.mvcc.store import Store
from kvnode.pb.rpc_pb2 import RangeRequest, RangeResponse

__all__ = [
    "KeyVersion",
    "RangeSlice",
    "count_range",
    "encode_pair",
    "encode_range",
    "encode_slice",
    "execute_range",
    "has_filter",
    "is_by_key",
    "sorted_rows",
]

_NONE: Final = RangeRequest.SortOrder.NONE
_DESCEND: Final = RangeRequest.SortOrder.DESCEND
_BY_KEY: Final = RangeRequest.SortTarget.KEY
_BY_VERSION: Final = RangeRequest.SortTarget.VERSION
_BY_CREATE: Final = RangeRequest.SortTarget.CREATE
_BY_MOD: Final = RangeRequest.SortTarget.MOD

#: A key and its packed revision.
KeyVersion: TypeAlias = tuple[bytes, int]


class _Found(NamedTuple):
    versions: list[KeyVersion]
    total: int
    has_more: bool


def execute_range(store: Store, request: RangeRequest) -> RangeResponse:
    """Return the answer to a checked range; its header holds the store's revision.

    Raises:
        FutureRevisionError, CompactedError: the asked revision can't be read.
    """
    response = RangeResponse.FromString(encode_range(store, request))
    response.header.revision = store.read_revision
    return response


def encode_range(store: Store, request: RangeRequest) -> bytes:
    """Return the serialized answer to a checked range, without its header.

    A serialized message with nothing but the header, put in front, completes it.  Raises as
    ``execute_range``.
    """
    operations = store.operations
    operations.ranges += 1
    begun_s = operations.clock()
    try:
        encoded = _encode_range(store, request)
    except Exception:
        operations.range_failed_s.observe(operations.clock() - begun_s)
        raise
    operations.range_s.observe(operations.clock() - begun_s)
    return encoded


def _encode_range(store: Store, request: RangeRequest) -> bytes:
    revision = request.revision
    is_latest = True
    if revision > 0:
        store.check_revision(revision)
        is_latest = revision == store.read_revision
    found = _find(store, request, None if is_latest else revision)
    parts: list[bytes] = []
    if not found.versions:
        pass
    elif request.keys_only:
        parts = [encode_pair(store, key, packed, True) for key, packed in found.versions]
    elif len(found.versions) == 1:
        record = store.record(found.versions[0][1])
        parts += (b"\x12", varint(len(record)), record)
    else:
        read = store.scanned_record
        for _, packed in found.versions:
            record = read(packed)
            parts += (b"\x12", varint(len(record)), record)
    if found.has_more:
        parts.append(b"\x18\x01")
    if found.total:
        parts += (b"\x20", varint(found.total))
    return b"".join(parts)


class RangeSlice(NamedTuple):
    """Some of a range's pairs, in order of key."""

    #: The ``kvs`` field of a serialized RangeResponse.
    encoded: bytes
    size: int
    last_key: bytes
    #: Whether more keys of the range follow.
    has_more: bool


def count_range(store: Store, key: bytes, range_end: bytes, revision: int) -> int:
    """Return how many keys of a range live at a readable ``revision``.  Raises as ``execute_range``."""
    store.check_revision(revision)
    index = store.index
    if not range_end:
        return 1 if index.at(key, revision) else 0
    stop = stop_of(range_end)
    if stop is not None and stop <= key:
        return 0
    if revision == store.current_revision:
        return index.count(key, stop)
    return index.count_at(key, stop, revision)


def encode_slice(
    store: Store,
    start: bytes,
    range_end: bytes,
    revision: int,
    *,
    limit: int,
    limit_bytes: int,
    keys_only: bool = False,
) -> RangeSlice:
    """Return the first pairs of a range at ``revision``, without counting what follows.

    Args:
        store: what is read.
        start: first key; with ``range_end`` as in a request.
        range_end: as in a request.
        revision: of all pairs.
        limit: pairs at most, above 0.
        limit_bytes: no pair is added once the slice has this size.
        keys_only: leave the values out.

    Raises:
        FutureRevisionError, CompactedError: the revision can't be read.
    """
    store.check_revision(revision)
    index = store.index
    is_latest = revision == store.current_revision
    stop = stop_of(range_end)
    versions: Iterable[KeyVersion]
    if not range_end:
        packed = index.at(start, revision)
        versions = ((start, packed),) if packed else ()
    elif stop is not None and stop <= start:
        versions = ()
    elif is_latest:
        versions = _newest(index, index.keys(start, stop))
    else:
        versions = index.versions_at(start, stop, revision)
    parts: list[bytes] = []
    size = size_bytes = 0
    last_key = b""
    for key, packed in versions:
        if size >= limit or size_bytes >= limit_bytes:
            return RangeSlice(b"".join(parts), size, last_key, True)
        pair = encode_pair(store, key, packed, keys_only)
        parts.append(pair)
        size += 1
        size_bytes += len(pair)
        last_key = key
    return RangeSlice(b"".join(parts), size, last_key, False)


def _newest(index: KeyIndex, keys: Iterable[bytes]) -> Iterator[KeyVersion]:
    # A function, since mypyc makes lists of generator expressions, and only a page may be wanted.
    latest = index.latest
    for key in keys:
        yield key, latest(key)


def _find(store: Store, request: RangeRequest, revision: int | None) -> _Found:
    """Return which versions the answer holds; ``revision`` None is the current one."""
    index = store.index
    start, range_end = request.key, request.range_end
    if not range_end:
        packed = index.latest(start) if revision is None else index.at(start, revision)
        versions: Iterable[KeyVersion] = [(start, packed)] if packed else []
        count = 1 if packed else 0
        if request.count_only or not packed:
            return _Found([], count, False)
        if not has_filter(request):
            return _Found([(start, packed)], count, False)
        stop: bytes | None = None
    else:
        stop = stop_of(range_end)
        if stop is not None and stop <= start:
            return _Found([], 0, False)
        count = index.count(start, stop) if revision is None else index.count_at(start, stop, revision)
        if request.count_only or not count:
            return _Found([], count, False)
        is_reversed = is_by_key(request) and request.sort_order == _DESCEND
        if revision is None:
            versions = _newest(index, index.keys(start, stop, reverse=is_reversed))
        else:
            versions = index.versions_at(start, stop, revision, reverse=is_reversed)
    limit = request.limit
    if range_end and is_by_key(request):
        if limit > 0:
            return _Found(list(islice(versions, limit)), count, count > limit)
        return _Found(list(versions), count, False)
    if limit > 0 and request.sort_order == _NONE and not has_filter(request):
        # As in etcd: without an order the limit comes first, and what it left is sorted.
        versions = islice(versions, limit + 1)
    chosen = [(key, packed) for _, key, packed in sorted_rows(store, request, versions)]
    if 0 < limit < len(chosen):
        return _Found(chosen[:limit], count, True)
    return _Found(chosen, count, False)


def is_by_key(request: RangeRequest) -> bool:
    """Whether the answer is all keys of the range, in their own order or its reverse."""
    return request.sort_target == _BY_KEY and not has_filter(request)


def has_filter(request: RangeRequest) -> bool:
    """Whether a revision is asked for that not all pairs have."""
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def sorted_rows(
    store: Store, request: RangeRequest, versions: Iterable[KeyVersion]
) -> list[tuple[bytes | int, bytes, int]]:
    """Apply the filters, then the sort; equal ones stay in key order.

    Returns what is sorted by, the key, and the packed revision.
    """
    min_mod, max_mod = request.min_mod_revision, request.max_mod_revision
    min_create, max_create = request.min_create_revision, request.max_create_revision
    target = request.sort_target
    needs_facts = min_create or max_create or target in (_BY_VERSION, _BY_CREATE)
    rows: list[tuple[bytes | int, bytes, int]] = []
    for key, packed in versions:
        mod = packed >> MAIN_SHIFT
        if (max_mod and mod > max_mod) or (min_mod and mod < min_mod):
            continue
        create = version = 0
        if needs_facts:
            create, version = _facts(store, key, packed)
            if (max_create and create > max_create) or (min_create and create < min_create):
                continue
        if target == _BY_KEY:
            sort_by: bytes | int = key
        elif target == _BY_VERSION:
            sort_by = version
        elif target == _BY_CREATE:
            sort_by = create
        elif target == _BY_MOD:
            sort_by = mod
        else:
            sort_by = parse_record(store.scanned_record(packed)).value
        rows.append((sort_by, key, packed))
    # Order NONE of a target other than the key means ascending, and keys are ascending already.
    if target != _BY_KEY or request.sort_order == _DESCEND:
        rows.sort(key=itemgetter(0), reverse=request.sort_order == _DESCEND)
    return rows


def encode_pair(store: Store, key: bytes, packed: int, keys_only: bool) -> bytes:
    """Return one element of the ``kvs`` field of a serialized RangeResponse."""
    record = _without_value(store, key, packed) if keys_only else store.scanned_record(packed)
    return b"".join((b"\x12", varint(len(record)), record))


def _facts(store: Store, key: bytes, packed: int) -> tuple[int, int]:
    """Return create revision and version of a change."""
    latest, create_revision, version = store.index.facts(key)
    if latest == packed:
        return create_revision, version
    message = parse_record(store.scanned_record(packed))
    return message.create_revision, message.version


def _without_value(store: Store, key: bytes, packed: int) -> bytes:
    """Return the record without its value; from memory alone if it is the latest of its key."""
    latest, create_revision, version = store.index.facts(key)
    if latest == packed:
        return encode_record(
            key, create_revision, packed >> MAIN_SHIFT, version, b"", store.leases.get(key, 0)
        )
    message = parse_record(store.scanned_record(packed))
    message.ClearField("value")
    return message.SerializeToString()
