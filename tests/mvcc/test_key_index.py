"""The index of keys against plain dictionaries of what happened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvnode.mvcc import key_index
from kvnode.mvcc.key_index import KeyIndex
from kvnode.mvcc.revision import pack

#: One change per revision: a key, and whether it is put.
HISTORIES = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.sampled_from([True, True, False])), max_size=40
)
RANGES = st.tuples(st.sampled_from([b"\0", b"a", b"b", b"bb"]), st.sampled_from([None, b"b", b"c", b"z"]))


def _replay(history):
    """Return an index and the live keys (key -> packed revision) at every revision."""
    index = KeyIndex()
    states = {1: {}}
    changes = {}
    revision = 1
    for key, is_put in history:
        live = dict(states[revision])
        if not is_put and key not in live:
            continue
        revision += 1
        packed = pack(revision, 0, not is_put)
        if is_put:
            index.put(key, revision, packed)
            live[key] = packed
        else:
            index.delete(key, revision, packed)
            del live[key]
        changes[revision] = (key, packed)
        states[revision] = live
    return index, states, changes


def _inside(live, start, stop):
    return sorted((k, p) for k, p in live.items() if k >= start and (stop is None or k < stop))


@given(HISTORIES, RANGES)
def test_every_revision_reads_as_it_was(history, bounds):
    index, states, _ = _replay(history)
    for revision, live in states.items():
        expected = _inside(live, *bounds)
        assert list(index.versions_at(*bounds, revision)) == expected
        assert list(index.versions_at(*bounds, revision, reverse=True)) == expected[::-1]
        assert index.count_at(*bounds, revision) == len(expected)
    newest = _inside(states[max(states)], *bounds)
    assert [(key, index.latest(key)) for key in index.keys(*bounds)] == newest
    assert index.count(*bounds) == len(newest)


@given(HISTORIES, RANGES)
def test_counts_are_exact_when_few_flips_are_remembered(history, bounds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "FLIPS_KEPT", 3)
        index, states, _ = _replay(history)
        for revision, live in states.items():
            assert index.count_at(*bounds, revision) == len(_inside(live, *bounds))


@given(HISTORIES, st.integers(1, 40), st.integers(1, 40))
def test_pruning_leaves_every_later_revision_as_it_was(history, first, second):
    index, states, changes = _replay(history)
    current = max(states)
    retained = {packed for _, packed in changes.values()}
    for compact_revision in sorted({min(first, current), min(second, current)}):
        for key in (b"a", b"b", b"c", b"d"):
            retained -= set(index.prune(key, compact_revision))
        for revision in range(compact_revision, current + 1):
            expected = sorted(states[revision].items())
            assert list(index.versions_at(b"\0", None, revision)) == expected
        # What stays: everything later, the live versions, and deletions exactly there.
        assert retained == {
            packed
            for revision, (_, packed) in changes.items()
            if revision >= compact_revision or packed in states[compact_revision].values()
        }
        assert all(index.holds(key, packed) == (packed in retained) for key, packed in changes.values())


@given(HISTORIES)
def test_an_index_rebuilt_from_the_records_is_the_same(history):
    index, states, changes = _replay(history)
    rebuilt = KeyIndex()
    facts = {}
    for revision, (key, packed) in changes.items():
        if packed & 1:
            facts.pop(key)
            rebuilt.restore(key, packed, 0, 0)
        else:
            create, version = facts.get(key, (revision, 0))
            facts[key] = (create, version + 1)
            rebuilt.restore(key, packed, create, version + 1)
    rebuilt.restored((), max(states))
    for key in (b"a", b"b", b"c", b"d"):
        assert rebuilt.facts(key) == index.facts(key)
        for revision in states:
            assert rebuilt.at(key, revision) == index.at(key, revision)
    assert list(rebuilt.keys(b"\0", None)) == list(index.keys(b"\0", None))


@given(HISTORIES)
def test_facts_count_puts_since_the_last_deletion(history):
    index, _, changes = _replay(history)
    expected = {}
    for revision, (key, packed) in changes.items():
        if packed & 1:
            del expected[key]
        else:
            _, create, version = expected.get(key, (0, revision, 0))
            expected[key] = (packed, create, version + 1)
    assert {key: index.facts(key) for key in (b"a", b"b", b"c", b"d")} == {
        key: expected.get(key, (0, 0, 0)) for key in (b"a", b"b", b"c", b"d")
    }


def test_a_change_knows_the_version_it_replaced():
    index = KeyIndex()
    index.put(b"k", 2, pack(2, 0))
    index.put(b"k", 3, pack(3, 0))
    index.delete(b"k", 4, pack(4, 0, True))
    index.put(b"k", 5, pack(5, 0))
    assert [index.previous(b"k", p) for p in (pack(2, 0), pack(3, 0), pack(4, 0, True), pack(5, 0))] == [
        0,
        pack(2, 0),
        pack(3, 0),
        0,
    ]


def test_revisions_beyond_64_bits_still_work():
    index = KeyIndex()
    huge = 2**50
    index.put(b"k", 2, pack(2, 0))
    index.put(b"k", 3, pack(3, 0))
    index.put(b"k", huge, pack(huge, 0))
    index.put(b"k", huge + 1, pack(huge + 1, 0))
    index.put(b"n", huge + 2, pack(huge + 2, 0))
    index.put(b"n", huge + 3, pack(huge + 3, 0))
    assert index.at(b"k", 3) == pack(3, 0)
    assert index.at(b"k", huge) == pack(huge, 0)
    assert index.facts(b"n") == (pack(huge + 3, 0), huge + 2, 2)
    assert index.prune(b"k", huge) == [pack(2, 0), pack(3, 0)]
    assert index.facts(b"k") == (pack(huge + 1, 0), 2, 4)
