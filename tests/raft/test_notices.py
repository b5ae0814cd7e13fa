"""A commit index waits for the entries that follow, where nobody waits for it; a notice wants no answer."""

from kvnode.raft.messages import AppendEntries, AppendEntriesResponse
from kvtest.raft_world import World, ids

A, B, C = ids(1, 2, 3)


def led(*, holds: bool) -> World:
    """Return a settled cluster led by member 1 in term 2, whose log ends at index 2."""
    world = World((1, 2, 3))
    world.elect(1)
    world[1].hold_notices(holds=holds)
    return world


def notices(world: World) -> list[int]:
    return [message.to_id for message in world.sent(AppendEntries) if message.is_notice]


def commits(world: World) -> list[int]:
    return [world[number].commit_index for number in (1, 2, 3)]


def test_a_notice_is_not_answered():
    world = led(holds=False)
    world[1].propose([b"x"])
    world.perform_ready(1)
    world.finish_persist(1)
    world.deliver_all()
    for number in (2, 3):
        world.turn(number)
    world.deliver_all()
    world.turn(1)
    assert notices(world) == [B, C]
    world.deliver_all()
    for number in (2, 3):
        world.turn(number)
    assert commits(world) == [3, 3, 3]
    assert world.take_network() == []


def test_a_notice_to_a_member_that_lacks_the_entry_is_rejected_so_that_it_gets_it():
    world = led(holds=False)
    world[1].propose([b"x"])
    world.perform_ready(1)
    for message in world.take_network():
        if message.to_id == C:
            world.drop(message)
        else:
            world.deliver(message)
    world.settle()
    assert commits(world) == [3, 3, 3]


def test_a_held_commit_index_goes_with_the_next_entries():
    world = led(holds=True)
    world[1].propose([b"x"])
    world.settle()
    assert commits(world) == [3, 2, 2]
    assert world[1].has_held
    world[1].propose([b"y"])
    world.settle()
    assert commits(world) == [4, 3, 3]


def test_a_held_commit_index_goes_out_when_it_is_let_go():
    world = led(holds=True)
    world[1].propose([b"x"])
    world.settle()
    world[1].hold_notices(holds=False)
    world.settle()
    assert commits(world) == [3, 3, 3]
    assert not world[1].has_held


def test_a_held_commit_index_goes_out_with_the_heartbeat_at_the_latest():
    world = led(holds=True)
    world[1].propose([b"x"])
    world.settle()
    world.tick(1)
    world.settle()
    assert commits(world) == [3, 3, 3]


def test_the_member_that_passed_a_proposal_on_hears_of_its_commit_at_once():
    world = led(holds=True)
    world[2].propose([b"x"])
    world.settle()
    assert commits(world) == [3, 3, 2]


def test_a_member_that_asks_for_a_read_hears_of_the_commit_index_that_it_waits_for():
    world = led(holds=True)
    world[1].propose([b"x"])
    world.settle()
    world[3].read_index(b"read")
    world.settle()
    assert [state.context for state in world.members[C].read_states] == [b"read"]
    assert world[3].commit_index == 3


def test_a_new_leader_holds_nothing_back():
    world = led(holds=True)
    world[1].transfer_leadership(B)
    world.settle()
    world[2].propose([b"x"])
    world.settle()
    assert len(set(commits(world))) == 1


def test_a_rejected_notice_says_so_and_nothing_else():
    world = led(holds=False)
    world[3].step(AppendEntries(A, C, 2, 7, 2, 7, (), is_notice=True))
    answers = [m for m in world.perform_ready(3).messages if isinstance(m, AppendEntriesResponse)]
    assert [answer.rejected for answer in answers] == [True]
    assert world[3].commit_index == 2
