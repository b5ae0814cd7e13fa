"""Finding who watches a key, without asking every watcher.

Watchers of the same key or range are one *group*.  Groups of single keys are in a dictionary.  Ranges that
are prefixes, which almost all are, are in a dictionary too, and a key looks up its own prefixes of the
lengths that occur.  Other ranges are few; they lie in blocks ordered by start, each with the greatest
end in it, so that a lookup skips the blocks that end too early.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, Generic, Protocol, TypeVar

from kvnode.storage.keyspace import prefix_end

__all__ = ["Group", "Ranged", "WatcherIndex"]

#: The ``range_end`` of a range without upper bound.
FROM_KEY: Final = b"\0"

_BLOCK: Final = 64


class Ranged(Protocol):
    """What a watcher must tell to be found."""

    @property
    def key(self) -> bytes: ...

    @property
    def range_end(self) -> bytes: ...


W = TypeVar("W", bound=Ranged)


class Group(Generic[W]):
    """The watchers of one key or range, in the order they came."""

    __slots__ = ("members", "range_end", "start")

    def __init__(self, start: bytes, range_end: bytes) -> None:
        self.start = start
        self.range_end = range_end
        self.members: dict[W, None] = {}


class WatcherIndex(Generic[W]):
    """A set of watchers that answers which of them a key concerns."""

    __slots__ = ("_by_key", "_by_prefix", "_groups", "_lengths", "_others", "_size")

    def __init__(self) -> None:
        self._groups: dict[tuple[bytes, bytes], Group[W]] = {}
        self._by_key: dict[bytes, Group[W]] = {}
        self._by_prefix: dict[bytes, Group[W]] = {}
        #: Lengths of the prefixes, with how many groups have each.
        self._lengths: dict[int, int] = {}
        self._others: _Blocks[W] = _Blocks()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[W]:
        for group in self._groups.values():
            yield from group.members

    def __contains__(self, watcher: W) -> bool:
        group = self._groups.get((watcher.key, watcher.range_end))
        return group is not None and watcher in group.members

    def add(self, watcher: W) -> None:
        """Add a watcher that is not in the set."""
        bounds = (watcher.key, watcher.range_end)
        group = self._groups.get(bounds)
        if group is None:
            group = self._groups[bounds] = Group(*bounds)
            self._file(group)
        group.members[watcher] = None
        self._size += 1

    def discard(self, watcher: W) -> bool:
        """Take a watcher out; returns whether it was in."""
        bounds = (watcher.key, watcher.range_end)
        group = self._groups.get(bounds)
        if group is None or watcher not in group.members:
            return False
        del group.members[watcher]
        self._size -= 1
        if not group.members:
            del self._groups[bounds]
            self._unfile(group)
        return True

    def clear(self) -> None:
        """Take everybody out."""
        self.__init__()  # type: ignore[misc]

    def matches(self, key: bytes) -> list[Group[W]]:
        """Return the groups that watch ``key``."""
        found: list[Group[W]] = []
        group = self._by_key.get(key)
        if group is not None:
            found.append(group)
        by_prefix = self._by_prefix
        if by_prefix:
            size = len(key)
            for length in self._lengths:
                if length <= size:
                    group = by_prefix.get(key[:length])
                    if group is not None:
                        found.append(group)
        if self._others:
            found.extend(self._others.stab(key))
        return found

    def _file(self, group: Group[W]) -> None:
        start, range_end = group.start, group.range_end
        if not range_end:
            self._by_key[start] = group
        elif _is_prefix(start, range_end):
            self._by_prefix[start] = group
            self._lengths[len(start)] = self._lengths.get(len(start), 0) + 1
        else:
            self._others.add(group)

    def _unfile(self, group: Group[W]) -> None:
        start, range_end = group.start, group.range_end
        if not range_end:
            del self._by_key[start]
        elif _is_prefix(start, range_end):
            del self._by_prefix[start]
            left = self._lengths[len(start)] - 1
            if left:
                self._lengths[len(start)] = left
            else:
                del self._lengths[len(start)]
        else:
            self._others.discard(group)


def _is_prefix(start: bytes, range_end: bytes) -> bool:
    return range_end == prefix_end(start)


class _Block(Generic[W]):
    __slots__ = ("groups", "max_end", "starts")

    def __init__(self, starts: list[bytes], groups: list[Group[W]]) -> None:
        self.starts = starts
        self.groups = groups
        self.max_end: bytes | None = b""
        self.measure()

    def measure(self) -> None:
        """Find the greatest end; None stands for no bound."""
        ends = [group.range_end for group in self.groups]
        self.max_end = None if FROM_KEY in ends else max(ends, default=b"")


class _Blocks(Generic[W]):
    """Ranges in order of start, in blocks of at most ``2 * _BLOCK``."""

    __slots__ = ("_blocks", "_firsts")

    def __init__(self) -> None:
        self._blocks: list[_Block[W]] = []
        #: The first start of each block.
        self._firsts: list[bytes] = []

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, group: Group[W]) -> None:
        if not self._blocks:
            self._blocks.append(_Block([group.start], [group]))
            self._firsts.append(group.start)
            return
        place = max(0, bisect_right(self._firsts, group.start) - 1)
        block = self._blocks[place]
        position = bisect_right(block.starts, group.start)
        block.starts.insert(position, group.start)
        block.groups.insert(position, group)
        block.measure()
        if len(block.starts) > 2 * _BLOCK:
            self._blocks[place : place + 1] = [
                _Block(block.starts[:_BLOCK], block.groups[:_BLOCK]),
                _Block(block.starts[_BLOCK:], block.groups[_BLOCK:]),
            ]
        self._firsts = [each.starts[0] for each in self._blocks]

    def discard(self, group: Group[W]) -> None:
        # Where its start belongs, and before: equal starts may lie in several blocks.
        first = max(0, bisect_left(self._firsts, group.start) - 1)
        for place in range(first, bisect_right(self._firsts, group.start)):
            block = self._blocks[place]
            if group in block.groups:
                position = block.groups.index(group)
                del block.groups[position]
                del block.starts[position]
                block.measure()
                if not block.groups:
                    del self._blocks[place]
                self._firsts = [each.starts[0] for each in self._blocks]
                return

    def stab(self, key: bytes) -> Iterable[Group[W]]:
        """Yield the groups whose range holds ``key``."""
        for block in self._blocks[: bisect_right(self._firsts, key)]:
            if block.max_end is not None and block.max_end <= key:
                continue
            for group in block.groups[: bisect_right(block.starts, key)]:
                if group.range_end == FROM_KEY or key < group.range_end:
                    yield group
