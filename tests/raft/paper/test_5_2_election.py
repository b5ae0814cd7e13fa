"""Raft paper sections 5.1 and 5.2: terms and leader election."""

import random

import pytest
from kvnode.raft import MemberId, RaftConfig, Role
from kvnode.raft.events import BecameCandidate, BecameLeader
from kvnode.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    RequestVote,
    RequestVoteResponse,
)
from kvtest.raft_world import World, ids

A, B, C, D, E = ids(1, 2, 3, 4, 5)


def plain(*voters: int, **config: object) -> World:
    """Return a cluster without pre-vote and check-quorum: the paper's own rules."""
    return World(voters or (1, 2, 3), pre_vote=False, check_quorum=False, **config)


def campaigning(*voters: int) -> World:
    """Return a cluster in which member 1 has just become a candidate of term 2."""
    world = plain(*voters)
    world[1].campaign()
    world.turn(1)
    return world


def test_members_start_as_followers_that_know_no_leader():
    """Section 5.2, first paragraph."""
    world = plain()
    assert [(world[i].role, world[i].leader_id, world[i].term) for i in (1, 2, 3)] == [
        (Role.FOLLOWER, 0, 1)
    ] * 3


def test_a_follower_that_hears_nothing_campaigns_in_the_next_term():
    """Section 5.2: it increments its term, votes for itself and asks all others in parallel."""
    world = plain()
    world.tick(1, count=10)
    world.turn(1)
    assert (world[1].role, world[1].term) == (Role.CANDIDATE, 2)
    assert world.members[A].disk.hard_state[:2] == (2, A)
    assert world.network == [
        RequestVote(A, B, 2, 1, 1, is_pre_vote=False, is_transfer=False),
        RequestVote(A, C, 2, 1, 1, is_pre_vote=False, is_transfer=False),
    ]


def test_a_follower_that_hears_its_leader_stays_one():
    """Section 5.2: it remains a follower as long as it receives valid messages from a leader."""
    world = plain()
    world.elect(2)
    for _ in range(50):
        world.tick()
        world.settle()
    assert world.leader() == 2
    assert world[1].term == 2


@pytest.mark.parametrize(
    ("voters", "votes", "role"),
    [
        pytest.param(1, {}, Role.LEADER, id="alone"),
        pytest.param(3, {2: True, 3: True}, Role.LEADER, id="all-of-three"),
        pytest.param(3, {2: True}, Role.LEADER, id="two-of-three"),
        pytest.param(3, {2: False}, Role.CANDIDATE, id="one-refusal-decides-nothing"),
        pytest.param(3, {2: False, 3: False}, Role.FOLLOWER, id="refused-by-two-of-three"),
        pytest.param(3, {}, Role.CANDIDATE, id="no-answer"),
        pytest.param(5, {2: True}, Role.CANDIDATE, id="two-of-five"),
        pytest.param(5, {2: True, 3: True}, Role.LEADER, id="three-of-five"),
        pytest.param(5, {2: False, 3: False, 4: False}, Role.FOLLOWER, id="refused-by-three-of-five"),
        pytest.param(4, {2: True}, Role.CANDIDATE, id="two-of-four"),
        pytest.param(4, {2: False, 3: False}, Role.FOLLOWER, id="refused-by-two-of-four"),
        pytest.param(3, {7: True, 8: True}, Role.CANDIDATE, id="strangers-do-not-count"),
    ],
)
def test_a_majority_of_votes_wins_the_election(voters, votes, role):
    """Section 5.2: a candidate wins with votes from a majority of the full cluster."""
    world = campaigning(*range(1, voters + 1))
    for voter, granted in votes.items():
        world[1].step(RequestVoteResponse(MemberId(voter), A, 2, granted, is_pre_vote=False))
    assert world[1].role is role


def test_a_repeated_vote_counts_once():
    """Section 5.2: at most one vote for each member and term."""
    world = campaigning(1, 2, 3, 4, 5)
    for _ in range(3):
        world[1].step(RequestVoteResponse(B, A, 2, granted=True, is_pre_vote=False))
    assert world[1].role is Role.CANDIDATE


def test_a_member_votes_for_the_first_who_asks():
    """Section 5.2: each member votes for at most one candidate in a term, first come, first served."""
    world = plain()
    for candidate in (B, C, B):
        world[1].step(RequestVote(candidate, A, 2, 1, 1, is_pre_vote=False, is_transfer=False))
    world.turn(1)
    assert [(m.to_id, m.granted) for m in world.sent(RequestVoteResponse)] == [
        (B, True),
        (C, False),
        (B, True),
    ]


def test_a_vote_is_durable_before_it_is_sent():
    """Figure 2: persistent state is updated on stable storage before responding."""
    world = plain()
    world[1].step(RequestVote(B, A, 2, 1, 1, is_pre_vote=False, is_transfer=False))
    ready = world.perform_ready(1)
    assert ready.messages == ()
    assert ready.persist is not None
    assert [type(m) for m in ready.persist.messages] == [RequestVoteResponse]
    assert (ready.persist.hard_state, ready.persist.must_sync) == ((2, B, 1), True)


def test_a_vote_outlives_a_crash():
    """Figure 2: votedFor is persistent, so nobody votes twice in a term."""
    world = plain()
    world[1].step(RequestVote(B, A, 2, 1, 1, is_pre_vote=False, is_transfer=False))
    world.turn(1)
    world.crash(1)
    world.restart(1)
    world.take_network()
    world[1].step(RequestVote(C, A, 2, 1, 1, is_pre_vote=False, is_transfer=False))
    world.turn(1)
    assert [m.granted for m in world.sent(RequestVoteResponse)] == [False]


