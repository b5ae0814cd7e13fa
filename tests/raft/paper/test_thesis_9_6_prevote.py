"""Raft thesis sections 9.6 (pre-vote), 4.2.3 (disruptive members) and 6.2 (a leader without a quorum)."""

import random

import pytest
from kvnode.raft import Role
from kvnode.raft.events import BecameCandidate, BecamePreCandidate, QuorumLost
from kvnode.raft.messages import Heartbeat, RequestVote, RequestVoteResponse
from kvtest.raft_world import World, ids, last_ticks

A, B, C = ids(1, 2, 3)


def test_a_campaign_begins_with_a_question_that_changes_nothing():
    """Section 9.6: a candidate only increments its term if a majority would vote for it."""
    world = World([1, 2, 3])
    world[1].campaign()
    world.perform_ready(1)
    assert (world[1].role, world[1].term, world[1].status().vote) == (Role.PRE_CANDIDATE, 1, 0)
    assert world.network == [
        RequestVote(A, B, 2, 1, 1, is_pre_vote=True, is_transfer=False),
        RequestVote(A, C, 2, 1, 1, is_pre_vote=True, is_transfer=False),
    ]
    world.deliver_all()
    world.turn(2)
    assert (world[2].term, world[2].status().vote) == (1, 0)
    assert world.network == [RequestVoteResponse(B, A, 2, granted=True, is_pre_vote=True)]


def test_a_majority_of_pre_votes_starts_the_election():
    """Section 9.6."""
    world = World([1, 2, 3])
    world.elect(1)
    assert world.events(1, BecamePreCandidate) == [BecamePreCandidate(1)]
    assert world.events(1, BecameCandidate) == [BecameCandidate(2)]


def test_a_member_that_was_cut_off_does_not_raise_the_term():
    """Section 9.6: a partitioned server must not depose the leader when it rejoins."""
    world = World([1, 2, 3])
    world.elect(1)
    world.partition([1, 2], [3])
    world.run(100)
    assert world[3].term == 2
    world.heal()
    world.run(5)
    assert (world.leader(), world[1].term) == (A, 2)


@pytest.mark.parametrize("check_quorum", [True, False])
def test_a_pre_vote_is_refused_to_a_log_that_is_behind(check_quorum):
    """Section 9.6: the same rule as for a vote."""
    world = World([1, 2, 3], logs={1: [1]}, check_quorum=check_quorum)
    world[1].step(RequestVote(B, A, 2, 1, 1, is_pre_vote=True, is_transfer=False))
    world.turn(1)
    assert world.network == [RequestVoteResponse(A, B, 1, granted=False, is_pre_vote=True)]


def test_a_pre_vote_that_comes_a_term_late_is_not_counted():
    """Its giver may have followed that term's leader since: it says nothing of the next one."""
    world = World([1, 2, 3])
    world.elect(1)
    world.partition([1], [2, 3])
    world[1].step(Heartbeat(B, A, 3, 1, b""))
    world.turn(1)
    for _ in range(20):
        world[1].tick()
    assert world[1].role is Role.PRE_CANDIDATE
    world[1].step(RequestVoteResponse(C, A, 3, granted=True, is_pre_vote=True))
    assert (world[1].role, world[1].term) == (Role.PRE_CANDIDATE, 3)


def test_several_pre_votes_may_be_granted_in_one_term():
    """Section 9.6: a pre-vote promises nothing."""
    world = World([1, 2, 3])
    for candidate in (B, C):
        world[1].step(RequestVote(candidate, A, 2, 1, 1, is_pre_vote=True, is_transfer=False))
    world.turn(1)
    assert [message.granted for message in world.sent(RequestVoteResponse)] == [True, True]


def test_a_refused_pre_vote_of_a_higher_term_is_believed():
    """Section 5.1 of the paper holds for its answer."""
    world = World([1, 2, 3])
    world[1].campaign()
    world[1].step(RequestVoteResponse(B, A, 7, granted=False, is_pre_vote=True))
    assert (world[1].role, world[1].term) == (Role.FOLLOWER, 7)


