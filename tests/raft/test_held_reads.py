"""A round of reads asks as many voters as it takes; the others are asked when those do not answer."""

from kvnode.raft.messages import Heartbeat
from kvtest.raft_world import World, ids

A, B, C = ids(1, 2, 3)


def led(voters: tuple[int, ...] = (1, 2, 3)) -> World:
    """Return a settled cluster led by member 1, who asks a quorum only."""
    world = World(voters)
    world.elect(1)
    world.settle()
    world[1].hold_reads(holds=True)
    return world


def asked(world: World) -> list[int]:
    """Begin a read at the leader; returns whom it asks to confirm it."""
    world[1].read_index(b"read")
    world.perform_ready(1)
    return [message.to_id for message in world.sent(Heartbeat)]


def answered(world: World, member: int = 1) -> list[bytes]:
    return [state.context for state in world.members[ids(member)[0]].read_states]


def test_a_read_is_confirmed_by_a_quorum():
    world = led()
    assert len(asked(world)) == 1
    world.settle()
    assert answered(world) == [b"read"]
    assert not world[1].held_round


def test_of_five_members_three_confirm():
    world = led((1, 2, 3, 4, 5))
    assert len(asked(world)) == 2
    world.settle()
    assert answered(world) == [b"read"]


def test_a_read_that_is_not_confirmed_asks_the_others_once_it_is_let_go():
    world = led()
    asked(world)
    world.take_network()
    world.settle()
    assert answered(world) == []
    assert world[1].held_round
    world[1].hold_reads(holds=False)
    world.settle()
    assert answered(world) == [b"read"]
    assert not world[1].held_round


def test_a_read_asks_the_others_when_a_connection_is_lost():
    world = led()
    (quick,) = asked(world)
    world.take_network()
    world[1].report_unreachable(ids(quick)[0])
    world.partition([1, 5 - quick], [quick])
    world.settle()
    assert answered(world) == [b"read"]


def test_the_member_that_confirmed_is_asked_next():
    world = led()
    (quick,) = asked(world)
    world.take_network()
    world[1].hold_reads(holds=False)
    world.perform_ready(1)
    (to_other,) = [message for message in world.sent(Heartbeat) if message.to_id != quick]
    world.take_network()
    world.deliver(to_other)
    world.settle()
    assert answered(world) == [b"read"]
    world[1].hold_reads(holds=True)
    assert asked(world) == [to_other.to_id]


def test_a_read_asks_everybody_with_the_next_heartbeat():
    world = led()
    (quick,) = asked(world)
    world.partition([1, 5 - quick], [quick])
    world.settle()
    world.tick(1)
    world.settle()
    assert answered(world) == [b"read"]


def test_a_read_of_a_follower_is_confirmed_by_a_quorum_too():
    for member in (2, 3):
        world = led()
        world[member].read_index(b"read")
        world.settle()
        assert answered(world, member) == [b"read"]


def test_of_two_members_both_are_asked():
    world = led((1, 2))
    assert asked(world) == [B]
    world.settle()
    assert answered(world) == [b"read"]


def test_a_round_that_is_confirmed_is_not_sent_again():
    world = led()
    asked(world)
    world.settle()
    world[1].hold_reads(holds=False)
    world.settle()
    assert world.take_network() == []
    assert asked(world) == [B, C]


def test_reads_are_kept_from_members_whose_clients_watch_too():
    world = led()
    for member in (2, 3):
        world[member].await_commits(awaits=True)
    world.settle()
    assert len(asked(world)) == 1
