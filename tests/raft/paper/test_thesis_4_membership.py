"""Raft thesis chapter 4: cluster membership changes, one member at a time."""

import random

import pytest
from kvnode.raft import (
    ConfChange,
    ConfChangeError,
    ConfChangeKind,
    ConfState,
    DropReason,
    ProposalDroppedError,
    Role,
)
from kvnode.raft.election import GONE_TICKS
from kvnode.raft.events import ConfChanged
from kvnode.raft.messages import AppendEntries, ProposeConfChange, RequestVote, RequestVoteResponse
from kvtest.raft_world import World, ids

A, B, C, D = ids(1, 2, 3, 4)
ADD, LEARN, REMOVE = ConfChangeKind.ADD_VOTER, ConfChangeKind.ADD_LEARNER, ConfChangeKind.REMOVE


def led(*voters: int, learners: tuple[int, ...] = (), **config: object) -> World:
    world = World(voters or (1, 2, 3), learners, **config)
    world.elect(1)
    world.run(1)
    return world


def change(world: World, kind: ConfChangeKind, member: int) -> None:
    world[world.leader()].propose_conf_change(ConfChange(kind, ids(member)[0]))
    world.settle()
    world.run(3)


def test_a_cluster_grows_from_one_to_three():
    """Section 4.1."""
    world = led(1)
    for number in (2, 3):
        world.add_member(number)
        change(world, ADD, number)
    world[1].propose([b"x"])
    world.settle()
    assert {world[i].conf_state for i in (1, 2, 3)} == {ConfState((A, B, C))}
    assert len({world.members[i].machine for i in ids(1, 2, 3)}) == 1


def test_a_change_counts_once_it_is_applied():
    """In the thesis it counts once it is in the log; why not here is said in ``kvnode.raft.membership``."""
    world = led(1)
    world.add_member(2)
    world[1].propose_conf_change(ConfChange(ADD, B))
    world.perform_ready(1)
    world.finish_persist(1)
    assert world[1].conf_state == ConfState((A,))
    world.turn(1)
    assert world[1].conf_state == ConfState((A, B))


def test_only_one_change_may_be_under_way():
    """Section 4.1: two at once could have disjoint majorities."""
    world = led()
    world[1].propose_conf_change(ConfChange(LEARN, D))
    with pytest.raises(ProposalDroppedError) as refusal:
        world[1].propose_conf_change(ConfChange(REMOVE, C))
    assert refusal.value.reason is DropReason.CONF_CHANGE_PENDING
    world.settle()
    world[1].propose_conf_change(ConfChange(REMOVE, C))


def test_a_new_leader_waits_until_it_has_applied_all_former_entries():
    """Section 4.1 and the correction of 2015: it must commit in its own term first."""
    world = led()
    world.partition([2], [1, 3])
    world[1].propose([b"x"])
    world.settle()
    world.heal()
    world[1].transfer_leadership(C)
    for _ in range(30):
        if world[3].role is Role.LEADER:
            break
        for number in (1, 2, 3):
            world.turn(number)
        world.deliver_all()
    with pytest.raises(ProposalDroppedError):
        world[3].propose_conf_change(ConfChange(LEARN, D))
    world.settle()
    world[3].propose_conf_change(ConfChange(LEARN, D))


def test_a_learner_receives_everything_but_does_not_count():
    """Section 4.2.1: non-voting members catch up first."""
    world = led(1, 2, 3, learners=(4,))
    world.partition([1, 4], [2, 3])
    world[1].propose([b"x"])
    world.settle()
    assert world[1].commit_index == 2
    world.heal()
    world.run(2)
    assert world.applied_data(4) == [b"x"]


def test_a_learner_whose_first_probe_was_lost_is_probed_again():
    """Section 4.2.1; the probe of a new member has no entries, and its loss must be noticed all the same."""
    world = led(1, 2, 3)
    world.add_member(4)
    world.partition((1, 2, 3), (4,))
    change(world, LEARN, 4)
    world.heal()
    world.run(3)
    assert world[4].applied_index == world[1].applied_index