def test_an_answer_to_the_pre_vote_is_no_vote():
    world = World([1, 2, 3])
    world[1].campaign()
    world[1].step(RequestVoteResponse(B, A, 2, granted=True, is_pre_vote=True))
    assert world[1].role is Role.CANDIDATE
    world.turn(1)
    world[1].step(RequestVoteResponse(C, A, 2, granted=True, is_pre_vote=True))
    assert world[1].role is Role.CANDIDATE


@pytest.mark.parametrize("is_pre_vote", [True, False], ids=["pre-vote", "vote"])
def test_a_member_that_hears_its_leader_ignores_vote_requests(is_pre_vote):
    """Section 4.2.3: within the minimum election timeout it neither votes nor updates its term."""
    world = World([1, 2, 3])
    world.elect(1)
    for number in (1, 2):
        world[number].step(RequestVote(C, ids(number)[0], 9, 9, 9, is_pre_vote, is_transfer=False))
        world.turn(number)
    assert world.network == []
    assert (world[1].term, world[2].term) == (2, 2)


def test_a_member_that_has_not_heard_its_leader_for_a_timeout_votes():
    """Section 4.2.3."""
    world = World([1, 2, 3], random_ticks=last_ticks)
    world.elect(1)
    world.tick(2, count=10)
    world[2].step(RequestVote(C, B, 9, 9, 9, is_pre_vote=False, is_transfer=False))
    world.turn(2)
    assert [message.granted for message in world.sent(RequestVoteResponse)] == [True]


def test_a_leader_without_a_quorum_steps_down():
    """Section 6.2: otherwise its clients would wait for it indefinitely."""
    world = World([1, 2, 3])
    world.elect(1)
    world.run(12)
    world.partition([1], [2, 3])
    world.tick(1, count=21)
    world.turn(1)
    assert (world[1].role, world[1].leader_id) == (Role.FOLLOWER, 0)
    assert world.events(1, QuorumLost) == [QuorumLost(2)]


def test_a_leader_with_a_bare_quorum_stays():
    """Section 6.2."""
    world = World([1, 2, 3])
    world.elect(1)
    world.crash(3)
    world.run(60)
    assert (world.leader(), world[1].term) == (A, 2)


def test_the_others_elect_a_leader_when_theirs_is_gone():
    """Sections 9.6 and 4.2.3 together must not prevent elections."""
    world = World([1, 2, 3], random_ticks=random.Random(1).randint)
    world.elect(1)
    world.crash(1)
    world.run(40)
    assert world.leader() in (B, C)


def test_followers_of_a_leader_that_is_gone_campaign_within_a_few_ticks():
    """Section 4.2.3 lets them vote as soon as no leader is believed in; the timeout need not pass."""
    world = World([1, 2, 3], random_ticks=last_ticks)
    world.elect(1)
    world.partition([1], [2, 3])
    world[2].report_gone(A)
    world[3].report_gone(A)
    assert (world[2].leader_id, world[3].leader_id) == (0, 0)
    world.tick(2, count=4)
    world.settle()
    assert (world[2].role, world[2].term) == (Role.LEADER, 3)


def test_a_follower_that_alone_believes_its_leader_gone_deposes_nobody():
    """Section 4.2.3: whoever still hears the leader ignores the candidate."""
    world = World([1, 2, 3], random_ticks=last_ticks)
    world.elect(1)
    world.partition([1, 3], [2, 3])
    world[2].report_gone(A)
    world.tick(2, count=4)
    world.settle()
    assert world[2].role is Role.PRE_CANDIDATE
    assert (world.leader(), world[1].term, world[3].leader_id) == (A, 2, A)


def test_the_leader_that_is_heard_again_is_followed_again():
    """Section 5.2: a message from the term's leader makes a follower of whoever doubted."""
    world = World([1, 2, 3], random_ticks=last_ticks)
    world.elect(1)
    world[2].report_gone(A)
    world.tick(1)
    world.settle()
    assert world[2].leader_id == A
    world.tick(2, count=4)
    assert world[2].role is Role.FOLLOWER


def test_that_another_member_than_the_leader_is_gone_changes_nothing():
    world = World([1, 2, 3])
    world.elect(1)
    world[2].report_gone(C)
    world[1].report_gone(B)
    assert (world[2].leader_id, world[1].role) == (A, Role.LEADER)
