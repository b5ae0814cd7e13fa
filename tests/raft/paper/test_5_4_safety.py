"""Raft paper section 5.4: the election restriction, and commitment of entries from former terms."""

import pytest
from kvnode.raft import Entry, EntryKind, MemberId, Role
from kvnode.raft.messages import AppendEntries, AppendEntriesResponse, RequestVote, RequestVoteResponse
from kvtest.raft_world import World, ids

A, B, C = ids(1, 2, 3)


@pytest.mark.parametrize(
    ("own", "last_term", "last_index", "granted"),
    [
        pytest.param([1], 1, 2, True, id="equal"),
        pytest.param([1], 1, 3, True, id="same-term-longer"),
        pytest.param([1, 1], 1, 2, False, id="same-term-shorter"),
        pytest.param([1], 2, 2, True, id="later-term"),
        pytest.param([1, 1, 1], 2, 2, True, id="later-term-though-shorter"),
        pytest.param([2], 1, 2, False, id="earlier-term"),
        pytest.param([2], 1, 9, False, id="earlier-term-though-longer"),
    ],
)
def test_a_vote_is_refused_to_a_log_that_is_less_up_to_date(own, last_term, last_index, granted):
    """Section 5.4.1: the last entry's term decides, then the length."""
    world = World([1, 2, 3], logs={1: own})
    world[1].step(RequestVote(B, A, 5, last_index, last_term, is_pre_vote=False, is_transfer=False))
    world.turn(1)
    assert [message.granted for message in world.sent(RequestVoteResponse)] == [granted]


def test_only_a_member_with_all_committed_entries_wins():
    """Section 5.4.1: figure 3, leader completeness."""
    world = World([1, 2, 3])
    world.elect(1)
    world.partition([1, 2], [3])
    world[1].propose([b"x"])
    world.settle()
    world.crash(1)
    world.heal()
    world.tick(count=25)
    world.settle()
    world.tick(3, count=25)
    world.settle()
    assert world.leader() == 2
    assert world.applied_data(3) == [b"x"]


def test_a_new_leader_starts_its_term_with_an_empty_entry():
    """Section 8: a blank no-op entry at the start of its term lets it commit what came before."""
    world = World([1, 2, 3], logs={1: [1, 1], 2: [1, 1], 3: []})
    world.elect(1)
    assert world.log_of(1)[-1] == (2, b"")
    assert [world[i].commit_index for i in (1, 2, 3)] == [4, 4, 4]


def test_a_leader_does_not_commit_entries_of_former_terms_by_counting_copies():
    """Section 5.4.2, figure 8 (c): a majority holds entry 2 of term 2, and still it may be overwritten."""
    world = World([1, 2, 3, 4, 5], logs={1: [2], 2: [2], 3: [], 4: [], 5: [3]})
    world[1].step(AppendEntriesResponse(B, A, 3, 0, True, 0, 0))
    world[1].campaign()
    for number in (2, 3, 4):
        world.turn(1)
        world[1].step(RequestVoteResponse(MemberId(number), A, 4, granted=True, is_pre_vote=True))
    world.turn(1)
    for number in (2, 3):
        world[1].step(RequestVoteResponse(MemberId(number), A, 4, granted=True, is_pre_vote=False))
    world.turn(1)
    assert (world[1].role, world[1].term) == (Role.LEADER, 4)
    for number in (2, 3):
        world[1].step(AppendEntriesResponse(MemberId(number), A, 4, 2, False, 0, 0))
    assert world[1].commit_index == 1


def test_figure_8_ends_well_either_way():
    """Section 5.4.2, figure 8 (d) and (e): S5 may overwrite entry 2 unless S1 committed one of term 4."""
    logs = {1: [2, 4], 2: [2], 3: [2], 4: [], 5: [3]}
    overwritten = World([1, 2, 3, 4, 5], logs=logs, pre_vote=False)
    overwritten.crash(1)
    overwritten[5].step(AppendEntriesResponse(B, MemberId(5), 4, 0, True, 0, 0))
    overwritten.elect(5)
    assert [term for term, _ in overwritten.log_of(2)] == [3, 5]

    kept = World([1, 2, 3, 4, 5], logs=logs, pre_vote=False)
    kept.elect(1)
    kept.crash(1)
    kept[5].campaign()
    kept.settle()
    assert kept[5].role is not Role.LEADER
    assert [term for term, _ in kept.log_of(2)] == [2, 4, 5]


def test_a_restarted_member_knows_its_term_vote_and_log():
    """Figure 2, persistent state; section 5.5: crashes are handled by retrying."""
    world = World([1, 2, 3])
    world.elect(1)
    world[1].propose([b"x"])
    world.settle()
    world.crash(2, applied_index=1)
    node = world.restart(2)
    assert (node.term, node.status().vote, node.last_index) == (2, A, 3)
    world.run(2)
    assert world.applied_data(2) == [b"x"]


def test_what_was_not_durable_before_a_crash_is_fetched_again():
    """Section 5.5."""
    world = World([1, 2, 3])
    world.elect(1)
    world[1].propose([b"x"])
    world.perform_ready(1)
    world.deliver_all()
    world.perform_ready(2)
    world.crash(2)
    world.restart(2)
    assert world[2].last_index == 2
    world.finish_persist(1)
    world.run(3)
    assert world.applied_data(2) == [b"x"]


def test_a_whole_cluster_restarts_with_everything_committed():
    """Section 5.5: persistent state suffices."""
    world = World([1, 2, 3])
    world.elect(1)
    world[1].propose([b"x", b"y"])
    world.settle()
    for number in (1, 2, 3):
        world.crash(number, applied_index=1)
    for number in (1, 2, 3):
        world.restart(number)
    world.elect(2)
    assert [world.applied_data(i) for i in (1, 2, 3)] == [[b"x", b"y"]] * 3


def test_entries_are_handed_out_once_and_in_order():
    """Figure 3, state machine safety, seen from the shell."""
    world = World([1], max_committed_bytes_per_ready=2)
    world.elect(1)
    world[1].propose([b"a", b"b", b"c"])
    world.perform_ready(1)
    world.finish_persist(1)
    handed = []
    while world[1].has_ready():
        handed.append([entry.data for entry in world.perform_ready(1).committed_entries])
    assert handed == [[b"a", b"b"], [b"c"]]


def test_an_idle_member_has_nothing_to_do():
    """A shell loops while has_ready() is true."""
    world = World([1, 2, 3])
    world.elect(1)
    assert [world[i].has_ready() for i in (1, 2, 3)] == [False] * 3
    world[2].step(AppendEntries(A, B, 2, 2, 2, 2, ()))
    assert world[2].has_ready()


def test_a_message_with_a_gap_stops_the_member():
    """Entries of one message are contiguous; anything else would corrupt the log."""
    from kvnode.raft import RaftInvariantError

    world = World([1, 2, 3])
    with pytest.raises(RaftInvariantError):
        world[1].step(AppendEntries(B, A, 2, 1, 1, 1, (Entry(2, 7, EntryKind.NORMAL, b""),)))
