"""Raft paper section 5.3: log replication."""

import pytest
from kvnode.raft import Entry, EntryKind, RaftInvariantError
from kvnode.raft.events import TruncatedLog
from kvnode.raft.messages import AppendEntries, AppendEntriesResponse
from kvnode.raft.progress import ProgressState
from kvtest.raft_world import World, ids, past_entries

A, B, C = ids(1, 2, 3)


def led(*voters: int, **config: object) -> World:
    """Return a settled cluster led by member 1 in term 2, whose log ends at index 2."""
    world = World(voters or (1, 2, 3), **config)
    world.elect(1)
    return world


def append(
    prev_index: int, prev_term: int, terms: list[int], *, commit: int = 0, term: int = 9
) -> AppendEntries:
    entries = tuple(
        Entry(t, i, EntryKind.NORMAL, b"%d.%d" % (t, i)) for i, t in enumerate(terms, prev_index + 1)
    )
    return AppendEntries(B, A, term, prev_index, prev_term, commit, entries)


def test_a_leader_appends_a_proposal_and_sends_it_to_all():
    """Section 5.3, first paragraph."""
    world = led()
    world[1].propose([b"x"])
    ready = world.perform_ready(1)
    entry = Entry(2, 3, EntryKind.NORMAL, b"x")
    assert ready.messages == (
        AppendEntries(A, B, 2, 2, 2, 2, (entry,)),
        AppendEntries(A, C, 2, 2, 2, 2, (entry,)),
    )
    assert ready.persist is not None
    assert ready.persist.entries == (entry,)


def test_all_proposals_of_a_turn_share_one_message_and_one_write():
    """Thesis 10.2.2, batching."""
    world = led()
    world[1].propose([b"a", b"b"])
    world[1].propose([b"c"])
    ready = world.perform_ready(1)
    assert [len(m.entries) for m in ready.messages if isinstance(m, AppendEntries)] == [3, 3]
    assert ready.persist is not None
    assert [entry.data for entry in ready.persist.entries] == [b"a", b"b", b"c"]


def test_the_next_proposals_are_sent_without_waiting_for_answers():
    """Thesis 10.2.2, pipelining: the leader assumes that what it sent will arrive."""
    world = led()
    for data in (b"a", b"b"):
        world[1].propose([data])
        world.perform_ready(1)
    assert [(m.prev_index, m.entries[0].data) for m in world.sent(AppendEntries) if m.to_id == B] == [
        (2, b"a"),
        (3, b"b"),
    ]


def test_an_entry_is_committed_once_a_majority_has_it():
    """Section 5.3: committed once the leader has replicated it on a majority of the servers."""
    world = led()
    world.partition([1, 2], [3])
    world[1].propose([b"x"])
    world.settle()
    assert [world[i].commit_index for i in (1, 2, 3)] == [3, 3, 2]
    assert [world.applied_data(i) for i in (1, 2, 3)] == [[b"x"], [b"x"], []]


def test_an_entry_without_a_majority_is_not_committed():
    """Section 5.3."""
    world = led()
    world.partition([1], [2, 3])
    world[1].propose([b"x"])
    world.settle()
    assert world[1].commit_index == 2


def test_a_leader_counts_its_own_copy_only_when_it_is_durable():
    """Thesis 10.2.1: its write runs in parallel with the followers'."""
    world = led()
    world[1].propose([b"x"])
    world.perform_ready(1)
    world.crash(3)
    for number in (2, 1):
        world.deliver_all()
        if number == 2:
            world.turn(2)
    assert world[1].status().progress[B].match_index == 3
    assert world[1].commit_index == 2
    world.finish_persist(1)
    assert world[1].commit_index == 3


def test_a_leader_counts_no_more_than_its_finished_write_held():
    """Thesis 10.2.1: what was proposed during the write is not durable with it."""
    world = led(1)
    world[1].propose([b"a"])
    world.perform_ready(1)
    world[1].propose([b"b"])
    world.finish_persist(1)
    assert (world[1].commit_index, world[1].last_index) == (3, 4)


