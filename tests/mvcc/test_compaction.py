"""Compaction gives space up in slices, can be cut short anywhere, and never shows."""

import pytest
from kvnode.apply.reads import execute_range
from kvnode.mvcc.errors import CompactedError, FutureRevisionError
from kvnode.mvcc.hashing import RevisionHash
from kvnode.mvcc.revision import parse_key
from kvnode.pb import rpc_pb2 as rpc
from kvnode.storage.errors import StorageCorruptError
from kvtest.state_machine import StateMachine


def _machine(puts):
    machine = StateMachine()
    for key in puts:
        if key.startswith("-"):
            machine.delete(key[1:].encode())
        else:
            machine.put(key.encode())
    return machine


def _revisions(machine):
    """The main revisions whose records are stored."""
    return [parse_key(key) >> 26 for key in machine.revisions()]


def _range(machine, revision=0):
    return execute_range(
        machine.applier.store, rpc.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)
    )


def test_the_newest_version_up_to_the_compact_revision_stays():
    machine = _machine(["a", "b", "a", "a", "b"])
    machine.compact(5)
    assert _revisions(machine) == [3, 5, 6]
    assert machine.applier.store.compacted_revision == 5


def test_a_deletion_stays_only_exactly_at_the_compact_revision():
    machine = _machine(["a", "-a", "b"])
    machine.compact(3)
    assert _revisions(machine) == [3, 4]
    machine.compact(4)
    assert _revisions(machine) == [4]


def test_a_deletion_kept_at_the_compact_revision_goes_after_a_restart_too():
    machine = _machine(["a", "-a", "b"])
    machine.compact(3)
    machine.reopen()
    machine.compact(4)
    assert _revisions(machine) == [4]


def test_reading_at_the_compact_revision_is_fine_and_below_it_is_not():
    machine = _machine(["a", "a", "a"])
    before = _range(machine, 3)
    machine.compact(3, finish=False)
    assert _range(machine, 3) == before
    with pytest.raises(CompactedError, match="required revision has been compacted"):
        _range(machine, 2)


@pytest.mark.parametrize("revision", [-1, 2, 3])
def test_compacting_again_at_or_below_is_refused(revision):
    machine = _machine(["a", "a", "a"])
    machine.compact(3)
    with pytest.raises(CompactedError):
        machine.compact(revision)


def test_compacting_the_future_is_refused_and_the_present_is_not():
    machine = _machine(["a"])
    with pytest.raises(FutureRevisionError):
        machine.compact(3)
    machine.compact(2)


def test_a_walk_in_small_steps_deletes_what_one_step_deletes():
    keys = ["a", "b", "a", "-a", "c", "b", "a", "c", "-b", "a"]
    whole, sliced = _machine(keys), _machine(keys)
    whole.compact(10, finish=False)
    while whole.applier.store.compact_step(1000):
        pass
    sliced.compact(10, finish=False)
    while sliced.applier.store.compact_step(1):
        pass
    assert whole.dump() == sliced.dump()


@pytest.mark.parametrize("steps", range(12))
def test_a_walk_cut_short_by_a_restart_is_completed(steps):
    keys = ["a", "b", "a", "-a", "c", "b", "a", "c", "-b", "a"]
    whole, cut = _machine(keys), _machine(keys)
    whole.compact(10)
    cut.compact(10, finish=False)
    for _ in range(steps):
        cut.applier.store.compact_step(1)
    cut.reopen()
    while cut.applier.store.compact_step(2):
        pass
    assert cut.dump() == whole.dump()
    assert cut.applier.store.is_compacting is False


def test_a_second_compaction_while_the_first_is_under_way_deletes_all():
    keys = ["a", "b", "a", "-a", "c", "b", "a", "c", "-b", "a"]
    whole, raised = _machine(keys), _machine(keys)
    whole.compact(10)
    raised.compact(6, finish=False)
    raised.applier.store.compact_step(2)
    raised.compact(10)
    assert raised.revisions().keys() == whole.revisions().keys()


def test_a_second_compaction_finds_the_deletions_that_the_first_one_kept():
    whole, raised = StateMachine(), StateMachine()
    for machine in (whole, raised):
        machine.put(b"a")
        machine.put(b"b")
        machine.delete(b"a", b"z")
        machine.put(b"c")
    whole.compact(5)
    raised.compact(4, finish=False)
    raised.applier.store.compact_step(3)
    raised.compact(5)
    assert _revisions(raised) == _revisions(whole) == [5]


