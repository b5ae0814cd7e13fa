"""Raft thesis section 6.4: linearizable reads without entries."""

from kvnode.raft import ReadState, Role
from kvnode.raft.messages import Heartbeat, HeartbeatResponse, ReadIndexRequest, ReadIndexResponse
from kvtest.raft_world import World, ids, last_ticks

A, B, C = ids(1, 2, 3)


def led(*voters: int) -> World:
    world = World(voters or (1, 2, 3), random_ticks=last_ticks)
    world.elect(1)
    world.run(1)
    return world


def reads_of(world: World, number: int) -> list[ReadState]:
    return world.members[ids(number)[0]].read_states


def test_a_read_waits_for_a_round_of_heartbeats():
    """Step 3: the leader makes sure that it has not been superseded."""
    world = led()
    world.read(1, b"r")
    world.turn(1)
    assert reads_of(world, 1) == []
    assert [message.to_id for message in world.sent(Heartbeat)] == [B, C]
    world.settle()
    assert reads_of(world, 1) == [ReadState(2, b"r")]


def test_one_round_serves_all_reads_of_a_turn():
    """Section 6.4: the cost is amortized over any number of reads."""
    world = led()
    for context in (b"a", b"b", b"c"):
        world.read(1, context)
    world.turn(1)
    assert len(world.sent(Heartbeat)) == 2
    world.settle()
    assert reads_of(world, 1) == [ReadState(2, b"a"), ReadState(2, b"b"), ReadState(2, b"c")]


def test_a_later_round_confirms_all_earlier_reads():
    """Whoever leads later led before."""
    world = led()
    world.read(1, b"a")
    world.turn(1)
    world.take_network()
    world.read(1, b"b")
    world.settle()
    assert reads_of(world, 1) == [ReadState(2, b"a"), ReadState(2, b"b")]


def test_an_earlier_round_does_not_confirm_a_later_read():
    """Step 3: the round must begin after the read arrived."""
    world = led()
    world.read(1, b"a")
    world.turn(1)
    world.deliver_all()
    world.turn(2)
    answers = world.take_network()
    world.read(1, b"b")
    for message in answers:
        world.deliver(message)
    world.perform_ready(1)
    assert reads_of(world, 1) == [ReadState(2, b"a")]


def test_the_same_answer_twice_is_no_majority():
    world = led(1, 2, 3, 4, 5)
    world.read(1, b"a")
    world.turn(1)
    context = world.sent(Heartbeat)[0].context
    for _ in range(3):
        world[1].step(HeartbeatResponse(B, A, 2, context))
    world.perform_ready(1)
    assert reads_of(world, 1) == []


def test_a_superseded_leader_does_not_answer():
    """Section 6.4: a partitioned leader could return stale data."""
    world = led()
    world.partition([1], [2, 3])
    world.tick(2, 3, count=12)
    world.elect(2)
    assert world[1].role is Role.LEADER
    assert world.leader() == B
    world.propose(world.leader(), b"x")
    world.settle()
    world.read(1, b"r")
    world.tick(1, count=5)
    world.settle()
    assert reads_of(world, 1) == []


def test_a_new_leader_waits_for_a_commit_in_its_term():
    """Step 1: before that it does not know the commit index."""
    world = led()
    world[1].propose([b"x"])
    world.turn(1)
    world.deliver_all()
    for number in (2, 3):
        world.turn(number)
    world.take_network()
    world.crash(1)
    world.tick(2, 3, count=12)
    world[2].campaign()
    for _ in range(20):
        if world[2].role is Role.LEADER:
            break
        for number in (2, 3):
            world.turn(number)
        world.deliver_all()
    world.read(2, b"r")
    assert world[2].commit_index == 2
    world.settle()
    assert reads_of(world, 2) == [ReadState(4, b"r")]


def test_a_lone_voter_answers_at_once():
    world = led(1)
    world.read(1, b"r")
    assert world.perform_ready(1).read_states == (ReadState(2, b"r"),)
    assert world.network == []


def test_a_follower_asks_the_leader():
    """Section 6.4, end: followers can serve reads after asking for a current read index."""
    world = led()
    world.read(3, b"r")
    world.turn(3)
    assert world.sent(ReadIndexRequest) == [ReadIndexRequest(C, A, 2, b"r")]
    world.settle()
    assert reads_of(world, 3) == [ReadState(2, b"r")]
    assert reads_of(world, 1) == []


def test_equal_contexts_of_two_members_are_not_mixed_up():
    world = led()
    world.read(2, b"r")
    world.read(3, b"r")
    world.settle()
    assert (reads_of(world, 2), reads_of(world, 3)) == ([ReadState(2, b"r")], [ReadState(2, b"r")])


def test_the_answer_brings_the_commit_index_along():
    """The follower can serve the read without waiting for the next heartbeat."""
    world = led()
    world[1].propose([b"x"])
    world.read(3, b"r")
    world.settle()
    read = reads_of(world, 3)[0]
    assert world[3].applied_index >= read.index


def test_without_a_leader_a_read_is_forgotten():
    world = World([1, 2, 3])
    world.read(2, b"r")
    assert not world[2].has_ready()


def test_a_lost_round_is_repeated_by_the_next_heartbeat():
    world = led()
    world.read(1, b"r")
    world.turn(1)
    world.take_network()
    world.run(1)
    assert reads_of(world, 1) == [ReadState(2, b"r")]


def test_a_late_answer_is_still_true():
    """The index was current after the read had been asked for, whoever leads by now."""
    world = led()
    world[3].step(ReadIndexResponse(A, C, 1, 2, b"r"))
    assert world.perform_ready(3).read_states == (ReadState(2, b"r"),)
