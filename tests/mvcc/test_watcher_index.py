"""Finding watchers by key equals asking each of them."""

from hypothesis import given
from hypothesis import strategies as st
from kvnode.mvcc.watchers import WatcherIndex
from kvnode.storage.keyspace import prefix_end


class _Watcher:
    def __init__(self, key, range_end):
        self.key = key
        self.range_end = range_end


SHORT = st.binary(min_size=1, max_size=3).map(lambda raw: bytes(b"ab\xff\0"[byte % 4] for byte in raw))
RANGES = st.one_of(
    SHORT.map(lambda key: (key, b"")),
    SHORT.map(lambda key: (key, prefix_end(key) or b"\0")),
    SHORT.map(lambda key: (key, b"\0")),
    st.tuples(SHORT, SHORT).filter(lambda bounds: bounds[0] < bounds[1]),
)


def _watches(watcher, key):
    if not watcher.range_end:
        return key == watcher.key
    return watcher.key <= key and (watcher.range_end == b"\0" or key < watcher.range_end)


@given(st.lists(RANGES, max_size=30), st.data())
def test_a_key_finds_exactly_the_watchers_of_its_ranges(ranges, data):
    index = WatcherIndex()
    watchers = [_Watcher(*bounds) for bounds in ranges]
    for watcher in watchers:
        index.add(watcher)
    gone = data.draw(st.sets(st.sampled_from(watchers))) if watchers else set()
    for watcher in gone:
        assert index.discard(watcher)
        assert not index.discard(watcher)
    left = [watcher for watcher in watchers if watcher not in gone]
    assert len(index) == len(left)
    assert set(index) == set(left)
    for key in data.draw(st.lists(SHORT, min_size=1, max_size=10)):
        found = [watcher for group in index.matches(key) for watcher in group.members]
        assert len(found) == len(set(found))
        assert set(found) == {watcher for watcher in left if _watches(watcher, key)}


def test_many_ranges_that_are_no_prefixes_are_found():
    index = WatcherIndex()
    watchers = [_Watcher(b"%04d" % n, b"%04d" % (n + 3)) for n in range(1000)]
    for watcher in reversed(watchers):
        index.add(watcher)
    found = [watcher for group in index.matches(b"0500x") for watcher in group.members]
    assert sorted(watcher.key for watcher in found) == [b"0498", b"0499", b"0500"]
    for watcher in watchers:
        index.discard(watcher)
    assert index.matches(b"0500x") == []
    assert not len(index)


def test_an_emptied_index_finds_nobody():
    index = WatcherIndex()
    index.add(_Watcher(b"a", b""))
    index.clear()
    assert (len(index), index.matches(b"a")) == (0, [])
