"""Entries go to a quorum at once; the other members may wait for more of them."""

import pytest
from kvnode.raft.messages import AppendEntries
from kvnode.raft.replication import HELD_ENTRIES
from kvnode.raft.types import ConfChange, ConfChangeKind
from kvtest.raft_world import World, ids

A, B, C, D, E = ids(1, 2, 3, 4, 5)


def led(voters: tuple[int, ...] = (1, 2, 3), learners: tuple[int, ...] = ()) -> World:
    """Return a settled cluster led by member 1, who holds back what it may; its log ends at index 2."""
    world = World(voters, learners)
    world.elect(1)
    world.settle()
    world[1].hold_notices(holds=True)
    world[1].hold_entries(holds=True)
    return world


def write(world: World, count: int = 1, member: int = 1) -> None:
    """Propose entries one after the other, each when the one before is committed."""
    for _ in range(count):
        world[member].propose([b"x"])
        world.settle()


def ends(world: World) -> dict[int, int]:
    """The last index of each member's log."""
    return {number: world[number].last_index for number in world.up()}


def test_an_entry_is_committed_by_a_quorum_while_the_others_wait():
    world = led()
    write(world)
    assert world[1].commit_index == 3
    assert sorted(ends(world).values()) == [2, 3, 3]
    assert world[1].has_held


def test_of_five_members_two_wait():
    world = led((1, 2, 3, 4, 5))
    write(world)
    assert world[1].commit_index == 3
    assert sorted(ends(world).values()) == [2, 2, 3, 3, 3]


def test_the_last_entry_of_a_message_goes_out_with_all_before():
    world = led()
    write(world, HELD_ENTRIES - 1)
    late = next(number for number, end in ends(world).items() if end == 2)
    world[1].propose([b"x"])
    world.perform_ready(1)
    sent = [message for message in world.sent(AppendEntries) if message.to_id == late]
    assert [len(message.entries) for message in sent] == [HELD_ENTRIES]
    world.settle()
    assert set(ends(world).values()) == {2 + HELD_ENTRIES}


def test_what_waits_goes_out_when_it_is_let_go():
    world = led()
    write(world)
    world[1].hold_notices(holds=False)
    world[1].hold_entries(holds=False)
    world.settle()
    assert set(ends(world).values()) == {3}
    assert [world[number].commit_index for number in (1, 2, 3)] == [3, 3, 3]
    assert not world[1].has_held


def test_what_waits_goes_out_after_a_heartbeat_at_the_latest():
    world = led()
    write(world)
    world.tick(1)
    world[1].hold_notices(holds=True)
    world[1].hold_entries(holds=True)
    world.settle()
    assert set(ends(world).values()) == {3}


def test_a_commit_that_a_member_of_the_quorum_holds_up_goes_on_with_the_others_once_they_are_let_go():
    world = led()
    write(world)
    (quick,) = [number for number, end in ends(world).items() if number != 1 and end == 3]
    world.stalled.add(quick)
    write(world)
    assert world[1].commit_index == 3
    world[1].hold_entries(holds=False)
    world.settle()
    assert world[1].commit_index == 4
    world[1].hold_entries(holds=True)
    write(world)
    assert world[1].commit_index == 5, "the one that answered is asked first"


def test_a_lost_connection_sends_what_waits_to_the_others():
    world = led()
    write(world)
    (quick,) = [number for number, end in ends(world).items() if number != 1 and end == 3]
    other = 5 - quick
    world[1].propose([b"y"])
    world.perform_ready(1)
    for message in world.take_network():
        assert message.to_id == quick
    world.finish_persist(1)
    world.partition([1, other], [quick])
    world[1].report_unreachable(ids(quick)[0])
    world.settle()
    assert world[1].commit_index == 4
    assert world[other].last_index == 4


