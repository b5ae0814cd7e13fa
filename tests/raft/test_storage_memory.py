"""MemoryLogStorage, the disk of tests: it must be as strict as a real one."""

import pytest
from kvnode.raft import ConfState, HardState, MemberId, MemoryLogStorage, RaftInvariantError, genesis
from kvnode.raft.errors import CompactedError, UnavailableError
from kvnode.raft.types import SnapshotMetadata
from kvtest.raft_world import past_entries

ALL = 1 << 40
START = genesis([MemberId(2), MemberId(1)])


def disk_with(*terms: int) -> MemoryLogStorage:
    disk = MemoryLogStorage(START)
    disk.save(None, past_entries(terms))
    return disk


def test_a_founder_starts_at_the_genesis():
    disk = MemoryLogStorage(START)
    assert (disk.first_index(), disk.last_index(), disk.term(1)) == (2, 1, 1)
    assert disk.initial_state() == (HardState(1, MemberId(0), 1), ConfState((MemberId(1), MemberId(2))))


def test_a_joining_member_starts_empty():
    disk = MemoryLogStorage()
    assert (disk.first_index(), disk.last_index(), disk.term(0)) == (1, 0, 0)
    assert disk.initial_state() == (HardState(), ConfState())


def test_a_later_write_replaces_the_tail():
    disk = disk_with(1, 1, 1)
    disk.save(HardState(2, MemberId(1), 2), past_entries([1, 2])[1:])
    assert [disk.term(index) for index in (2, 3)] == [1, 2]
    assert (disk.last_index(), disk.hard_state.term) == (3, 2)


def test_a_gap_is_refused():
    with pytest.raises(RaftInvariantError, match="gap"):
        disk_with(1).save(None, past_entries([1, 1, 1])[2:])


def test_compacted_entries_are_gone_but_the_term_before_the_first_is_known():
    disk = disk_with(1, 2, 3)
    disk.create_snapshot(3, START.conf_state)
    disk.compact(3)
    disk.compact(2)
    assert (disk.first_index(), disk.term(3)) == (4, 2)
    with pytest.raises(CompactedError):
        disk.entries(3, 4, ALL)
    with pytest.raises(UnavailableError):
        disk.entries(4, 6, ALL)


def test_nothing_is_compacted_that_no_snapshot_covers():
    with pytest.raises(RaftInvariantError, match="the snapshot ends at 1"):
        disk_with(1, 1).compact(2)


def test_a_snapshot_replaces_everything():
    disk = disk_with(1, 1)
    metadata = SnapshotMetadata(9, 4, START.conf_state)
    disk.save(None, [], metadata)
    assert (disk.first_index(), disk.last_index(), disk.term(9), disk.snapshot()) == (10, 9, 4, metadata)