def test_a_learner_does_not_campaign():
    """Section 4.2.1."""
    world = led(1, 2, 3, learners=(4,))
    world.tick(4, count=100)
    world.settle()
    assert (world[4].role, world[4].term) == (Role.FOLLOWER, 2)


def test_a_learner_that_is_promoted_counts():
    """Section 4.2.1: then it becomes a full member."""
    world = led(1, 2, learners=(4,))
    change(world, ADD, 4)
    world.partition([1, 4], [2])
    world[1].propose([b"x"])
    world.settle()
    assert world.applied_data(1) == [b"x"]
    assert world[1].conf_state == ConfState((A, B, D))


def test_a_learner_votes_when_asked():
    """It may have been promoted and not know it yet; only voters are counted anyway."""
    world = World([1, 2, 3], [4])
    world[4].step(RequestVote(A, D, 2, 1, 1, is_pre_vote=False, is_transfer=False))
    world.turn(4)
    assert [message.granted for message in world.sent(RequestVoteResponse)] == [True]


def test_a_removed_member_hears_of_it_and_does_not_campaign():
    """Section 4.2.3: a removed server would disrupt the cluster."""
    world = led()
    change(world, REMOVE, 3)
    world.tick(3, count=100)
    world.settle()
    assert world[3].conf_state == ConfState((A, B))
    assert (world[3].role, world[1].term) == (Role.FOLLOWER, 2)


def test_the_quorum_shrinks_with_the_cluster():
    """An entry that waited for the larger majority is committed with the change."""
    world = led(1, 2, 3, 4)
    world.crash(3)
    world.crash(4)
    with pytest.raises(AssertionError):
        world.elect(2)
    world = led(1, 2, 3, 4)
    world[1].propose_conf_change(ConfChange(REMOVE, D))
    world.settle()
    world.crash(3)
    world[1].propose([b"x"])
    world.settle()
    assert world.applied_data(2) == [b"x"]


def test_a_leader_may_remove_itself_and_steps_down_when_the_others_know():
    """Section 4.2.2: it manages the cluster without itself until the change is committed."""
    world = led(random_ticks=random.Random(1).randint)
    change(world, REMOVE, 1)
    assert world[1].role is Role.FOLLOWER
    assert world[2].conf_state == ConfState((B, C))
    world.run(60)
    assert world.leader() in (B, C)
    with pytest.raises(ProposalDroppedError):
        world[1].propose([b"x"])


def test_a_leader_that_removes_itself_is_succeeded_without_an_election_timeout():
    """Section 4.2.2: whoever knows that it is removed waits for no further sign of it."""
    world = led(random_ticks=random.Random(1).randint)
    change(world, REMOVE, 1)
    assert world[1].role is Role.FOLLOWER
    world.run(GONE_TICKS[1])
    assert world.leader() in (B, C)
    world[world.leader()].propose([b"x"])
    world.settle()
    assert world.applied_data(2)[-1] == world.applied_data(3)[-1] == b"x"


def test_a_leader_that_was_removed_is_followed_for_as_long_as_it_leads():
    """Section 4.2.2: it goes on until enough of the others know."""
    world = led(1, 2, 3, 4, 5, random_ticks=random.Random(1).randint)
    term = world[2].status().term
    world[1].propose_conf_change(ConfChange(REMOVE, A))
    while world[2].conf_state == ConfState(ids(1, 2, 3, 4, 5)):
        for number in (1, 2, 3, 4, 5):
            world.turn(number)
        world.deliver_all()
    # Nobody's answers reach it: it can't know that they know.
    for _ in range(5):
        world[1].tick()
        world.turn(1)
        world.deliver_all()
        world[2].tick()
        world.turn(2)
        world.take_network()
    assert world[1].role is Role.LEADER
    assert world[2].status().term == term


def test_a_leader_leaving_refuses_proposals_and_leads_until_the_others_know():
    """Section 4.2.2."""
    world = led()
    world[1].propose_conf_change(ConfChange(REMOVE, A))
    while world[1].conf_state == ConfState((A, B, C)):
        for number in (1, 2, 3):
            world.turn(number)
        world.deliver_all()
    world.turn(1)
    world.take_network()
    assert world[1].role is Role.LEADER
    with pytest.raises(ProposalDroppedError) as refusal:
        world[1].propose([b"x"])
    assert refusal.value.reason is DropReason.LEAVING
    world.run(2)
    assert world[1].role is Role.FOLLOWER


