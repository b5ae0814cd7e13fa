"""Raft paper section 7: log compaction and InstallSnapshot."""

import pytest
from kvnode.raft import (
    ConfState,
    MemoryLogStorage,
    RaftConfig,
    RaftInvariantError,
    RawNode,
    SnapshotMetadata,
    genesis,
)
from kvnode.raft.events import SnapshotIgnored, SnapshotRequested, SnapshotRestored
from kvnode.raft.messages import AppendEntries, AppendEntriesResponse, InstallSnapshot
from kvnode.raft.progress import ProgressState
from kvtest.raft_world import World, ids

A, B, C = ids(1, 2, 3)
MEMBERS = ConfState(voters=(A, B, C))


def lagging() -> World:
    """Return a cluster whose member 3 needs entries that the leader, member 1, has compacted."""
    world = World([1, 2, 3])
    world.elect(1)
    world.partition([1, 2], [3])
    for data in (b"a", b"b", b"c"):
        world[1].propose([data])
        world.settle()
    world.snapshot(1)
    world.heal()
    return world


def test_a_member_too_far_behind_gets_a_snapshot():
    """Section 7: the leader must send snapshots to followers that lag behind."""
    world = lagging()
    world.run(4)
    assert world.members[C].machine == world.members[A].machine
    assert [event.index for event in world.events(3, SnapshotRestored)] == [5]
    assert [event.to_id for event in world.events(1, SnapshotRequested)] == [C]
    world[1].propose([b"d"])
    world.settle()
    assert world.members[C].machine == world.members[A].machine
    assert world[1].status().progress[C].state is ProgressState.REPLICATE


def test_nothing_else_is_sent_while_a_snapshot_is_under_way():
    """Section 7: entries would not fit before it is there."""
    world = lagging()
    while not world.sent(InstallSnapshot):
        world.tick()
        for number in (1, 2, 3):
            world.turn(number)
        world.deliver_all()
        world.turn(1)
    world.take_network()
    world[1].propose([b"d"])
    world.turn(1)
    assert [m for m in world.sent(AppendEntries) if m.to_id == C] == []
    view = world[1].status().progress[C]
    assert (view.state, view.pending_snapshot, view.is_paused) == (ProgressState.SNAPSHOT, 5, True)


def test_a_failed_transfer_is_tried_again():
    """Section 7; the shell reports how the transfer ended."""
    world = lagging()
    lost = 0
    for _ in range(6):
        world.tick()
        for _ in range(4):
            for number in (1, 2, 3):
                world.turn(number)
            for message in world.take_network():
                if isinstance(message, InstallSnapshot) and lost < 2:
                    lost += 1
                    world.drop(message)
                else:
                    world.deliver(message)
    assert lost == 2
    assert world.members[C].machine == world.members[A].machine


def test_no_snapshot_is_started_for_a_member_that_is_silent():
    """A transfer is costly; only a member that answers gets one."""
    world = lagging()
    world.crash(3)
    world.tick(1, count=30)
    world.turn(1)
    assert world.sent(InstallSnapshot) == []


def test_a_snapshot_is_durable_before_it_is_acknowledged_and_replaces_the_log():
    """Figure 13, InstallSnapshot step 7: discard the entire log."""
    world = World([1, 2, 3], logs={1: [1, 1, 1]})
    world.states[9] = world.states[1]
    world.members[A].incoming[9] = world.states[1]
    world[1].step(InstallSnapshot(B, A, 4, SnapshotMetadata(9, 3, MEMBERS)))
    ready = world.perform_ready(1)
    assert ready.messages == ()
    assert ready.persist is not None
    assert ready.persist.snapshot == SnapshotMetadata(9, 3, MEMBERS)
    assert ready.persist.hard_state == (4, 0, 9)
    assert ready.persist.messages == (AppendEntriesResponse(A, B, 4, 9, False, 0, 0),)
    world.finish_persist(1)
    status = world[1].status()
    assert (status.first_index, status.last_index, status.commit_index, status.applied_index) == (10, 9, 9, 9)


def test_entries_after_a_snapshot_wait_for_it():
    """Nothing is applied on top of a state that is not there yet."""
    world = World([1, 2, 3])
    world.states[9] = world.states[1]
    world.members[A].incoming[9] = world.states[1]
    world[1].step(AppendEntries(B, A, 4, 1, 1, 1, AppendEntries(B, A, 4, 1, 1, 1, ()).entries))
    world.perform_ready(1)
    world[1].step(InstallSnapshot(B, A, 4, SnapshotMetadata(9, 3, MEMBERS)))
    assert world[1].last_index == 9
    from kvtest.raft_world import past_entries

    following = tuple(entry._replace(term=4) for entry in past_entries([4] * 9)[8:])
    world[1].step(AppendEntries(B, A, 4, 9, 3, 10, following))
    world.finish_persist(1)
    ready = world.perform_ready(1)
    assert ready.committed_entries == ()
    assert ready.persist is not None
    assert (ready.persist.snapshot, ready.persist.entries) == (SnapshotMetadata(9, 3, MEMBERS), following)
    world.finish_persist(1)
    assert world.perform_ready(1).committed_entries == following


@pytest.mark.parametrize(
    ("index", "term", "commit"),
    [
        pytest.param(1, 1, 2, id="older-than-the-commit-index"),
        pytest.param(4, 1, 4, id="its-last-entry-is-in-the-log"),
    ],
)
def test_a_snapshot_that_the_log_covers_changes_no_entry(index, term, commit):
    """Figure 13, step 6: retain the log entries following it."""
    world = World([1, 2, 3], logs={1: [1, 1, 1, 1]})
    world[1].step(AppendEntries(B, A, 2, 2, 1, 2, ()))
    world[1].step(InstallSnapshot(B, A, 2, SnapshotMetadata(index, term, MEMBERS)))
    world.turn(1)
    assert (world[1].last_index, world[1].commit_index) == (5, commit)
    assert [event.index for event in world.events(1, SnapshotIgnored)] == [index]
    assert world.sent(AppendEntriesResponse)[-1][:5] == (A, B, 2, commit, False)


def test_a_joining_member_starts_from_a_snapshot():
    """Thesis 4.2.1 with section 7: it has nothing, not even the genesis."""
    world = World([1, 2])
    world.elect(1)
    world[1].propose([b"x"])
    world.settle()
    from kvnode.raft import ConfChange, ConfChangeKind

    world.add_member(3)
    world[1].propose_conf_change(ConfChange(ConfChangeKind.ADD_LEARNER, C))
    world.settle()
    world.run(3)
    assert world.members[C].machine == world.members[A].machine
    assert world[3].conf_state == ConfState((A, B), (C,))


def test_a_restarted_member_goes_on_from_its_snapshot():
    """Section 7: the snapshot takes the place of the entries before it."""
    world = World([1])
    world.elect(1)
    world[1].propose([b"a", b"b"])
    world.settle()
    world.snapshot(1)
    world[1].propose([b"c"])
    world.settle()
    world.crash(1, applied_index=4)
    world.restart(1)
    world.elect(1)
    assert (world[1].status().first_index, world[1].applied_index) == (5, 6)


@pytest.mark.parametrize("applied_index", [0, 7], ids=["state-older-than-log", "state-newer-than-log"])
def test_a_state_that_does_not_fit_the_log_stops_the_member(applied_index):
    """A lost state store or a lost log must not be papered over."""
    config = RaftConfig(member_id=A, random_ticks=min, applied_index=applied_index)
    with pytest.raises(RaftInvariantError, match=f"applied up to {applied_index}"):
        RawNode(config, MemoryLogStorage(genesis([A])))