def test_the_member_whose_answer_made_the_last_commit_gets_the_next_entry():
    world = led()
    world[1].hold_entries(holds=False)
    world[1].propose([b"x"])
    world.perform_ready(1)
    world.deliver_all()
    for number in (2, 3):
        world.turn(number)
    world.finish_persist(1)
    answers = world.take_network()
    for message in sorted(answers, key=lambda message: message.from_id != C):
        world[1].step(message)
    assert world[1].commit_index == 3
    world.settle()
    world[1].hold_entries(holds=True)
    write(world)
    assert ends(world) == {1: 4, 2: 3, 3: 4}


def test_a_member_whose_client_waits_gets_its_entry_at_once():
    for member in (2, 3):
        world = led()
        write(world, member=member)
        assert world[member].last_index == 3
        assert world[member].commit_index == 3
        assert world[5 - member].last_index == 2


def test_a_member_that_asks_for_a_read_gets_the_entries_up_to_it():
    world = led()
    write(world)
    late = next(number for number, end in ends(world).items() if end == 2)
    world[late].read_index(b"read")
    world.settle()
    assert [state.context for state in world.members[ids(late)[0]].read_states] == [b"read"]
    assert world[late].commit_index == 3


@pytest.mark.parametrize("is_awaited", [False, True])
def test_a_learner_waits_unless_its_client_does(is_awaited: bool):
    world = led((1, 2, 3), (4,))
    write(world, member=4 if is_awaited else 1)
    assert world[1].commit_index == 3
    assert world[4].last_index == (3 if is_awaited else 2)
    assert sorted(world[number].last_index for number in (1, 2, 3)) == [2, 3, 3]


def test_of_two_members_neither_waits():
    world = led((1, 2))
    write(world)
    assert ends(world) == {1: 3, 2: 3}


def test_a_member_that_is_to_lead_gets_all_entries():
    world = led()
    write(world)
    late = next(number for number, end in ends(world).items() if end == 2)
    world[1].transfer_leadership(ids(late)[0])
    world.settle()
    assert world[late].is_leader


def test_a_new_leader_holds_nothing_back():
    world = led()
    world[1].transfer_leadership(B)
    world.settle()
    write(world, member=2)
    assert len(set(ends(world).values())) == 1


def test_members_are_added_and_removed_meanwhile():
    world = led()
    write(world)
    world.add_member(4)
    world[1].propose_conf_change(ConfChange(ConfChangeKind.ADD_VOTER, D))
    world.settle()
    world[1].propose_conf_change(ConfChange(ConfChangeKind.REMOVE, B))
    world.settle()
    world.tick(1)
    world.settle()
    assert world[1].conf_state.voters == (A, C, D)
    write(world)
    assert world[1].commit_index == world[1].last_index


def test_a_member_whose_clients_watch_gets_every_entry_and_commit_at_once():
    for member in (2, 3):
        world = led()
        world[member].await_commits(awaits=True)
        world.settle()
        write(world)
        assert world[member].commit_index == 3
        assert world[5 - member].last_index == 2


def test_a_member_waits_again_when_its_clients_watch_no_more():
    world = led()
    for member in (2, 3):
        world[member].await_commits(awaits=True)
    world.settle()
    write(world)
    assert set(ends(world).values()) == {3}
    for member in (2, 3):
        world[member].await_commits(awaits=False)
    world.tick(1)  # its heartbeat is answered with the news
    world.settle()
    world[1].hold_entries(holds=True)
    write(world)
    assert sorted(ends(world).values()) == [3, 4, 4]


def test_a_new_leader_hears_whose_clients_watch():
    world = led()
    world[3].await_commits(awaits=True)
    world.settle()
    world[1].transfer_leadership(B)
    world.settle()
    world.tick(2)
    world.settle()
    world[2].hold_notices(holds=True)
    world[2].hold_entries(holds=True)
    write(world, member=2)
    assert world[3].commit_index == world[2].commit_index
    assert world[1].last_index < world[3].last_index