def test_a_leader_of_two_must_hand_over_before_it_leaves():
    """Between two voters a crash at the wrong moment would leave the other without a quorum for ever."""
    world = led(1, 2)
    with pytest.raises(ConfChangeError, match="transfer leadership first"):
        world[1].propose_conf_change(ConfChange(REMOVE, A))
    world[1].transfer_leadership(B)
    world.settle()
    change(world, REMOVE, 1)
    assert world[2].conf_state == ConfState((B,))
    assert world.leader() == B


def test_the_last_voter_stays():
    world = led(1)
    with pytest.raises(ConfChangeError, match="last voter"):
        world[1].propose_conf_change(ConfChange(REMOVE, A))


def test_a_follower_passes_a_change_on():
    world = led()
    world[3].propose_conf_change(ConfChange(LEARN, D, b"why"))
    world.turn(3)
    assert world.sent(ProposeConfChange) == [ProposeConfChange(C, A, 2, ConfChange(LEARN, D, b"why"))]
    world.settle()
    assert world[3].conf_state == ConfState((A, B, C), (D,))


def test_a_membership_change_is_applied_only_when_its_commitment_is_durable():
    """A crash must not bring back the former membership: its other voter may be gone for good."""
    world = led(1, 2)
    world[1].propose_conf_change(ConfChange(REMOVE, B))
    while world[1].commit_index < 3:
        for number in (1, 2):
            world.turn(number)
        world.deliver_all()
    ready = world.perform_ready(1)
    assert ready.committed_entries == ()
    assert ready.persist is not None
    assert ready.persist.hard_state == (2, A, 3)
    # Member 2 has not heard either: it might leave, and this leader might forget why.
    assert [m.leader_commit for m in ready.messages if isinstance(m, AppendEntries)] in ([], [2])
    world.crash(1, persist_survives=True, applied_index=2)
    world.crash(2)
    world.restart(1)
    world.run(25)
    assert world[1].conf_state == ConfState((A,))
    assert world.leader() == A


def test_a_member_with_an_unapplied_change_does_not_campaign():
    """It would count by a membership that may be two changes old."""
    world = led()
    world[1].propose_conf_change(ConfChange(LEARN, D))
    world.settle()
    world.crash(2, applied_index=2)
    node = world.restart(2)
    assert node.commit_index >= 3
    node.campaign()
    assert node.role is Role.FOLLOWER
    world.turn(2)
    node.campaign()
    assert node.role is Role.PRE_CANDIDATE


def test_a_candidate_that_is_removed_gives_up():
    world = led()
    world.partition([1], [2], [3])
    world.tick(3, count=40)
    world.turn(3)
    assert world[3].role is Role.PRE_CANDIDATE
    world[3].apply_conf_change(ConfChange(REMOVE, C))
    assert world[3].role is Role.FOLLOWER


@pytest.mark.parametrize(
    ("kind", "member", "expected"),
    [
        pytest.param(ADD, 4, ConfState((A, B, C, D)), id="adds-a-voter"),
        pytest.param(LEARN, 4, ConfState((A, B, C), (D,)), id="adds-a-learner"),
        pytest.param(REMOVE, 3, ConfState((A, B)), id="removes-a-voter"),
        pytest.param(LEARN, 3, ConfState((A, B), (C,)), id="demotes-a-voter"),
        pytest.param(ADD, 3, ConfState((A, B, C)), id="is-true-already"),
        pytest.param(REMOVE, 9, ConfState((A, B, C)), id="removes-nobody"),
    ],
)
def test_a_change_leads_to_this_membership(kind, member, expected):
    world = led()
    before = len(world.events(1, ConfChanged))
    change(world, kind, member)
    assert world[1].conf_state == expected
    assert len(world.events(1, ConfChanged)) - before == (expected != ConfState((A, B, C)))