def test_a_majority_of_followers_commits_before_the_leaders_disk_but_it_applies_afterwards():
    """Thesis 10.2.1: the leader may commit an entry before it has written it itself."""
    world = led()
    world[1].propose([b"x"])
    world.perform_ready(1)
    world.deliver_all()
    for number in (2, 3):
        world.turn(number)
    world.deliver_all()
    assert world[1].commit_index == 3
    assert world.perform_ready(1).committed_entries == ()
    world.finish_persist(1)
    assert [entry.data for entry in world.perform_ready(1).committed_entries] == [b"x"]


def test_a_follower_answers_after_its_write_is_durable():
    """Figure 2: persistent state is updated on stable storage before responding."""
    world = World([1, 2, 3])
    world[1].step(append(1, 1, [9]))
    ready = world.perform_ready(1)
    assert ready.messages == ()
    assert ready.persist is not None
    assert ready.persist.messages == (AppendEntriesResponse(A, B, 9, 2, False, 0, 0),)


def test_the_answers_of_one_turn_become_one():
    """An answer covers all before it, so only the newest matters."""
    world = World([1, 2, 3])
    world[1].step(append(1, 1, [9]))
    world[1].step(append(2, 9, [9, 9]))
    ready = world.perform_ready(1)
    assert ready.persist is not None
    assert ready.persist.messages == (AppendEntriesResponse(A, B, 9, 4, False, 0, 0),)


def test_what_arrives_during_a_write_goes_into_the_next():
    """One Persist at a time; the promise for later entries waits for theirs."""
    world = World([1, 2, 3])
    world[1].step(append(1, 1, [9]))
    world.perform_ready(1)
    world[1].step(append(2, 9, [9]))
    assert world.perform_ready(1).persist is None
    world.finish_persist(1)
    assert [m.index for m in world.sent(AppendEntriesResponse)] == [2]
    ready = world.perform_ready(1)
    assert ready.persist is not None
    assert [entry.index for entry in ready.persist.entries] == [3]
    assert ready.persist.hard_state is None


@pytest.mark.parametrize(
    ("prev_index", "prev_term", "fits"),
    [
        pytest.param(1, 1, True, id="at-the-genesis"),
        pytest.param(3, 2, True, id="at-the-end"),
        pytest.param(2, 1, True, id="in-the-middle"),
        pytest.param(3, 3, False, id="other-term"),
        pytest.param(4, 2, False, id="beyond-the-end"),
    ],
)
def test_a_follower_takes_entries_only_where_the_one_before_matches(prev_index, prev_term, fits):
    """Section 5.3, the consistency check, on a log of terms 1 (genesis), 1, 2."""
    world = World([1, 2, 3], logs={1: [1, 2]})
    world[1].step(append(prev_index, prev_term, [9]))
    world.turn(1)
    answer = world.sent(AppendEntriesResponse)[0]
    assert (answer.rejected, answer.index) == (not fits, prev_index + fits)
    assert ((9, b"9.%d" % (prev_index + 1)) in world.log_of(1)) is fits


@pytest.mark.parametrize(
    ("own", "message", "result"),
    [
        pytest.param([1, 1], append(1, 1, [1, 1]), [1, 1], id="known-already"),
        pytest.param([1, 1], append(1, 1, [1]), [1, 1], id="an-old-append-drops-nothing"),
        pytest.param([1, 1], append(2, 1, [2]), [1, 2], id="conflict-at-the-end"),
        pytest.param([1, 1, 1], append(1, 1, [2]), [2], id="conflict-drops-all-after-it"),
        pytest.param([1], append(2, 1, [2, 2]), [1, 2, 2], id="new"),
        pytest.param([1, 1], append(2, 1, [1, 2]), [1, 1, 2], id="overlap"),
        pytest.param([], append(1, 1, [1]), [1], id="first"),
    ],
)
def test_conflicting_entries_are_replaced_and_others_kept(own, message, result):
    """Section 5.3 and figure 2, AppendEntries steps 3 and 4."""
    world = World([1, 2, 3], logs={1: own})
    world[1].step(message)
    world.turn(1)
    assert [term for term, _ in world.log_of(1)] == result


