"""A member whose disk stalls is not fit to lead: it hands over, and stands for no election."""

from kvnode.raft import Role
from kvnode.raft.events import TransferStarted
from kvnode.raft.messages import TimeoutNow
from kvtest.raft_world import World, ids

A, B, C = ids(1, 2, 3)


def stalled_leader(voters: int = 3) -> World:
    """Member 1 leads; its disk has stalled, which it knows."""
    world = World(list(range(1, voters + 1)))
    world.elect(1)
    world.run(2)
    world.stalled.add(1)
    world[1].propose([b"x"])
    world.settle()
    world[1].report_fitness(is_fit=False)
    return world


def test_without_being_told_a_leader_with_a_stalled_disk_stays_in_office_for_ever():
    """That is the danger: its heartbeats need no disk."""
    world = World([1, 2, 3])
    world.elect(1)
    world.stalled.add(1)
    world.run(100)
    assert world.leader() == A


def test_a_leader_that_is_not_fit_hands_over_at_its_next_tick():
    world = stalled_leader()
    world.run(1)
    assert world.leader() in (B, C)
    assert world[1].role is Role.FOLLOWER
    assert world.applied_data(2) == world.applied_data(3) == [b"x"]
    assert world.applied_data(1) == [], "its disk has not taken the entry"


def test_it_hands_over_to_the_voter_that_has_come_furthest():
    world = stalled_leader(5)
    world.partition([1, 3, 4, 5], [2])
    world[1].propose([b"y"])
    world.settle()
    world.heal()
    world.run(1)
    assert world.events(1, TransferStarted)[0].target != B
    assert world.leader() not in (A, B)


def test_it_stays_when_the_others_can_not_elect_without_its_vote():
    """Leaving would win nothing, and cost the reads that it can still confirm."""
    world = stalled_leader(2)
    world.run(50)
    assert world.leader() == A
    assert world.events(1, TransferStarted) == []


def test_it_stays_when_too_few_of_the_others_are_heard():
    world = World([1, 2, 3, 4, 5])
    world.elect(1)
    world.partition([1, 2, 3], [4, 5])
    world.run(20)
    world.stalled.add(1)
    world[1].report_fitness(is_fit=False)
    world.run(50)
    assert world.leader() == A
    assert world.events(1, TransferStarted) == []


def test_it_does_not_stand_for_election_until_it_is_fit_again():
    world = stalled_leader()
    world.run(1)
    world.partition([1], [2, 3])
    world.run(40)
    assert world[1].role is Role.FOLLOWER
    world[1].step(TimeoutNow(B, A, world[1].term))
    assert world[1].role is Role.FOLLOWER
    world.stalled.clear()
    world[1].report_fitness(is_fit=True)
    world.run(40)
    assert world[1].role is Role.PRE_CANDIDATE


def test_a_candidate_that_is_found_unfit_gives_up():
    world = World([1, 2, 3])
    world[1].campaign()
    assert world[1].role is Role.PRE_CANDIDATE
    world[1].report_fitness(is_fit=False)
    assert world[1].role is Role.FOLLOWER


def test_a_successor_that_does_not_take_over_is_not_asked_again_at_once():
    """Proposals wait while leadership is on its way; in between they must get their turn."""
    world = stalled_leader()
    for number in (2, 3):
        world[number].report_fitness(is_fit=False)
    accepted = 0
    for _ in range(60):
        world.run(1)
        accepted += world.propose(1, b"y")
        world.settle()
    assert world.leader() == A
    assert accepted >= 25
    assert 2 <= len(world.events(1, TransferStarted)) <= 4


def test_the_former_leader_catches_up_when_its_disk_returns():
    world = stalled_leader()
    world.run(1)
    world[world.leader()].propose([b"y"])
    world.settle()
    world.stalled.clear()
    world[1].report_fitness(is_fit=True)
    world.run(3)
    assert world.applied_data(1) == [b"x", b"y"]
    assert world[1].role is Role.FOLLOWER