def test_writes_while_a_walk_is_under_way_stay():
    machine = _machine(["a", "a", "a"])
    machine.compact(4, finish=False)
    machine.applier.store.compact_step(1)
    machine.put(b"a")
    machine.delete(b"a")
    while machine.applier.store.compact_step(1):
        pass
    assert _revisions(machine) == [4, 5, 6]


def test_the_retained_bytes_are_those_of_the_records():
    machine = _machine(["a", "b", "a", "-a", "c", "b", "a"])

    def stored():
        return sum(len(key) + len(value) for key, value in machine.revisions().items())

    assert machine.applier.store.retained_bytes == stored()
    machine.compact(7)
    assert machine.applier.store.retained_bytes == stored()
    machine.reopen()
    assert machine.applier.store.retained_bytes == stored()


def test_what_a_compaction_before_a_restart_left_is_deleted_and_counted_once():
    machine = _machine(["a", "b"])
    machine.compact(3)
    machine.reopen()
    machine.put(b"a")
    machine.put(b"b")
    store = machine.applier.store
    machine.compact(5)
    assert store.operations.compacted == 2
    assert _revisions(machine) == [4, 5]
    assert store.retained_bytes == sum(len(key) + len(value) for key, value in machine.revisions().items())


def test_the_hash_is_that_of_etcd_for_the_same_history():
    """The numbers are etcd 3.6.14's for: put a=1, put b=2, put a=3, delete b, compact 3."""
    machine = StateMachine()
    assert machine.hash() == 1084519789
    machine.put(b"a", b"1")
    machine.put(b"b", b"2")
    machine.put(b"a", b"3")
    machine.delete(b"b")
    assert [machine.hash(revision) for revision in (2, 3, 4, 5)] == [
        2587454935,
        1827592406,
        2069675932,
        1125682900,
    ]
    machine.compact(3)
    assert [machine.hash(revision) for revision in (4, 5)] == [1107643163, 1468967122]


def test_the_hash_does_not_depend_on_how_far_deleting_has_come():
    keys = ["a", "b", "a", "-a", "c", "b", "a", "c", "-b", "a"]
    machine = _machine(keys)
    machine.compact(8, finish=False)
    expected = {revision: machine.hash(revision) for revision in range(8, 12)}
    while machine.applier.store.compact_step(1):
        assert {revision: machine.hash(revision) for revision in range(8, 12)} == expected
    assert {revision: machine.hash(revision) for revision in range(8, 12)} == expected
    machine.reopen()
    assert {revision: machine.hash(revision) for revision in range(8, 12)} == expected


def test_the_hash_in_slices_is_the_hash_of_the_moment_it_began():
    machine = _machine(["a", "b", "a", "c"])
    expected = machine.hash()
    sliced = RevisionHash(machine.applier.store)
    assert sliced.step(1)
    machine.put(b"a")
    machine.compact(4)
    while sliced.step(1):
        pass
    assert (sliced.value, sliced.revision, sliced.compact_revision) == (expected, 5, -1)


def test_a_hash_overtaken_by_compaction_fails():
    machine = _machine(["a", "b", "a", "c"])
    sliced = RevisionHash(machine.applier.store, 3)
    sliced.step(1)
    machine.compact(4)
    with pytest.raises(CompactedError):
        sliced.step(1)


@pytest.mark.parametrize(("revision", "error"), [(6, FutureRevisionError), (2, CompactedError)])
def test_a_hash_of_an_unreadable_revision_is_refused(revision, error):
    machine = _machine(["a", "b", "a", "c"])
    machine.compact(3)
    with pytest.raises(error):
        RevisionHash(machine.applier.store, revision)


def test_different_values_have_different_hashes():
    first, second = StateMachine(), StateMachine()
    first.put(b"a", b"1")
    second.put(b"a", b"2")
    assert first.hash() != second.hash()


def test_a_missing_record_is_damage_and_not_an_empty_answer():
    machine = _machine(["a"])
    machine.reopen()
    batch = machine.engine.batch()
    (db_key,) = machine.revisions()
    batch.delete(db_key)
    machine.engine.write(batch)
    with pytest.raises(StorageCorruptError):
        _range(machine)
