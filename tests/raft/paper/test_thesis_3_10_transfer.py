"""Raft thesis section 3.10: leadership transfer."""

import pytest
from kvnode.raft import DropReason, ProposalDroppedError, Role
from kvnode.raft.events import TransferAborted, TransferStarted
from kvnode.raft.messages import RequestVote, TimeoutNow
from kvtest.raft_world import World, ids

A, B, C, D = ids(1, 2, 3, 4)


def led(**config: object) -> World:
    world = World([1, 2, 3], [4], **config)
    world.elect(1)
    world.run(2)
    return world


def test_leadership_moves_without_waiting_for_a_timeout():
    """Section 3.10: the target starts an election at once, though all others hear their leader."""
    world = led()
    world[1].transfer_leadership(B)
    world.settle()
    assert (world.leader(), world[2].term, world[1].role) == (B, 3, Role.FOLLOWER)
    assert world.events(1, TransferStarted) == [TransferStarted(2, B)]


def test_the_target_skips_the_pre_vote_and_says_why_it_campaigns():
    """Thesis 4.2.3: such requests carry a mark that lets them through."""
    world = led()
    world[1].transfer_leadership(B)
    world.turn(1)
    world.deliver_all()
    world.turn(2)
    assert [(m.is_pre_vote, m.is_transfer) for m in world.sent(RequestVote)] == [(False, True)] * 2


def test_a_target_that_lags_gets_the_log_first():
    """Section 3.10, step 2: the leader brings its log up to date."""
    world = led()
    world.partition([1, 3], [2])
    world[1].propose([b"x"])
    world.settle()
    world.heal()
    world[1].transfer_leadership(B)
    world.turn(1)
    assert world.sent(TimeoutNow) == []
    world.run(3)
    assert world.leader() == B
    assert world.applied_data(2) == [b"x"]


def test_proposals_are_refused_during_a_transfer():
    """Section 3.10, step 1: the prior leader stops accepting client requests."""
    world = led()
    world.partition([1, 3], [2])
    world[1].transfer_leadership(B)
    with pytest.raises(ProposalDroppedError) as refusal:
        world[1].propose([b"x"])
    assert refusal.value.reason is DropReason.TRANSFERRING


def test_a_transfer_is_given_up_after_an_election_timeout():
    """Section 3.10: if the transfer does not complete, the prior leader aborts and goes on."""
    world = led()
    world.partition([1, 3], [2])
    world[1].transfer_leadership(B)
    world.run(10)
    world[1].propose([b"x"])
    world.settle()
    assert world[1].role is Role.LEADER
    assert world.events(1, TransferAborted) == [TransferAborted(2, B)]
    assert world.applied_data(1) == [b"x"]


def test_a_second_wish_replaces_the_first():
    world = led()
    world.partition([1, 3], [2])
    world[1].transfer_leadership(B)
    world[1].transfer_leadership(C)
    world.settle()
    assert world.leader() == C


def test_asking_for_transfers_does_not_keep_a_leader_without_quorum():
    """Thesis 6.2: it steps down after an election timeout, whatever else it is asked meanwhile."""
    world = led()
    world.partition([1], [2, 3])
    for round_ in range(6):
        world[1].transfer_leadership((B, C)[round_ % 2])
        for _ in range(5):
            world[1].tick()
    assert world[1].role is not Role.LEADER


@pytest.mark.parametrize("target", [A, D, 9], ids=["itself", "a-learner", "a-stranger"])
def test_a_transfer_to_a_member_that_cannot_lead_is_ignored(target):
    world = led()
    world[1].transfer_leadership(target)
    world.settle()
    assert (world.leader(), world[1].lead_transferee) == (A, 0)


def test_a_follower_passes_the_wish_on():
    world = led()
    world[3].transfer_leadership(B)
    world.settle()
    assert world.leader() == B


def test_a_learner_told_to_campaign_does_not():
    world = led()
    world[4].step(TimeoutNow(A, D, 2))
    world.settle()
    assert (world.leader(), world[4].role) == (A, Role.FOLLOWER)


def test_a_transfer_ends_when_its_target_is_removed():
    from kvnode.raft import ConfChange, ConfChangeKind

    world = led()
    world[1].propose_conf_change(ConfChange(ConfChangeKind.REMOVE, B))
    world.partition([1, 3, 4], [2])
    world[1].transfer_leadership(B)
    world.settle()
    assert world[1].lead_transferee == 0
    world[1].propose([b"x"])
