"""Which keys exist, in order, and at which revisions each was changed.

A million keys have to fit into a few hundred megabytes, so there is no object per key.  An entry is

- one integer, the packed revision, for a key with a single retained version that is also its first
  (most keys of most stores), or
- a *history*: an array of 64-bit numbers ``[version, create revision, r0, r1, ... rn]`` with the packed
  revisions in order, deletions among them.  Version and create revision are those of ``rn`` and 0 if
  that is a deletion; those of older versions stand in the records.

Python's cycle collector looks at the arrays and at the lists of keys: whoever runs a member keeps old
objects out of its way.  Past 2^38 main revisions an array's numbers overflow and the history becomes a
plain list.

Example: put at 5, put at 7, delete at 9 and again put at 12 make the history
``[1, 12, 5.0, 7.0, 9.0t, 12.0]``.

Keys that live at the current revision are in one sorted list, so counts and pages at the current revision
cost O(log n) plus the page.  Keys that only have a past are in another and matter to reads at old
revisions alone.
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from heapq import merge
from itertools import islice
from typing import Final, TypeAlias

from sortedcontainers import SortedList

from kvnode.mvcc.revision import MAIN_SHIFT, NO_REVISION

__all__ = ["FLIPS_KEPT", "Flip", "KeyIndex"]

History: TypeAlias = MutableSequence[int]

#: A key that appeared or disappeared: (main revision, key, +1 or -1).
Flip: TypeAlias = tuple[int, bytes, int]

#: Where a history's revisions begin.
_FIRST: Final = 2

#: Appearances and disappearances of keys that are remembered, to count at recent revisions without
#: walking the range.  A list that is read in pages pinned to one revision needs the count on each page.
FLIPS_KEPT: Final = 16_384


class KeyIndex:
    """The ordered index; all answers are packed revisions (see ``revision``), 0 for none."""

    __slots__ = ("_dead", "_entries", "_flips", "_flips_complete_since", "_live")

    def __init__(self) -> None:
        self._entries: dict[bytes, int | History] = {}
        self._live: SortedList[bytes] = SortedList()
        self._dead: SortedList[bytes] = SortedList()
        #: Oldest first.
        self._flips: deque[Flip] = deque(maxlen=FLIPS_KEPT)
        #: The flips after this revision were all recorded, though the oldest may have been dropped.
        self._flips_complete_since = 0

    def __len__(self) -> int:
        """The number of live keys."""
        return len(self._live)

    # Changes.

    def put(self, key: bytes, main: int, packed: int) -> tuple[int, int, int]:
        """Record a put; returns (create revision, version, the version it replaces or 0)."""
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = packed
            self._live.add(key)
            self._flips.append((main, key, 1))
            return main, 1, NO_REVISION
        if isinstance(entry, int):
            create_revision = entry >> MAIN_SHIFT
            self._entries[key] = _history([2, create_revision, entry, packed])
            return create_revision, 2, entry
        previous = entry[-1]
        if previous & 1:
            entry[0] = 1
            entry[1] = main
            self._append(key, entry, packed)
            self._dead.remove(key)
            self._live.add(key)
            self._flips.append((main, key, 1))
            return main, 1, NO_REVISION
        version = entry[0] + 1
        entry[0] = version
        create_revision = entry[1]
        self._append(key, entry, packed)
        return create_revision, version, previous

    def delete(self, key: bytes, main: int, packed: int) -> int:
        """Record the deletion of a live key; returns its last version."""
        entry = self._entries[key]
        if isinstance(entry, int):
            previous = entry
            self._entries[key] = _history([0, 0, entry, packed])
        else:
            previous = entry[-1]
            entry[0] = 0
            entry[1] = 0
            self._append(key, entry, packed)
        self._live.remove(key)
        self._dead.add(key)
        self._flips.append((main, key, -1))
        return previous

    # Reads at the current revision.

    def latest(self, key: bytes) -> int:
        """Return the live version of ``key``."""
        entry = self._entries.get(key)
        if entry is None:
            return NO_REVISION
        if isinstance(entry, int):
            return entry
        packed = entry[-1]
        return NO_REVISION if packed & 1 else packed

    def facts(self, key: bytes) -> tuple[int, int, int]:
        """Return (packed revision, create revision, version) of a live key; zeroes if there is none."""
        entry = self._entries.get(key)
        if entry is None:
            return 0, 0, 0
        if isinstance(entry, int):
            return entry, entry >> MAIN_SHIFT, 1
        packed = entry[-1]
        return (0, 0, 0) if packed & 1 else (packed, entry[1], entry[0])

    def keys(self, start: bytes, stop: bytes | None, *, reverse: bool = False) -> Iterator[bytes]:
        """Yield the live keys with ``start <= key < stop``, without bound if stop is None.

        The index must not change meanwhile.
        """
        return self._live.irange(start, stop, inclusive=(True, False), reverse=reverse)

    def count(self, start: bytes, stop: bytes | None) -> int:
        """Return how many live keys there are in the range, in O(log n)."""
        end = len(self._live) if stop is None else self._live.bisect_left(stop)
        return max(0, end - self._live.bisect_left(start))

    # Reads at an older revision that is not compacted.

    def at(self, key: bytes, revision: int) -> int:
        """Return the version of ``key`` that was live at ``revision``."""
        entry = self._entries.get(key)
        if entry is None:
            return NO_REVISION
        bound = (revision + 1) << MAIN_SHIFT
        if isinstance(entry, int):
            return entry if entry < bound else NO_REVISION
        position = bisect_left(entry, bound, _FIRST)
        if position == _FIRST:
            return NO_REVISION
        packed = entry[position - 1]
        return NO_REVISION if packed & 1 else packed

    def key_count(self, start: bytes, stop: bytes | None) -> int:
        """Return how many keys of the range a read at an old revision looks at, in O(log n)."""
        dead = self._dead
        end = len(dead) if stop is None else dead.bisect_left(stop)
        return self.count(start, stop) + max(0, end - dead.bisect_left(start))

    def slice_at(
        self, start: bytes, stop: bytes | None, revision: int, limit: int, *, reverse: bool = False
    ) -> tuple[list[tuple[bytes, int]], bytes | None]:
        """Look at the first ``limit`` keys of the range, whether they were live at ``revision`` or not.

        Returns (key, version) of those that were, and the last key looked at; None behind the end.
        """
        keys = list(islice(self._keys(start, stop, reverse), limit))
        at = self.at
        versions = [(key, packed) for key in keys if (packed := at(key, revision))]
        return versions, keys[-1] if len(keys) == limit else None

    def versions_at(
        self, start: bytes, stop: bytes | None, revision: int, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, int]]:
        """Yield (key, version) for the keys of the range that were live at ``revision``."""
        at = self.at
        for key in self._keys(start, stop, reverse):
            packed = at(key, revision)
            if packed:
                yield key, packed

    def count_at(self, start: bytes, stop: bytes | None, revision: int) -> int:
        """Return how many keys of the range were live at ``revision``.

        Exact at any revision; without walking the range at one since when few keys came and went.
        """
        count = self.known_count_at(start, stop, revision)
        return sum(1 for _ in self.versions_at(start, stop, revision)) if count is None else count

    def known_count_at(self, start: bytes, stop: bytes | None, revision: int) -> int | None:
        """``count_at``, if it can be told without walking the range; else None."""
        flips = self._flips
        is_full = len(flips) == FLIPS_KEPT
        known_since = flips[0][0] if is_full else self._flips_complete_since
        if revision < known_since:
            return None
        count = self.count(start, stop)
        for main, key, step in reversed(flips):
            if main <= revision:
                break
            if start <= key and (stop is None or key < stop):
                count -= step
        return count

    def previous(self, key: bytes, packed: int) -> int:
        """Return the version that the change ``packed`` of ``key`` replaced, if it is retained."""
        entry = self._entries.get(key)
        if entry is None or isinstance(entry, int):
            return NO_REVISION
        position = bisect_left(entry, packed, _FIRST)
        if position == _FIRST:
            return NO_REVISION
        previous = entry[position - 1]
        return NO_REVISION if previous & 1 else previous

    def holds(self, key: bytes, packed: int) -> bool:
        """Whether this change of ``key`` is retained."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        if isinstance(entry, int):
            return entry == packed
        position = bisect_left(entry, packed, _FIRST)
        return position < len(entry) and entry[position] == packed

    # Compaction.

    def prune(self, key: bytes, compact_revision: int) -> list[int]:
        """Forget what reads at ``compact_revision`` and later don't need of ``key``; returns it.

        The last change up to the compact revision stays.  If that is a deletion it stays only when it
        happened exactly there, for a watch that starts there (etcd issue 19179).
        """
        entry = self._entries.get(key)
        if entry is None or isinstance(entry, int):
            return []
        position = bisect_left(entry, (compact_revision + 1) << MAIN_SHIFT, _FIRST)
        if position == _FIRST:
            return []
        last = entry[position - 1]
        kept_from = position if last & 1 and last >> MAIN_SHIFT < compact_revision else position - 1
        dropped = list(entry[_FIRST:kept_from])
        if not dropped:
            return []
        if kept_from == len(entry):
            del self._entries[key]
            self._dead.remove(key)
            return dropped
        if len(entry) - kept_from == 1 and entry[0] == 1 and entry[-1] >> MAIN_SHIFT == entry[1]:
            self._entries[key] = entry[-1]
        else:
            # A new array rather than a deletion inside: that would keep the old one's memory.
            self._entries[key] = _history([entry[0], entry[1], *entry[kept_from:]])
        return dropped

    # Rebuilding.

    @property
    def restore_first(self) -> Callable[[bytes, int], int | History]:
        """Like ``restore``, for a first version: if another number is returned the key was known already.

        The dictionary's own method: called a million times at start.  To be compared by ``==``: compiled
        code makes a number anew where it hands it on.
        """
        return self._entries.setdefault

    def restore(self, key: bytes, packed: int, create_revision: int, version: int) -> None:
        """Take the next record in order of revision; ``restored`` must follow the last one."""
        entry = self._entries.get(key)
        if packed & 1:
            create_revision = version = 0
        if entry is None:
            is_plain = version == 1 and packed >> MAIN_SHIFT == create_revision
            self._entries[key] = packed if is_plain else _history([version, create_revision, packed])
        elif isinstance(entry, int):
            self._entries[key] = _history([version, create_revision, entry, packed])
        else:
            entry[0] = version
            entry[1] = create_revision
            self._append(key, entry, packed)

    def restored(self, flips: Iterable[Flip], flips_complete_since: int) -> None:
        """All records were taken: put the keys in order, at once rather than one by one.

        Args:
            flips: the last appearances and disappearances of keys, oldest first.
            flips_complete_since: all that happened after this revision are among them.
        """
        live: list[bytes] = []
        dead: list[bytes] = []
        for key, entry in self._entries.items():
            if isinstance(entry, int) or not entry[-1] & 1:
                live.append(key)
            else:
                dead.append(key)
        self._live = SortedList(live)
        self._dead = SortedList(dead)
        self._flips.clear()
        self._flips.extend(flips)
        self._flips_complete_since = flips_complete_since

    def _keys(self, start: bytes, stop: bytes | None, reverse: bool) -> Iterator[bytes]:
        """Yield all keys of the range, also those that only have a past."""
        keys = self._live.irange(start, stop, inclusive=(True, False), reverse=reverse)
        if not self._dead:
            return keys
        dead = self._dead.irange(start, stop, inclusive=(True, False), reverse=reverse)
        return merge(keys, dead, reverse=reverse)

    def _append(self, key: bytes, entry: History, packed: int) -> None:
        try:
            entry.append(packed)
        except OverflowError:
            self._entries[key] = [*entry, packed]


def _history(numbers: list[int]) -> History:
    try:
        return array("Q", numbers)
    except OverflowError:
        return numbers