def test_a_candidate_asks_for_votes_only_after_its_own_term_vote_and_log_are_durable():
    """Figure 2, and see election._request_votes: a lost log must not profit from votes for the longer one."""
    world = plain()
    world.elect(2)
    world[2].propose([b"x"])
    world.perform_ready(2)
    world.deliver_all()
    world[1].campaign()
    ready = world.perform_ready(1)
    assert ready.persist is not None
    assert [entry.data for entry in ready.persist.entries] == [b"x"]
    assert not [m for m in ready.messages if isinstance(m, RequestVote)]
    assert [m.last_index for m in ready.persist.messages if isinstance(m, RequestVote)] == [3, 3]


def test_a_candidates_own_vote_counts_once_it_is_durable():
    """Figure 2: a lone voter wins when its vote is on disk, not before."""
    world = plain(1)
    world[1].campaign()
    world.perform_ready(1)
    assert world[1].role is Role.CANDIDATE
    world.finish_persist(1)
    assert world[1].role is Role.LEADER


@pytest.mark.parametrize("term", [2, 3], ids=["same-term", "higher-term"])
@pytest.mark.parametrize("kind", [Heartbeat, AppendEntries])
def test_a_candidate_follows_a_leader_of_its_term_or_a_higher_one(term, kind):
    """Section 5.2: it recognizes the leader as legitimate and returns to follower state."""
    world = campaigning()
    if kind is Heartbeat:
        world[1].step(Heartbeat(B, A, term, 0, b""))
    else:
        world[1].step(AppendEntries(B, A, term, 1, 1, 1, ()))
    assert (world[1].role, world[1].term, world[1].leader_id) == (Role.FOLLOWER, term, B)


def test_a_candidate_ignores_a_leader_of_a_lower_term():
    """Section 5.2: it rejects the RPC and continues in candidate state; the answer carries its term (5.1)."""
    world = campaigning()
    world.take_network()
    world[1].step(AppendEntries(B, A, 1, 1, 1, 1, ()))
    world.turn(1)
    assert world[1].role is Role.CANDIDATE
    assert world.network == [AppendEntriesResponse(A, B, 2, 0, True, 0, 0)]


def test_a_leader_steps_down_when_it_learns_of_a_higher_term():
    """Section 5.1: a stale leader or candidate reverts to follower state at once."""
    world = plain()
    world.elect(1)
    world[1].step(AppendEntriesResponse(B, A, 5, 0, True, 0, 0))
    assert (world[1].role, world[1].term, world[1].leader_id) == (Role.FOLLOWER, 5, 0)


def test_a_stale_vote_request_is_refused_with_the_current_term():
    """Section 5.1: a request with a stale term number is rejected."""
    world = plain()
    world.elect(1)
    world[2].step(RequestVote(C, B, 1, 9, 9, is_pre_vote=False, is_transfer=False))
    world.turn(2)
    assert world.network == [RequestVoteResponse(B, C, 2, granted=False, is_pre_vote=False)]


def test_a_split_vote_ends_with_a_new_election_in_a_new_term():
    """Section 5.2: each candidate times out and starts a new election."""
    world = plain(1, 2)
    world[1].campaign()
    world[2].campaign()
    world.settle()
    assert world.leader() == 0
    world.tick(1, count=10)
    world.settle()
    assert (world.leader(), world[1].term) == (A, 3)
    assert [event.term for event in world.events(1, BecameCandidate)] == [2, 3]
    assert [event.term for event in world.events(1, BecameLeader)] == [3]


def test_election_timeouts_are_drawn_anew_from_a_fixed_interval():
    """Section 5.2: randomized timeouts make split votes rare; the core asks its shell for chance."""
    asked = []
    rng = random.Random(7)

    def ticks(lo: int, hi: int) -> int:
        asked.append((lo, hi))
        return rng.randint(lo, hi)

    world = plain(1, 2, 3, random_ticks=ticks)
    before = len(asked)
    waited = set()
    for _ in range(100):
        term = world[1].term
        count = 0
        while world[1].term == term:
            world.tick(1)
            count += 1
        waited.add(count)
    assert set(asked) == {(10, 19)}
    assert len(asked) - before == 100
    assert waited == set(range(10, 20))


def test_a_leader_sends_heartbeats_at_its_interval():
    """Section 5.2: leaders send periodic heartbeats to all followers."""
    world = plain(1, 2, 3, heartbeat_interval_ticks=3)
    world.elect(1)
    world.tick(1, count=2)
    world.turn(1)
    assert world.network == []
    world.tick(1)
    world.turn(1)
    assert world.network == [Heartbeat(A, B, 2, 2, b""), Heartbeat(A, C, 2, 2, b"")]


def test_two_leaders_of_one_term_stop_a_member():
    """Figure 3, election safety: if it is violated all the same, going on could lose data."""
    from kvnode.raft import RaftInvariantError

    world = plain()
    world.elect(1)
    with pytest.raises(RaftInvariantError, match="both lead term 2"):
        world[1].step(Heartbeat(B, A, 2, 0, b""))


def test_the_timing_rules_are_checked():
    """Section 5.6: the heartbeat interval must be below the election timeout."""
    with pytest.raises(ValueError, match="election_timeout_ticks is 3, must be at least 4"):
        RaftConfig(member_id=A, random_ticks=min, election_timeout_ticks=3, heartbeat_interval_ticks=3)