#: Figure 7: the leader's log and six possible followers' (the paper's index 1 is our genesis).
FIGURE_7_LEADER = [1, 1, 4, 4, 5, 5, 6, 6, 6]
FIGURE_7 = {
    "a-misses-an-entry": [1, 1, 4, 4, 5, 5, 6, 6],
    "b-misses-many": [1, 1, 4],
    "c-has-one-more": [1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d-has-a-later-term": [1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e-both": [1, 1, 4, 4, 4, 4],
    "f-both-of-older-terms": [1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("log", FIGURE_7.values(), ids=FIGURE_7.keys())
def test_a_leader_brings_any_follower_in_line(log):
    """Section 5.3, figure 7."""
    world = World([1, 2, 3], logs={1: FIGURE_7_LEADER, 2: log, 3: []}, pre_vote=False, check_quorum=False)
    # Term 8 is above all terms in the figure; member 3 votes, as its log is empty.
    world[1].step(AppendEntriesResponse(C, A, 7, 0, True, 0, 0))
    world.elect(1)
    assert world.log_of(2) == world.log_of(1)
    assert world.log_of(2)[-1] == (8, b"")
    dropped = world.events(2, TruncatedLog)
    common = sum(a == b for a, b in zip(log, FIGURE_7_LEADER, strict=False))
    assert bool(dropped) is (common < len(log))


def test_a_rejection_skips_all_entries_of_conflicting_terms():
    """Section 5.3, end: the number of rejected appends is bounded by terms, not entries."""
    world = World([1, 2], logs={1: [1] * 50 + [3] * 200, 2: [1] * 50 + [2] * 200})
    world.elect(1)
    world.settle()
    rejections = 0
    world = World([1, 2], logs={1: [1] * 50 + [3] * 200, 2: [1] * 50 + [2] * 200})
    world[1].campaign()
    for _ in range(100):
        for number in (1, 2):
            world.turn(number)
        batch = world.take_network()
        rejections += sum(isinstance(m, AppendEntriesResponse) and m.rejected for m in batch)
        for message in batch:
            world.deliver(message)
    assert rejections == 1
    assert world.log_of(2) == world.log_of(1)


def test_a_follower_commits_only_what_the_append_covers():
    """Figure 2, AppendEntries step 5: behind the last new entry its log may differ from the leader's."""
    world = World([1, 2, 3], logs={1: [1, 1, 1]})
    world[1].step(append(2, 1, [], commit=4))
    assert world[1].commit_index == 2


def test_a_committed_entry_is_never_dropped():
    """Figure 3, state machine safety: a message that asks for it stops the member."""
    world = World([1, 2, 3], logs={1: [1, 1]})
    world[1].step(append(3, 1, [], commit=3))
    world[1].step(append(1, 1, [9, 9]))
    assert world[1].last_index == 3
    with pytest.raises(RaftInvariantError):
        world[1]._state.log.merge(1, past_entries([9, 9]))


def test_a_leader_never_drops_its_own_entries():
    """Figure 3, leader append-only: another leader's entries in its term are an error."""
    world = led()
    with pytest.raises(RaftInvariantError):
        world[1].step(append(1, 1, [2, 2], term=2))


def test_what_a_write_under_way_holds_of_a_dropped_tail_is_not_durable():
    """The tail was replaced in memory: the former write must neither count nor be applied."""
    world = World([1, 2, 3])
    world[1].step(append(1, 1, [8, 8], term=8))
    world.perform_ready(1)
    world[1].step(append(2, 8, [9], commit=3))
    world.finish_persist(1)
    assert world[1].status().stable_index == 2
    ready = world.perform_ready(1)
    assert [entry.index for entry in ready.committed_entries] == [2]
    assert ready.persist is not None
    assert [(entry.term, entry.index) for entry in ready.persist.entries] == [(9, 3)]
    world.finish_persist(1)
    assert [entry.data for entry in world.perform_ready(1).committed_entries] == [b"9.3"]


def test_followers_learn_the_commit_index_without_a_further_proposal():
    """Section 5.3: the leader includes the highest committed index in later messages."""
    world = led()
    world[1].propose([b"x"])
    world.settle()
    assert [world[i].commit_index for i in (1, 2, 3)] == [3, 3, 3]


def test_a_lost_append_is_noticed_with_the_next_heartbeat():
    """Section 5.3: the leader retries until all followers store all entries."""
    world = led()
    world[1].propose([b"x"])
    world.turn(1)
    world.take_network()
    world.run(2)
    assert world.applied_data(3) == [b"x"]


def test_a_follower_that_was_down_gets_everything_afterwards():
    """Section 5.3: retries go on even after the leader has responded to the client."""
    world = led()
    world.crash(3)
    for data in (b"a", b"b", b"c"):
        world[1].propose([data])
        world.settle()
    world.restart(3)
    world.run(3)
    assert world.applied_data(3) == [b"a", b"b", b"c"]


def test_appends_twice_or_in_the_wrong_order_do_no_harm():
    """Section 5.5: AppendEntries is idempotent."""
    world = led()
    for data in (b"a", b"b", b"c"):
        world[1].propose([data])
        world.perform_ready(1)
    batch = world.take_network()
    for message in [*reversed(batch), *batch, *batch]:
        world.deliver(message)
    world.finish_persist(1)
    world.run(3)
    assert [world.applied_data(i) for i in (1, 2, 3)] == [[b"a", b"b", b"c"]] * 3


def test_a_late_append_below_the_commit_index_still_brings_what_is_new():
    """What is committed matches by section 5.4.3, so only the rest needs the consistency check."""
    world = World([1, 2, 3])
    world[1].step(append(1, 1, [9, 9], commit=3))
    world.turn(1)
    world[1].step(append(1, 1, [9, 9, 9, 9], commit=3))
    assert world[1].last_index == 5


def test_entries_under_way_are_limited_in_number():
    """RaftConfig.max_inflight_messages."""
    world = led(max_inflight_messages=2)
    for data in (b"a", b"b", b"c"):
        world[1].propose([data])
        world.perform_ready(1)
    assert [m.entries[0].data for m in world.sent(AppendEntries) if m.to_id == B] == [b"a", b"b"]
    world.settle()
    assert world.applied_data(2) == [b"a", b"b", b"c"]


def test_entries_under_way_are_limited_in_bytes():
    """RaftConfig.max_inflight_bytes and max_size_per_message_bytes; one entry always fits."""
    world = led(max_size_per_message_bytes=10, max_inflight_bytes=20)
    world[1].propose([b"12345", b"67890", b"x" * 30, b"y"])
    world.turn(1)
    assert [len(m.entries) for m in world.sent(AppendEntries) if m.to_id == B] == [2, 1]
    world.settle()
    assert len(world.applied_data(2)) == 4


def test_a_member_reported_unreachable_is_probed_until_it_answers():
    """Nothing is sent optimistically over a broken connection."""
    world = led()
    world[1].report_unreachable(B)
    world[1].propose([b"a"])
    world.perform_ready(1)
    world[1].propose([b"b"])
    world.perform_ready(1)
    assert [len(m.entries) for m in world.sent(AppendEntries) if m.to_id == B] == [1]
    assert world[1].status().progress[B].state is ProgressState.PROBE
    world.settle()
    assert world[1].status().progress[B].state is ProgressState.REPLICATE
    assert world.applied_data(2) == [b"a", b"b"]
